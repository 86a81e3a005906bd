"""The router process's connection to its helper process: the messages to it, and its supervision.

The helper process sends a TrackedObject for the first result of each track_script, track_file, track_process and polled
link, and at each change. It answers each Ping, and names the objects whose results are late. A helper process that is
silent for SILENT_S, or for START_S after its start, is killed, and another one started.

Nothing here waits: not for the helper process's end, and not for the reader of stderr.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from pylvs import __version__
from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.model.wanted import GlobalSettings
from pylvs.system import processes
from pylvs.system.lease import Lease
from pylvs.system.logs import one_line
from pylvs.system.sockets import write_without_waiting
from pylvs.vrrp.ipc import MessageSocket, WatchedSocket
from pylvs.vrrp.loop import Loop
from pylvs.vrrp.tracking import Key

if TYPE_CHECKING:
    import subprocess


@dataclass(frozen=True, slots=True)
class Configure:
    """Apply a configuration, first and at each reload; unchanged scripts keep their counts and their timing."""

    settings: GlobalSettings
    routers: VrrpConfiguration
    again: bool = False  # not the first one of the router process; `HelperLink` sets it


@dataclass(frozen=True, slots=True)
class StateChanged:
    """An instance or a group changed its state: run scripts, write to FIFOs, send mail."""

    kind: str  # "INSTANCE" or "GROUP"
    name: str
    state: str  # "MASTER", "BACKUP", "FAULT", "STOP" or "DELETED"
    priority: int  # the effective one; 0 for a group
    before: str = ""  # the former state
    at_reload: bool = False  # the state is the same; notify again if the configuration asks for it


@dataclass(frozen=True, slots=True)
class PriorityChanged:
    """An instance's effective priority changed: write to the FIFOs if the configuration asks for it."""

    name: str
    state: str  # "MASTER" or "BACKUP"
    priority: int


@dataclass(frozen=True, slots=True)
class LowerPriorityReceived:
    """A master received an advertisement of lower priority."""

    name: str
    priority: int  # the master's own effective one


@dataclass(frozen=True, slots=True)
class LogLine:
    """A log line: `level` is a name of `pylvs.system.logs`."""

    level: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)
    at: float = field(default_factory=time.time)  # Unix time of the event; the helper process may write it later


@dataclass(frozen=True, slots=True)
class Ping:
    """Answer with Pong."""


@dataclass(frozen=True, slots=True)
class Pong:
    """The helper process lives: its event loop runs.

    The results of `late` objects are not current, as their sources fail or are blocked. The next results follow when
    the sources work again, even if nothing has changed.
    """

    late: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True)
class ScriptsReported:
    """Which notify scripts run, wait, or had to be ended: sent with a Pong after a change."""

    scripts: Mapping[str, Any]  # as `NotifyScripts.report` has them


@dataclass(frozen=True, slots=True)
class Finish:
    """Finish pending notifications in bounded time, and exit."""


NO_SCRIPTS: Mapping[str, Any] = {"running": 0, "waiting": 0, "ended_early": 0, "scripts": []}  # until one is reported
RESTART_S, MAX_RESTART_S = 1.0, 60.0  # delay after an unexpected exit, doubled each time
STEADY_S = 60.0  # a process that ran for so long restarts after RESTART_S again
FINISH_S = 19.0  # for the last notifications, which have their own limits; `pylvs run` waits a little longer
PING_S = 1.0
SILENT_S = 5.0  # without an answer; it blocks on nothing, so a busy machine alone does not delay it for so long
START_S = 60.0  # until its first answer: a slow machine needs many seconds for Python's imports
REAP_S = 0.1  # until a killed process is looked for again


