"""Follow this host while the daemon runs: its addresses, for the checks; its devices and routes, for the tables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from pylvs.daemon.host import HostServices, monitor_host
from pylvs.daemon.problems import Problem
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.table.cache import TableCache
from pylvs.dataplane.devices import watch
from pylvs.health.engine import Engine
from pylvs.model.addresses import Address
from pylvs.model.errors import Busy, PylvsError, text_of
from pylvs.model.rows import warnings
from pylvs.system.logs import get_logger
from pylvs.system.table_thread import TableThread


class HostChanges:
    """Applies what changes on this host.

    `error` is why checks or tables could not follow it twice in a row. A single failure is tried again, because
    `track_data_plane` makes the error a fault. While other programs hold the tables, attached devices still forward.
    """

    def __init__(
        self, host: HostServices, state: StateDirectory, thread: TableThread, table: TableCache, engine: Engine
    ) -> None:
        self.error = ""
        self.path_problems: list[Problem] = []
        self._host = host
        self._state = state
        self._thread = thread
        self._table = table
        self._engine = engine
        self._failed = False  # the last attempt, unless the tables were locked
        self._unattached: list[str] = []  # devices that were refused, as text
        self._log = get_logger()

    async def run(self) -> None:
        """Apply changes until cancelled."""
        await monitor_host(self.apply, self._host.listen)

    async def apply(self) -> float:
        """Bring checks and tables up to date. Return the seconds until the next call without a change."""
        try:
            next_s = await self._apply()
        except Busy:
            raise
        except Exception as error:
            if self._failed:
                self.error = text_of(error)
            self._failed = True
            raise
        self.error, self._failed = "", False
        return next_s

    async def _apply(self) -> float:
        addresses = await self._thread.run(self._host.addresses)
        await self._thread.run(self._host.vip_checks.adapt_host, self._state)
        self._engine.set_host_addresses(frozenset(addresses))  # also if the tables cannot follow
        await self._compare_paths(addresses)
        director = self._table.director
        for line in await self._thread.run(director.follow_host):
            self._log.warning(line)
        self._log_unattached(warnings(director))
        return watch.RETRY_S if director.device_problems() else watch.POLL_S

    async def find_path_problems(self) -> None:
        """Compare addresses and routes with a new configuration."""
        with contextlib.suppress(PylvsError, OSError):  # the reload is in force; `apply` compares them later
            await self._compare_paths(await self._thread.run(self._host.addresses))

    async def _compare_paths(self, addresses: Iterable[Address]) -> None:
        configuration = self._engine.configuration
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
