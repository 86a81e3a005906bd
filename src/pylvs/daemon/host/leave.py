"""A planned leave: this director gives up the packets of a group, and stays away until `pylvs director join`.

First the routing daemon lowers the preference of its addresses, for announce_leave seconds. Then they are withdrawn.
The state directory has the leave, so a restart of the daemon ends neither its wait nor the leave.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from pylvs.daemon.state.directory import LEAVE_FILE, StateDirectory
from pylvs.daemon.state.overrides import SLOW_S, StateWriter
from pylvs.model.plain import from_plain, to_plain
from pylvs.model.routing import Left


class Leave:
    """The leave of this director, or none. Clocks: Unix time, for the disk, and one that only runs."""

    def __init__(
        self,
        state: StateDirectory,
        writer: StateWriter,
        wall: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._state = state
        self._writer = writer
        self._wall = wall
        self._steady = steady
        self._end = 0.0  # of the wait, by the steady clock
        self.left: Left | None = None

    def read(self, wait_s: float) -> None:
        """Continue with the leave of the last daemon, which waits so long at most. Raises PylvsError."""
        with self._state.decoding(LEAVE_FILE) as saved:
            self.left = None if saved is None else from_plain(Left, saved)
        if self.left:
            self._end = self._steady() + min(max(self.left.until - self._wall(), 0.0), wait_s)

    def begin(self, wait_s: float) -> None:
        """Leave after so many seconds of lower preference; a leave that has begun can become shorter alone."""
        now = self._wall()
        since, wait_s = (self.left.since, min(wait_s, self.wait_s)) if self.left else (now, wait_s)
        self.left = Left(since, now + wait_s)
        self._end = self._steady() + wait_s
        self._save()

    def end(self) -> None:
        """Join again."""
        self.left = None
        self._save()

    @property
    def wait_s(self) -> float:
        """How long the preference is still lowered before the addresses are withdrawn."""
        return max(self._end - self._steady(), 0.0) if self.left else 0.0

    async def saved(self) -> str:
        """Wait for the disk; return why a restart of the daemon would forget the last command, "" if it would not."""
        await self._writer.idle(SLOW_S)
        return self._writer.error(LEAVE_FILE)

    def _save(self) -> None:
        content = to_plain(self.left) if self.left else None
        self._writer.put(LEAVE_FILE, lambda: partial(self._state.write, LEAVE_FILE, content))
