"""`pylvs doctor` where rules of the routing policy lose replies: those of one port, or of packets from one network."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import Fault, built, diagnosed, examine, healthy, mend, plant, recognized, settle
from tests.waiting import until

OF_PORT = "ip rule add ipproto tcp sport 80 lookup 77 priority 50; ip route add {} table 77"
UNREACHABLE = "ip route add unreachable default table 77"
NO_ROUTES = "ip route flush table 77"

ON_SERVER = [
    Fault(
        name="a gateway of the port that does not answer",
        host="rs1",
        script=OF_PORT.format("default via 10.0.0.99"),
        cause="server_next_hop_silent",
        words=("10.0.0.99", "sport 80", "ip rule del priority 50"),
        on="rs1",
        rest=NO_ROUTES,
    ),
    Fault(
        name="a gateway of the port that does not forward",
        host="rs1",
        script=OF_PORT.format("default via 10.0.0.22"),
        cause="server_reply_misrouted",
        words=("10.0.0.22", "sport 80", "ip rule del priority 50"),
        on="rs1",
        rest=NO_ROUTES,
    ),
]
ON_DIRECTOR = [
    Fault(
        name="a rule for packets from real servers",
        host="director",
        script=f"ip rule add from 10.0.0.0/24 lookup 77 priority 50; {UNREACHABLE}",
        cause="reply_route_missing",
        words=("10.0.0.21", "unreachable", "ip rule del priority 50"),
        steady=True,
        rest=NO_ROUTES,
    ),
    Fault(
        name="a rule for packets from their device",
        host="director",
        script=f"ip rule add iif eth1 lookup 77 priority 50; {UNREACHABLE}",
        cause="reply_route_missing",
        words=("10.0.0.21", "ip route del unreachable default table 77"),
        steady=True,
        rest="ip rule del priority 50",
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


@pytest.mark.parametrize("fault", ON_SERVER, ids=lambda fault: fault.name)
def test_the_rule_is_named_on_the_real_server(lab: Lab, fault: Fault) -> None:
    examine(lab, fault)


@pytest.mark.parametrize("fault", ON_DIRECTOR, ids=lambda fault: fault.name)
def test_the_rule_is_named_on_a_director_of_nat(nat: Lab, fault: Fault) -> None:
    plant(nat, fault)
    mend(nat, fault, recognized(nat, fault))
    settle(nat, fault)
    until(lambda: diagnosed(nat) == [])  # handshakes that failed count for a while
    nat.sh(fault.host, fault.rest)
    healthy(nat, "director")


def test_a_real_server_of_nat_names_the_rule_of_its_port(nat: Lab) -> None:
    script = OF_PORT.format("default via 10.0.0.22")
    words = ("10.0.0.22", "sport 80", "ip rule del priority 50")
    fault = Fault("", "rs1", script, "server_reply_misrouted", words, "rs1", named=("10.0.0.21",))
    examine(nat, fault)
    nat.sh("rs1", NO_ROUTES)
