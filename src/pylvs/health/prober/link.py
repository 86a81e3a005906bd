"""The daemon's end of the prober process: probes that run there, and that look like any other probe.

If the process ends or is silent, its probes are inconclusive, and no server is down because of that. A probe that
begins while the process starts waits for it. The link validates what the process sends: it can only report on the
probes that it was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any

from pylvs.health.prober import wire
from pylvs.health.prober.privileged import make_sockets, needs_sockets
from pylvs.health.probes import CheckContext, Outcome, Probe, ProbeFailed, libraries_of
from pylvs.model.checks import Check, HttpCheck, SmtpCheck, TlsClient
from pylvs.model.dataclass import dataclass
from pylvs.model.plain import to_plain
from pylvs.system.logs import get_logger, one_line
from pylvs.system.processes.asyncio_loop import AsyncioLoop, closed
from pylvs.system.processes.channel import MAX_DESCRIPTORS, MAX_PACKET, BadMessage
from pylvs.system.processes.child import Child

WHAT, ROLE = "the prober process", "probes"
BATCH_S = 0.005  # in which probes that begin are sent together
_MOST_IN_PACKET, _MOST_NUMBERS = 50, 1000  # runs; numbers
_DEFINITIONS = MAX_PACKET // 2  # bytes of definitions in a packet
_OVERDUE_S = 10.0  # beyond the longest time that a probe may take
_SWEEP_S = 5.0
_MAX_LOG = 1000  # characters of a line that the process logs
_MAX_LOG_LINES = 20  # of one process

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(slots=True)
class Run:
    """One probe that runs in the process."""

    number: int
    probe: RemoteProbe
    future: asyncio.Future[Outcome]
    due: float  # when it must have ended


@dataclass(slots=True)
class Repetition:
    """One probe that the process repeats."""

    number: int
    probe: RemoteProbe
    every_s: float
    on_same: Callable[[int, float, str], None]
    on_end: Callable[[Outcome | None, float], None]
    due: float  # when it must have been reported
    reason: str = ""


class RemoteProbe:
    """The probe of one check, made in the process: a `Probe`."""

    def __init__(self, link: ProberLink, number: int, check: Check, context: CheckContext) -> None:
        self._link = link
        self.number = number
        self.privileged = needs_sockets(check)
        self.check = check
        self.state: str | None = None  # what it remembers
        self.sent_to = 0  # the process that knows it, by its number; 0: none
        self._context = context
        parts = len(check.urls) if isinstance(check, HttpCheck) else 1
        parts = len(check.targets) if isinstance(check, SmtpCheck) else parts
        self.longest_s = parts * check.pace.timeout_s

    @cached_property
    def definition(self) -> list[Any]:
        """What the process must know. Late: most reloads replace probes that never run."""
        return [self.number, to_plain(self.check, Check), self._context.weight, self._context.virtualhost]

    @cached_property
    def size(self) -> int:
        return len(json.dumps(self.definition))

    async def __call__(self) -> Outcome:
        if self.size > _DEFINITIONS:
            return Outcome(False, "the settings of the check are too long", inconclusive=True)
        return await self._link.run(self)

    def repeat(
        self,
        every_s: float,
        on_same: Callable[[int, float, str], None],
        on_end: Callable[[Outcome | None, float], None],
    ) -> Callable[[], None] | None:
        """See `RepeatingProbe`: almost all probes are repetitions, and few of them are messages."""
        if self.privileged or self.check.sets_weight:
            return None
        return self._link.repeat(self, every_s, on_same, on_end)


class _Definitions:
    """The definitions of one packet: those of probes that the process does not know yet."""

    def __init__(self, process: int) -> None:
        self.entries: list[Any] = []
        self._process = process
        self._size = 0

    def have_space(self, probe: RemoteProbe) -> bool:
        return probe.sent_to == self._process or not self.entries or self._size + probe.size <= _DEFINITIONS

    def add(self, probe: RemoteProbe) -> None:
        if probe.sent_to != self._process:
            probe.sent_to = self._process
            self._size += probe.size + len(json.dumps(probe.state))
            self.entries.append([*probe.definition, probe.state])


@dataclass(frozen=True, slots=True)
class ProberCounts:
    """Why the process does not run ("" if it does, or was not needed yet), and its unexpected ends.

    `unsteady` is what happened last if these are frequent, also while it runs; else "".
    """

    problem: str = ""
    restarts: int = 0
    unsteady: str = ""


def _stamps(client: TlsClient) -> Stamp:
    """Return what changes when one of the files is replaced."""
    return tuple(_stamp(path) for path in (client.certificate, client.key, client.ca))


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


class ProberLink:
    """Starts the process with the first probe."""

    def __init__(self) -> None:
        self.process = Child(AsyncioLoop(), WHAT, "pylvs.edge", self._receive, self._reset, self._reset)
        self._probes = 0
        self._last_run = 0
        self._running: dict[int, Run] = {}
        self._repetitions: dict[int, Repetition] = {}
        self._batch: deque[Run] = deque()
        self._new_repetitions: list[Repetition] = []
        self._cancelled: list[int] = []
        self._dropped: list[int] = []
        self._flushing: asyncio.TimerHandle | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._log_lines = 0
        self._closed = False
        self._nice = 0
        self._libraries: frozenset[str] = frozenset()  # that the probes need
        self._loaded = self._libraries  # by the process, which can load no more
        self._up = asyncio.Event()  # the process is
        self._tls_file = -1  # has the settings of TLS that need files
        self._tls_stamp: list[tuple[TlsClient, bool, Stamp]] = []
        self._log = get_logger()

    def probe_of(self, check: Check, context: CheckContext) -> Probe:
        """Return the probe of a check; nothing is started yet."""
        self._probes += 1
        self._libraries |= libraries_of(check)
        probe = RemoteProbe(self, self._probes, check, context)
        weakref.finalize(probe, self._dropped.append, probe.number).atexit = False
        return probe

    def counts(self) -> ProberCounts:
        return ProberCounts(self.process.problem, self.process.restarts, self.process.unsteady)

    def set_tls(self, wanted: Iterable[tuple[TlsClient, bool]]) -> None:
        """Let the process read the files of these clients, each with whether it verifies servers.

        It reads files at its start alone. So it is started again if they changed.
        """
        clients = sorted(set(wanted), key=repr)
        stamp = [(client, verify, _stamps(client)) for client, verify in clients]
        if stamp == self._tls_stamp:
            return
        file = os.memfd_create("pylvs-tls")  # not an argument: these are visible to all users
        if self._tls_file >= 0:
            os.close(self._tls_file)
        self._tls_file, self._tls_stamp = file, stamp
        content = [(to_plain(client), verify) for client, verify in clients]
        os.pwrite(self._tls_file, json.dumps(content).encode(), 0)
        if self.process.started:
            self._start()

    def _start(self) -> None:
        self._loaded = self._libraries
        files = [self._tls_file] if self._tls_file >= 0 else []
        self.process.start(ROLE, ",".join(sorted(self._loaded)), *map(str, files), descriptors=files)

    def set_nice(self, nice: int) -> None:
        """Set the niceness of a process that runs; one that is started later inherits the daemon's."""
        if nice == self._nice:
            return
        self._nice = nice
        if self.process.up:
            try:
                os.setpriority(os.PRIO_PROCESS, self.process.pid, nice)
            except OSError as error:
                self._log.error(f"checker_priority {nice}: {error.strerror}")

    async def run(self, probe: RemoteProbe) -> Outcome:
        """Run a probe in the process. CancelledError ends it there, too."""
        loop = asyncio.get_running_loop()
        if self._closed:
            return Outcome(False, f"{WHAT} was stopped", inconclusive=True)
        if not self.process.started or self._loaded != self._libraries:
            self._start()
        if not await self._is_up(probe.check.pace.timeout_s):
            return Outcome(False, self.process.problem or f"{WHAT} has not started yet", inconclusive=True)
        self._last_run += 1
        number = self._last_run
        run = Run(number, probe, loop.create_future(), loop.time() + probe.longest_s + _OVERDUE_S)
        self._running[number] = run
        self._batch.append(run)
        self._flush_soon()
        try:
            return await run.future
        except asyncio.CancelledError:
            self._cancelled.append(number)
            raise
        finally:
            self._running.pop(number, None)

    async def _is_up(self, patience_s: float) -> bool:
        """Wait until the process is up; return False if it is not within this time."""
        if not self.process.up:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._up.wait()
        return self.process.up

    def repeat(
        self,
        probe: RemoteProbe,
        every_s: float,
        on_same: Callable[[int, float, str], None],
        on_end: Callable[[Outcome | None, float], None],
    ) -> Callable[[], None] | None:
        """Let the process repeat a probe; see `RepeatingProbe`."""
        if not self.process.up or self._loaded != self._libraries:
            return None
        self._last_run += 1
        number = self._last_run
        due = asyncio.get_running_loop().time() + every_s + probe.longest_s + _OVERDUE_S
        repetition = Repetition(number, probe, every_s, on_same, on_end, due)
        self._repetitions[number] = repetition
        self._new_repetitions.append(repetition)
        self._flush_soon()
        return partial(self._cancel_repetition, number)

    def _cancel_repetition(self, number: int) -> None:
        if self._repetitions.pop(number, None) is not None:
            self._cancelled.append(number)
            self._flush_soon()

    def _flush_soon(self) -> None:
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(BATCH_S, self._flush)

    async def close(self) -> None:
        """End the process; probes that run are inconclusive."""
        self._closed = True
        for timer in (self._flushing, self._sweeping):
            if timer is not None:
                timer.cancel()
        await closed(self.process)
        self._up.set()  # for probes that wait
        if self._tls_file >= 0:
            os.close(self._tls_file)
            self._tls_file = -1
        self._fail(f"{WHAT} was stopped")

    def _reset(self) -> None:
        """The process has started, or has ended: it knows nothing, and what ran there is lost."""
        self._log_lines = 0
        if self.process.up:
            self._up.set()
            self._sweep()
            return
        self._up.clear()
        self._cancelled.clear()
        self._dropped.clear()
        self._batch.clear()
        self._new_repetitions.clear()
        self._fail(self.process.problem)
        repetitions, self._repetitions = self._repetitions, {}
        for each in repetitions.values():
            each.on_end(None, 0.0)

    def _fail(self, reason: str) -> None:
        for run in self._running.values():
            _settle(run, Outcome(False, reason, inconclusive=True))

    def _flush(self) -> None:
        """Send the runs of the batch, and the probes that the process does not know yet."""
        self._flushing = None
        while self.process.up and (self._batch or self._cancelled or self._new_repetitions):
            descriptors: list[socket.socket] = []
            new = _Definitions(self.process.launches)
            message = {
                "run": self._take_runs(new, descriptors),
                "repeat": self._take_repetitions(new),
                "new": new.entries,
                "cancel": self._cancelled[:_MOST_NUMBERS],
                "drop": self._dropped[:_MOST_NUMBERS],
            }
            del self._cancelled[:_MOST_NUMBERS], self._dropped[: len(message["drop"])]
            self.process.send({name: entries for name, entries in message.items() if entries}, descriptors)

    def _take_runs(self, new: _Definitions, descriptors: list[socket.socket]) -> list[Any]:
        """Return runs for one packet; append the definitions and the sockets that they need."""
        runs: list[Any] = []
        while self._batch and len(runs) < _MOST_IN_PACKET and new.have_space(self._batch[0].probe):
            run = self._batch[0]
            sockets = _sockets_of(run)
            if descriptors and len(descriptors) + len(sockets) > MAX_DESCRIPTORS:
                for each in sockets:
                    each.close()
                break
            self._batch.popleft()
            if run.future.done():  # no socket could be made, or it was cancelled
                continue
            new.add(run.probe)
            descriptors += sockets
            runs.append([run.number, run.probe.number, len(sockets)])
        return runs

    def _take_repetitions(self, new: _Definitions) -> list[Any]:
        """Return repetitions for one packet, unless they were cancelled; append the definitions that they need."""
        taken: list[Any] = []
        while (
            self._new_repetitions and len(taken) < _MOST_IN_PACKET and new.have_space(self._new_repetitions[-1].probe)
        ):
            repetition = self._new_repetitions.pop()
            if repetition.number in self._repetitions:
                new.add(repetition.probe)
                taken.append([repetition.number, repetition.probe.number, repetition.every_s])
        return taken

    def _receive(self, message: dict[str, Any]) -> None:
        """Apply a message. Raises BadMessage."""
        for entry in _list_of(message, "done"):
            self._apply_done(wire.decode_done(entry))
        if "same" in message:
            now = asyncio.get_running_loop().time()
            for entry in _list_of(message, "same"):
                self._apply_same(wire.decode_same(entry), now)
        if "log" in message and self._log_lines < _MAX_LOG_LINES:
            self._log_lines += 1
            self._log.error(f"{WHAT}: {one_line(str(message['log']))[:_MAX_LOG]}")

    def _apply_done(self, done: wire.Done) -> None:
        run = self._running.get(done.run) or self._repetitions.get(done.run)
        if run is None:  # it was cancelled
            return
        if done.outcome.weight is not None and not run.probe.check.sets_weight:
            raise BadMessage(f"a weight of {run.probe.check.keyword}")
        if isinstance(run, Run):
            if done.state is not None:
                run.probe.state = done.state
            _settle(run, done.outcome)
        else:
            del self._repetitions[done.run]
            run.on_end(done.outcome, done.took_s)

    def _apply_same(self, same: wire.Same, now: float) -> None:
        repetition = self._repetitions.get(same.run)
        if repetition is not None:
            if same.reason is not None:
                repetition.reason = same.reason
            repetition.due = now + repetition.every_s + repetition.probe.longest_s + _OVERDUE_S
            repetition.on_same(same.count, same.took_s, repetition.reason)

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
        for late in [each for each in self._repetitions.values() if now > each.due]:
            self._cancel_repetition(late.number)
            late.on_end(Outcome(False, f"{WHAT} did not report in time", inconclusive=True), 0.0)
        self._sweeping = loop.call_later(_SWEEP_S, self._sweep) if self.process.up else None


def _list_of(message: dict[str, Any], name: str) -> list[Any]:
    entries = message.get(name, [])
    if not isinstance(entries, list):
        raise BadMessage(f"{name} is no list")
    return entries


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
