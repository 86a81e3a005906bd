"""When a service has its quorum: as in keepalived 2.2.7."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.health.state import ServiceState
from pylvs.model.wanted import WantedService


class Quorum:
    """The quorum of a service."""

    def __init__(self, needed: int, hysteresis: int) -> None:
        self.service = ServiceState(WantedService(name="web", keys=(), quorum=needed, hysteresis=hysteresis), since=0.0)
        self.lost_below, self.gained_at = needed - hysteresis, needed + hysteresis

    def after(self, had: bool, weight: int) -> bool:
        self.service.weight_up = weight
        return self.service.quorum_after(had)


QUORUMS = st.builds(Quorum, st.integers(1, 20), st.integers(0, 20))


@pytest.mark.parametrize(
    ("needed", "hysteresis", "weights", "expected"),
    [
        (1, 0, [2, 1, 0, 1], [True, True, False, True]),
        (2, 1, [4, 3, 2, 1, 0, 1, 2, 3], [True, True, True, True, False, False, False, True]),
        (0, 0, [0, 1, 0], [False, True, False]),  # lowered, as all weights are 0
        (3, 1, [3, 2, 3, 4, 2, 1], [False, False, False, True, True, False]),  # the start has to gain it
    ],
)
def test_the_quorum_is_lost_below_and_gained_above_its_hysteresis(
    needed: int, hysteresis: int, weights: list[int], expected: list[bool]
) -> None:
    quorum = Quorum(needed, hysteresis)
    up = quorum.after(False, weights[0])
    found = [up]
    for weight in weights[1:]:
        up = quorum.after(up, weight)
        found.append(up)
    assert found == expected


@given(QUORUMS, st.booleans(), st.integers(0, 60))
def test_at_a_constant_weight_the_quorum_changes_at_most_once(quorum: Quorum, up: bool, weight: int) -> None:
    once = quorum.after(up, weight)
    assert quorum.after(once, weight) == once


@given(QUORUMS, st.integers(0, 60))
def test_no_weight_both_gains_and_loses_the_quorum(quorum: Quorum, weight: int) -> None:
    assert not (quorum.after(False, weight) and not quorum.after(True, weight))


@given(QUORUMS, st.booleans(), st.integers(0, 60), st.integers(0, 60))
def test_more_weight_never_loses_the_quorum(quorum: Quorum, up: bool, weight: int, more: int) -> None:
    assert quorum.after(up, weight) <= quorum.after(up, weight + more)


@given(
    st.builds(lambda hysteresis, more: Quorum(hysteresis + more, hysteresis), st.integers(1, 20), st.integers(1, 20)),
    st.booleans(),
    st.integers(0, 60),
)
def test_between_both_limits_the_quorum_stays(quorum: Quorum, up: bool, weight: int) -> None:
    between = quorum.lost_below + weight % (quorum.gained_at - quorum.lost_below)
    assert quorum.after(up, between) == up
