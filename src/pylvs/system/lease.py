"""How long another process may be silent until its last message no longer counts. Pure."""

from __future__ import annotations

import math


class Lease:
    """Counts the caller's ticks since the last message of another process.

    A late tick counts once. So the time in which the caller itself was stopped is no silence of the other process: its
    messages of that time are still unread.
    """

    def __init__(self, length_s: float, tick_s: float) -> None:
        """The caller ticks every `tick_s`."""
        self.length_s = length_s
        self.tick_s = tick_s
        self._most = max(1, math.ceil(length_s / tick_s))
        self._silent = 0
        self._last: object = None  # progress

    @property
    def expired(self) -> bool:
        """Whether the other process has been silent for too long."""
        return self._silent >= self._most

    def renew(self) -> None:
        """Count from now on: a message came."""
        self._silent = 0

    def tick(self) -> bool:
        """Count a tick; return whether the lease has just expired."""
        if self.expired:
            return False
        self._silent += 1
        return self.expired

    def follow(self, progress: object) -> bool:
        """Count a tick, or renew if the progress has changed, or is None as there is no work. Return as `tick`."""
        last, self._last = self._last, progress
        if progress is None or progress != last:
            self.renew()
            return False
        return self.tick()
