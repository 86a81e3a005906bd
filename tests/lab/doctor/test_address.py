"""`pylvs doctor` where packets to a virtual address do not reach the director."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab, build, take_down
from pylvs.lab.topologies import design
from tests.lab.conftest import new_name
from tests.lab.doctor.exam import Fault, diagnosed, examine

FAULTS = [
    Fault(
        name="no address",
        host="director",
        script="ip address del 10.0.0.100/32 dev eth0",
        cause="vip_missing",
        words=("10.0.0.100", "eth0"),
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab, which every fault of this file uses."""
    name = new_name()
    try:
        yield build(name, design("dr", 2, 4, {}))
    finally:
        take_down(name)


def test_a_healthy_lab_has_no_finding(lab: Lab) -> None:
    """Direct routing as the lab makes it is complete."""
    assert diagnosed(lab) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cause_comes_first_and_its_command_mends_it(lab: Lab, fault: Fault) -> None:
    """A planted fault is named, and the doctor's command mends it."""
    examine(lab, fault)
