"""The aide's life: it does what the router process says, tells it what it finds, and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterable
from typing import Any

from pylvs.model.vrrp import VrrpConfiguration, VrrpScript
from pylvs.system.logs import get_logger
from pylvs.system.processes.scripts import Processes
from pylvs.vrrp.aide.files import TrackFiles
from pylvs.vrrp.aide.messages import Configure, Finish, Log, LowerHeard, Moved, PriorityMoved
from pylvs.vrrp.aide.processes import TrackProcesses
from pylvs.vrrp.aide.scripts import TrackScripts
from pylvs.vrrp.aide.telling import Telling
from pylvs.vrrp.pipe import Closed, Pipe

_OTHERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)  # the router process says when to end
_LEVELS = {"debug", "info", "warning", "error", "critical"}


def main(channel: socket.socket) -> None:
    """Serve the router process at the other end until it says `Finish`, or has gone."""
    for number in _OTHERS:
        signal.signal(number, signal.SIG_IGN)
    be_ordinary()
    asyncio.run(Aide(Pipe(channel)).serve())


def be_ordinary() -> None:
    """Give up the priority that comes from the router process: scripts must not keep anybody from a CPU."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) < 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)


class Aide:
    """From within a running event loop."""

    def __init__(self, pipe: Pipe) -> None:
        self._pipe = pipe
        self._processes = Processes()
        self._scripts = TrackScripts(self._processes, self._send)
        self._files = TrackFiles(self._send)
        self._tracked = TrackProcesses(self._send)
        self._telling = Telling()
        self._over = asyncio.Event()
        self._finish = False
        self._sending = False
        self._log = get_logger()

    async def serve(self) -> None:
        """Until the end."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pipe.fileno(), self._receive)
        await self._over.wait()
        loop.remove_reader(self._pipe.fileno())
        loop.remove_writer(self._pipe.fileno())
        self._files.finish()
        await asyncio.gather(self._scripts.finish(), self._tracked.finish())
        await (self._telling.finish() if self._finish else self._telling.close())
        await self._processes.close()
        self._pipe.close()

    # --- what the router process says ---

    def _receive(self) -> None:
        try:
            messages = self._pipe.receive()
        except Closed:
            self._over.set()
            return
        for message in messages:
            try:
                self._take(message)
            except Exception:  # one that goes wrong must not cost the others
                self._log.exception("the aide of the virtual routers failed", at=type(message).__name__)

    def _take(self, message: Any) -> None:
        match message:
            case Log():
                fields = {name if name != "event" else "event_": value for name, value in message.fields.items()}
                getattr(self._log, message.level if message.level in _LEVELS else "info")(message.text, **fields)
            case Moved():
                self._telling.moved(message)
            case PriorityMoved():
                self._telling.priority_moved(message)
            case LowerHeard():
                self._telling.lower_heard(message)
            case Configure():
                self._configure(message)
            case Finish():
                self._finish = True
                self._over.set()

    def _configure(self, told: Configure) -> None:
        settings = told.settings
        self._telling.configure(settings, told.routers)
        self._processes.configure(settings.script_user, settings.script_group, settings.script_security)
        self._scripts.configure(tracked_scripts(told.routers))
        self._files.configure(told.routers.files)
        self._tracked.configure(told.routers.processes)

    # --- what it is told ---

    def _send(self, message: Any) -> None:
        try:
            self._pipe.send(message)
            self._flush()
        except Closed:
            self._over.set()

    def _flush(self) -> None:
        try:
            self._pipe.flush()
        except Closed:
            self._over.set()
            return
        if self._pipe.unsent != self._sending:
            self._sending = self._pipe.unsent
            loop = asyncio.get_running_loop()
            if self._sending:
                loop.add_writer(self._pipe.fileno(), self._flush)
            else:
                loop.remove_writer(self._pipe.fileno())


def tracked_scripts(routers: VrrpConfiguration) -> Iterable[VrrpScript]:
    """Those that somebody tracks; keepalived runs no others."""
    tracks = [each.tracks for each in routers.instances] + [each.tracks for each in routers.groups]
    used = {track.name for each in tracks for track in each.scripts}
    return [script for script in routers.scripts if script.name in used]
