"""What a client's answered requests say of its pauses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pylvs.lab.pause import Pause, longest

TIMES = st.lists(st.integers(0, 10_000).map(float), unique=True)


def test_the_longest_gap_between_two_answered_requests() -> None:
    assert longest([5.0, 1.0, 2.0, 9.0]) == Pause(4.0, 5.0)
    assert longest([]) == longest([3.0]) == Pause(0.0, 0.0)


def test_only_what_lies_between_two_times_counts() -> None:
    sent = [0.0, 4.0, 5.0, 7.0, 17.0]
    assert longest(sent, since=4.0) == Pause(10.0, 7.0)
    assert longest(sent, since=4.0, until=6.0) == Pause(2.0, 5.0)
    assert longest(sent, since=3.0, until=6.0) == Pause(4.0, 0.0)  # it had begun before


@given(TIMES)
def test_order_does_not_matter_and_no_pause_is_longer_than_all(sent: list[float]) -> None:
    found = longest(sent)
    assert longest(sorted(sent, reverse=True)) == found
    assert found.seconds <= (max(sent) - min(sent) if sent else 0.0)
    if len(sent) > 1:
        assert found.seconds * (len(sent) - 1) >= max(sent) - min(sent)
        assert found.begin in sent
