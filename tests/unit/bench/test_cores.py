"""A gain compares what processors do at once with one alone, by what both did at the same time."""

from __future__ import annotations

import pytest

from bench.cores import Chunk, gain, overlapping
from bench.harness import WrongPath


def test_two_processors_that_share_nothing_do_twice_as_much() -> None:
    assert gain([50.0, 50.0], [50.0, 50.0]) == pytest.approx(2)
    assert gain([50.0, 50.0], [100.0, 100.0]) == pytest.approx(1)
    assert gain([50.0, 50.0], [50.0, 100.0]) == pytest.approx(1.5)


def test_only_what_was_done_at_once_counts() -> None:
    first = [Chunk(0, 10, 1.0), Chunk(10, 20, 3.0), Chunk(20, 30, 5.0)]
    late = [Chunk(10, 22, 7.0), Chunk(22, 34, 9.0), Chunk(34, 46, 11.0)]
    assert overlapping([first, late]) == [4.0, 8.0]
    assert overlapping([first]) == [3.0]


def test_processors_never_at_work_at_once_measure_nothing() -> None:
    with pytest.raises(WrongPath, match="too busy"):
        overlapping([[Chunk(0, 10, 1.0)], [Chunk(20, 30, 1.0)]])
