"""The prober process: `pylvs.edge` with the role "probes".

The daemon starts it with the large modules that its probes need, and with a file that has the settings of TLS which
need files.

It runs as an unprivileged user without capabilities and without a file system (`pylvs.system.sandbox`). It has one
event loop, which makes the probes that the daemon requests, and reports their outcomes.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import resource
import socket
import sys
import threading
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, cast

from pylvs.health.checkers.deadline import loop_share
from pylvs.health.checkers.sockets import GIVEN, Endpoint
from pylvs.health.prober import wire
from pylvs.health.prober.repeat import PlainConnection, Repeater
from pylvs.health.probes import (
    TLS,
    CheckContext,
    Outcome,
    Probe,
    StatefulProbe,
    checker_of,
    errno_text,
    guarded,
    import_checkers,
)
from pylvs.model.checks import Check, TcpCheck, TlsClient
from pylvs.model.plain import from_plain
from pylvs.system import pcre2, sandbox, syscalls
from pylvs.system.garbage import return_memory
from pylvs.system.logs import one_line
from pylvs.system.processes import channel
from pylvs.system.processes.asyncio_loop import AsyncioLoop
from pylvs.system.processes.child import Parent

NAME = b"pylvs-prober"  # shown by ps and top
MEMORY = 1 << 30  # bytes of data; a body of 16 MiB takes twice that
_THREAD_STACK = 1 << 19  # bytes: threads search expressions and parse pages
_BATCH_S = 0.005  # in which outcomes are sent together
_MOST_IN_PACKET = 100  # outcomes; each has less than 1 KB, but for what a probe remembers
_COLLECTIONS = (10_000, 20, 100)  # probes alone exceed the default each second
_SWITCH_S = 0.001  # how long another thread may keep the event loop waiting


class Prober:
    """The probes of one daemon."""

    def __init__(self, end: socket.socket, left: Sequence[str]) -> None:
        self._end, self._left = end, left
        self._parent: Parent | None = None
        self._probes: dict[int, tuple[Probe, StatefulProbe | None]] = {}
        self._plain: dict[int, PlainConnection] = {}  # the probes that only connect
        self._saved: dict[int, str] = {}  # what the daemon knows of stateful probes
        self._tasks: dict[int, asyncio.Task[None]] = {}  # by run
        self._done: deque[list[Any]] = deque()
        self._repeater = Repeater(self._repeated_run_ended, self._send)
        self._flushing = False
        self._over = asyncio.Event()

    async def serve(self) -> None:
        """Run until the daemon closes its end."""
        loop_share().watch()
        self._parent = Parent(AsyncioLoop(), self._end, self._receive, self._over.set, self._left)
        self._repeater.start(asyncio.get_running_loop())
        await self._over.wait()

    def _receive(self, message: dict[str, Any], descriptors: list[int]) -> None:
        self._apply(message, [socket.socket(fileno=each) for each in descriptors])

    def _apply(self, message: dict[str, Any], sockets: list[socket.socket]) -> None:
        for number in message.get("drop", ()):
            self._probes.pop(number, None)
            self._saved.pop(number, None)
            self._plain.pop(number, None)
        for definition in message.get("new", ()):
            self._define(*definition)
        given = iter(sockets)
        for run, number, count in message.get("run", ()):
            self._start(run, number, [next(given) for _ in range(count)])
        for run, number, every_s in message.get("repeat", ()):
            probe, _ = self._probes[number]
            self._repeater.add(run, probe, self._plain.get(number), every_s)
        for run in message.get("cancel", ()):
            if run in self._tasks:
                self._tasks[run].cancel()
            else:
                self._repeater.cancel(run)

    def _define(self, number: int, check: Any, weight: int, virtualhost: str, saved: str | None) -> None:
        decoded = from_plain(Check, check)
        if isinstance(decoded, TcpCheck):
            self._plain[number] = Endpoint(decoded.target), decoded.pace.timeout_s
        asked = checker_of(decoded, CheckContext(weight, virtualhost))
        stateful = cast("StatefulProbe", asked) if hasattr(asked, "restore") else None
        if stateful is not None and saved is not None:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                stateful.restore(saved)
            self._saved[number] = saved
        self._probes[number] = guarded(asked), stateful

    def _start(self, run: int, number: int, sockets: Sequence[socket.socket]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(run, number, sockets))
        self._tasks[run] = task
        task.add_done_callback(lambda _: self._tasks.pop(run, None))

    async def _run(self, run: int, number: int, sockets: Sequence[socket.socket]) -> None:
        stateful = None
        clock = asyncio.get_running_loop().time
        begin = clock()
        if sockets:
            GIVEN.set(deque(sockets))
        try:
            probe, stateful = self._probes[number]
            outcome = await probe()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            outcome = self._failed(error)
        finally:
            for each in sockets:
                each.close()
        state = None
        if stateful is not None and (saved := stateful.save()) != self._saved.get(number):
            self._saved[number] = state = saved
        self._report(wire.Done(run, outcome, state, clock() - begin))

    def _failed(self, error: Exception) -> Outcome:
        """Return the outcome of a probe that raised this."""
        text = one_line(f"the checker failed: {type(error).__name__}: {error}")
        if not isinstance(error, MemoryError):
            self._send({"log": f"{text} (a bug of pylvs)"})
        return Outcome(False, text, inconclusive=True)

    def _repeated_run_ended(self, run: int, outcome: Outcome | Exception, took_s: float) -> None:
        if isinstance(outcome, Exception):
            outcome = self._failed(outcome)
        self._report(wire.Done(run, outcome, None, took_s))

    def _report(self, done: wire.Done) -> None:
        self._done.append(wire.encode_done(done))
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_later(_BATCH_S, self._flush)

    def _flush(self) -> None:
        """Send outcomes; if the daemon does not read them, it is late, and they wait."""
        self._flushing = False
        while self._done:
            batch = [self._done[at] for at in range(min(len(self._done), _MOST_IN_PACKET))]
            size = sum(len(each[5] or "") + len(each[2]) for each in batch)
            if size > channel.MAX_PACKET // 16:  # escapes take six times the space
                batch = batch[:4]
            if not self._send({"done": batch}):
                asyncio.get_running_loop().call_later(10 * _BATCH_S, self._flush)
                self._flushing = True
                return
            for _ in batch:
                self._done.popleft()

    def _send(self, message: channel.Message) -> bool:
        """Send a message, unless the daemon is late; return whether it was sent."""
        assert self._parent is not None
        if self._parent.waits:
            return False
        self._parent.send(message)
        return True


def prepare(libraries: Collection[str], tls: Sequence[Sequence[Any]] = ()) -> None:
    """Load everything that a probe may need from files.

    `libraries` are those of `libraries_of`, and `tls` clients, each with whether it verifies servers.
    """
    import_checkers(libraries)
    if TLS in libraries:
        from pylvs.health.checkers.tls import prepare as prepare_tls  # late: few checks use TLS

        prepare_tls((from_plain(TlsClient, client), verify) for client, verify in tls)
    with contextlib.suppress(Exception):
        pcre2.Regex(b"a")
    errno_text(1)


def main(end: socket.socket, libraries: str, tls: str = "") -> None:
    """Serve the daemon at the other end of this socket; `tls` is the number of the file."""
    syscalls.prctl(syscalls.PR_SET_NAME, NAME)
    sys.setswitchinterval(_SWITCH_S)
    threading.stack_size(_THREAD_STACK)
    prepare(libraries.split(",") if libraries else (), _read(int(tls)) if tls else ())
    return_memory()  # 1 MB, of imports
    gc.freeze()  # a full collection would visit all of these objects, and delay probes
    gc.set_threshold(*_COLLECTIONS)
    left = sandbox.confine(resource.getrlimit(resource.RLIMIT_NOFILE)[1], MEMORY)
    with asyncio.Runner() as runner:
        runner.run(Prober(end, left).serve())


def _read(number: int) -> Sequence[Sequence[Any]]:
    """Read the file, and close it: it has a password."""
    with open(number, "rb") as file:
        file.seek(0)
        found: Sequence[Sequence[Any]] = json.load(file)
    return found
