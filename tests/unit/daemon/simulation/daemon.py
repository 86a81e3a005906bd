"""One daemon of a simulation: the real supervisor, engine, reconciler, drains and notifiers, with a simulated host."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pylvs.daemon import Options
from pylvs.daemon.host.changes import call_at_changes
from pylvs.daemon.host.service_manager import ServiceManager
from pylvs.daemon.host.services import HostServices
from pylvs.daemon.loading import Loaded, apply_options
from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.services import Services
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.history import History
from pylvs.daemon.supervisor import Supervisor
from pylvs.daemon.table.cache import DesiredTable
from pylvs.health.engine import Engine
from pylvs.health.events import (
    Event,
    Override,
    QuorumGained,
    QuorumLost,
    ServerDown,
    ServerName,
    ServerUp,
    ServiceIdentity,
)
from pylvs.health.probes import Outcome, Probe
from pylvs.model.addresses import Address
from pylvs.model.checks import Check, HttpCheck, MiscCheck, TcpCheck, goes_via_vip
from pylvs.model.dataclass import replace
from pylvs.model.errors import PylvsError
from pylvs.model.rows import ServiceRow
from pylvs.model.service import DestinationKey, ServiceKey
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from tests.memory_daemons import OwnedDaemons
from tests.unit.daemon.daemons import SameHostSettings
from tests.unit.daemon.simulation.clock import SimPool
from tests.unit.daemon.simulation.configurations import last_octet, number_of
from tests.unit.daemon.simulation.faults import CURRENT, Killed, Table
from tests.unit.daemon.simulation.invariants import Listener, Subject
from tests.unit.daemon.simulation.model import CheckModel, HealthModel
from tests.unit.health.repeating import Repeating

if TYPE_CHECKING:
    from tests.unit.daemon.simulation.world import World


class Daemon:
    """A daemon from its start to its stop or death."""

    def __init__(self, world: World, options: Options) -> None:
        self.world = world
        self.options = options
        self.killed = False
        self.ending = False
        self.leaving_failed = False  # the table could not be emptied at the end
        self.ready_at = 0.0
        self.reloads_under_way = 0
        self.model = HealthModel(world.clock.now)
        self.listener = Listener()
        self.probing: set[CheckModel] = set()
        self.answered: Counter[tuple[str, ...]] = Counter()  # scripts that ran to their end
        self.pools: list[SimPool] = []
        self.requests: list[asyncio.Task[Any]] = []
        self.host_changed: asyncio.Event | None = None
        self.engine: SimEngine | None = None
        self.context = contextvars.copy_context()
        self.context.run(CURRENT.set, self)
        self.host = SimHost(self)
        self.supervisor = self.context.run(Supervisor, options, self.host)
        assert isinstance(self.supervisor.services, SimServices)
        self.services = self.supervisor.services
        self.task = world.loop.create_task(self.supervisor.run(), name="pylvs run", context=self.context)

    @property
    def steady(self) -> bool:
        """Whether it reconciles the table now."""
        return bool(self.supervisor.started_at) and not self.ending and not self.killed and not self.task.done()

    def desired_rows(self) -> Mapping[ServiceKey, bool]:
        """Return for each service whether it has a desired server with a weight."""
        rows = self.services.last_desired.rows
        return {row.service.key: any(each.weight for each in row.destinations) for row in rows}

    def run(self, call: Callable[[], Any]) -> Any:
        """Call within the daemon's context: what it starts belongs to the daemon."""
        return self.context.run(call)

    def ask(self, work: Callable[[], Any], name: str) -> None:
        """Run an API request, which may take long."""

        async def asked() -> None:
            try:
                await work()
            except (PylvsError, OSError) as error:
                self.world.note("answered: {}: {}", name, error)

        task = self.world.loop.create_task(asked(), name=f"request {name}", context=self.context)
        self.requests.append(task)
        task.add_done_callback(self.requests.remove)

    async def settle(self) -> None:
        """Reconcile, as requests do after an override."""
        await self.supervisor.reconciler.reconcile()

    def kill(self) -> None:
        """SIGKILL: it does nothing more. What Python unwinds has no effect."""
        if self.killed or self.task.done():
            return
        self.world.remember(self)
        self.killed = True
        if self.engine is not None:
            self.run(self.engine.stop)
        for task in (self.task, *self.world.tasks_of(self)):
            task.cancel()

    def expect(self, event: Event) -> None:
        """Expect the script of an event to run, or the log to have the reason."""
        up = isinstance(event, ServerUp | QuorumGained)
        kind, server = "quorum", ""
        if isinstance(event, QuorumLost) and event.silent:
            return
        if isinstance(event, ServerUp | ServerDown):
            kind, server = "server", str(last_octet(event.server))
        script = self.world.drawn.script(kind, event.service, server, "up" if up else "down")
        if script is not None:
            self.listener.due.setdefault((kind, event.service, server), []).append(script.arguments[-1])

    def logged(self, fields: Mapping[str, Any]) -> None:
        """Note a log line about a script."""
        requests = str(fields.get("script", "")).split(" ")
        text = str(fields["event"])
        if text.endswith(" has run") and requests[0] == "notify":
            ended = "ran" if str(fields["end"]).startswith(("exit", "timed out", "ended by")) else "failed"
            self.listener.logged.setdefault(tuple(requests[1:4]), []).append((requests[-1], ended))
        elif text.endswith("later ones run") and requests[0] == "notify":
            self.listener.logged.setdefault(tuple(requests[1:4]), []).append((requests[-1], "failed"))
        elif "later ones wait" in text:
            server = str(fields.get("server", "")).partition(":")[0].rpartition(".")[2]
            subject: Subject = ("server" if server else "quorum", fields["service"], server)
            self.listener.logged.setdefault(subject, []).append(("", "lost"))


