"""`pylvs doctor` where hosts are on another link, or in another VLAN, than the director's routes say.

This kernel may lack VLAN devices: `tests/interop/test_doctor_vlans.py` has them. Their tags are here in frames.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import DIRECTOR, built, diagnosed, healthy
from tests.lab.doctor.guard import PYTHON

# Asks for 10.0.0.100 each half second, as 10.0.0.5, in VLAN 10.
ASK = """
import socket, time
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
packets.bind(("eth0", 0))
mac, none = bytes.fromhex("020000000c00"), bytes(6)
arp = bytes.fromhex("0001080006040001") + mac + bytes([10, 0, 0, 5]) + none + bytes([10, 0, 0, 100])
while True:
    packets.send(bytes([255] * 6) + mac + bytes.fromhex("8100000a0806") + arp)
    time.sleep(0.5)
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab, which the tests share."""
    with built() as made:
        yield made


def on_wire(lab: Lab, script: str) -> None:
    """Run a script where the switches are."""
    subprocess.run(["nsenter", f"--net={lab.wire}", "sh", "-ec", script], check=True)


def test_servers_are_not_blamed_for_a_link_on_which_no_host_answers(lab: Lab) -> None:
    """The port of the director has another VLAN, so nothing comes back."""
    chain = "add table bridge f; add chain bridge f c { type filter hook forward priority 0; }"
    on_wire(lab, f"nft '{chain}; add rule bridge f c iifname director-0 drop'")
    (found,) = diagnosed(lab)
    on_wire(lab, "nft delete table bridge f")
    assert (found["id"], found["title"]) == ("link_silent", "no host answers on eth0")
    assert "10.0.0.21, 10.0.0.22" in found["evidence"]
    healthy(lab, DIRECTOR)


def test_a_server_on_another_link_of_the_director_is_named_with_both(lab: Lab) -> None:
    """It was connected to the wrong switch."""
    there = lab.host(DIRECTOR).network.name
    on_wire(
        lab,
        "ip link add other type bridge; ip link set other up; ip link set rs1-0 master other;"
        f" ip link add spare type veth peer name eth1 netns {there}; ip link set spare master other up",
    )
    lab.sh(DIRECTOR, "ip link set eth1 up; ip address add 10.0.9.10/24 dev eth1; ipvsadm --set 0 0 0")
    found = diagnosed(lab)
    on_wire(lab, "ip link set rs1-0 master lan; ip link del spare; ip link del other")
    assert [each["id"] for each in found] == ["neighbour_elsewhere"], found
    assert found[0]["title"] == "10.0.0.21 answers on eth1, and the route to it leads to eth0"
    healthy(lab, DIRECTOR)


def test_a_vlan_in_which_clients_ask_has_no_device(lab: Lab) -> None:
    """They repeat the request, because no host answers."""
    process = lab.sh("client", f"{PYTHON} -c '{ASK}' >/dev/null 2>&1 & echo $!").strip()
    (found,) = diagnosed(lab)
    lab.sh("client", f"kill {process}")
    assert found["id"] == "vlan_without_device"
    assert "10.0.0.100 in VLAN 10 of eth0" in found["title"]
    assert "ip link add link eth0 name eth0.10 type vlan id 10" in found["fix"]
    healthy(lab, DIRECTOR)
