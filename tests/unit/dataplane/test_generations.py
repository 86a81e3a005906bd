"""The half in force of a pair, and the chunks of lists."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pylvs.dataplane.tables import half_in_force, later
from pylvs.dataplane.transaction import gaps, list_class

generations = st.integers(0, (1 << 32) - 1)


@given(generations, st.integers(1, (1 << 31) - 1))
def test_a_generation_is_later_than_those_before_it_even_across_the_wrap(generation: int, distance: int) -> None:
    after = generation + distance & 0xFFFFFFFF
    assert later(after, generation)
    assert not later(generation, after)
    assert not later(generation, generation)


@given(generations, st.integers(0, 1000), st.integers(1, 1000), st.booleans())
def test_the_half_in_force_is_the_newest_that_is_not_beyond_what_is_live(
    live: int, age: int, more: int, swapped: bool
) -> None:
    def halves(one: int, other: int) -> tuple[int, int]:
        pair = (one & 0xFFFFFFFF, other & 0xFFFFFFFF)
        return pair[::-1] if swapped else pair

    older, newer, unborn = live - age - more, live - age, live + 1
    assert half_in_force(halves(newer, older), live) == int(swapped)
    assert half_in_force(halves(newer, unborn), live) == int(swapped)


@given(st.integers(1, 1 << 17))
def test_a_chunk_is_the_smallest_power_of_two_that_holds_the_list(count: int) -> None:
    size = 1 << list_class(count)
    assert size >= count
    assert size == 1 or size // 2 < count


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 9)), max_size=20), st.integers(1, 10))
def test_gaps_between_lists_are_filled_exactly(steps: list[tuple[int, int]], classes: int) -> None:
    used, at = [], 0
    for space, size in steps:
        used.append((at + space, 1 << size))
        at += space + (1 << size)
    free = list(gaps(used, classes))
    assert all(size == 1 << list_class(size) <= 1 << (classes - 1) for _, size in free)
    taken = sorted([*used, *free])
    assert sum(size for _, size in taken) == at
    for (start, size), (following, _) in pairwise(taken):
        assert start + size == following
