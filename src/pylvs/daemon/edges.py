"""The parts that serve other programs by the edge process or one of their own: D-Bus and SNMP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pylvs.daemon.dbus_task import DbusTask
from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.snmp_process import SnmpProcess
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.model.wanted import Configuration


class SnmpPart(Part):
    """The SNMP sub-agent."""

    def __init__(self, process: SnmpProcess) -> None:
        self._process = process

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        self._process.configure(configuration)
        tasks.keep_running(self._process.run, "serving SNMP")

    async def apply(self, configuration: Configuration) -> None:
        self._process.configure(configuration)

    def problems(self) -> Iterator[Problem]:
        if self._process.problem:
            yield Problem("snmp", "", self._process.problem)


class DbusPart(Part):
    """The virtual routers on D-Bus."""

    def __init__(self, task: DbusTask) -> None:
        self._task = task
        self._serving = contextlib.AsyncExitStack()

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        await self._serving.enter_async_context(self._task.serving(configuration))

    async def apply(self, configuration: Configuration) -> None:
        await self._task.follow(configuration)

    async def stop(self, keep: bool) -> None:
        if not keep:
            await self._task.stop()

    async def close(self) -> None:
        await self._serving.aclose()

    def problems(self) -> Iterator[Problem]:
        if self._task.problem:
            yield Problem("dbus", "", self._task.problem)
