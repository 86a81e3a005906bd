"""Notify scripts of events: in order for one subject, concurrently for different subjects."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

from pylvs.model.checks import Script
from pylvs.system.logs import get_logger
from pylvs.system.processes.scripts import Processes

TIMEOUT_S = 300.0  # keepalived has none; but here the next script waits for this one
MOST_WAITING = 64  # of one subject; the oldest are dropped
FINISH_S = 15.0  # at the end, for scripts that have not run yet

Subject = TypeVar("Subject", bound=Hashable)
Turn = tuple[str, Script, Mapping[str, str]]


class InTurn(Generic[Subject]):
    """Runs the scripts of a subject one after the other, and logs how they ended."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._waiting: dict[Subject, deque[Turn]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = get_logger()

    def put(self, subject: Subject, what: str, script: Script, where: Mapping[str, str]) -> None:
        """Queue a script for this subject; `what` and `where` name it in the log."""
        waiting = self._waiting.get(subject)
        if waiting is not None:
            if len(waiting) >= MOST_WAITING:
                lost, _, of = waiting.popleft()
                self._log.warning(f"{lost} is not run: {MOST_WAITING} later ones wait", **of)
            waiting.append((what, script, where))
            return
        self._waiting[subject] = deque([(what, script, where)])
        task = asyncio.get_running_loop().create_task(self._run_all(subject))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_all(self, subject: Subject) -> None:
        """Run the queue of a subject, one script after the other."""
        waiting = self._waiting[subject]
        try:
            while waiting:
                await self._run(*waiting.popleft())
        finally:
            del self._waiting[subject]

    async def _run(self, what: str, script: Script, where: Mapping[str, str]) -> None:
        ended = await self._processes.run(script, TIMEOUT_S)
        log = self._log.info if ended.status == 0 and not ended.timed_out else self._log.warning
        log(f"{what} has run", script=str(script), end=str(ended), **where)
        for line in ended.lines():
            self._log.info(f"output of {what}: {line}", **where)

    async def finish(self) -> None:
        """Let scripts run for FINISH_S, then end the rest."""
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=FINISH_S)
            for task in left:
                task.cancel()
            if left:
                self._log.warning("scripts were ended with the daemon", count=len(left))
                await asyncio.gather(*left, return_exceptions=True)
