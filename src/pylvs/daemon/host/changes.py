"""Follow this host while the daemon runs: its addresses, for the checks; its devices and routes, for the tables."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator

from pylvs.daemon.host.services import HostServices
from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.services import Services
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.dataplane.watch import GATHER_S, POLL_S, RETRY_S, SHARE, drain, listen
from pylvs.model.addresses import Address
from pylvs.model.errors import Busy, PylvsError, text_of
from pylvs.model.rows import warnings
from pylvs.model.wanted import Configuration
from pylvs.system.logs import get_logger
from pylvs.system.table_thread import TableThread

FAILED_PAUSE_S = 1.0  # before addresses and devices are followed again


async def monitor_host(
    update: Callable[[], Awaitable[float]], opened: Callable[[], Iterable[socket.socket]] = lambda: [listen()]
) -> None:
    """Follow this host until cancelled: rtnetlink(7) reports changes of devices, addresses and routes.

    `opened` returns the sockets; by default one of the calling thread's network namespace.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    with contextlib.ExitStack() as stack:
        for kernel in opened():
            stack.enter_context(kernel)
            loop.add_reader(kernel, _drained, kernel, changed)
            stack.callback(loop.remove_reader, kernel)
        await call_at_changes(update, changed)


def _drained(kernel: socket.socket, changed: asyncio.Event) -> None:
    if drain(kernel):
        changed.set()


async def call_at_changes(update: Callable[[], Awaitable[float]], changed: asyncio.Event) -> None:
    """Call `update` at the start, and whenever `changed` is set.

    It returns the seconds until it is called without a change. After a failure it is called again soon. Of the same
    failures in a row, the first is logged.
    """
    next_s, logged = 0.0, ""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(next_s):  # in Python 3.11 wait_for may lose a cancellation
                await changed.wait()
        await asyncio.sleep(GATHER_S)
        changed.clear()
        begin = time.monotonic()
        try:
            next_s, logged = await update(), ""
        except Exception as error:
            text = text_of(error)
            if text != logged:
                get_logger().error("could not follow addresses and devices", reason=text)
            next_s, logged = FAILED_PAUSE_S, text
        # At most so long: the update may have waited for the table thread, while others held the lock.
        await asyncio.sleep(min(SHARE * (time.monotonic() - begin), RETRY_S))


class HostChanges(Part):
    """Applies what changes on this host.

    `error` is why checks or tables could not follow it twice in a row. A single failure is tried again, because
    `track_data_plane` makes the error a fault. While other programs hold the tables, attached devices still forward.
    """

    def __init__(self, host: HostServices, state: StateDirectory, thread: TableThread, services: Services) -> None:
        self.error = ""
        self.path_problems: list[Problem] = []
        self._host = host
        self._state = state
        self._thread = thread
        self._services = services
        self._failed = False  # the last attempt, unless the tables were locked
        self._unattached: list[str] = []  # devices that were refused, as text
        self._log = get_logger()

    async def begin(self, tasks: BackgroundTasks) -> None:
        tasks.keep_running(self._run, "following addresses and devices")

    def problems(self) -> Iterator[Problem]:
        if self.error:
            yield Problem("table", "", self.error)
        yield from self.path_problems

    async def _run(self) -> None:
        await monitor_host(self.follow, self._host.listen)

    async def follow(self) -> float:
        """Bring checks and tables up to date. Return the seconds until the next call without a change."""
        try:
            next_s = await self._follow()
        except Busy:
            raise
        except Exception as error:
            if self._failed:
                self.error = text_of(error)
            self._failed = True
            raise
        self.error, self._failed = "", False
        return next_s

    async def _follow(self) -> float:
        addresses = await self._thread.run(self._host.addresses)
        await self._thread.run(self._host.vip_checks.adapt_host, self._state)
        self._services.engine.set_host_addresses(frozenset(addresses))  # also if the tables cannot follow
        await self._compare_paths(addresses)
        director = self._services.reconciler.table.director
        for line in await self._thread.run(director.follow_host):
            self._log.warning(line)
        self._log_unattached(warnings(director))
        return RETRY_S if director.device_problems() else POLL_S

    async def apply(self, configuration: Configuration) -> None:
        """Compare addresses and routes with a new configuration."""
        with contextlib.suppress(PylvsError, OSError):  # the reload is in force; `follow` compares them later
            await self._compare_paths(await self._thread.run(self._host.addresses))

    async def _compare_paths(self, addresses: Iterable[Address]) -> None:
        configuration = self._services.engine.configuration
        with contextlib.suppress(PylvsError, OSError):  # the kernel did not report routes: the last result stays
            found = self._thread.run(self._host.path_problems, configuration, frozenset(addresses))
            self.path_problems = await found

    def _log_unattached(self, lines: list[str]) -> None:
        """Log devices that are refused once, and that all are attached again."""
        for line in lines:
            if line not in self._unattached:
                self._log.error(line)
        if self._unattached and not lines:
            self._log.info("all devices are attached again")
        self._unattached = lines
