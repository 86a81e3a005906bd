"""An independent model of the health engine: from outcomes of probes to the desired state.

The engine changes states at events. This model derives all states anew from the last result of each check. At a start
it copies the state that the engine adopted from the table, and otherwise nothing of the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pylvs.health.events import NO_OVERRIDE, Override, Standing
from pylvs.health.probes import Outcome
from pylvs.model.addresses import Address
from pylvs.model.checks import AgentCheck, Check, HttpCheck, MiscCheck, goes_via_vip
from pylvs.model.dataclass import replace
from pylvs.model.service import MAX_WEIGHT, Destination, DestinationKey, ServiceKey, VirtualService
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from tests.unit.daemon.simulation.configurations import number_of

Rows = dict[ServiceKey, tuple[VirtualService, dict[DestinationKey, Destination]]]
Window = tuple[float, float]  # in which the next probe must begin


def brings_weight(check: Check) -> bool:
    """Return whether outcomes may set a weight."""
    return isinstance(check, AgentCheck) or (isinstance(check, MiscCheck) and check.dynamic)


@dataclass(eq=False)
class CheckModel:
    """One check, which several servers may share."""

    check: Check
    at_start: bool  # begun with the daemon: its first failure needs no retry
    good: bool | None = None
    failures: int = 0
    successes: int = 0
    weight: int | None = None
    servers: list[ServerModel] = field(default_factory=list)
    window: Window | None = None
    running: bool = False
    begun: float = 0.0  # the last probe
    suspended: bool = False

    def take(self, outcome: Outcome) -> float:
        """Apply an outcome; return the seconds until the next probe."""
        pace = self.check.pace
        if outcome.inconclusive:
            return pace.delay_loop_s
        if outcome.ok:
            self.failures, self.successes = 0, self.successes + 1
            pages = 1
            if isinstance(self.check, HttpCheck) and not self.check.fast_recovery:
                pages = len(self.check.urls) + (self.good is False)
            if (self.good is None and not pace.alpha) or self.good or self.successes >= pages:
                self.good, self.weight = True, outcome.weight
            return pace.delay_loop_s
        self.failures, self.successes = self.failures + 1, 0
        allowed = 0 if self.good is None and self.at_start else pace.retry
        if self.good is not False and self.failures <= allowed:
            return pace.delay_before_retry_s
        self.good, self.weight = False, None
        return pace.delay_loop_s


@dataclass(eq=False)
class ServerModel:
    """One real server of one service."""

    service: int
    wanted: WantedServer
    checks: list[tuple[CheckModel, bool]] = field(default_factory=list)  # with what holds until the first outcome
    override: Override = NO_OVERRIDE
    held: int | None = None

    @property
    def key(self) -> DestinationKey:
        return self.wanted.destination.key

    @property
    def up(self) -> bool:
        """Return whether all checks are good."""
        return False not in [presumed if check.good is None else check.good for check, presumed in self.checks]

    @property
    def checked_weight(self) -> int:
        """Return the weight by configuration and checks."""
        configured = self.wanted.destination.weight
        weight = configured
        for check, _ in self.checks:
            if check.weight is not None:
                weight += check.weight - configured
            elif self.held is not None and check.good is None and brings_weight(check.check):
                return self.held
        return max(0, min(MAX_WEIGHT, weight))

    @property
    def weight(self) -> int:
        """Return the weight with the operator's override."""
        if self.override.standing is not Standing.ENABLED:
            return 0
        return self.checked_weight if self.override.weight is None else self.override.weight

    def destination(self, sorry: bool) -> Destination | None:
        """Return the desired row, or None."""
        if self.override.standing is Standing.DISABLED:
            return None
        serves = self.up and (not sorry or self.override.standing is Standing.DRAINED)
        if not serves and not self.wanted.inhibit_on_failure:
            return None
        weight, configured = self.weight if serves else 0, self.wanted.destination
        return configured if weight == configured.weight else replace(configured, weight=weight)


