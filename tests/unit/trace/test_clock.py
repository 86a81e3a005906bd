"""Times of traced packets, from a clock that counts since the boot."""

from __future__ import annotations

import time

import pytest

from pylvs.trace.lease import Clock

BOOT_NS, SET_S = 5_000_000_000, 3600
UNIX_NS = 1_764_432_000_000_000_000


def test_packets_keep_their_order_and_a_set_clock_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    delays_ns = iter((0, 900, 0, 0))
    set_ns = 0
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _: BOOT_NS)
    monkeypatch.setattr(time, "time_ns", lambda: UNIX_NS + set_ns - next(delays_ns))  # the process waits between
    clock = Clock()
    first, second = clock.epoch(BOOT_NS), clock.epoch(BOOT_NS + 500)
    assert first <= second
    assert first == UNIX_NS / 1e9
    set_ns = SET_S * 1_000_000_000
    assert clock.epoch(BOOT_NS) == first + SET_S
