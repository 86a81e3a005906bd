"""`pylvs doctor` where hosts of one link do not agree: prefix lengths, link addresses, IPv6."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import Fault, built, diagnosed, examine, healthy

DIP, RIP, OWN, DIRECTORS = "10.0.0.10", "10.0.0.21", "02:00:00:01:01:00", "02:00:00:00:0d:00"
NARROW = "ip address del {0}/24 dev eth0; ip address add {0}/28 dev eth0"
WIDE = "ip address del {0}/28 dev eth0; ip address add {0}/24 dev eth0"
RENAMED = "ip link set eth0 down; ip link set eth0 address %s; ip link set eth0 up"

FAULTS = [
    Fault(
        name="the director's prefix is too long",
        host="director",
        script=NARROW.format(DIP),
        cause="server_outside_network",
        words=(RIP, "eth0", f"ip route add {RIP} dev eth0"),
        cure=WIDE.format(DIP),
    ),
    Fault(
        name="the director's prefix is too long, and it has a gateway",
        host="director",
        script=f"{NARROW.format(DIP)}; ip route add default via 10.0.0.5",
        cause="server_outside_network",
        words=(RIP, "via 10.0.0.5"),
        cure=f"ip route del default; {WIDE.format(DIP)}",
    ),
    Fault(
        name="a network on lo of the director",
        host="director",
        script="ip address del 10.0.0.100/32 dev eth0; ip address add 10.0.0.100/24 dev lo",
        cause="server_taken_for_local",
        words=("10.0.0.0/24", "lo has 10.0.0.100/24"),
        rest="ip address add 10.0.0.100/32 dev eth0; ip address del 10.0.0.100/32 dev lo",
    ),
    Fault(
        name="a local route for a real server",
        host="director",
        script=f"ip route add local {RIP} dev lo",
        cause="server_taken_for_local",
        words=(RIP, f"ip route del local {RIP}"),
    ),
    Fault(
        name="a real server's prefix is too long",
        host="rs1",
        script=f"ping -c 1 -W 1 {DIP}; ip address add {RIP}/28 dev eth0; ip address del {RIP}/24 dev eth0",
        cause="server_reply_unroutable",
        words=("which is on its link", f"{RIP}/28"),
        on="rs1",
        cure=WIDE.format(RIP),
    ),
    Fault(
        name="a real server has the director's link address",
        host="rs1",
        script=RENAMED % DIRECTORS,
        cause="link_address_twice",
        words=(RIP, DIRECTORS),
        cure=RENAMED % OWN,
        settled=f"ip neigh flush to {RIP}; until ping -c 1 -W 1 {RIP}; do :; done",
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with built() as lab:
        yield lab


@pytest.fixture(scope="module")
def nat() -> Iterator[Lab]:
    with built("nat") as lab:
        yield lab


@pytest.fixture(scope="module")
def six() -> Iterator[Lab]:
    with built(version=6) as lab:
        yield lab


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cause_comes_first(lab: Lab, fault: Fault) -> None:
    examine(lab, fault)


def test_a_real_server_has_a_wrong_link_address_of_its_director(nat: Lab) -> None:
    script = "ip neigh replace 10.0.0.1 lladdr 02:00:00:00:00:77 nud permanent dev eth0"
    examine(nat, Fault("", "rs1", script, "reply_to_wrong_link_address", (RIP, "10.0.0.1", "ip neigh flush")))


def test_a_real_server_without_ipv6(six: Lab) -> None:
    six.sh("rs1", "sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=1")
    found = diagnosed(six, "rs1")[0]
    assert found["id"] == "server_reply_unroutable", found
    assert found["fix_command"] == "sysctl -q -w net.ipv6.conf.eth0.disable_ipv6=0"
    six.sh("rs1", f"{found['fix_command']}; ip address add fd00:10::21/64 dev eth0 nodad")
    healthy(six, "rs1")
