"""`pylvs doctor` where the switch discards frames of direct routing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab, build, take_down
from pylvs.lab.topologies import design
from tests.lab.conftest import new_name
from tests.lab.doctor.exam import diagnosed

VIP, RIP = "10.0.0.100", "10.0.0.21"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab, which every fault of this file uses."""
    name = new_name()
    try:
        yield build(name, design("dr", 2, 4, {}))
    finally:
        take_down(name)


@pytest.mark.parametrize(
    ("rule", "cause"),
    [
        (f"iifname rs1-0 ip saddr != {RIP} drop", "reply_lost"),
        (f"oifname rs1-0 ip daddr != {RIP} drop", "vip_packets_lost"),
    ],
    ids=["checks sources", "checks destinations"],
)
def test_a_port_that_permits_the_servers_address_alone(lab: Lab, rule: str, cause: str) -> None:
    """Clouds and port security do that: the server is reached at its own address, and blameless."""
    wire = ["nsenter", f"--net={lab.wire}", "nft"]
    chain = "add table bridge f; add chain bridge f c { type filter hook forward priority 0; }"
    subprocess.run([*wire, f"{chain}; add rule bridge f c {rule}"], check=True)
    found = diagnosed(lab)
    subprocess.run([*wire, "delete table bridge f"], check=True)
    assert [each["id"] for each in found] == [cause]
    assert VIP in found[0]["title"]
    assert RIP in found[0]["title"]
    assert diagnosed(lab) == []