class SimServices(Services):
    """The real services; they remember the desired state of the last run."""

    last_desired = DesiredTable(())

    def _desired(self) -> DesiredTable:
        self.last_desired = super()._desired()
        CURRENT.get().world.table.planned = True
        return self.last_desired


class SimEngine(Engine):
    """The real engine; the invariants are checked after each of its actions."""

    def __init__(self, configuration: Configuration, probe_of: Any) -> None:
        daemon = CURRENT.get()
        assert isinstance(daemon, Daemon)
        self.daemon, self.world = daemon, daemon.world
        self._events: list[Event] = []
        daemon.engine = self
        daemon.model.replace(configuration)
        clock, rng = self.world.clock, self.world.rng
        super().__init__(configuration, probe_of, wall=clock.wall, chance=rng.random, at_once=self.world.at_once)
        self.on_event(self._events.append)

    def check_invariants(self, reloaded: bool = False) -> None:
        """Judge the events since the last call."""
        events, self._events[:] = list(self._events), []
        for event in events:
            self.world.note("event: {}", event)
        if not self.daemon.killed:
            self.world.invariants.after_engine(self.daemon, self.desired_rows(), events, reloaded)

    def restore_overrides(
        self, overrides: Mapping[ServerName, Override], services: Mapping[str, ServiceIdentity]
    ) -> tuple[ServerName, ...]:
        """Restore them in the model too."""
        names = super().restore_overrides(overrides, services)
        model = self.daemon.model
        for service, key in names:
            model.services[number_of(service)].servers[key].override = self.overrides()[service, key]
        for each in model.services.values():
            each.judge(False)
        self.world.recall_overrides(self.daemon)
        return names

    def adopt(self, rows: Iterable[ServiceRow]) -> None:
        """See Engine. The model copies the adopted state."""
        super().adopt(rows)
        for state in self._services.values():
            service = self.daemon.model.services[number_of(state.wanted.name)]
            service.has_quorum = state.has_quorum
            for key, server in state.servers.items():
                model = service.servers[key]
                model.held = server.held_weight
                model.checks = [
                    (check, link.presumed) for (check, _), link in zip(model.checks, server.links, strict=True)
                ]
                for (check, _), link in zip(model.checks, server.links, strict=True):
                    check.at_start = link.state.first_counts
            service.judge(service.has_quorum)
            self.world.invariants.holds(
                service.has_quorum == state.has_quorum, "quorum of {}: not that of its servers", service.number
            )
        self.check_invariants()

    def start(self) -> None:
        """Start the model too."""
        super().start()
        self.daemon.model.start()
        self.check_invariants()
        self.daemon.ready_at = self.world.clock.now()
        self.world.ready(self.daemon)

    def announce_stop(self, reason: str = "pylvs stops") -> None:
        """Pass the last events to the invariants."""
        super().announce_stop(reason)
        events, self._events[:] = list(self._events), []
        for event in events:
            self.daemon.expect(event)

    def replace(self, configuration: Configuration) -> None:
        """Replace the configuration of the model too."""
        self.world.note("reload: {} services", len(configuration.services))
        super().replace(configuration)
        self.daemon.model.replace(configuration)
        self.check_invariants(reloaded=True)

    def set_host_addresses(self, addresses: Iterable[Address]) -> None:
        """Set them in the model too."""
        here = frozenset(addresses)
        super().set_host_addresses(here)
        self.daemon.model.addresses_here(here)
        self.check_invariants()

    def named(self, server: DestinationKey | Address | None = None, service: str | None = None) -> list[ServerName]:
        """Return the names of the servers that requests with these arguments are about."""
        return [each.name for each in self._find(server, service)]

    def asked_now(self, server: DestinationKey | Address | None, service: str | None) -> None:
        """Expect the probes of `check_now`."""
        now = self.world.clock.now()
        for name, key in self.named(server, service):
            for check, _ in self.daemon.model.services[number_of(name)].servers[key].checks:
                if not check.suspended and not check.running:
                    check.window = now, now

    def _on_outcome(self, state: Any, outcome: Outcome) -> float:
        delay_s = super()._on_outcome(state, outcome)
        expected_s, moved = self.world.expected
        self.world.invariants.holds(
            delay_s == expected_s, "{} probes again in {} s, the model in {}", state.check, delay_s, expected_s
        )
        if moved or self._events:
            self.check_invariants()
        return delay_s

    def _override(self, server: Any, service: str | None, change: Callable[[Override], Override], requests: str) -> Any:
        names = super()._override(server, service, change, requests)
        for name, key in names:
            self.daemon.model.override(number_of(name), key, change)
        self.check_invariants()
        return names


