"""Scripts that tell of events: what happens to one subject is told in order, and no other subject waits for it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from pylvs.model.checks import Script
from pylvs.system.logs import get_logger
from pylvs.system.processes.scripts import Processes

TIMEOUT_S = 300.0  # keepalived knows none; but here the next script waits for this one
MOST_WAITING = 64  # of one subject; what is older gives way
FINISH_S = 15.0  # at the end, for what is not told yet

Subject = TypeVar("Subject", bound=Hashable)
Turn = tuple[str, Script, Mapping[str, str]]


class InTurn(Generic[Subject]):
    """Runs them, each after the end of the one before, and logs how they ended."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._waiting: dict[Subject, deque[Turn]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = get_logger()

    def put(self, subject: Subject, what: str, script: Script, where: Mapping[str, str]) -> None:
        """One more for this subject; `what` and `where` name it in the log."""
        waiting = self._waiting.get(subject)
        if waiting is not None:
            if len(waiting) >= MOST_WAITING:
                lost, _, of = waiting.popleft()
                self._log.warning(f"{lost} is not run: {MOST_WAITING} later ones wait", **of)
            waiting.append((what, script, where))
            return
        self._waiting[subject] = deque([(what, script, where)])
        task = asyncio.get_running_loop().create_task(self._tell(subject))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self, subject: Subject) -> None:
        """All that waits for this subject, one after the other."""
        waiting = self._waiting[subject]
        try:
            while waiting:
                await self._run(*waiting.popleft())
        finally:
            del self._waiting[subject]

    async def _run(self, what: str, script: Script, where: Mapping[str, str]) -> None:
        ended = await self._processes.run(script, TIMEOUT_S)
        tell = self._log.info if ended.status == 0 and not ended.timed_out else self._log.warning
        tell(f"{what} has run", script=str(script), end=str(ended), **where)
        for line in ended.lines():
            self._log.info(f"{what} said: {line}", **where)

    async def finish(self) -> None:
        """Let everything be told for a while; then end what still runs."""
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=FINISH_S)
            for task in left:
                task.cancel()
            if left:
                self._log.warning("scripts were ended with the daemon", count=len(left))
                await asyncio.gather(*left, return_exceptions=True)
