"""A process of pylvs that this one starts, and starts again when it ends or is silent; and messages in both directions.

Its program is a module. It gets its end of a socket pair as the first argument, and there makes a `Parent`, which sends
`greeting` and answers pings. This module is fast to import: pylvs-vrrp uses it before its first advertisement.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from pylvs.system.logs import get_logger, one_line
from pylvs.system.processes import COMPILED_MODULES, command
from pylvs.system.processes.channel import (
    MAX_REASON,
    Descriptor,
    Link,
    Message,
    close_all,
    greeting,
    greeting_problem,
    privileges_left,
)
from pylvs.system.processes.event_loop import Loop, Timer

if TYPE_CHECKING:
    import subprocess

PING_S = 1.0
LEASE_S = 5  # of silence, by the count of pings, after which a process is killed
START_S = 60  # until its greeting: a slow machine needs many seconds for Python's imports
RESTART_S, MAX_RESTART_S = 0.5, 10.0  # delay after an unexpected end, doubled each time
STEADY_S = 60.0  # a process that ran for so long restarts after RESTART_S again
OFTEN, OFTEN_S = 3, 300.0  # so many unexpected ends within this time are a problem, although it runs again
KILLED_S = 5.0  # for the end of a killed process, which may wait for a disk
PING = {"ping": True}
PONG = {"pong": True}
# Variables that a process gets.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", *COMPILED_MODULES, "LANG", "LC_ALL", "OPENSSL_CONF")


def environment(*more: str) -> dict[str, str]:
    """Return what a process gets of this one's environment, with `more` variables."""
    return {name: os.environ[name] for name in (*_ENVIRONMENT, *more) if name in os.environ}


class Backoff:
    """Delays before attempts that keep failing: from `shortest_s`, doubled each time, to `longest_s`.

    With `at_once` the first attempt has none.
    """

    def __init__(self, shortest_s: float, longest_s: float, at_once: bool = False) -> None:
        self._shortest_s, self._longest_s = shortest_s, longest_s
        self._first_s = self._next_s = 0.0 if at_once else shortest_s

    def begin_again(self) -> None:
        """Let the next delay be the first one: attempts have succeeded."""
        self._next_s = self._first_s

    def next_s(self) -> float:
        """Return the next delay, in seconds."""
        delay_s, self._next_s = self._next_s, min(max(2 * self._next_s, self._shortest_s), self._longest_s)
        return delay_s


class Process(Protocol):
    """A process that was started, with our end of the socket pair."""

    pid: int
    end: socket.socket

    def output(self) -> str:
        """Return the end of what it wrote to stderr so far, as one line."""
        ...

    def kill(self, on_gone: Callable[[], None]) -> None:
        """Kill it, unless it has ended; `on_gone` is called when it is gone and reaped."""
        ...