@dataclass(eq=False)
class ServiceModel:
    """The expected state of a virtual service: servers, quorum, suspension."""

    wanted: WantedService
    servers: dict[DestinationKey, ServerModel] = field(default_factory=dict)
    has_quorum: bool = False
    suspended: bool = False

    @property
    def number(self) -> int:
        return number_of(self.wanted.name)

    @property
    def weight_up(self) -> int:
        """Return the weight of the servers that are up."""
        return sum([each.weight for each in self.servers.values() if each.up])

    def judge(self, had: bool) -> None:
        """Update the quorum."""
        bound = self.wanted.quorum + (-self.wanted.hysteresis if had else self.wanted.hysteresis)
        self.has_quorum = self.weight_up > 0 and self.weight_up >= bound

    @property
    def sorry(self) -> bool:
        """Whether the sorry server gets the connections."""
        return not self.has_quorum and self.wanted.sorry_server is not None

    def destinations(self) -> dict[DestinationKey, Destination]:
        """Return the desired rows of the servers."""
        serving = self.sorry
        found = {key: row for key, each in self.servers.items() if (row := each.destination(serving)) is not None}
        sorry = self.wanted.sorry_server
        if sorry is not None and serving:
            found[sorry.key] = sorry
        elif sorry is not None and self.wanted.sorry_server_inhibit and sorry.key not in found:
            found[sorry.key] = replace(sorry, weight=0)
        return found


def by_the_services_port(key: ServiceKey, found: Mapping[DestinationKey, Destination]) -> Any:
    """Return destinations of DR as the table has them: with the port of the service, 0 of a mark."""
    ports = {name: DestinationKey(name.address, key.port) for name in found}
    return {ports[name]: replace(each, key=ports[name]) for name, each in found.items()}


