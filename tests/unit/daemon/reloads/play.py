"""Play a reload by a whole daemon in simulated time, and say what it disturbed that the difference does not name.

The daemon is the real one, with the loop and the clock of the simulation. The table is in memory. It records edits, and
has connections of each server. Before the reload, checks have results, and an operator has overridden servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pylvs.daemon import Options, services, supervisor
from pylvs.daemon.host.service_manager import ServiceManager
from pylvs.daemon.host.services import HostServices
from pylvs.daemon.loading import Loaded, apply_options
from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.history import History
from pylvs.health.engine import Engine
from pylvs.health.events import Event
from pylvs.health.probes import Outcome, Probe
from pylvs.health.state import ServerSnapshot, ServiceSnapshot
from pylvs.model import wanted
from pylvs.model.addresses import Address
from pylvs.model.checks import Check
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceKey, Timeouts, VirtualService
from pylvs.system import logs
from tests.memory import MemoryDirector
from tests.memory_daemons import OwnedDaemons
from tests.unit.daemon.daemons import SameHostSettings
from tests.unit.daemon.reloads.pairs import Configuration, Server, Service
from tests.unit.daemon.simulation.clock import Clock, SimLoop, SimPool

SETTLED_S = 40.0  # for all checks to have results
FOUND = Timeouts(800, 100, 200)  # in the table before the daemon


class Tables(MemoryDirector):
    """A table that records the edits of services and destinations."""

    def __init__(self) -> None:
        super().__init__()
        self.edits: list[tuple[str, ServiceKey, Address | None]] = []

    def add_service(self, service: VirtualService) -> None:
        super().add_service(service)
        self.edits.append(("add", service.key, None))

    def edit_service(self, service: VirtualService) -> None:
        super().edit_service(service)
        self.edits.append(("edit", service.key, None))

    def delete_service(self, key: ServiceKey) -> None:
        super().delete_service(key)
        self.edits.append(("delete", key, None))

    def add_destination(self, key: ServiceKey, destination: Destination) -> None:
        super().add_destination(key, destination)
        self.edits.append(("add", key, destination.key.address))

    def edit_destination(self, key: ServiceKey, destination: Destination) -> None:
        super().edit_destination(key, destination)
        self.edits.append(("edit", key, destination.key.address))

    def rename_destination(self, key: ServiceKey, former: DestinationKey, name: DestinationKey) -> None:
        super().rename_destination(key, former, name)
        self.edits.append(("rename", key, former.address))

    def delete_destination(self, key: ServiceKey, destination: DestinationKey) -> None:
        super().delete_destination(key, destination)
        self.edits.append(("delete", key, destination.address))


class Memory(StateDirectory):
    """A state directory in memory."""

    def __init__(self, *_: Any) -> None:
        super().__init__(Path("/nonexistent/pylvs-reloads"))
        self.files: dict[str, str] = {}

    def acquire(self) -> None:
        """Return: there is one daemon."""

    def release(self) -> None:
        """Return: there is one daemon."""

    def read(self, name: str) -> Any:
        return json.loads(self.files[name]) if name in self.files else None

    def write(self, name: str, content: Any) -> None:
        self.files[name] = json.dumps(content)


class NoHistory(History):
    def put(self, event: Mapping[str, Any]) -> None:
        """Drop the event."""

    def saved(self, count: int) -> list[Mapping[str, Any]]:
        return []


class NoApi(Part):
    """Replaces the API's socket."""

    metrics_error = ""

    def __init__(self, *_: object) -> None:
        pass

    async def execute(self, *_: object) -> None:
        raise AssertionError("no page asks")


