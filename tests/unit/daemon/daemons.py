"""A daemon whose outside is imagined: tables in memory, a file that is a value, servers that are as the test says."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pylvs.config.findings import Finding
from pylvs.daemon.loading import Loaded, apply_options
from pylvs.daemon.options import Options
from pylvs.daemon.process import ServiceManager
from pylvs.daemon.state_dir import StateDirectory
from pylvs.daemon.supervisor import Supervisor
from pylvs.health.events import Event
from pylvs.health.outcome import Outcome, Probe
from pylvs.model.addresses import Address
from pylvs.model.checks import Check, Pace, Target, TcpCheck
from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.errors import NoSuchService
from pylvs.model.service import Protocol, ServiceKey
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance
from pylvs.model.wanted import Configuration, GlobalSettings, WantedRow, WantedServer, WantedService
from pylvs.testing import MemoryDirector
from tests.unit.daemon.fake_routers import start_fake_routers
from tests.waiting import PATIENCE_S, until_async

VIP = ip_address("192.0.2.1")
WEB, OTHER = ServiceKey(Protocol.TCP, VIP, 80), ServiceKey(Protocol.TCP, VIP, 443)
FOREIGN = ServiceKey.of_mark(7)
QUICK = Pace(delay_loop_s=0.02, timeout_s=5, retry=0, delay_before_retry_s=0.01, warmup_s=0.01)
until = until_async  # beside the daemon, in its event loop


def address(number: int) -> Address:
    return ip_address(f"10.0.0.{number}")


def server(number: int, weight: int = 1, port: int = 80, **more: Any) -> WantedServer:
    key = DestinationKey(address(number), port)
    return WantedServer(
        Destination(key, weight=weight), (TcpCheck(pace=QUICK, target=Target(key.address, port)),), **more
    )


def service(*servers: WantedServer, key: ServiceKey = WEB, **more: Any) -> WantedService:
    return WantedService(str(key), (key,), servers=servers, **more)


def configuration(*services: WantedService, **settings: Any) -> Configuration:
    return Configuration(services, GlobalSettings(**settings))


def vrrp(*names: str) -> VrrpConfiguration:
    """Virtual routers of these names."""
    return VrrpConfiguration(
        instances=tuple(VrrpInstance(name=name, interface="eth0", vrid=at) for at, name in enumerate(names, 1))
    )


class World:
    """What a daemon meets. `state` and `director` outlive it, as after a crash."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.tables = MemoryDirector()
        self.manager = ServiceManager({})
        self.file = Loaded(configuration(service(server(1), server(2))))
        self.dead: set[Address] = set()
        self.probes: dict[Address, int] = {}
        self.loads = 0
        self.extra_rows: tuple[WantedRow, ...] = ()
        self.told: list[Event] = []
        self.processes: list[subprocess.Popen[bytes]] = []

    def write(
        self, *services: WantedService, findings: Iterable[Finding] = (), routers: Iterable[str] = (), **settings: Any
    ) -> None:
        """The file from now on; `routers` are the names of virtual routers."""
        found = replace(configuration(*services, **settings), vrrp=vrrp(*routers))
        self.file = Loaded(found, tuple(findings), not services)

    def end_processes(self) -> None:
        """Those of virtual routers that are left."""
        for process in self.processes:
            process.kill()
            process.wait()

    # --- what the daemon meets: see `pylvs.daemon.ports.HostPort` ---

    def load(self, options: Options) -> Loaded:
        """The file as it is, with or without checks."""
        self.loads += 1
        return replace(self.file, configuration=apply_options(self.file.configuration, options))

    def differences(self, old: Configuration, new: Configuration) -> Iterable[str]:
        """Numbers do."""
        return [] if old == new else [f"{len(old.services)} -> {len(new.services)} services"]

    def director(self) -> MemoryDirector:
        """The tables."""
        return self.tables

    def addresses(self) -> Iterable[Address]:
        """The VIP alone."""
        return [VIP]

    def probe_of(self, _check: Check, _service: WantedService, wanted: WantedServer) -> Probe:
        """Whether the server is not dead."""
        where = wanted.destination.key.address

        async def probe() -> Outcome:
            self.probes[where] = self.probes.get(where, 0) + 1
            return Outcome(where not in self.dead, "refused" if where in self.dead else "connected")

        return probe

    def configure(self, configuration: Configuration) -> None:
        """Nobody runs scripts here."""

    async def run_startup_script(self, configuration: Configuration) -> None:
        """Nothing comes first."""

    def check_rows(self) -> tuple[WantedRow, ...]:
        """What the test says that checks need."""
        return self.extra_rows

    def adapt_host(self, state: StateDirectory) -> None:
        """Nothing is to be changed here."""

    def start_routers(self, state: StateDirectory, _log_format: str) -> subprocess.Popen[bytes]:
        """A process that speaks like the one of virtual routers, and holds no address."""
        self.processes.append(start_fake_routers(state.path))
        return self.processes[-1]

    def restore_host(self, state: StateDirectory) -> None:
        """Nothing was changed."""

    def notify(self, event: Event) -> None:
        """Nobody else is told."""
        self.told.append(event)

    async def close(self) -> None:
        """Nothing was begun."""

    # --- daemons ---

    @contextlib.asynccontextmanager
    async def daemon(self, kill: bool = False, **options: Any) -> AsyncIterator[Supervisor]:
        """One that has its first table; ended in good order, or killed."""
        supervisor = Supervisor(Options("test.conf", state_dir=self.state, **options), self)
        running = asyncio.create_task(supervisor.run())
        try:
            await until(lambda: supervisor.started_at or running.done())
            if running.done():
                running.result()
            yield supervisor
            if not kill:
                supervisor.stop()
                await asyncio.wait_for(running, PATIENCE_S)
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    def table(self) -> dict[str, dict[str, int]]:
        """Weights by server and service."""
        return {
            str(row.service.key): {
                str(each.destination.key.address): each.destination.weight for each in reversed(row.destinations)
            }
            for row in self.tables.services()
        }

    def servers(self, key: ServiceKey = WEB) -> set[str]:
        """Those in the table."""
        try:
            return {str(each.destination.key.address) for each in self.tables.service(key).destinations}
        except NoSuchService:
            return set()


def run(scenario: Awaitable[None]) -> None:
    """A scenario in an event loop of its own."""

    async def bounded() -> None:
        async with asyncio.timeout(4 * PATIENCE_S):
            await scenario

    asyncio.run(bounded())
