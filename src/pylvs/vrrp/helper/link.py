"""The router process's connection to its helper process: the messages to it, and its supervision.

The helper process sends a TrackedObject for the first result of each track_script, track_file, track_process and polled
link, and at each change. It names the objects whose results are late. `Child` starts it, and again when it ends or
hangs.

Nothing here waits: not for the helper process's end, and not for the reader of stderr.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.plain import Malformed, from_plain, to_plain
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.model.wanted import GlobalSettings
from pylvs.system.logs import one_line
from pylvs.system.processes.channel import BadMessage, Message
from pylvs.system.processes.child import Child
from pylvs.system.processes.event_loop import Loop
from pylvs.system.sockets import write_without_waiting
from pylvs.vrrp.tracking import Key, TrackedObject


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
    fields: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    at: float = field(default_factory=time.time)  # Unix time of the event; the helper process may write it later


@dataclass(frozen=True, slots=True)
class Late:
    """The results of these objects are not current, as their sources fail or are blocked. Sent each second.

    The next results follow when the sources work again, even if nothing has changed.
    """

    objects: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class ScriptsReported:
    """Which notify scripts run, wait, or had to be ended: sent within a second of a change."""

    scripts: Mapping[str, Any]  # as `NotifyScripts.report` has them


@dataclass(frozen=True, slots=True)
class Finish:
    """Finish pending notifications in bounded time, and exit."""


ToHelper = Configure | StateChanged | PriorityChanged | LowerPriorityReceived | LogLine | Finish
FromHelper = TrackedObject | Late | ScriptsReported
WHAT = "the helper process of the virtual routers"
NO_SCRIPTS: Mapping[str, Any] = {"running": 0, "waiting": 0, "ended_early": 0, "scripts": []}  # until one is reported
FINISH_S = 19.0  # for the last notifications, which have their own limits; `pylvs run` waits a little longer


def encoded(message: Any, kind: Any) -> Message:
    """Return a message of one of these types as a message of a `Link`."""
    return {"object": to_plain(message, kind)}


def decoded(message: Message, kind: Any) -> Any:
    """Return the message of one of these types. Raises BadMessage."""
    try:
        return from_plain(kind, message.get("object"))
    except Malformed as error:
        raise BadMessage(str(error)) from None


class HelperLink:
    """Start the helper process, and again after each exit. Until then messages are lost, except the configuration."""

    def __init__(
        self,
        loop: Loop,
        log_format: str,
        on_message: Callable[[TrackedObject], None],
        on_lost: Callable[[str], None] = lambda reason: None,
        on_late: Callable[[Collection[Key]], None] = lambda late: None,
    ) -> None:
        """`on_message` receives each TrackedObject, and `on_late` which results are late, each second.

        `on_lost` is called with a reason when the process ended by itself, or was killed because it hung.
        """
        self.scripts = NO_SCRIPTS  # notify scripts, as last reported
        self._loop = loop
        self._format = log_format
        self._on_message, self._on_lost, self._on_late = on_message, on_lost, on_late
        self._child = Child(
            loop,
            WHAT,
            "pylvs.vrrp.helper",
            self._receive,
            self._up,
            self._down,
            equal=True,
            environment=lambda: os.environ,
            writes_log=True,
            log=lambda level, text, **fields: self.send(LogLine(level, text, fields)),
        )
        self._configuration: Configure | None = None
        self._configured = False  # a helper process has had a configuration
        self._early: list[Any] = []  # messages before its greeting
        self._on_finished: Callable[[], None] | None = None

    @property
    def connected(self) -> bool:
        """Whether the process runs."""
        return self._child.runs

    @property
    def lost(self) -> int:
        """How often it ended by itself, or was killed because it hung."""
        return self._child.restarts

    def start(self) -> None:
        """Start the process, which writes the log, too."""
        self._child.start(self._format)

    def send(self, message: Any) -> None:
        """Send a message; those before its greeting follow that.

        Without a process, and after `Finish`, write a log line to stderr and drop everything else.
        """
        if isinstance(message, Configure):
            self._configuration = message
        if self._child.up and self._child.started:
            self._send_now(message)
        elif self._child.up or (self._child.started and not self._child.runs):
            _write_log_line(message)
        elif not isinstance(message, Configure):
            self._early.append(message)

    def _send_now(self, message: Any) -> None:
        if isinstance(message, Configure):
            message, self._configured = replace(message, again=self._configured), True
        self._child.send(encoded(message, ToHelper))

    def _up(self) -> None:
        early, self._early = self._early, []
        for message in [self._configuration, *early]:
            if message is not None:
                self._send_now(message)
        if self._on_finished is not None:
            self._finish_now()

    def _receive(self, message: Message) -> None:
        match decoded(message, FromHelper):
            case Late() as late:
                self._on_late(late.objects)
            case ScriptsReported() as reported:
                self.scripts = reported.scripts
            case result:
                self._on_message(result)

    def _down(self) -> None:
        self.scripts = NO_SCRIPTS
        early, self._early = self._early, []
        for message in early:
            _write_log_line(message)
        if self._on_finished is not None:
            self._child.close(0.0, self._on_finished)
        else:
            self._on_lost(self._child.problem)

    def finish(self, on_finished: Callable[[], None]) -> None:
        """Send `Finish`; call `on_finished` when the process has ended, soon after FINISH_S at most."""
        self._on_finished = on_finished
        if self._child.up:
            self._finish_now()
        elif self._child.runs:
            self._loop.at(self._loop.now + FINISH_S, self._give_up)  # of the wait for its greeting
        else:
            self._child.close(0.0, on_finished)

    def _finish_now(self) -> None:
        assert self._on_finished is not None
        self._send_now(Finish())
        self._child.close(FINISH_S, self._on_finished)

    def _give_up(self) -> None:
        if not self._child.up and self._child.runs and self._on_finished is not None:
            self._child.close(0.0, self._on_finished)


def _write_log_line(message: Any) -> None:
    if isinstance(message, LogLine):
        write_without_waiting(2, f"pylvs: {one_line(message.text)}\n".encode())
