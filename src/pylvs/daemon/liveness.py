"""Which parts of the daemon make no progress, though they have work: threads and processes that hang.

A part that is silent for longer than its lease is unknown: what it reported last may no longer be true. The log, an
event, `pylvs status` and a metric name it, until it makes progress again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from pylvs.daemon.notifications import EventBus
from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.model.dataclass import dataclass
from pylvs.model.wanted import Configuration
from pylvs.system.lease import Lease
from pylvs.system.logs import get_logger

TABLE_THREAD, PROBER = "the thread that edits the tables", "the prober process"
TICK_S = 1.0

Progress = Callable[[], object]  # a value that changes as long as the part works; None while it has no work


@dataclass(slots=True, eq=False)
class _Part:
    name: str
    progress: Progress
    lease: Lease


class Liveness(Part):
    """The watched parts."""

    def __init__(self, events: EventBus) -> None:
        self._events = events
        self._parts: list[_Part] = []
        self._log = get_logger()

    def watch(self, name: str, progress: Progress, lease_s: float) -> None:
        """Watch a part from now on."""
        self._parts.append(_Part(name, progress, Lease(lease_s, TICK_S)))

    def silent(self) -> dict[str, str]:
        """Return a text for each part that is silent, by its name."""
        return {each.name: _text(each) for each in self._parts if each.lease.expired}

    def states(self) -> dict[str, bool]:
        """Return of each part whether it is silent."""
        return {each.name: each.lease.expired for each in self._parts}

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        tasks.keep_running(self._run, "watching for silence")

    def problems(self) -> Iterator[Problem]:
        return (Problem("silent", name, text) for name, text in self.silent().items())

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    def tick(self) -> None:
        """Compare each part with the last tick."""
        for part in self._parts:
            was_silent = part.lease.expired
            if part.lease.follow(part.progress()):
                self._log.error(_text(part))
                self._events.publish("part_silent", part=part.name, reason=_text(part))
            elif was_silent and not part.lease.expired:
                self._log.info(f"{part.name} works again")
                self._events.publish("part_works", part=part.name)


def _text(part: _Part) -> str:
    return f"{part.name} has made no progress for {part.lease.length_s:g} s; its state is unknown"
