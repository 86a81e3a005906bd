"""One service: its servers, its quorum, its sorry server, and the rows that follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from pylvs.health.events import (
    Event,
    Override,
    QuorumGained,
    QuorumLost,
    ServerDown,
    ServerName,
    SorryServerIn,
    SorryServerOut,
)
from pylvs.health.servers import ServerState
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.errors import NoSuchDestination, NoSuchService
from pylvs.model.wanted import WantedRow, WantedService

# --- quorum ----------------------------------------------------------------------------------------------------------
# When a service has its quorum: pure arithmetic on the weights that are up.


@dataclass(frozen=True, slots=True)
class Quorum:
    """`needed` weight units, give or take `hysteresis` against flapping."""

    needed: int = 1
    hysteresis: int = 0

    @property
    def gained_at(self) -> int:
        """The weight at which a lost quorum is regained."""
        return self.needed + self.hysteresis

    @property
    def lost_below(self) -> int:
        """The weight below which a quorum is lost."""
        return self.needed - self.hysteresis

    def after(self, up: bool, weight: int) -> bool:
        """Whether there is a quorum at `weight`, of the weights of all servers that are up, if there was one or not."""
        return weight >= (self.lost_below if up else self.gained_at)

    def at_start(self, weight: int) -> bool:
        """The same where nothing was before: as keepalived does, a quorum has to be gained first."""
        return self.after(False, weight)


# --- services --------------------------------------------------------------------------------------------------------


class ServiceState:
    """A service's state; its rows are a function of it."""

    __slots__ = (
        "_rows",
        "_rows_sorry",
        "_stale",
        "has_quorum",
        "servers",
        "since",
        "sorry_in",
        "started",
        "suspended",
        "wanted",
        "weight_up",
    )

    def __init__(self, wanted: WantedService, at: float) -> None:
        self.wanted = wanted
        self.servers: dict[DestinationKey, ServerState] = {}
        self.weight_up = 0  # of the servers that are up, together
        self.has_quorum = True
        self.started = False
        self.since = at
        self.suspended = False
        self.sorry_in: DestinationKey | None = None  # as the last event said
        self._rows: tuple[WantedRow, ...] = ()
        self._rows_sorry = False  # whether the sorry server serves in them
        self._stale = True  # whether they must be made anew

    @property
    def quorum(self) -> Quorum:
        """What the configuration asks for."""
        return Quorum(self.wanted.quorum, self.wanted.hysteresis)

    @property
    def sorry(self) -> bool:
        """Whether the sorry server serves."""
        return not self.has_quorum and self.wanted.sorry_server is not None

    def destinations(self) -> tuple[Destination, ...]:
        """What each row of the service should have, in the order of the configuration, the sorry server last."""
        found: dict[DestinationKey, Destination] = {}
        for key, server in self.servers.items():
            server.shown = server.destination(self.sorry)
            if server.shown is not None:
                found[key] = server.shown
        sorry_server = self.wanted.sorry_server
        if sorry_server is not None and self.sorry:
            found[sorry_server.key] = sorry_server  # also where it is one of the real servers
        elif sorry_server is not None and self.wanted.sorry_server_inhibit:
            found.setdefault(sorry_server.key, replace(sorry_server, weight=0))
        return tuple(found.values())

    def rows(self) -> tuple[WantedRow, ...]:
        """One row for each key, all with the same servers; the same objects as before where nothing changed."""
        if self._stale:
            self._stale = False
            destinations = self.destinations()
            rows = tuple(WantedRow(service, destinations) for service in self.wanted.services())
            if rows != self._rows:
                self._rows = rows
        return self._rows

    def changed(self, server: ServerState | None = None) -> bool:
        """Whether the rows changed; of `server` alone if it is given, and with it the quorum perhaps.

        One server's change is found without looking at the others: thousands may fail at once.
        """
        if server is not None and self.sorry == self._rows_sorry:
            shown, server.shown = server.shown, server.destination(self.sorry)
            self._stale |= shown != server.shown
            return shown != server.shown
        before, self._stale, self._rows_sorry = self._rows, True, self.sorry
        return self.rows() is not before

    def prepare(self) -> None:
        """The quorum before anything is known but what the servers presume."""
        self.count(self.servers.values(), anew=True)
        self.has_quorum = self.quorum.at_start(self.weight_up)
        self.changed()

    def count(self, servers: Iterable[ServerState], anew: bool = False) -> None:
        """Bring `weight_up` up to date with these servers; `anew`: with these alone."""
        if anew:
            self.weight_up = 0
        for server in servers:
            weight = server.weight_up()
            self.weight_up += weight if anew else weight - server.counted_weight
            server.counted_weight = weight

    def settle(self, reason: str, at: float) -> Iterator[Event]:
        """Bring the quorum up to date with `weight_up`; what happened. The first time: how it starts."""
        weight = self.weight_up
        had, initial = self.has_quorum, not self.started
        self.started = True
        if not initial:
            self.has_quorum = self.quorum.after(had, weight)
        if initial or had != self.has_quorum:
            self.since = at
            yield self._news(reason, at, initial)
        serving = self.wanted.sorry_server.key if self.sorry and self.wanted.sorry_server else None
        before, self.sorry_in = self.sorry_in, serving
        if before != serving:
            if before is not None:
                yield SorryServerOut(at=at, service=self.wanted.name, reason=reason, server=before)
            if serving is not None:
                yield SorryServerIn(at=at, service=self.wanted.name, reason=reason, server=serving)

    def suspended_with(self, here: frozenset[Address] | None) -> bool:
        """Whether ha_suspend stops the checks where these addresses are the machine's; None: they are not known."""
        if here is None or not self.wanted.ha_suspend:
            return False
        addresses = {key.address for key in self.wanted.keys if not key.mark}
        return bool(addresses) and not addresses & here

    def last_words(self, servers: Iterable[ServerState], whole: bool, reason: str, at: float) -> Iterator[Event]:
        """What is to be told when the time of servers, and with `whole` of the service, is over: who was up is down."""
        name = self.wanted.name
        for server in servers:
            if server.up:
                yield ServerDown(at=at, service=name, server=server.key, reason=reason, ending=True)
        if whole and self.has_quorum:
            wanted = self.wanted
            yield QuorumLost(
                at=at,
                service=name,
                reason=reason,
                weight=self.weight_up,
                quorum=wanted.quorum,
                hysteresis=wanted.hysteresis,
                ending=True,
            )

    def _news(self, reason: str, at: float, initial: bool) -> Event:
        name, wanted, weight = self.wanted.name, self.wanted, self.weight_up
        needed, hysteresis = wanted.quorum, wanted.hysteresis
        if self.has_quorum:
            return QuorumGained(
                at=at, service=name, reason=reason, weight=weight, quorum=needed, hysteresis=hysteresis, initial=initial
            )
        return QuorumLost(
            at=at,
            service=name,
            reason=reason,
            weight=weight,
            quorum=needed,
            hysteresis=hysteresis,
            initial=initial,
            silent=initial and wanted.sorry_server is None,
        )


