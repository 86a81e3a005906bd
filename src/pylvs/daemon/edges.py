"""The parts that serve other programs by tasks of the edge process: D-Bus and SNMP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pylvs.daemon.dbus_task import DbusTask
from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.services import Services
from pylvs.daemon.snmp_task import SnmpTask
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.model.wanted import Configuration


class SnmpPart(Part):
    """The SNMP sub-agent."""

    def __init__(self, task: SnmpTask, services: Services) -> None:
        self._task = task
        self._services = services

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        self._task.configure(configuration)
        self._services.engine.on_event(self._task.happened)

    async def apply(self, configuration: Configuration) -> None:
        self._task.configure(configuration)

    def problems(self) -> Iterator[Problem]:
        if self._task.problem:
            yield Problem("snmp", "", self._task.problem)


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
