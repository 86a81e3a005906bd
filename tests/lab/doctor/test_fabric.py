"""`pylvs doctor` where the switch discards frames of direct routing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import LIMIT_S, built, diagnosed
from tests.lab.support import pylvs
from tests.waiting import until

VIP, RIP = "10.0.0.100", "10.0.0.21"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab, which every fault of this file uses."""
    with built() as made:
        yield made


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
    until(lambda: "INCOMPLETE" not in lab.sh("rs1", "ip neigh show nud all"), "rs1 has ended its requests of before")
    wire = ["nsenter", f"--net={lab.wire}", "nft"]
    chain = "add table bridge f; add chain bridge f c { type filter hook forward priority 0; }"
    subprocess.run([*wire, f"{chain}; add rule bridge f c {rule}"], check=True)
    found = diagnosed(lab)
    subprocess.run([*wire, "delete table bridge f"], check=True)
    assert [each["id"] for each in found] == [cause]
    assert VIP in found[0]["title"]
    assert RIP in found[0]["title"]
    assert diagnosed(lab) == []


def test_the_directors_port_permits_its_own_addresses_alone(lab: Lab) -> None:
    """The director reaches all servers, and no packet of a client gets to them: only traffic raises the doubt."""
    wire = ["nsenter", f"--net={lab.wire}", "nft"]
    chain = "add table bridge f; add chain bridge f c { type filter hook forward priority 0; }"
    rule = f"add rule bridge f c iifname director-0 ip saddr != {{ 10.0.0.10, {VIP} }} drop"
    lab.sh("director", "ipvsadm -Sn >table; ipvsadm -C; ipvsadm -R <table")  # without connections
    subprocess.run([*wire, f"{chain}; {rule}"], check=True)
    found = pylvs("doctor", "--lab", lab.name, "--limit", LIMIT_S, "--json")
    subprocess.run([*wire, "delete table bridge f"], check=True)
    assert [each["id"] for each in json.loads(found.stdout)["findings"]] == ["source_discarded"]
