"""Whether hosts with one link address are several: what they answer to echoes that are sent at the same moment."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pylvs.doctor.clones import Burst, are_apart

ONE, OTHER = ip_address("10.0.0.21"), ip_address("10.0.0.22")
NONE: Burst = frozenset()
FIRST, SECOND, BOTH = Burst({ONE}), Burst({OTHER}), Burst({ONE, OTHER})


@pytest.mark.parametrize(
    ("bursts", "apart"),
    [
        ([FIRST, SECOND] * 3, True),
        ([FIRST, FIRST, FIRST, SECOND, BOTH, BOTH], True),  # traffic moved the link address in between
        ([BOTH] * 6, False),
        ([BOTH, FIRST, BOTH, BOTH, SECOND, NONE], False),  # a host with two addresses on a link that loses packets
        ([FIRST] * 6, False),  # the other one ignores echo requests
        ([NONE] * 6, False),
    ],
)
def test_clones_answer_one_at_a_time(bursts: list[Burst], apart: bool) -> None:
    """A host with both addresses answers at both."""
    assert are_apart([ONE, OTHER], bursts) is apart
