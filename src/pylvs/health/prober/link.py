"""The daemon's end of the prober process: probes that run there, and that look like any other probe.

If the process ends or is silent, its probes are inconclusive, and no server is down because of that. A probe that
begins while the process starts waits for it. The link validates what the process sends: it can only report on the
probes that it was sent.
"""

from __future__ import annotations

import asyncio
import os
import socket
import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any

from pylvs.health.prober import wire
from pylvs.health.prober.privileged import make_sockets, needs_sockets
from pylvs.health.probes import CheckContext, Outcome, Probe, ProbeFailed
from pylvs.model.checks import Check, HttpCheck, SmtpCheck
from pylvs.model.dataclass import dataclass
from pylvs.system.logs import get_logger, one_line
from pylvs.system.processes.channel import MAX_DESCRIPTORS, BadMessage
from pylvs.system.processes.confined import ConfinedProcess

WHAT = "the prober process"
BATCH_S = 0.005  # in which probes that begin are sent together
_MOST_IN_PACKET, _MOST_NUMBERS = 50, 1000  # definitions of checks, which have less than 2 KB; numbers
_OVERDUE_S = 10.0  # beyond the longest time that a probe may take
_SWEEP_S = 5.0
_MAX_LOG = 1000  # characters of a line that the process logs
_MAX_LOG_LINES = 20  # of one process


@dataclass(slots=True)
class Run:
    """One probe that runs in the process."""

    number: int
    probe: RemoteProbe
    future: asyncio.Future[Outcome]
    due: float  # when it must have ended


class RemoteProbe:
    """The probe of one check, made in the process: a `Probe`."""

    def __init__(self, link: ProberLink, number: int, check: Check, context: CheckContext) -> None:
        self._link = link
        self.number = number
        self.privileged = needs_sockets(check)
        self.check = check
        self.definition = [number, wire.encode_value(check), context.weight, context.virtualhost]
        self.state: str | None = None  # what it remembers
        self.sent_to = 0  # the process that knows it
        parts = len(check.urls) if isinstance(check, HttpCheck) else 1
        parts = len(check.targets) if isinstance(check, SmtpCheck) else parts
        self.longest_s = parts * check.pace.timeout_s

    async def __call__(self) -> Outcome:
        return await self._link.run(self)


@dataclass(frozen=True, slots=True)
class ProberCounts:
    """Why the process does not run ("" if it does, or was not needed yet), and its unexpected ends."""

    problem: str = ""
    restarts: int = 0