# --- roster ----------------------------------------------------------------------------------------------------------
# The services of a configuration by their names, and how an operator's words find their servers.


class ServiceRegistry:
    """Services in the order of the configuration."""

    def __init__(self, services: Mapping[str, ServiceState]) -> None:
        self.services = services

    def __iter__(self) -> Iterator[ServiceState]:
        return iter(self.services.values())

    def service(self, name: str) -> ServiceState:
        """Raises NoSuchService."""
        if name not in self.services:
            raise NoSuchService(f"{name}: no such service in the configuration")
        return self.services[name]

    def servers(self) -> Iterator[ServerState]:
        """Of all services."""
        for service in self:
            yield from service.servers.values()

    def named(self, server: DestinationKey | Address | None, service: str | None) -> tuple[ServerState, ...]:
        """The servers that these words mean. Raises NoSuchService, NoSuchDestination."""
        services = tuple(self) if service is None else (self.service(service),)
        found = tuple(
            state
            for each in services
            for key, state in each.servers.items()
            if server is None or key == server or key.address == server
        )
        if not found and server is not None:
            where = "any service" if service is None else f"service {service}"
            raise NoSuchDestination(f"{server}: no such real server in {where} of the configuration")
        return found

    def has(self, server: ServerState) -> bool:
        """Whether it is still one of them."""
        service = self.services.get(server.service)
        return service is not None and service.servers.get(server.key) is server

    def overrides(self) -> dict[ServerName, Override]:
        """Everything that the operator said and did not take back."""
        return {server.name: server.override for server in self.servers() if server.override}

    def restore(self, overrides: Mapping[ServerName, Override]) -> tuple[ServerName, ...]:
        """Say again what was said before the start; those whom it still concerns."""
        known = []
        for (service, key), override in overrides.items():
            server = self.services[service].servers.get(key) if service in self.services else None
            if server is not None:
                server.override = override
                server.told_weight = server.weight()
                known.append(server.name)
        for service in {service for service, _ in known}:
            self.services[service].prepare()
        return tuple(known)
