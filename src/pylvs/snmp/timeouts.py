"""How long the sub-agent waits for `pylvs run` and pylvs-vrrp, and when it asks them again.

snmpd closes the whole session if an answer takes longer than its agentXTimeout, a second by default.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from pylvs.model.errors import PylvsError

ANSWER_S = 0.8  # for all that one answer asks of other processes
BACK_OFF_S = 5.0  # after a request without an answer
Clock = Callable[[], float]
Result = TypeVar("Result")


def deadline() -> float:
    """Return when an answer that begins now must be complete, in monotonic time."""
    return time.monotonic() + ANSWER_S


class BackOff:
    """The time after a request without an answer, in which no other one is sent."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until = -math.inf

    @property
    def over(self) -> bool:
        """Whether to ask."""
        return self._clock() >= self._until

    def begin(self) -> None:
        """Ask no more for BACK_OFF_S."""
        self._until = self._clock() + BACK_OFF_S


class Cached(Generic[Result]):
    """The last result of `read`, which takes a deadline; without the process that answers it, `nothing`."""

    def __init__(
        self, read: Callable[[float], Result], nothing: Result, absent: type[PylvsError], back_off: BackOff
    ) -> None:
        self._read = read
        self._nothing = self._last = nothing
        self._absent = absent  # the error without the process
        self._back_off = back_off

    def get(self, until: float) -> Result:
        """Read before the deadline; return the last result if there is no answer, and in the time after that."""
        if self._back_off.over and time.monotonic() < until:
            try:
                self._last = self._read(until)
            except self._absent:
                self._last = self._nothing
            except PylvsError:
                self._back_off.begin()
        return self._last
