"""From load to weight: never out of bounds, without flapping, and back when the load has ended."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pylvs.health.checkers.load import LoadRule, LoadState
from pylvs.model.checks import LoadCheck, Target
from pylvs.model.service import MAX_WEIGHT


def load_rule(configured: int, **fields: float) -> LoadRule:
    return LoadRule(LoadCheck(target=Target(ip_address("192.0.2.7"), 9100), **fields), configured)  # type: ignore[arg-type]


rules = st.builds(
    load_rule,
    configured=st.integers(0, 1000) | st.just(MAX_WEIGHT),
    full=st.floats(0.001, 1e6),
    floor=st.floats(0, 1),
    smoothing=st.floats(0, 0.99),
    hysteresis=st.floats(0, 1),
    patience=st.integers(1, 5),
)
loads = st.floats(0, 1e9)
readings = st.lists(st.none() | loads, max_size=40)


def play(rule: LoadRule, loads: Sequence[float | None], state: LoadState | None = None) -> list[LoadState]:
    """Return the states after each reading; None is a page that could not be read."""
    state = state or LoadState()
    states = []
    for load in loads:
        state = state.without(rule) if load is None else state.after(load, rule)
        states.append(state)
    return states


def weights(rule: LoadRule, loads: Sequence[float | None]) -> list[int]:
    return [rule.configured if state.weight is None else state.weight for state in play(rule, loads)]


@given(rules, readings)
def test_the_weight_stays_between_floor_and_configured(rule: LoadRule, loads: Sequence[float | None]) -> None:
    for weight in weights(rule, loads):
        assert rule.check.floor * rule.configured <= weight <= rule.configured
        assert weight > 0 or rule.configured == 0


@given(rules, readings)
def test_without_load_the_configured_weight_is_back(rule: LoadRule, loads: Sequence[float | None]) -> None:
    assert weights(rule, [*loads, *[0.0] * 3000])[-1] == rule.configured


@given(rules, readings)
def test_at_a_load_beyond_full_the_floor_is_reached(rule: LoadRule, loads: Sequence[float | None]) -> None:
    assert weights(rule, [*loads, *[2 * rule.check.full] * 3000])[-1] == rule.least


@given(rules, st.data())
def test_loads_that_differ_by_less_than_the_hysteresis_move_the_weight_once_or_twice(
    rule: LoadRule, data: st.DataObject
) -> None:
    """The weight changes once to the value, and once more to an end that is near."""
    low = data.draw(st.floats(0, rule.check.full))
    high = data.draw(st.floats(low, rule.check.full))
    from_end_to_end = rule.aim(low) == rule.configured and rule.aim(high) == rule.least
    if rule.aim(low) - rule.aim(high) >= rule.step or from_end_to_end:
        high = low
    found = [rule.configured, *weights(rule, data.draw(st.lists(st.floats(low, high), max_size=40)))]
    assert sum(one != other for one, other in pairwise(found)) <= 2


@given(rules, loads, loads)
def test_more_load_is_never_more_weight(rule: LoadRule, one: float, other: float) -> None:
    assert rule.aim(max(one, other)) <= rule.aim(min(one, other))


@given(rules, st.lists(loads, min_size=1), st.integers(0, 8))
def test_unreadable_pages_change_nothing_until_patience_ends(rule: LoadRule, loads: list[float], missed: int) -> None:
    last = play(rule, [*loads])[-1]
    state = play(rule, [None] * missed, last)[-1] if missed else last
    if missed <= rule.check.patience:
        assert (state.weight, state.load) == (last.weight, last.load)
    else:
        assert (state.weight, state.load) == (None, None)


def test_the_example_of_the_how_to() -> None:
    """Weight 100 by load1 per core, as in the how-to; the last step reaches an end."""
    loads = [0.0, 0.02, 0.5, 0.5, 0.5, 0.5, 1.5, 1.5, 1.5, *[0.0] * 9]
    expected = [100, 100, 74, 62, 56, 56, 10, 10, 10, 31, 66, 83, 91, 96, 96, 96, 96, 100]
    assert weights(load_rule(100), loads) == expected


def test_after_an_enormous_load_the_way_back_is_not_longer() -> None:
    after_much, after_more = (weights(load_rule(100), [load, *[0.0] * 9]) for load in (2.0, 1e9))
    assert after_much == after_more
    assert after_more[-1] >= 95


def test_without_smoothing_or_hysteresis_each_reading_counts() -> None:
    rule = load_rule(10, full=8, floor=0, smoothing=0, hysteresis=0)
    assert weights(rule, [0, 1, 2, 4, 7, 8, 9, 0]) == [10, 9, 8, 5, 1, 1, 1, 10]


def test_a_reading_restarts_the_patience() -> None:
    rule = load_rule(10, patience=2)
    assert weights(rule, [1.0, None, None, 1.0, None, None, None]) == [1, 1, 1, 1, 1, 1, 10]
