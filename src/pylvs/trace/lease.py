"""Leases of the packet path's records: a tick until which it records. And the time of a record as Unix time."""

from __future__ import annotations

import time

from pylvs.dataplane import load
from pylvs.dataplane.state import State

_SET_NS = 10_000_000  # of two clocks: more is no delay between two reads
_TICK_BITS = 32


def until(state: State, seconds: float) -> int:
    """Return the tick of the packet path's clock at the end of a lease that begins now; never 0."""
    return (load.clock(state) + round(seconds * load.ticks_per_second()) & (1 << _TICK_BITS) - 1) or 1


def is_over(state: State, tick: int) -> bool:
    """Return whether a lease has ended."""
    left = tick - load.clock(state) & (1 << _TICK_BITS) - 1
    return left >= 1 << _TICK_BITS - 1


class Clock:
    """Turns times since the boot into Unix time, by one offset: two reads of clocks are never the same time apart.

    The offset is measured again when the clock of the machine was set.
    """

    def __init__(self) -> None:
        self._offset_ns = 0

    def epoch(self, boot_ns: int) -> float:
        """Return the Unix time in seconds."""
        now = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        if abs(now - self._offset_ns) > _SET_NS:
            self._offset_ns = now
        return (self._offset_ns + boot_ns) / 1e9


CLOCK = Clock()