class SimHost(HostServices):
    """The real host services, except for files, tables, sockets and processes."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self.manager = ServiceManager({})
        self.vip_checks = SameHostSettings()
        self.sync_daemons = OwnedDaemons()
        self.daemon, self.world = daemon, daemon.world

    def load(self, options: Options) -> Loaded:
        self.world.note("the configuration is read")
        return replace(self.world.file, configuration=apply_options(self.world.file.configuration, options))

    def differences(self, old: Configuration, new: Configuration) -> Iterable[str]:
        return [] if old == new else ["changed"]

    def director(self) -> Table:
        return self.world.table

    def addresses(self) -> Iterable[Address]:
        return self.world.here

    def probe_of(self, check: Check, service: WantedService, server: WantedServer) -> Probe:
        """Return a probe of a simulated server; the real checker runs scripts."""
        super().probe_of(check, service, server)  # imports, and services of checks through virtual addresses
        inner = super().probe_of(check, service, server) if isinstance(check, MiscCheck) else None
        number, key = number_of(service.name), server.destination.key
        name = f"{check.keyword} of {key} in {number}"
        daemon, world = self.daemon, self.world

        async def probe() -> Outcome:
            model = daemon.model.find(number, service.virtualhost, server, check)
            if daemon.killed:
                raise Killed
            world.invariants.probe_begins(model, name)
            assert model is not None
            world.note("probe: {}", name)
            daemon.probing.add(model)
            outcome = Outcome(False, "the checker failed", inconclusive=True)
            ended = False
            scripts = daemon.answered.total()
            try:
                outcome = await (world.probed(check, key) if inner is None else inner())
                ended = True
                counted = inner is None or outcome.ok or outcome.inconclusive or daemon.answered.total() > scripts
                world.invariants.holds(counted, "{}: {} counts against the server", name, outcome)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                ended = task is not None and not task.cancelling()
                raise
            except Exception:
                ended = True
                raise
            finally:
                model.running = False
                daemon.probing.discard(model)
                if ended:
                    world.note("probed: {}: {}", name, outcome.reason)
                    before = model.good, model.weight
                    delay_s = daemon.model.outcome(model, outcome)
                    world.expected = delay_s, before != (model.good, model.weight)
                elif repeats and not model.suspended:  # a reload or check-now cancelled it, and probes again at once
                    model.window = world.clock.now(), world.clock.now()
            return outcome

        repeats = isinstance(check, TcpCheck | HttpCheck) and inner is None and not goes_via_vip(check)
        return Repeating(probe, context=daemon.context) if repeats else probe

    def history(self, state: StateDirectory) -> History:
        return NoHistory(state)

    async def return_memory(self) -> None:
        """Wait for ever: this process simulates many daemons."""
        await asyncio.Event().wait()

    def path_problems(self, configuration: Configuration, addresses: Collection[Address]) -> list[Problem]:
        """Return none: the simulated host has no routes."""
        return []

    def start_routers(self, state: StateDirectory, log_format: str) -> Any:
        """Fail: there are no virtual routers."""
        raise AssertionError("virtual routers were started")


class NoHistory(History):
    """Writes nothing: the simulated disk has the files that restarts depend on."""

    def put(self, event: Mapping[str, Any]) -> None:
        """Drop the event."""

    def saved(self, count: int) -> list[Mapping[str, Any]]:
        """Return no event of former daemons."""
        return []


class SimApiServer(Part):
    """Replaces the API's socket."""

    metrics_error = ""

    def __init__(self, *_: object) -> None:
        pass

    async def execute(self, *_: object) -> None:
        raise AssertionError("no page asks")

    async def close(self) -> None:
        """Cancel requests, and wait for their end."""
        daemon = CURRENT.get()
        for task in list(daemon.requests):
            task.cancel()
        await asyncio.gather(*daemon.requests, return_exceptions=True)


async def sim_monitor_host(update: Any, _opened: Any = None) -> None:
    """Replace netlink: the world reports changes."""
    changed = CURRENT.get().host_changed = asyncio.Event()
    await call_at_changes(update, changed)
