"""A daemon with a fake host: tables in memory, the configuration as a value, real servers with states set by a test."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pylvs.config.language.tree import Finding
from pylvs.daemon import Options
from pylvs.daemon.host.service_manager import ServiceManager
from pylvs.daemon.host.services import HostServices
from pylvs.daemon.loading import Loaded, apply_options
from pylvs.daemon.problems import Problem
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.supervisor import Supervisor
from pylvs.daemon.via_vip import VipChecks
from pylvs.health.events import Event
from pylvs.health.probes import Outcome, Probe
from pylvs.model.addresses import Address
from pylvs.model.checks import Check, Pace, Target, TcpCheck
from pylvs.model.errors import NoSuchService
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceKey
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance, VrrpSettings
from pylvs.model.wanted import Configuration, GlobalSettings, WantedServer, WantedService
from tests.memory import MemoryDirector
from tests.memory_daemons import OwnedDaemons
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


def vrrp(*names: str, lease_s: float = 10.0) -> VrrpConfiguration:
    """Return virtual routers with these names."""
    return VrrpConfiguration(
        instances=tuple(VrrpInstance(name=name, interface="eth0", vrid=at) for at, name in enumerate(names, 1)),
        settings=VrrpSettings(data_plane_lease_s=lease_s),
    )


class SameHostSettings(VipChecks):
    """Checks through virtual addresses that change no setting of the host."""

    def adapt_host(self, state: StateDirectory) -> None:
        """Change nothing."""

    def restore(self, state: StateDirectory) -> None:
        """Change nothing."""


class FakeHost(HostServices):
    """The host of a daemon. `state` and `tables` outlive it, as after a crash."""

    def __init__(self, state: Path) -> None:
        super().__init__()
        self.state = state
        self.tables = MemoryDirector()
        self.manager = ServiceManager({})
        self.file = Loaded(configuration(service(server(1), server(2))))
        self.dead: set[Address] = set()
        self.probes: dict[Address, int] = {}
        self.loads = 0
        self.vip_checks = SameHostSettings()
        self.sync_daemons: OwnedDaemons = OwnedDaemons()
        self.notified: list[Event] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.lease_s = 10.0  # data_plane_lease
        self.on_start: Callable[[], object] = lambda: None  # called when a process of virtual routers starts
        self.path_findings: list[Problem] = []

    def write(
        self, *services: WantedService, findings: Iterable[Finding] = (), routers: Iterable[str] = (), **settings: Any
    ) -> None:
        """Write the configuration; `routers` are the names of virtual routers."""
        found = replace(configuration(*services, **settings), vrrp=vrrp(*routers, lease_s=self.lease_s))
        self.file = Loaded(found, tuple(findings))

    def left(self) -> set[str]:
        """Return the files in the state directory."""
        return {path.name for path in self.state.iterdir()} if self.state.exists() else set()

    def end_processes(self) -> None:
        """Kill the processes of virtual routers that are left."""
        for process in self.processes:
            process.kill()
            process.wait()

    # --- what the daemon meets ---

    def load(self, options: Options) -> Loaded:
        self.loads += 1
        return replace(self.file, configuration=apply_options(self.file.configuration, options))

    def differences(self, old: Configuration, new: Configuration) -> Iterable[str]:
        return [] if old == new else [f"{len(old.services)} -> {len(new.services)} services"]

    def director(self) -> MemoryDirector:
        return self.tables

    def addresses(self) -> Iterable[Address]:
        return [VIP]

    def path_problems(self, _configuration: Configuration, _addresses: Collection[Address]) -> list[Problem]:
        return list(self.path_findings)

    def probe_of(self, _check: Check, _service: WantedService, wanted: WantedServer) -> Probe:
        """Return a probe that fails for the servers in `dead`."""
        where = wanted.destination.key.address

        async def probe() -> Outcome:
            self.probes[where] = self.probes.get(where, 0) + 1
            return Outcome(where not in self.dead, "refused" if where in self.dead else "connected")

        return probe

    def configure(self, configuration: Configuration) -> None:
        """Run no scripts."""

    async def run_startup_script(self) -> None:
        """Skip the startup script: these tests need none."""

    def start_routers(self, state: StateDirectory, _log_format: str) -> subprocess.Popen[bytes]:
        """Start a fake pylvs-vrrp, which holds no address."""
        self.on_start()
        self.processes.append(start_fake_routers(state.path))
        return self.processes[-1]

    def notify(self, event: Event) -> None:
        """Remember the event."""
        self.notified.append(event)

    async def close(self) -> None:
        """Do nothing."""

    # --- daemons ---

    @contextlib.asynccontextmanager
    async def daemon(self, kill: bool = False, **options: Any) -> AsyncIterator[Supervisor]:
        """Run a daemon after its first table is complete; then stop or kill it."""
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
            await self.edge.close()  # else the process that serves metrics may outlive the loop, which reaps it

    def table(self) -> dict[str, dict[str, int]]:
        """Return weights by service and server."""
        return {
            str(row.service.key): {
                str(each.destination.key.address): each.destination.weight for each in reversed(row.destinations)
            }
            for row in self.tables.services()
        }

    def servers(self, key: ServiceKey = WEB) -> set[str]:
        """Return the servers of a service in the table."""
        try:
            return {str(each.destination.key.address) for each in self.tables.service(key).destinations}
        except NoSuchService:
            return set()


@contextlib.contextmanager
def host_of_router(state: Path) -> Iterator[FakeHost]:
    """Yield a host with one virtual router; at the end kill processes that are left."""
    found = FakeHost(state)
    found.write(service(server(1)), routers=["VI_1"])
    yield found
    found.end_processes()


def run(scenario: Awaitable[None]) -> None:
    """Run a scenario in a new event loop, with a timeout."""

    async def bounded() -> None:
        async with asyncio.timeout(4 * PATIENCE_S):
            await scenario

    asyncio.run(bounded())
