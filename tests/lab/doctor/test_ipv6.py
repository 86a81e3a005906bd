"""`pylvs doctor` where services of IPv6 do not answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import Fault, built, diagnosed, examine

VIP, RIP = "fd00:10::100", "fd00:10::21"
REMOVE = f"ip address del {VIP}/128 dev eth0"
FAULTS = [
    Fault(
        name="no address",
        host="director",
        script=f"ip address del {VIP}/128 dev eth0",
        cause="vip_missing",
        words=(VIP, "eth0"),
    ),
    Fault(
        name="a client has the address",
        host="client",
        script=f"ip address add {VIP}/128 dev eth0 nodad",
        cause="vip_conflict",
        words=(VIP, "02:00:00:00:0c:00"),
        cure=f"ip address del {VIP}/128 dev eth0",
    ),
    Fault(
        name="a real server has the address on eth0",
        host="rs1",
        script=f"ip address del {VIP}/128 dev lo; ip address add {VIP}/128 dev eth0 nodad",
        cause="server_answers_arp",
        words=(VIP, RIP),
    ),
    Fault(
        name="no virtual address",
        host="rs1",
        script=f"ip address del {VIP}/128 dev lo",
        cause="server_lacks_vip",
        words=(VIP, RIP),
    ),
    Fault(
        name="the server is down",
        host="rs1",
        script="ip link set eth0 down",
        cause="neighbour_silent",
        words=(RIP, "eth0"),
        cure=f"ip link set eth0 up; ip address add {RIP}/64 dev eth0 nodad",
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab, which every fault of this file uses."""
    with built("dr", 6) as made:
        yield made


def test_a_healthy_lab_has_no_finding(lab: Lab) -> None:
    """Direct routing of IPv6 as the lab makes it is complete."""
    assert diagnosed(lab) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cause_comes_first_and_its_command_mends_it(lab: Lab, fault: Fault) -> None:
    """A planted fault is named, and the doctor's command mends it."""
    examine(lab, fault)


def test_an_address_that_another_host_had_is_named(lab: Lab) -> None:
    """Duplicate address detection has refused it, so the kernel does not use it, although `ip address` lists it."""
    lab.sh("director", f"sysctl -q -w net.ipv6.conf.eth0.accept_dad=1 net.ipv6.conf.eth0.dad_transmits=1; {REMOVE}")
    lab.sh("client", f"ip address add {VIP}/128 dev eth0 nodad")
    lab.sh("director", f"ip address add {VIP}/128 dev eth0")
    lab.sh("director", f"until ip -6 address show dev eth0 to {VIP} dadfailed | grep -q .; do sleep 0.05; done")
    lab.sh("client", f"ip address del {VIP}/128 dev eth0")
    (found,) = diagnosed(lab)
    assert found["id"] == "vip_duplicate"
    lab.sh("director", found["fix_command"])
    lab.sh("director", f"while ip -6 address show dev eth0 to {VIP} tentative | grep -q .; do sleep 0.05; done")
    assert diagnosed(lab) == []