class HealthModel:
    """All services of one daemon."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.started = False
        self.services: dict[int, ServiceModel] = {}
        self._shared: dict[Any, CheckModel] = {}
        self._alive: set[CheckModel] = set()  # before this reload
        self._here: frozenset[Address] | None = None
        self.new_services: set[int] = set()  # since the last check
        self.new_servers: set[tuple[int, DestinationKey]] = set()

    def checks(self) -> Iterator[CheckModel]:
        """Return each check once."""
        return iter({check: None for each in self.servers() for check, _ in each.checks})

    def servers(self) -> Iterator[ServerModel]:
        """Return the servers of all services."""
        for service in self.services.values():
            yield from service.servers.values()

    def desired(self) -> Rows:
        """Return the desired table."""
        return {
            row.key: (row, by_the_services_port(row.key, service.destinations()))
            for service in self.services.values()
            for row in service.wanted.services()
        }

    # --- what happens ---

    def replace(self, configuration: Configuration) -> None:
        """Replace the configuration."""
        self._alive = set(self.checks())
        before, self.services = self.services, {}
        old_by_name = {each.wanted.name: each for each in before.values()}
        kept: set[int] = set()
        names = {each.name for each in configuration.services}
        for wanted in configuration.services:
            old = old_by_name.get(wanted.name)
            if old is None:  # the former one with a key of this one, if it has another name now
                same = (each for each in before.values() if set(each.wanted.keys) & set(wanted.keys))
                old = next((each for each in same if each.wanted.name not in names), None)
            service = ServiceModel(wanted) if old is None else old
            number = number_of(wanted.name)
            self.services[number] = service
            if old is None:
                self.new_services.add(number)
            else:
                kept.add(id(old))
                if old.wanted == wanted:
                    continue
            self._fill(service, wanted)
            service.judge(old is not None and service.has_quorum)
        for gone in before.values():
            if id(gone) not in kept:
                self._end(gone.servers.values())
        self._suspend()

    def _fill(self, service: ServiceModel, wanted: WantedService) -> None:
        before, service.servers = service.servers, {}
        service.wanted = wanted
        for server in wanted.servers:
            key = server.destination.key
            old = before.pop(key, None)
            service.servers[key] = self._server(service, server, old)
            if old is None:
                self.new_servers.add((service.number, key))
        self._end(before.values())

    def _server(self, service: ServiceModel, wanted: WantedServer, old: ServerModel | None) -> ServerModel:
        server = ServerModel(service.number, wanted) if old is None else old
        was_up, weight, links = server.up, server.checked_weight, server.checks
        same = server.wanted.destination == wanted.destination
        stay = [check for check, _ in links if check.check in wanted.checks]
        same |= any(check.weight is not None for check in stay)  # what a check has set stays
        same |= server.held is not None and any(each.good is None and brings_weight(each.check) for each in stay)
        server.service, server.wanted, server.checks = service.number, wanted, []
        if not same:
            server.held = None
        for check in wanted.checks:
            shared = self._shared_key(check, service.wanted.virtualhost, wanted)
            known = [link for link in links if link[0].check == check and self._is(link[0], shared)]
            if known:
                links.remove(known[0])
                server.checks.append(known[0])
                continue
            model = self._check(check, shared)
            model.servers.append(server)
            server.checks.append((model, not check.pace.alpha if old is None else was_up))
            if old is not None and same and brings_weight(check):
                server.held = weight
        for model, _ in links:
            model.servers.remove(server)
        return server

    def _is(self, model: CheckModel, shared: Any) -> bool:
        return (self._shared.get(shared) is model) if shared else model not in self._shared.values()

    def _check(self, check: Check, shared: Any) -> CheckModel:
        known = self._shared.get(shared) if shared else None
        if known is not None and (known.servers or known in self._alive):
            return known  # also if the same reload removes the server that had it
        model = CheckModel(check, at_start=not self.started)
        if self.started:
            model.window = self._now(), self._now() + check.pace.warmup_s
        if shared:
            self._shared[shared] = model
        return model

    @staticmethod
    def _shared_key(check: Check, virtualhost: str, wanted: WantedServer) -> Any:
        if not check.pace.shared or goes_via_vip(check):
            return None
        destination = wanted.destination
        asked_for = virtualhost if isinstance(check, HttpCheck) and not check.virtualhost else ""
        return destination.key.address, check, asked_for, destination.weight if brings_weight(check) else None

    @staticmethod
    def _end(servers: Iterable[ServerModel]) -> None:
        for server in servers:
            for check, _ in server.checks:
                check.servers.remove(server)

    def start(self) -> None:
        """Run checks from now on."""
        self.started = True
        for check in self.checks():
            check.window = self._now(), self._now() + check.check.pace.warmup_s
        self._suspend()

    def addresses_here(self, here: Iterable[Address]) -> None:
        """Set the host's addresses."""
        self._here = frozenset(here)
        self._suspend()

    def _suspend(self) -> None:
        for service in self.services.values():
            own = {key.address for key in service.wanted.keys if not key.mark}
            ha = service.wanted.ha_suspend and self._here is not None and bool(own)
            service.suspended = ha and not own & (self._here or frozenset())
        for check in self.checks():
            suspended = all(self.services[each.service].suspended for each in check.servers)
            if suspended == check.suspended:
                continue
            check.suspended = suspended
            check.window = None
            if not suspended and not check.running:
                check.window = self._now(), self._now() + check.check.pace.warmup_s

    def override(self, number: int, key: DestinationKey, change: Callable[[Override], Override]) -> None:
        """Set the operator's override."""
        server = self.services[number].servers[key]
        server.override = change(server.override)
        self._moved(self.services[number])

    def find(self, number: int, virtualhost: str, wanted: WantedServer, check: Check) -> CheckModel | None:
        """Return the check of a probe that was made for this server; another service may have it now, if it is shared.

        The service may have the server again, with another weight: then it has a check of its own.
        """
        service = self.services.get(number)
        shared = self._shared_key(check, virtualhost, wanted)
        if shared:
            model = self._shared.get(shared)
            return model if model and model.servers else None
        server = service.servers.get(wanted.destination.key) if service else None
        return next((model for model, _ in server.checks if model.check == check), None) if server else None

    def outcome(self, check: CheckModel, outcome: Outcome) -> float:
        """Apply the outcome of a probe; return the seconds until the next."""
        before = check.good, check.weight
        delay_s = check.take(outcome)
        check.running = False
        if not check.suspended:
            begin = check.begun if isinstance(check.check, MiscCheck) else self._now()
            due = max(begin + delay_s, self._now())
            check.window = due, due
        if before != (check.good, check.weight):
            for number in dict.fromkeys(each.service for each in check.servers):
                self._moved(self.services[number])
        return delay_s

    def _moved(self, service: ServiceModel) -> None:
        service.judge(service.has_quorum)
