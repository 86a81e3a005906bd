"""The theory beside which bench-ecmp prints what it counts."""

from __future__ import annotations

from fractions import Fraction

import pytest

from bench.ecmp.trial import ADDED, DIRECTORS, KILLED, OTHERS, Found, moved


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        ("abcd", "abcd", Fraction(0)),
        ("ab", "a", Fraction(1, 2)),
        ("abcd", "acd", Fraction(1, 3)),
        ("abcd", "abc", Fraction(1, 2)),
        ("acd", "abcd", Fraction(1, 3)),
    ],
)
def test_linux_moves_the_flows_whose_interval_has_another_owner(before: str, after: str, share: Fraction) -> None:
    assert moved(before, after) == share


def test_all_stay_with_a_hash_or_with_sync() -> None:
    assert moved(DIRECTORS, OTHERS) == Fraction(1, 3)
    assert Found(KILLED, "mh", False, 400, 0).theory == 400
    assert Found(ADDED, "rr", True, 400, 0).theory == 400
    assert Found(ADDED, "rr", False, 400, 0).theory == 300