class ProberLink:
    """Starts the process with the first probe."""

    def __init__(self) -> None:
        self.process = ConfinedProcess(
            WHAT, "pylvs.health.prober.process", wire.PROTOCOL, self._receive, self._reset, self._reset
        )
        self._probes = 0
        self._last_run = 0
        self._running: dict[int, Run] = {}
        self._batch: deque[Run] = deque()
        self._cancelled: list[int] = []
        self._dropped: list[int] = []
        self._flushing: asyncio.TimerHandle | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._log_lines = 0
        self._closed = False
        self._nice: int | None = None
        self._log = get_logger()

    def probe_of(self, check: Check, context: CheckContext) -> Probe:
        """Return the probe of a check; nothing is started yet."""
        self._probes += 1
        probe = RemoteProbe(self, self._probes, check, context)
        weakref.finalize(probe, self._dropped.append, probe.number).atexit = False
        return probe

    def counts(self) -> ProberCounts:
        return ProberCounts(self.process.problem, self.process.restarts)

    def set_nice(self, nice: int) -> None:
        """Set the process's niceness, now and whenever it is started."""
        self._nice = nice
        if self.process.up:
            self._apply_nice()

    async def run(self, probe: RemoteProbe) -> Outcome:
        """Run a probe in the process. CancelledError ends it there, too."""
        loop = asyncio.get_running_loop()
        if self._closed:
            return Outcome(False, f"{WHAT} was stopped", inconclusive=True)
        if not self.process.started:
            self.process.start()
        if not self.process.up and not await self.process.wait_up(probe.check.pace.timeout_s):
            return Outcome(False, self.process.problem or f"{WHAT} has not started yet", inconclusive=True)
        self._last_run += 1
        number = self._last_run
        run = Run(number, probe, loop.create_future(), loop.time() + probe.longest_s + _OVERDUE_S)
        self._running[number] = run
        self._batch.append(run)
        if self._flushing is None:
            self._flushing = loop.call_later(BATCH_S, self._flush)
        try:
            return await run.future
        except asyncio.CancelledError:
            self._cancelled.append(number)
            raise
        finally:
            self._running.pop(number, None)

    async def close(self) -> None:
        """End the process; probes that run are inconclusive."""
        self._closed = True
        for timer in (self._flushing, self._sweeping):
            if timer is not None:
                timer.cancel()
        await self.process.close()
        self._fail(f"{WHAT} was stopped")

    def _reset(self) -> None:
        """The process has started, or has ended: it knows nothing, and what ran there is lost."""
        self._log_lines = 0
        if self.process.up:
            if self._nice is not None:
                self._apply_nice()
            self._sweep()
            return
        self._cancelled.clear()
        self._dropped.clear()
        self._batch.clear()
        self._fail(self.process.problem)

    def _fail(self, reason: str) -> None:
        for run in self._running.values():
            _settle(run, Outcome(False, reason, inconclusive=True))

    def _apply_nice(self) -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, self.process.pid, self._nice or 0)
        except OSError as error:
            self._log.error(f"checker_priority {self._nice}: {error.strerror}")

    def _flush(self) -> None:
        """Send the runs of the batch, and the probes that the process does not know yet."""
        self._flushing = None
        while self.process.up and (self._batch or self._cancelled):
            descriptors: list[socket.socket] = []
            new, runs = self._take_runs(descriptors)
            message = {
                "new": new,
                "run": runs,
                "cancel": self._cancelled[:_MOST_NUMBERS],
                "drop": self._dropped[:_MOST_NUMBERS],
            }
            del self._cancelled[:_MOST_NUMBERS], self._dropped[: len(message["drop"])]
            self.process.send({name: entries for name, entries in message.items() if entries}, descriptors)

    def _take_runs(self, descriptors: list[socket.socket]) -> tuple[list[Any], list[Any]]:
        """Return definitions and runs for one packet; append the sockets that they need."""
        new: list[Any] = []
        runs: list[Any] = []
        while self._batch and len(runs) < _MOST_IN_PACKET:
            run = self._batch[0]
            sockets = _sockets_of(run)
            if descriptors and len(descriptors) + len(sockets) > MAX_DESCRIPTORS:
                for each in sockets:
                    each.close()
                break
            self._batch.popleft()
            if run.future.done():  # no socket could be made, or it was cancelled
                continue
            if run.probe.sent_to != self.process.pid:
                run.probe.sent_to = self.process.pid
                new.append([*run.probe.definition, run.probe.state])
            descriptors += sockets
            runs.append([run.number, run.probe.number, len(sockets)])
        return new, runs

    def _receive(self, message: dict[str, Any]) -> None:
        """Apply a message. Raises BadMessage."""
        entries = message.get("done", ())
        if not isinstance(entries, Iterable):
            raise BadMessage("results that are no list")
        for entry in entries:
            done = wire.decode_done(entry)
            run = self._running.get(done.run)
            if run is not None:  # else it was cancelled
                if done.state is not None:
                    run.probe.state = done.state
                _settle(run, done.outcome)
        if "log" in message and self._log_lines < _MAX_LOG_LINES:
            self._log_lines += 1
            self._log.error(f"{WHAT}: {one_line(str(message['log']))[:_MAX_LOG]}")

    def _sweep(self) -> None:
        """Give up runs that the process has forgotten."""
        loop = asyncio.get_running_loop()
        if self._sweeping is not None:
            self._sweeping.cancel()
        now = loop.time()
        for number, run in self._running.items():
            if now > run.due and not run.future.done():
                self._cancelled.append(number)
                _settle(run, Outcome(False, f"{WHAT} did not report in time", inconclusive=True))
        self._sweeping = loop.call_later(_SWEEP_S, self._sweep) if self.process.up else None


def _settle(run: Run, outcome: Outcome) -> None:
    if not run.future.done():
        run.future.set_result(outcome)


def _sockets_of(run: Run) -> list[socket.socket]:
    """Return the sockets that the daemon makes for a run; if it cannot, the run has ended."""
    if not run.probe.privileged or run.future.done():
        return []
    try:
        return make_sockets(run.probe.check)
    except ProbeFailed as error:
        _settle(run, Outcome(False, str(error), inconclusive=error.inconclusive))
        return []
