"""`pylvs doctor` where packets reach the director, and not its packet path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import DIRECTOR, Fault, built, diagnosed, examine
from tests.lab.doctor.guard import PYTHON, guard
from tests.lab.support import answers

UNPIN = f"{PYTHON} -c 'import shutil; from pylvs.dataplane.state import State; shutil.rmtree(State.open().path)'"


def _on(name: str, script: str, cause: str, *words: str, cure: str | None = None) -> Fault:
    return Fault(name=name, host=DIRECTOR, script=script, cause=cause, words=words, cure=cure)


FAULTS = [
    _on("detached by hand", "pylvs detach eth0", "device_detached", "eth0"),
    _on("clsact is removed", "tc qdisc del dev eth0 clsact", "program_taken_off", "eth0"),
    _on("clsact of lo is removed", "tc qdisc del dev lo clsact", "program_taken_off", "lo"),
    _on(
        "a static neighbour entry of a real server",
        "ip neigh replace 10.0.0.21 lladdr 02:00:00:00:00:77 nud permanent dev eth0",
        "static_neighbour_wrong",
        "02:00:00:00:00:77",
    ),
    _on(
        "an ingress qdisc has the place",
        "tc qdisc del dev eth0 clsact; tc qdisc add dev eth0 ingress",
        "device_not_attached",
        "ingress qdisc",
    ),
    _on(
        "a chain drops at egress",
        "nft add table netdev g; nft add chain netdev g e '{ type filter hook egress device eth0 priority 0; }';"
        " nft add rule netdev g e tcp dport 80 drop",
        "egress_filtered",
        "eth0",
        "netdev g e",
    ),
    _on("a filter drops before", guard("ingress", 2), "foreign_program", "tc ingress", "drops"),
    _on("a filter accepts before", guard("ingress", 0), "foreign_program", "bypasses pylvs"),
    _on("a filter drops at egress", guard("egress", 2), "foreign_program", "tc egress"),
    _on("XDP of another tool drops", guard("xdp", 1), "foreign_program", "XDP program", "guard"),
    _on(
        "XDP was taken off",
        "pylvs attach eth0 --mode generic 2>/dev/null; ip link set dev eth0 xdpgeneric off",
        "xdp_taken_off",
        "generic",
    ),
    _on(
        "the pins are gone",
        UNPIN,
        "tables_lost",
        "lo, eth0",
        cure="ipvsadm -A -t 10.0.0.100:80 -s rr; ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.21;"
        " ipvsadm -a -t 10.0.0.100:80 -r 10.0.0.22",
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab, which every fault of this file uses."""
    with built() as made:
        yield made


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cause_comes_first_and_its_command_mends_it(lab: Lab, fault: Fault) -> None:
    """A planted fault is named, and the doctor's command mends it."""
    examine(lab, fault)


@pytest.mark.parametrize("where", [("xdp", 2), ("ingress", -1), ("egress", 0)])
def test_a_program_that_lets_packets_continue_is_no_finding(lab: Lab, where: tuple[str, int]) -> None:
    """Other tools may count or mark what pylvs forwards."""
    lab.sh(DIRECTOR, guard(*where))
    assert diagnosed(lab) == []
    answers(lab, 2)
    side = "ip link set dev eth0 xdpgeneric off" if where[0] == "xdp" else f"tc filter del dev eth0 {where[0]} pref 1"
    lab.sh(DIRECTOR, side)
