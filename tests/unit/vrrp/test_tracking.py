"""Tracked objects, priorities and faults, as in keepalived.conf(5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.vrrp import Track
from pylvs.vrrp.tracking import MAX_PRIORITY, MIN_PRIORITY, TrackedObject, effective_priority


def script(weight: int, well: bool | None, reverse: bool = False) -> TrackedObject:
    return TrackedObject("script", Track("nginx", weight, reverse), well)


def file(weight: int, number: int | None, reverse: bool = False) -> TrackedObject:
    return TrackedObject("file", Track("load", weight, reverse), None, number)


@pytest.mark.parametrize(
    ("tracked", "points"),
    [
        (script(20, True), 20),
        (script(20, False), 0),
        (script(20, None), 0),
        (script(-20, True), 0),
        (script(-20, False), -20),
        (script(-20, None), 0),
        (script(20, True, reverse=True), -20),
        (script(20, False, reverse=True), 0),
        (script(-20, True, reverse=True), 0),
        (script(-20, False, reverse=True), 20),
        (script(0, False), 0),
        (file(2, 10), 20),
        (file(-1, 10), -10),
        (file(2, 10, reverse=True), -20),
        (file(2, None), 0),
    ],
)
def test_points(tracked: TrackedObject, points: int) -> None:
    assert tracked.points == points
    assert effective_priority(100, [tracked]) == 100 + points


@pytest.mark.parametrize(
    ("tracked", "fault"),
    [
        (script(0, True), False),
        (script(0, False), True),
        (script(0, None), True),
        (script(0, True, reverse=True), True),
        (script(0, False, reverse=True), False),
        (script(-20, False), False),
        (file(0, 0), False),
        (file(0, 1), True),
        (file(0, None), True),
        (file(0, 1, reverse=True), False),
        (file(1, -253), False),
        (file(1, -254), True),
        (file(254, -1), True),
    ],
)
def test_faults(tracked: TrackedObject, fault: bool) -> None:
    assert bool(tracked.fault) is fault


@given(
    st.integers(1, 254),
    st.lists(st.builds(script, st.integers(-253, 253), st.sampled_from([True, False, None]), st.booleans())),
)
def test_an_effective_priority_is_between_1_and_254(base: int, tracked: list[TrackedObject]) -> None:
    assert MIN_PRIORITY <= effective_priority(base, tracked) <= MAX_PRIORITY
    assert effective_priority(255, tracked) == 255
