"""Scripts, probes and notifications, and the settings of the process, as a part of the daemon."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from pylvs.daemon.host.services import HostServices
from pylvs.daemon.limits import CLOSE_S, SCRIPTS_S, TABLE_LEASE_S, TABLES_S
from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.state import history, overrides
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.model.wanted import Configuration
from pylvs.system.logs import get_logger


class HostPart(Part):
    """Configures and ends what leaves the process. `allow` lets a phase of the start take so many seconds."""

    def __init__(self, host: HostServices, allow: Callable[[float], None]) -> None:
        self._host = host
        self._allow = allow

    async def open(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        """Run the startup_script before anything else."""
        self._host.configure(configuration)
        self._allow(configuration.settings.startup_script_timeout_s + SCRIPTS_S)
        await self._host.run_startup_script()
        self._allow(TABLES_S)

    async def begin(self, tasks: BackgroundTasks) -> None:
        tasks.keep_running(self._host.return_memory, "returning memory")

    async def prepare(self, configuration: Configuration) -> None:
        self._host.configure(configuration)

    async def undo(self, configuration: Configuration, stopping: bool) -> None:
        with contextlib.suppress(OSError):
            self._host.configure(configuration)

    async def close(self) -> None:
        """Run the last scripts and the shutdown_script."""
        limit_s = CLOSE_S + self._host.shutdown_s
        self._host.manager.allow(limit_s + TABLE_LEASE_S + overrides.END_S + history.END_S)
        try:
            async with asyncio.timeout(limit_s):
                await self._host.close()
        except TimeoutError:
            get_logger().error("scripts or other processes of the daemon hang; it ends without them")

    def problems(self) -> Iterator[Problem]:
        if text := self._host.prober.counts().unsteady:
            yield Problem("prober", "", text)