class Host(HostServices):
    """The host: servers are dead or not, and each has a weight for the checks that set one."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.manager = ServiceManager({})
        self.vip_checks = SameHostSettings()
        self.sync_daemons = OwnedDaemons()
        self.tables = Tables()
        self.tables.set_timeouts(FOUND)
        self.file = Loaded(wanted.Configuration())
        self.dead = {ip_address(f"10.0.0.{each}") for each in range(1, 6) if rng.random() < 0.25}
        self.weights = {ip_address(f"10.0.0.{each}"): rng.choice((None, 0, 4, 9)) for each in range(1, 6)}

    def load(self, options: Options) -> Loaded:
        return Loaded(apply_options(self.file.configuration, options), self.file.findings)

    def differences(self, old: wanted.Configuration, new: wanted.Configuration) -> Iterable[str]:
        return []

    def director(self) -> Tables:
        return self.tables

    def addresses(self) -> Iterable[Address]:
        return []

    def path_problems(self, configuration: wanted.Configuration, addresses: Collection[Address]) -> list[Problem]:
        return []

    def history(self, state: StateDirectory) -> History:
        return NoHistory(state)

    def configure(self, configuration: wanted.Configuration) -> None:
        """Run no scripts."""

    async def run_startup_script(self) -> None:
        """Do nothing."""

    def notify(self, event: Event) -> None:
        """Run no scripts."""

    async def close(self) -> None:
        """Do nothing."""

    def probe_of(self, check: Check, service: wanted.WantedService, server: wanted.WantedServer) -> Probe:
        where = server.destination.key.address

        async def probe() -> Outcome:
            await asyncio.sleep(0.01)
            if where in self.dead:
                return Outcome(False, "refused")
            return Outcome(True, "connected", self.weights[where] if check.sets_weight else None)

        return probe


@dataclass(frozen=True)
class State:
    """What clients and the operator see at one moment."""

    rows: dict[ServiceKey, ServiceRow]
    services: dict[str, ServiceSnapshot]
    timeouts: Timeouts


class Play:
    """One pair, played with a seed for everything else."""

    def __init__(self, seed: int, first: Configuration, second: Configuration) -> None:
        self.first, self.second = first, second
        self.rng = random.Random(f"play {seed}")
        self.clock = Clock()
        self.host = Host(self.rng)
        self.before: State | None = None
        self.after: State | None = None
        self.edits: list[tuple[str, ServiceKey, Address | None]] = []

    def run(self) -> list[str]:
        """Play it, and return what the reload disturbed that the difference does not name."""
        with self._replaced():
            loop = self.clock.loop
            loop.run_until_complete(self._play(loop))
            loop.close()
        return list(self._disturbed())

    @contextlib.contextmanager
    def _replaced(self) -> Iterator[None]:
        loop = self.clock.loop
        former = logs.write_with(lambda level, fields: None)
        chance = self.rng.random

        def engine(configuration: wanted.Configuration, probe_of: Any) -> Engine:
            return Engine(configuration, probe_of, wall=self.clock.wall, chance=chance, at_once=0)

        async def no_changes(*_: Any) -> None:
            await asyncio.Event().wait()

        try:
            with (
                self.clock.in_force(),
                patch.object(services, "Engine", engine),
                patch.object(supervisor, "ApiServer", NoApi),
                patch.object(supervisor, "StateDirectory", Memory),
                patch.object(supervisor, "settle_garbage", lambda: None),
                patch("pylvs.daemon.host.changes.monitor_host", no_changes),
                patch("pylvs.system.table_thread.ThreadPoolExecutor", lambda *_, **__: SimPool(loop)),
            ):
                yield
        finally:
            logs.write_with(former)

    async def _play(self, loop: SimLoop) -> None:
        self.host.file = self.first.loaded()
        daemon = supervisor.Supervisor(Options("test.conf", vrrp=False), self.host)
        running = loop.create_task(daemon.run())
        try:
            await asyncio.sleep(SETTLED_S)
            assert daemon.started_at, "the daemon has not started"
            self._operate(daemon)
            await asyncio.sleep(1)
            self._connect()
            self.before = self._state(daemon)
            self.host.tables.edits.clear()
            self.host.file = self.second.loaded()
            await daemon.reload()
            self.edits = list(self.host.tables.edits)
            self.after = self._state(daemon)
        finally:
            daemon.stop()
            await running

    def _operate(self, daemon: supervisor.Supervisor) -> None:
        """Override some servers."""
        for service in daemon.engine.snapshot():
            for server in service.servers:
                drawn = self.rng.random()
                if drawn < 0.1:
                    daemon.engine.drain(server.server, service.name)
                elif drawn < 0.2:
                    daemon.engine.disable(server.server, service.name)
                elif drawn < 0.3:
                    daemon.engine.set_weight(server.server, 6, service.name)

    def _connect(self) -> None:
        """Give each server in the table connections of its own."""
        for number, row in enumerate(self.host.tables.services(), 1):
            for destination in row.destinations:
                active = 1000 * number + destination.destination.key.address.packed[-1]
                self.host.tables.count(row.service.key, destination.destination.key, active=active)

    def _state(self, daemon: supervisor.Supervisor) -> State:
        return State(
            {row.service.key: row for row in self.host.tables.services()},
            {each.name: each for each in daemon.engine.snapshot()},
            self.host.tables.timeouts(),
        )

    # --- what was disturbed ---

    def _disturbed(self) -> Iterator[str]:
        assert self.before is not None
        assert self.after is not None
        yield from self._timeouts()
        before, after = self.first.by_head, self.second.by_head
        named = before.keys() | after.keys()
        for head in sorted(named, key=str):
            old, new = before.get(head), after.get(head)
            if old and new:
                yield from self._service(old, new)
        touched = {
            key for head in named if not self._same(before.get(head), after.get(head)) for key in self._keys(head)
        }
        yield from (
            f"{what} {key}: the difference does not name it" for what, key, _ in self.edits if key not in touched
        )

    def _timeouts(self) -> Iterator[str]:
        assert self.after is not None
        expected = Timeouts(*(new or found for new, found in zip(self.second.timeouts, FOUND, strict=True)))
        if self.after.timeouts != expected:
            yield f"timeouts are {self.after.timeouts}, not {expected}"

    @staticmethod
    def _same(old: Service | None, new: Service | None) -> bool:
        """Return whether a service is the same in both; the order of servers is no difference."""
        if old is None or new is None:
            return False
        return _in_order(old) == _in_order(new)

    def _keys(self, head: tuple[object, ...]) -> set[ServiceKey]:
        found = (each.by_head.get(head) for each in (self.first, self.second))
        return {_key(*key) for each in found if each for key in each.keys}

    def _service(self, old: Service, new: Service) -> Iterator[str]:
        assert self.before is not None
        assert self.after is not None
        snapshots = [_snapshot(state, service) for state, service in ((self.before, old), (self.after, new))]
        scheduling = (old.scheduler, old.persistence) == (new.scheduler, new.persistence)
        quorum = (old.quorum, old.sorry) == (new.quorum, new.sorry)
        for key in sorted(map(str, {_key(*each) for each in old.keys & new.keys})):
            one, other = (
                next(row for name, row in state.rows.items() if str(name) == key) for state in (self.before, self.after)
            )
            if scheduling and one.service != other.service:
                yield f"{key}: {one.service} became {other.service}"
            servers = {each.number: each for each in old.servers}
            for server in new.servers:
                if server.number in servers:
                    yield from self._destination(
                        key, (one, other), (old, new), servers[server.number], server, snapshots, quorum
                    )
        for server in new.servers:
            before = next((each for each in old.servers if each.number == server.number), None)
            if before is not None:
                yield from self._checked(old, new, before, server, snapshots)

    def _destination(
        self,
        key: str,
        rows: tuple[ServiceRow, ServiceRow],
        services: tuple[Service, Service],
        old: Server,
        new: Server,
        snapshots: list[ServiceSnapshot],
        quorum: bool,
    ) -> Iterator[str]:
        """Compare one server in one service of the table before and after."""
        was, now = (_listed(row, old.number) for row in rows)
        nat = [service.method_of(server) == "NAT" for service, server in zip(services, (old, new), strict=True)]
        if nat != [False, False] and (old.port, nat[0]) != (new.port, nat[1]):
            return  # another server, for NAT
        state_before, state_after = (_server(snapshot, old.number) for snapshot in snapshots)
        stays = state_before.up == state_after.up and snapshots[0].sorry_server_in == snapshots[1].sorry_server_in
        if not stays or old.inhibit != new.inhibit:
            return  # checks, quorum or sorry server: compared on their own
        name = f"{key} -> 10.0.0.{old.number}"
        if was is None or now is None:
            if was is not now:
                yield f"{name}: {was} became {now}"
            return
        if was.active != now.active:
            yield f"{name}: lost its {was.active} connections"
        if was.destination.key != now.destination.key:
            yield f"{name}: {was.destination.key} became {now.destination.key}"
        if old.weight == new.weight and old.check == new.check and was.destination.weight != now.destination.weight:
            yield f"{name}: weight {was.destination.weight} became {now.destination.weight}"
        if (
            services[0].method_of(old) == services[1].method_of(new)
            and was.destination.method != now.destination.method
        ):
            yield f"{name}: another method"

    def _checked(
        self, old: Service, new: Service, before: Server, after: Server, snapshots: list[ServiceSnapshot]
    ) -> Iterator[str]:
        """Compare check state, weight and override of one server."""
        was, now = (_server(each, before.number) for each in snapshots)
        name = f"{new.head_key} 10.0.0.{before.number}"
        if _is_another(old, new, before, after):
            return
        if was.override != now.override:
            yield f"{name}: {was.override} became {now.override}"
        if before.check != after.check or old.delay_loop != new.delay_loop:
            if before.check != "none" and after.check != "none" and was.up != now.up:
                yield f"{name}: is {'up' if now.up else 'down'} before its check has a result"
            return
        if was.up != now.up:
            yield f"{name}: is {'up' if now.up else 'down'} now"
        set_by_check = any(each.weight is not None for each in was.checks)
        if (set_by_check or before.weight == after.weight) and was.weight != now.weight:
            yield f"{name}: weight {was.weight} became {now.weight}"
        if before.weight == after.weight or before.check == "tcp":
            results = [[(each.good, each.weight, each.probes) for each in state.checks] for state in (was, now)]
            if results[0] != results[1]:
                yield f"{name}: its checks lost their results"


def _in_order(service: Service) -> tuple[object, ...]:
    servers = sorted(service.servers, key=lambda each: each.number)
    entries = sorted(service.entries)
    return (entries, service.marks, servers, [getattr(service, name) for name in _SETTINGS])


_SETTINGS = ("method", "scheduler", "persistence", "quorum", "sorry", "delay_loop")


def _is_another(old: Service, new: Service, before: Server, after: Server) -> bool:
    """Return whether a server has another port by NAT: then it is another one."""
    nat = old.method_of(before) == "NAT", new.method_of(after) == "NAT"
    return nat != (False, False) and (before.port, nat[0]) != (after.port, nat[1])


def _key(vip: int, port: int, mark: int) -> ServiceKey:
    return ServiceKey.of_mark(mark) if mark else ServiceKey(Protocol.TCP, ip_address(f"192.0.2.{vip}"), port)


def _snapshot(state: State, service: Service) -> ServiceSnapshot:
    keys = {_key(*each) for each in service.keys}
    return next(each for each in state.services.values() if set(each.keys) == keys)


def _server(snapshot: ServiceSnapshot, number: int) -> ServerSnapshot:
    return next(each for each in snapshot.servers if each.server.address.packed[-1] == number)


def _listed(row: ServiceRow, number: int) -> DestinationRow | None:
    return next((each for each in row.destinations if each.destination.key.address.packed[-1] == number), None)