class Child:
    """One process. All methods are called in the event loop `loop`.

    `what` names it in the log and in `problem`, which is why it does not run now ("" while it does, or before `start`).
    `program` is its module. `on_message` gets each message after the greeting; it raises BadMessage, which ends the
    process. `on_up` is called after each greeting, `on_down` after each unexpected end. `most_waiting` and `equal` are
    those of `Link`, `lease_s` another lease. A process that writes the log gets stdout and stderr of this one; of
    another one, stderr is logged if it ends. `restarts` counts unexpected ends, `launches` each process that was
    started here.
    """

    def __init__(
        self,
        loop: Loop,
        what: str,
        program: str,
        on_message: Callable[[dict[str, Any]], None],
        on_up: Callable[[], None] = lambda: None,
        on_down: Callable[[], None] = lambda: None,
        *,
        most_waiting: float = math.inf,
        equal: bool = False,
        lease_s: float | None = None,
        environment: Callable[[], Mapping[str, str]] = environment,
        writes_log: bool = False,
        log: Callable[..., None] | None = None,
    ) -> None:
        self.problem = ""
        self.restarts = 0
        self.launches = 0
        self.pid = 0
        self.up = False  # it has sent its greeting, and has not ended
        self._loop = loop
        self._what, self._program = what, program
        self._on_message, self._on_up, self._on_down = on_message, on_up, on_down
        self._most_waiting, self._equal, self._lease_s = most_waiting, equal, lease_s
        self._environment, self._writes_log = environment, writes_log
        self._log = log or get_logger().log
        self._arguments: tuple[str, ...] = ()
        self._descriptors: tuple[int, ...] = ()
        self._process: Process | None = None
        self._link: Link | None = None
        self._silent = 0  # pings since its last message
        self._timer: Timer | None = None
        self._started_at = 0.0
        self._backoff = Backoff(RESTART_S, MAX_RESTART_S)
        self._losses: deque[float] = deque(maxlen=OFTEN)  # the times of the last unexpected ends
        self._last_problem = ""
        self._dying = 0  # killed processes that are not gone
        self._on_closed: Callable[[], None] | None = None  # set while it is being closed

    @property
    def started(self) -> bool:
        """Whether it runs, or will be restarted."""
        return self._timer is not None and self._on_closed is None

    @property
    def runs(self) -> bool:
        """Whether it was started, and has not ended: perhaps it has not sent its greeting."""
        return self._process is not None

    @property
    def waits(self) -> bool:
        """Whether messages wait until it reads."""
        return self._link is not None and self._link.waits

    @property
    def unsteady(self) -> str:
        """What happened last, if it was restarted OFTEN times within OFTEN_S; else ""."""
        if len(self._losses) < OFTEN or self._loop.now - self._losses[0] > OFTEN_S:
            return ""
        return f"{self._last_problem}; restarted more than {OFTEN - 1} times within {OFTEN_S / 60:g} min"

    def start(self, *arguments: str, descriptors: Sequence[int] = ()) -> None:
        """Start it with these arguments, and with these descriptors under the same numbers; also at restarts.

        One that was started before is replaced.
        """
        self._arguments, self._descriptors = arguments, tuple(descriptors)
        if self._on_closed is not None:  # it has not ended yet
            self._stop()
            self._closed()
        if self.started:
            self._stop()
            self.problem = f"{self._what} starts with other settings"
            self._on_down()
        self._launch()

    def send(self, message: Message, descriptors: Sequence[Descriptor] = ()) -> None:
        """Send a message, with descriptors that are closed here then. While it is not up, both are dropped."""
        if self.up and self._link is not None:
            self._link.send(message, descriptors)
            return
        for each in descriptors:
            each.close()

    def close(self, patience_s: float = 0.0, on_closed: Callable[[], None] = lambda: None) -> None:
        """End it: let it read to the end, and end by itself, for `patience_s`; then kill it.

        `on_closed` is called once when it is gone, within KILLED_S more.
        """
        self._on_closed = on_closed
        if self._timer is not None:
            self._timer.cancel()
        if self.up and patience_s and self._link is not None:
            self._timer = self._loop.at(self._loop.now + patience_s, self._stop)
            self._link.finish()
        else:
            self._stop()

    def _launch(self) -> None:
        self._started_at, self._silent = self._loop.now, 0
        arguments = self._arguments
        try:
            self._process = launch(
                self._loop, self._program, arguments, self._descriptors, self._environment(), self._writes_log
            )
        except OSError as error:
            self._lost(f"cannot be started: {error.strerror}")
            return
        self.pid = self._process.pid
        self.launches += 1
        self._link = Link(
            self._loop,
            self._process.end,
            self._receive,
            self._lost,
            to_parent=False,
            most_waiting=self._most_waiting,
            equal=self._equal,
        )
        self._timer = self._loop.at(self._loop.now + PING_S, self._ping)

    def _ping(self) -> None:
        """Count the seconds without a message. A late tick counts once: then messages may be unread here."""
        self._silent += 1
        if self._silent >= ((self._lease_s or LEASE_S) if self.up else START_S):
            self._lost(f"has been silent for {self._silent} s")
            return
        if not self.waits:
            self.send(PING)
        if self._link is not None:
            self._timer = self._loop.at(self._loop.now + PING_S, self._ping)

    def _receive(self, message: dict[str, Any], descriptors: list[int]) -> None:
        close_all(descriptors)
        self._silent = 0
        if not self.up:
            self._greeted(message)
        elif message != PONG:
            self._on_message(message)

    def _greeted(self, message: dict[str, Any]) -> None:
        if problem := greeting_problem(message):
            self._lost(problem)
            return
        for each in privileges_left(message):
            self._log("warning", f"{self._what} keeps a privilege", privilege=each)
        self.up = True
        if self.problem:
            self._log("info", f"{self._what} runs again", process=self.pid)
        self.problem = ""
        self._on_up()

    def _lost(self, reason: str) -> None:
        """Kill the process, and start it again after a pause."""
        if self._on_closed is not None:
            self._stop()
            return
        output = self._process.output() if self._process is not None else ""
        self._stop()
        now = self._loop.now
        self.problem = self._last_problem = f"{self._what} {reason}"
        self._losses.append(now)
        if now - self._started_at >= STEADY_S:
            self._backoff.begin_again()
        restart_s = self._backoff.next_s()
        more = {"output": output} if output else {}
        self._log("error", self.problem, restart_in_s=restart_s, **more)
        self.restarts += 1
        self._timer = self._loop.at(now + restart_s, self._launch)
        self._on_down()

    def _stop(self) -> None:
        """Kill the process if there is one."""
        self.up = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        link, self._link = self._link, None
        process, self._process = self._process, None
        if link is not None:
            link.close()
        if process is not None:
            self._dying += 1
            process.kill(self._gone)
        if self._on_closed is not None:
            if self._dying:
                self._timer = self._loop.at(self._loop.now + KILLED_S, self._closed)
            else:
                self._closed()

    def _gone(self) -> None:
        self._dying -= 1
        if self._on_closed is not None and not self._dying and self._process is None:
            self._closed()

    def _closed(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        on_closed, self._on_closed = self._on_closed, None
        if on_closed is not None:
            on_closed()


class Parent:
    """The other end: that of the process which was started. It greets, and answers pings.

    `on_message` gets each message with its descriptors, and `on_end` is called when the parent has ended or does not
    read. `left` is what `sandbox.confine` could not give up; `equal` is that of `Link`.
    """

    def __init__(
        self,
        loop: Loop,
        end: socket.socket,
        on_message: Callable[[dict[str, Any], list[int]], None],
        on_end: Callable[[], None],
        left: Sequence[str] = (),
        equal: bool = False,
    ) -> None:
        self._on_message = on_message
        self._link = Link(loop, end, self._receive, lambda _: on_end(), to_parent=True, equal=equal)
        self._link.send(greeting(left))

    @property
    def waits(self) -> bool:
        """Whether messages wait until the parent reads: it is late."""
        return self._link.waits

    def send(self, message: Message) -> None:
        """Send a message. Raises BadMessage if it is longer than a packet."""
        self._link.send(message)

    def _receive(self, message: dict[str, Any], descriptors: list[int]) -> None:
        if message == PING:
            self._link.send(PONG)
        else:
            self._on_message(message, descriptors)


class _Launched:
    """A process of this machine. Raises OSError if there is no descriptor for its end."""

    def __init__(self, loop: Loop, child: subprocess.Popen[bytes], end: socket.socket) -> None:
        self.pid, self.end = child.pid, end
        self._loop = loop
        self._child = child
        self._gone = os.pidfd_open(child.pid)

    def output(self) -> str:
        if self._child.stderr is None:
            return ""
        os.set_blocking(self._child.stderr.fileno(), False)
        with contextlib.suppress(OSError):
            return one_line((self._child.stderr.read(1 << 16) or b"").decode(errors="replace"))[-MAX_REASON:]
        return ""

    def kill(self, on_gone: Callable[[], None]) -> None:
        self._child.kill()
        self._loop.watch(self._gone, partial(self._reap, on_gone))

    def _reap(self, on_gone: Callable[[], None]) -> None:
        self._loop.watch(self._gone, None)
        os.close(self._gone)
        self._child.wait()
        if self._child.stderr is not None:
            self._child.stderr.close()
        on_gone()


def launch(
    loop: Loop,
    program: str,
    arguments: Sequence[str],
    descriptors: Sequence[int],
    environment: Mapping[str, str],
    writes_log: bool,
) -> Process:
    """Start a program. Raises OSError."""
    import subprocess  # late: the first advertisement does not wait for it

    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as after_an_error:
        after_an_error.enter_context(ours)
        with its:
            child = subprocess.Popen(
                command(program, str(its.fileno()), *arguments),
                stdin=subprocess.DEVNULL,
                stdout=None if writes_log else subprocess.DEVNULL,
                stderr=None if writes_log else subprocess.PIPE,
                pass_fds=[its.fileno(), *descriptors],
                env=environment,
                start_new_session=True,
                cwd="/",
            )
        after_an_error.callback(child.wait)
        after_an_error.callback(child.kill)
        launched = _Launched(loop, child, ours)
        after_an_error.pop_all()
    return launched
