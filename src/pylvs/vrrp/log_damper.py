"""Log lines about the changes of one object: a few a minute, then how many there were, with the last one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import counted
from pylvs.vrrp.loop import Loop

PERIOD_S = 60.0
MOST = 20  # lines about an object in a period

Line = tuple[str, str, dict[str, Any]]  # level, text, fields


@dataclass(slots=True)
class _Changes:
    """The lines about an object in a period."""

    logged: int = 0
    suppressed: int = 0
    last: Line = field(default=("", "", {}))


class LogDamper:
    """Objects that change once in a while are not damped. Of others, the last change of a period is always logged."""

    def __init__(self, loop: Loop, write: Callable[..., None]) -> None:
        self._loop = loop
        self._write = write
        self._changes: dict[str, _Changes] = {}

    def log(self, about: str, line: Line) -> None:
        """Write a line about an object, now or at the end of the period."""
        changes = self._changes.get(about)
        if changes is None:
            changes = self._changes[about] = _Changes()
            self._loop.at(self._loop.now + PERIOD_S, partial(self._end, about))
        if changes.logged < MOST:
            changes.logged += 1
            self._put(line, "")
        else:
            changes.suppressed += 1
            changes.last = line

    def flush(self) -> None:
        """Write what is pending: the process ends."""
        for changes in self._changes.values():
            self._flush(changes)

    def _end(self, about: str) -> None:
        changes = self._changes[about]
        if not changes.suppressed:
            del self._changes[about]
            return
        self._flush(changes)  # an object that changes all the time has one line in each further period
        self._loop.at(self._loop.now + PERIOD_S, partial(self._end, about))

    def _flush(self, changes: _Changes) -> None:
        if changes.suppressed:
            before = changes.suppressed - 1
            self._put(changes.last, f"; not logged before it: {counted(before, 'change')}" if before else "")
        changes.suppressed = 0

    def _put(self, line: Line, more: str) -> None:
        level, text, fields = line
        self._write(level, f"{text}{more}", **fields)
