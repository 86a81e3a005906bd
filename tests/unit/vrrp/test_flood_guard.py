"""When the filters of a receiver are restricted."""

from __future__ import annotations

import pytest

from pylvs.vrrp.advert_filter import Relevant
from pylvs.vrrp.flood_guard import (
    MOST_FOREIGN,
    MOST_IN_SLICE,
    MOST_UNVERIFIED,
    MOST_VOID,
    SLICE_S,
    UNVERIFIED_S,
    Kind,
    UnverifiedGuard,
    VerifiedGuard,
)
from tests.unit.vrrp.instances import THERE

RELEVANT = Relevant(100, (THERE,))


def flood(guard: VerifiedGuard, kind: Kind, now: float = 10.0, count: int = MOST_VOID) -> list[int]:
    """Count so many, and return the numbers with which the filter changes."""
    return [number for number in range(1, count + 1) if guard.count(51, kind, now)]


@pytest.mark.parametrize(
    ("kind", "most", "admission"),
    [
        (Kind.LOWER, MOST_IN_SLICE, RELEVANT),
        (Kind.FOLLOWED, MOST_IN_SLICE, Relevant(100)),
        (Kind.PREVAILING, MOST_IN_SLICE, False),
        (Kind.VOID, MOST_VOID, False),
    ],
)
def test_each_kind_has_its_own_budget_until_the_slice_ends(kind: Kind, most: int, admission: Relevant | bool) -> None:
    guard = VerifiedGuard()
    assert flood(guard, kind) == [most]
    assert guard.admission(51, RELEVANT) == admission
    assert guard.admission(52, RELEVANT) is True, "the other one is not restricted"
    guard.wake(10.0 + SLICE_S / 2)
    assert guard.due == 10.0 + SLICE_S
    guard.wake(10.0 + SLICE_S)
    assert not guard.levels
    assert flood(guard, kind, 10.0 + SLICE_S) == [most]


def test_no_flood_of_one_kind_spends_the_budget_of_a_kind_that_matters_more() -> None:
    guard = VerifiedGuard()
    assert flood(guard, Kind.LOWER) == [MOST_IN_SLICE]
    assert flood(guard, Kind.FOLLOWED) == [MOST_IN_SLICE]
    assert flood(guard, Kind.PREVAILING) == [MOST_IN_SLICE]
    assert flood(guard, Kind.LOWER) == []


def test_the_shortest_interval_is_no_flood() -> None:
    guard = VerifiedGuard()
    counted = [(number * 0.01 + sender * 0.001, kind) for number in range(1000) for sender in range(3) for kind in Kind]
    assert not any(guard.count(51, kind, at) for at, kind in counted)


def test_of_what_is_not_verified_a_few_a_second_are_received() -> None:
    guard = UnverifiedGuard()
    assert [number for number in range(1, 100) if guard.count(True, 5.0)] == [MOST_FOREIGN]
    assert (guard.open, guard.foreign, guard.due) == (True, False, 5.0 + UNVERIFIED_S)
    assert [number for number in range(100, 300) if guard.count(False, 5.0)] == [MOST_UNVERIFIED]
    assert not guard.open
    guard.wake(5.0 + UNVERIFIED_S / 2)
    assert not guard.open
    guard.wake(5.0 + UNVERIFIED_S)
    assert (guard.open, guard.foreign, guard.due) == (True, True, None)
