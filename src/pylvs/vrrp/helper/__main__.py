"""The helper process of the virtual routers: `python -m pylvs.vrrp.helper FD LOG_FORMAT`.

The router process starts it with one end of a socket pair. It runs scripts, tracks files and processes, notifies, and
writes the log; it exits on `Finish`, or when the router process has ended.
"""

from __future__ import annotations

import sys

from pylvs.system.processes import import_asyncio

if __name__ == "__main__":
    import_asyncio()

import asyncio
import contextlib
import os
import signal
import socket
from typing import Any

from pylvs.system import logs
from pylvs.system.logs import get_logger
from pylvs.system.processes.asyncio_loop import AsyncioLoop
from pylvs.system.processes.channel import Message, close_all
from pylvs.system.processes.child import Parent
from pylvs.system.processes.scripts import Processes, ScriptRunner
from pylvs.vrrp.helper.link import (
    Configure,
    Finish,
    FromHelper,
    Late,
    LogLine,
    LowerPriorityReceived,
    PriorityChanged,
    ScriptsReported,
    StateChanged,
    ToHelper,
    decoded,
    encoded,
)
from pylvs.vrrp.helper.link_polling import LinkPoller
from pylvs.vrrp.helper.notify import Notifier
from pylvs.vrrp.helper.track_file import TrackFiles
from pylvs.vrrp.helper.track_process import TrackProcesses
from pylvs.vrrp.helper.track_script import TrackScripts
from pylvs.vrrp.tracking import Key, TrackedObject

_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE)  # the router process ends this one
REPORT_S = 1.0  # between reports of late results and of notify scripts
_LEVELS = {"debug", "info", "warning", "error", "critical"}


def main(end: socket.socket) -> None:
    """Serve the router process."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # scripts must not inherit the router process's priority
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) < 0:
            os.setpriority(os.PRIO_PROCESS, 0, 0)
    asyncio.run(serve(end))


async def serve(end: socket.socket) -> None:
    """Run until `Finish` or the end of the connection."""
    await HelperProcess(end).serve()


class HelperProcess:
    """Handle messages inside a running asyncio loop."""

    def __init__(self, end: socket.socket) -> None:
        self._over = asyncio.Event()
        self._parent = Parent(AsyncioLoop(), end, self._receive, self._over.set, equal=True)
        self._runner = ScriptRunner()
        self._processes = Processes(runner=self._runner)
        self._scripts = TrackScripts(self._processes, self._send)
        self._files = TrackFiles(self._send)
        self._tracked = TrackProcesses(self._send)
        self._links = LinkPoller(self._send)
        self._notifier = Notifier(self._runner)
        self._late: frozenset[Key] = frozenset()
        self._reported = self._notifier.scripts()  # none yet
        self._finish = False
        self._log = get_logger()

    async def serve(self) -> None:
        reports = asyncio.create_task(self._report_periodically())
        await self._over.wait()
        reports.cancel()
        self._files.finish()
        await asyncio.gather(self._scripts.finish(), self._tracked.finish(), self._links.finish())
        await (self._notifier.finish() if self._finish else self._notifier.close())
        await self._processes.close()
        await self._runner.close()

    def _send(self, message: TrackedObject | Late | ScriptsReported) -> None:
        self._parent.send(encoded(message, FromHelper))

    def _receive(self, received: Message, descriptors: list[int]) -> None:
        close_all(descriptors)
        message = decoded(received, ToHelper)
        try:
            self._handle(message)
        except Exception:  # a failure must not lose the other messages
            self._log.exception("the helper process of the virtual routers failed", at=type(message).__name__)

    def _handle(self, message: Any) -> None:
        match message:
            case LogLine():
                fields = {name if name != "event" else "event_": value for name, value in message.fields.items()}
                level = message.level if message.level in _LEVELS else "info"
                self._log.log(level, message.text, **fields, **{logs.TIME: message.at})
            case StateChanged():
                self._notifier.state_changed(message)
            case PriorityChanged():
                self._notifier.priority_changed(message)
            case LowerPriorityReceived():
                self._notifier.lower_priority_received(message)
            case Configure():
                self._configure(message)
            case Finish():
                self._finish = True
                self._over.set()

    async def _report_periodically(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            if late := self._late_results():
                self._send(Late(late))
            self._report_scripts()

    def _late_results(self) -> tuple[Key, ...]:
        """Return the objects without a current result, and log those that are new."""
        watchers = (self._scripts, self._files, self._tracked, self._links)
        late = frozenset(key for each in watchers for key in each.late())
        if new := ", ".join(f"{kind} {name}" for kind, name in sorted(late - self._late)):
            self._log.warning(f"no current result, the last one will expire: {new}")
        self._late = late
        return tuple(sorted(late))

    def _report_scripts(self) -> None:
        report = self._notifier.scripts()
        if report != self._reported:
            self._send(ScriptsReported(report))
            self._reported = report

    def _configure(self, message: Configure) -> None:
        settings, routers = message.settings, message.routers
        logs.use_level(settings.log_level)
        self._notifier.configure(settings, routers)
        self._processes.configure(settings.script_user, settings.script_group, settings.script_security, settings.umask)
        # As in keepalived, scripts that no instance or group tracks do not run.
        tracks = [each.tracks for each in routers.instances] + [each.tracks for each in routers.groups]
        used = {track.name for each in tracks for track in each.scripts}
        self._scripts.configure(script for script in routers.scripts if script.name in used)
        self._files.configure(routers.files, message.again)
        self._tracked.configure(routers.processes)
        self._links.configure(routers.settings.polled_links)


if __name__ == "__main__":
    logs.set_up(sys.argv[2], background=True, process="vrrp")
    with socket.socket(fileno=int(sys.argv[1])) as channel:
        channel.set_inheritable(False)
        main(channel)
        logs.flush()  # before the end of the connection, at which the router process kills this one
    os._exit(0)  # a thread may still look up the user of a script
