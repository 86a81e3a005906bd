"""The longest outage is found from the send times of answered requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pylvs.lab.outage import Outage, longest_outage

TIMES = st.lists(st.integers(0, 10_000).map(float), unique=True)


def test_the_longest_gap_between_two_answered_requests() -> None:
    assert longest_outage([5.0, 1.0, 2.0, 9.0]) == Outage(4.0, 5.0)
    assert longest_outage([]) == longest_outage([3.0]) == Outage(0.0, 0.0)


def test_only_what_lies_between_two_times_counts() -> None:
    sent = [0.0, 4.0, 5.0, 7.0, 17.0]
    assert longest_outage(sent, since=4.0) == Outage(10.0, 7.0)
    assert longest_outage(sent, since=4.0, until=6.0) == Outage(2.0, 5.0)
    assert longest_outage(sent, since=3.0, until=6.0) == Outage(4.0, 0.0)  # it began before


@given(TIMES)
def test_order_does_not_matter_and_no_outage_is_longer_than_all(sent: list[float]) -> None:
    found = longest_outage(sent)
    assert longest_outage(sorted(sent, reverse=True)) == found
    assert found.seconds <= (max(sent) - min(sent) if sent else 0.0)
    if len(sent) > 1:
        assert found.seconds * (len(sent) - 1) >= max(sent) - min(sent)
        assert found.begin in sent
