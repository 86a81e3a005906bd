"""The flood's bench: its random walk continues where it stopped, and lost connections fail it."""

from __future__ import annotations

import pytest

from bench.flood import Found, Kind
from bench.frames import SCATTERED, Flows, after
from pylvs.model.service import Method, Protocol


@pytest.mark.parametrize("steps", [0, 1, 2, 7, 1000])
def test_a_walk_continues_where_it_stopped(steps: int) -> None:
    flow, walk = 5, Flows(1 << 12, 5, SCATTERED)
    for _ in range(steps):
        flow = (flow * SCATTERED[0] + SCATTERED[1]) % walk.number
    assert after(walk, steps) == walk._replace(first=flow)


def test_a_flood_that_harms_connections_fails() -> None:
    kind = Kind(Protocol.TCP, Method.MASQ)
    assert Found(kind, 0.999, 0.95).verdict == ""
    assert Found(kind, 0.998, 1).verdict == "too few"
    assert Found(kind, 1, 0.94).verdict == "too few"
