"""Run notify scripts: of one subject in order, but none waits for long, and none runs without a limit.

A subject is a virtual router, a sync group, a real server of a service, or a quorum. A script waits for the one before
it, so the last one of several quick transitions reports the current state. But a script that hangs belongs to a state
that is over. So no script waits for one that has run for ORDERED_S, nor longer than that. keepalived waits for none.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Hashable, Mapping
from typing import Any, Generic, TypeVar

from pylvs.model.checks import Script
from pylvs.model.dataclass import dataclass
from pylvs.system.logs import get_logger
from pylvs.system.processes.scripts import Processes

ORDERED_S = 5.0  # the longest wait of a script for the one before it
SLOW_S = 10.0  # then a script that has not ended is a problem
TIMEOUT_S = 300.0  # without a configuration
MOST_WAITING = 64  # scripts of one subject; the oldest are dropped
MOST_RUNNING = 8  # of one subject, of which only the last one reports the current state; the oldest is ended
FINISH_S = 15.0  # at the end, for scripts that have not ended

Subject = TypeVar("Subject", bound=Hashable)


@dataclass(frozen=True, slots=True)
class NotifyScript:
    """One notify script: its keyword, and in `where` what it is about, as in the log."""

    keyword: str
    script: Script
    where: Mapping[str, str]
    put_at: float


@dataclass(slots=True, eq=False)
class _Running:
    """A script that has begun, or waits for a free process."""

    turn: NotifyScript
    began: float
    task: asyncio.Task[None]


class _Subject:
    """The queue of one subject, and what became of its last script."""

    def __init__(self) -> None:
        self.waiting: deque[NotifyScript] = deque()
        self.running: list[_Running] = []  # the oldest first
        self.ended_early: tuple[NotifyScript, str] | None = None  # the last one, until another one ends by itself


class NotifyScripts(Generic[Subject]):
    """Runs the scripts of all subjects, those of different subjects concurrently. Logs how they ended."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._timeout_s = TIMEOUT_S
        self._subjects: dict[Subject, _Subject] = {}
        self._starters: set[asyncio.Task[None]] = set()
        self._ended_early = 0
        self._log = get_logger()

    def configure(self, timeout_s: float) -> None:
        """Set the limit of scripts that begin from now on, and forget which ones exceeded the former limit."""
        self._timeout_s = timeout_s
        for name, subject in list(self._subjects.items()):
            subject.ended_early = None
            self._forget(name)

    def put(self, name: Subject, keyword: str, script: Script, where: Mapping[str, str]) -> None:
        """Queue a script for this subject; `keyword` and `where` name it in the log."""
        subject = self._subjects.setdefault(name, _Subject())
        begins = not subject.waiting
        if len(subject.waiting) >= MOST_WAITING:
            lost = subject.waiting.popleft()
            self._log.warning(f"{lost.keyword} is not run: {MOST_WAITING} later ones wait", **lost.where)
        subject.waiting.append(NotifyScript(keyword, script, where, _now()))
        if begins:
            task = asyncio.get_running_loop().create_task(self._start_all(name, subject))
            self._starters.add(task)
            task.add_done_callback(self._starters.discard)

    async def _start_all(self, name: Subject, subject: _Subject) -> None:
        """Start the waiting scripts of a subject in order."""
        while subject.waiting:
            await self._await_turn(subject)
            self._start(name, subject, subject.waiting.popleft())

    async def _await_turn(self, subject: _Subject) -> None:
        """Wait for the script before the first waiting one, in bounded time."""
        while subject.running:
            before = subject.running[-1]
            patience_s = min(before.began, subject.waiting[0].put_at) + ORDERED_S - _now()
            if patience_s <= 0:
                return
            await asyncio.wait({before.task}, timeout=patience_s)

    def _start(self, name: Subject, subject: _Subject, turn: NotifyScript) -> None:
        if len(subject.running) >= MOST_RUNNING:
            oldest, how = subject.running.pop(0), f"was ended, as {MOST_RUNNING} later ones run"
            self._end_early(subject, oldest.turn, how)
            self._warn(f"{oldest.turn.keyword} {how}", oldest.turn)
            oldest.task.cancel()
        task = asyncio.get_running_loop().create_task(self._run(subject, turn))
        running = _Running(turn, _now(), task)
        subject.running.append(running)

        def over(_: asyncio.Task[None]) -> None:
            if running in subject.running:
                subject.running.remove(running)
            self._forget(name)

        task.add_done_callback(over)

    def _forget(self, name: Subject) -> None:
        subject = self._subjects.get(name)
        if subject and not (subject.waiting or subject.running or subject.ended_early):
            del self._subjects[name]

    async def _run(self, subject: _Subject, turn: NotifyScript) -> None:
        limit_s = self._timeout_s
        text = f"{turn.keyword} has not ended for {SLOW_S:g} s; after {limit_s:g} s it is ended"
        warning = asyncio.get_running_loop().call_later(SLOW_S, lambda: self._warn(text, turn))
        try:
            ended = await self._processes.run(turn.script, limit_s)
        finally:
            warning.cancel()
        if ended.timed_out:
            self._end_early(subject, turn, f"was ended after {limit_s:g} s")
        else:
            subject.ended_early = None
        log = self._log.info if ended.status == 0 and not ended.timed_out else self._log.warning
        log(f"{turn.keyword} has run", script=str(turn.script), end=str(ended), **turn.where)
        for line in ended.lines():
            self._log.info(f"output of {turn.keyword}: {line}", **turn.where)

    def _end_early(self, subject: _Subject, turn: NotifyScript, how: str) -> None:
        self._ended_early += 1
        subject.ended_early = turn, how

    def _warn(self, text: str, turn: NotifyScript) -> None:
        self._log.warning(text, script=str(turn.script), **turn.where)

    def report(self) -> dict[str, Any]:
        """Return which scripts run, wait, or were the last of their subject and had to be ended; as JSON types."""
        found = []
        for subject in self._subjects.values():
            found += [_reported(each.turn, "running", _now() - each.began) for each in subject.running]
            found += [_reported(each, "waiting", _now() - each.put_at) for each in subject.waiting]
            if subject.ended_early:
                turn, how = subject.ended_early
                found.append(_reported(turn, "ended", None, how))
        states = Counter(each["state"] for each in found)
        counts = {"running": states["running"], "waiting": states["waiting"], "ended_early": self._ended_early}
        return counts | {"scripts": found}

    async def finish(self) -> None:
        """Let scripts run for FINISH_S, then end the rest."""
        deadline = _now() + FINISH_S
        while left := [*self._starters, *self._tasks()]:
            if _now() >= deadline:
                break
            await asyncio.wait(left, timeout=deadline - _now(), return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        if left:
            self._log.warning("scripts were ended with the daemon", count=len(left))
            await asyncio.gather(*left, return_exceptions=True)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [each.task for subject in self._subjects.values() for each in subject.running]


def _reported(turn: NotifyScript, state: str, seconds: float | None, how: str = "") -> dict[str, Any]:
    server, service = turn.where.get("server"), turn.where.get("service", "")
    about = turn.where.get("name") or (f"{server} of {service}" if server else service)
    since = None if seconds is None else round(seconds, 3)
    return {
        "object": about,
        "keyword": turn.keyword,
        "script": str(turn.script),
        "state": state,
        "seconds": since,
        "reason": how,
    }


def _now() -> float:
    return time.monotonic()