class HelperLink:
    """Start the helper process, and again after each exit. Until then messages are lost, except the configuration."""

    def __init__(
        self,
        loop: Loop,
        log_format: str,
        on_message: Callable[[Any], None],
        on_lost: Callable[[str], None] = lambda reason: None,
        on_late: Callable[[Collection[Key]], None] = lambda late: None,
    ) -> None:
        """`on_message` receives each TrackedObject, and `on_late` which results are late, each second.

        `on_lost` is called with a reason when the process ended by itself, or was killed because it hung.
        """
        self.lost = 0  # how often
        self.scripts = NO_SCRIPTS  # notify scripts, as last reported
        self._loop = loop
        self._format = log_format
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_late = on_late
        self._lease = Lease(START_S, PING_S)
        self._reason = ""  # why it was killed
        self._socket: WatchedSocket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._configuration: Configure | None = None
        self._configured = False  # a helper process has had a configuration
        self._early: list[Any] | None = []  # messages before the first start
        self._on_finished: Callable[[], None] | None = None
        self._started_at = 0.0
        self._restart_s = 0.0

    @property
    def connected(self) -> bool:
        """Whether the process runs."""
        return self._socket is not None

    def start(self) -> None:
        """Start the process, which writes the log, too."""
        import subprocess  # late: the first advertisement does not wait for it

        self._started_at = self._loop.now
        ours, its = socket.socketpair()
        with its:
            command = processes.command("pylvs.vrrp.helper", str(its.fileno()), self._format, __version__)
            try:
                self._child = subprocess.Popen(
                    command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, start_new_session=True, cwd="/"
                )
            except OSError as error:
                ours.close()
                text = f"pylvs: the helper process of the virtual routers cannot be started: {error.strerror}\n"
                write_without_waiting(2, text.encode())
                self._loop.at(self._loop.now + MAX_RESTART_S, self.start)
                self._send_early()
                return
        self._socket = WatchedSocket(self._loop.watch, MessageSocket(ours), self._receive, self._lost)
        self._lease = Lease(START_S, PING_S)
        started = self._socket
        self._loop.at(self._loop.now + PING_S, lambda: self._ping(started))
        self._send_early()

    def _send_early(self) -> None:
        """Send the configuration, and the messages from before the first start."""
        early, self._early = self._early or [], None
        for message in [self._configuration, *early]:
            if message is not None:
                self.send(message)

    def _receive(self, message: Any) -> None:
        if self._lease.length_s == START_S:
            self._lease = Lease(SILENT_S, PING_S)
        self._lease.renew()
        if isinstance(message, Pong):
            self._on_late(message.late)
        elif isinstance(message, ScriptsReported):
            self.scripts = message.scripts
        else:
            self._on_message(message)

    def _ping(self, of: WatchedSocket) -> None:
        """Ask whether the process still runs, and kill it if it has been silent for too long."""
        if of is not self._socket or self._on_finished is not None:
            return
        if self._lease.tick():
            self._reason = f"it did not answer for {self._lease.length_s:g} s and was killed"
            of.close()
            return
        of.send(Ping())
        self._loop.at(self._loop.now + PING_S, lambda: self._ping(of))

    def send(self, message: Any) -> None:
        """Send a message; those before the first `start` follow it.

        Without a process, write a log line to stderr and drop everything else.
        """
        if isinstance(message, Configure):
            self._configuration = message
        if self._early is not None:
            if not isinstance(message, Configure):
                self._early.append(message)
            return
        if self._socket is None:
            if isinstance(message, LogLine):
                write_without_waiting(2, f"pylvs: {one_line(message.text)}\n".encode())
            return
        if isinstance(message, Configure):
            message, self._configured = replace(message, again=self._configured), True
        self._socket.send(message)

    def finish(self, on_finished: Callable[[], None]) -> None:
        """Send `Finish`; call `on_finished` when the process has ended, within FINISH_S."""
        self._on_finished = on_finished
        if self._socket is None:
            on_finished()
            return
        self.send(Finish())
        self._loop.at(self._loop.now + FINISH_S, self._give_up)

    def _give_up(self) -> None:
        if self._socket is not None:  # a script that the process started may hold its end open
            self._socket.close()

    def _lost(self) -> None:
        child = self._child
        self._socket = self._child = None
        self.scripts = NO_SCRIPTS
        if child is not None:
            child.kill()
            self._reap(child)
        if self._on_finished is not None:
            self._on_finished()
            return
        reason, self._reason = self._reason or "it ended by itself", ""
        self.lost += 1
        self._on_lost(reason)
        steady = self._loop.now - self._started_at >= STEADY_S
        self._restart_s = RESTART_S if steady or not self._restart_s else min(2 * self._restart_s, MAX_RESTART_S)
        self._loop.at(self._loop.now + self._restart_s, lambda: self._restart(reason))

    def _restart(self, reason: str) -> None:
        self.start()
        self.send(LogLine("error", f"started the helper process of the virtual routers again: {reason}"))

    def _reap(self, child: subprocess.Popen[bytes]) -> None:
        """Collect the exit status once there is one: a killed process may wait for a disk before it ends."""
        if child.poll() is None:
            self._loop.at(self._loop.now + REAP_S, lambda: self._reap(child))
