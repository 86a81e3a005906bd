"""`pylvs doctor` where real servers of NAT do not answer, or not through the director."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import Fault, built, diagnosed, examine

FAULTS = [
    Fault(
        name="no default route",
        host="rs1",
        script="ip route del default",
        cause="nat_reply_path",
        words=("10.0.0.21", "via 10.0.0.1"),
    ),
    Fault(
        name="the default route leads to another host",
        host="rs1",
        script="ip route replace default via 10.0.0.22; ip route add 172.16.0.0/24 via 10.0.0.22",
        cause="nat_reply_path",
        words=("10.0.0.21", "via 10.0.0.1"),
        cure="ip route del 172.16.0.0/24; ip route replace default via 10.0.0.1",
    ),
    Fault(
        name="the servers' device is down",
        host="director",
        script="ip link set eth1 down",
        cause="link_down",
        words=("eth1",),
    ),
    Fault(
        name="the servers' device is down, and a default route is used",
        host="director",
        script="ip link set eth1 down; ip route add default via 172.16.0.5",
        cause="link_down",
        words=("eth1",),
        rest="ip route del default",
    ),
    Fault(
        name="the application is down",
        host="rs1",
        script="service nginx stop",
        cause="not_listening",
        words=("10.0.0.21", "80"),
        cure="service nginx start",
    ),
    Fault(
        name="the port of the table is wrong",
        host="director",
        script="ipvsadm -d -t 172.16.0.100:80 -r 10.0.0.21:80; ipvsadm -a -t 172.16.0.100:80 -r 10.0.0.21:8080 -m",
        cause="not_listening",
        words=("10.0.0.21", "8080"),
        cure="ipvsadm -d -t 172.16.0.100:80 -r 10.0.0.21:8080; ipvsadm -a -t 172.16.0.100:80 -r 10.0.0.21:80 -m",
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab, which every fault of this file uses."""
    with built("nat") as made:
        yield made


def test_a_healthy_lab_has_no_finding(lab: Lab) -> None:
    """NAT as the lab makes it is complete."""
    assert diagnosed(lab) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cause_comes_first_and_its_command_mends_it(lab: Lab, fault: Fault) -> None:
    """A planted fault is named, and the doctor's command mends it."""
    examine(lab, fault)
