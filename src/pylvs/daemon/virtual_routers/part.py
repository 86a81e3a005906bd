"""The virtual routers as a part of the daemon."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from pylvs.daemon.parts import Part
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.daemon.virtual_routers.forwarding import monitor_forwarding
from pylvs.daemon.virtual_routers.supervision import ConfigureResult, VirtualRouters
from pylvs.model.errors import PylvsError
from pylvs.model.wanted import Configuration

FIRST_S = 1.0  # to start virtual routers before everything else


class RoutersPart(Part):
    """Starts and configures pylvs-vrrp, and reports to it whether packets are forwarded.

    `error` returns why they may not be, and `unknown` why that is not known, "" if it is.
    """

    configured: asyncio.Future[ConfigureResult]  # at the start

    def __init__(self, routers: VirtualRouters, error: Callable[[], str | None], unknown: Callable[[], str]) -> None:
        self.result = ConfigureResult()  # of the last reload
        self._routers = routers
        self._error, self._unknown = error, unknown
        self._monitor = partial(monitor_forwarding, error, routers.report_forwarding, unknown)

    async def open(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        """Start before anything that takes long: tables, checks, names.

        Where their process does not start at once, the daemon continues without it.
        """
        tasks.keep_running(self._routers.run, "running virtual routers")
        tasks.keep_running(self._routers.heartbeat, "reporting to virtual routers")
        self.configured = asyncio.ensure_future(self._routers.configure(configuration))
        await asyncio.wait([self.configured], timeout=FIRST_S)

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        tasks.keep_running(self._routers.follow_sessions, "following BFD sessions")
        tasks.keep_running(self._monitor, "monitoring forwarding")

    async def begin(self, tasks: BackgroundTasks) -> None:
        """Report the first table at once: virtual routers wait for it before they are master."""
        if self._error() == "" and not self._unknown():
            await self._routers.report_forwarding(True, "")

    async def prepare(self, configuration: Configuration) -> None:
        self.result = await self._routers.configure(configuration)

    async def undo(self, configuration: Configuration, stopping: bool) -> None:
        with contextlib.suppress(PylvsError):
            await self._routers.configure(configuration)

    async def close(self) -> None:
        self._routers.close()
