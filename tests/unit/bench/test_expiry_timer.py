"""What the expiry timer records of its runs, between two moments."""

from __future__ import annotations

from bench.expiry_timer import Pace
from pylvs.bpf import abi


def pace(runs: dict[int, int], spent_ns: int = 0, ended: int = 0) -> Pace:
    """Return a record of so many runs of each class of lengths."""
    lengths = tuple(runs.get(n, 0) for n in range(abi.constant("RUN_CLASSES")))
    return Pace(sum(lengths), spent_ns, ended, lengths)


def test_runs_longer_than_a_tenth_of_a_millisecond_are_late() -> None:
    assert abi.constant("RUN_FIRST_NS") << 3 == 100_000
    assert pace({0: 5, 3: 4}).late == 0
    assert pace({3: 4, 4: 3, 15: 2}).late == 5


def test_what_came_between_two_moments_is_their_difference() -> None:
    before, after = pace({3: 5}, 1000, 7), pace({3: 6, 7: 2}, 2_001_000, 17)
    assert after.since(before) == pace({3: 1, 7: 2}, 2_000_000, 10)


def test_the_usual_run_is_as_long_as_nearly_all_of_them() -> None:
    assert pace({0: 10, 4: 988, 5: 1, 9: 1}).usual_ms() == 0.4
    assert pace({0: 10, 4: 987, 5: 1, 9: 2}).usual_ms() == 6.4
    assert pace({0: 1000}).usual_ms() == 0.0125


def test_the_share_is_percent_of_one_core() -> None:
    assert pace({3: 1}, 5_000_000).share(0.1) == 5
