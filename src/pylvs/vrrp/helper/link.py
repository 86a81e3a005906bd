"""The virtual routers' end of the pipe to their aide: started when needed, and again whenever it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any

from pylvs.model.dataclass import dataclass, field
from pylvs.model.printing import one_line
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.model.wanted import GlobalSettings
from pylvs.system import self_exec
from pylvs.vrrp.ipc import ConnectionClosed, MessageSocket
from pylvs.vrrp.loop import Loop

# --- messages --------------------------------------------------------------------------------------------------------
# What the process of the virtual routers and its aide say to each other, over a `Pipe`.


# --- to the aide ---


@dataclass(frozen=True, slots=True)
class Configure:
    """What holds from now on, first and after each reload; unchanged scripts keep their counts and their timing."""

    settings: GlobalSettings
    routers: VrrpConfiguration


@dataclass(frozen=True, slots=True)
class StateChanged:
    """An instance or a group changed its state: scripts, pipes and mail are told."""

    kind: str  # "INSTANCE" or "GROUP"
    name: str
    state: str  # "MASTER", "BACKUP", "FAULT", "STOP" or "DELETED"
    priority: int  # the effective one; of a group 0
    before: str = ""  # the state that it had
    at_reload: bool = False  # nothing changed: said once more, where the configuration wants that


@dataclass(frozen=True, slots=True)
class PriorityChanged:
    """An instance's effective priority changed: the pipes are told, where the configuration wants that."""

    name: str
    state: str  # "MASTER" or "BACKUP"
    priority: int


@dataclass(frozen=True, slots=True)
class LowerPriorityReceived:
    """A master heard an advertisement of lower priority."""

    name: str
    priority: int  # the master's own effective one


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line for the log: `level` by its name in `pylvs.system.logs`, and fields."""

    level: str
    text: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """Tell what is not told yet, in bounded time, and end."""


# --- from the aide ---


@dataclass(frozen=True, slots=True)
class ScriptResult:
    """Whether a track_script is well, after its rise and fall; sent at its first result and at each change."""

    name: str
    well: bool
    words: str  # how its last run ended: "exit status 1", "timed out after 2 s"


@dataclass(frozen=True, slots=True)
class FileValue:
    """A track_file's number, 0 where there is none; sent at first and at each change."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """Whether a track_process finds as many processes as it should; sent at first and at each change."""

    name: str
    well: bool
    count: int


# --- link ------------------------------------------------------------------------------------------------------------

RESTART_S, MAX_RESTART_S = 1.0, 60.0  # after it ended by itself; twice as long each time
STEADY_S = 60.0  # whoever lived so long is started again as soon as at first
FINISH_S = 19.0  # for what it tells at the end, which it bounds itself; `pylvs run` waits a little longer


class HelperLink:
    """The aide, or its absence; what is said while there is none is lost, except the configuration."""

    def __init__(self, loop: Loop, log_format: str, hear: Callable[[Any], None]) -> None:
        self._loop = loop
        self._format = log_format
        self._hear = hear
        self._pipe: MessageSocket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._configuration: Configure | None = None
        self._ended: Callable[[], None] | None = None
        self._began = 0.0
        self._pause_s = 0.0  # before the next is started

    @property
    def lives(self) -> bool:
        """Whether there is one."""
        return self._pipe is not None

    def start(self) -> None:
        """Make it; it takes over the log, too."""
        self._began = self._loop.now
        ours, its = socket.socketpair()
        with its:
            command = self_exec.command("pylvs.vrrp.helper", str(its.fileno()), self._format)
            try:
                self._child = subprocess.Popen(
                    command, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
                )
            except OSError as error:
                ours.close()
                os.write(2, f"pylvs: the aide of the virtual routers cannot be started: {error.strerror}\n".encode())
                self._loop.at(self._loop.now + MAX_RESTART_S, self.start)
                return
        self._pipe = MessageSocket(ours)
        self._loop.watch(ours.fileno(), self._read)
        if self._configuration is not None:
            self.say(self._configuration)

    def say(self, message: Any) -> None:
        """Tell it."""
        if isinstance(message, Configure):
            self._configuration = message
        if self._pipe is None:
            if isinstance(message, LogLine):  # which is not lost then
                with contextlib.suppress(OSError):
                    os.write(2, f"pylvs: {one_line(message.text)}\n".encode())
            return
        try:
            self._pipe.send(message)
        except ConnectionClosed:
            self._lost()
            return
        self._expect(self._pipe)

    def finish(self, message: Any, ended: Callable[[], None]) -> None:
        """Say the last word; `ended` is called when it has gone, in bounded time."""
        self._ended = ended
        if self._pipe is None:
            ended()
            return
        self.say(message)
        self._loop.at(self._loop.now + FINISH_S, self._give_up)

    def _give_up(self) -> None:
        if self._pipe is not None:  # which what it started may hold open
            self._lost()

    def _read(self) -> None:
        assert self._pipe is not None
        try:
            messages = self._pipe.receive()
        except ConnectionClosed:
            self._lost()
            return
        for message in messages:
            self._hear(message)

    def _expect(self, pipe: MessageSocket) -> None:
        self._loop.watch(pipe.fileno(), self._read, (lambda: self._flush(pipe)) if pipe.unsent else None)

    def _flush(self, pipe: MessageSocket) -> None:
        try:
            pipe.flush()
        except ConnectionClosed:
            self._lost()
            return
        self._expect(pipe)

    def _lost(self) -> None:
        pipe, child = self._pipe, self._child
        self._pipe = self._child = None
        if pipe is not None:
            self._loop.forget(pipe.fileno())
            pipe.close()
        if child is not None:
            child.kill()
            child.wait()
        if self._ended is not None:
            self._ended()
            return
        steady = self._loop.now - self._began >= STEADY_S
        self._pause_s = RESTART_S if steady or not self._pause_s else min(2 * self._pause_s, MAX_RESTART_S)
        self._loop.at(self._loop.now + self._pause_s, self._again)

    def _again(self) -> None:
        self.start()
        self.say(LogLine("error", "the aide of the virtual routers ended by itself and was started again"))
