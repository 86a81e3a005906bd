"""The state of one service: servers, quorum, sorry server, desired rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pylvs.health.events import (
    Event,
    QuorumGained,
    QuorumLost,
    ServerDown,
    SorryServerIn,
    SorryServerOut,
    Standing,
)
from pylvs.health.servers import ServerState
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.rows import ServiceRow
from pylvs.model.service import Destination, DestinationKey
from pylvs.model.wanted import WantedRow, WantedService


@dataclass(frozen=True, slots=True)
class Quorum:
    """The weight that a service needs, with hysteresis against flapping."""

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

    def after(self, had: bool, weight: int) -> bool:
        """Return whether there is a quorum at this weight; `had`: there was one before."""
        return weight >= (self.lost_below if had else self.gained_at)


@dataclass(slots=True, eq=False)
class ServiceState:
    """The state of a service; its rows are a function of it."""

    wanted: WantedService
    since: float
    servers: dict[DestinationKey, ServerState] = field(default_factory=dict)
    weight_up: int = 0  # sum over the servers that are up
    has_quorum: bool = True
    started: bool = False
    suspended: bool = False
    sorry_announced: DestinationKey | None = None  # the sorry server by the last event
    _rows: tuple[WantedRow, ...] = ()
    _rows_sorry: bool = False  # `sorry` when the rows were made
    _stale: bool = True  # the rows must be made again

    @property
    def quorum(self) -> Quorum:
        return Quorum(self.wanted.quorum, self.wanted.hysteresis)

    @property
    def sorry(self) -> bool:
        """Whether the sorry server gets the connections."""
        return not self.has_quorum and self.wanted.sorry_server is not None

    def destinations(self) -> tuple[Destination, ...]:
        """Return the desired destinations in the order of the configuration, the sorry server last."""
        found: dict[DestinationKey, Destination] = {}
        for key, server in self.servers.items():
            server.row_destination = server.destination(self.sorry)
            if server.row_destination is not None:
                found[key] = server.row_destination
        sorry_server = self.wanted.sorry_server
        if sorry_server is not None and self.sorry:
            found[sorry_server.key] = sorry_server  # also if it is one of the real servers
        elif sorry_server is not None and self.wanted.sorry_server_inhibit:
            found.setdefault(sorry_server.key, replace(sorry_server, weight=0))
        return tuple(found.values())

    def rows(self) -> tuple[WantedRow, ...]:
        """Return a row for each key, all with the same destinations. Unchanged rows are the same objects as before."""
        if self._stale:
            self._stale = False
            destinations = self.destinations()
            rows = tuple(WantedRow(service, destinations) for service in self.wanted.services())
            if rows != self._rows:
                self._rows = rows
        return self._rows

    def rows_changed(self, server: ServerState | None = None) -> bool:
        """Return whether the rows changed; with `server` only its state, and perhaps the quorum, may have changed.

        For one server the others are not looked at: thousands may fail at once.
        """
        if server is not None and self.sorry == self._rows_sorry:
            before, server.row_destination = server.row_destination, server.destination(self.sorry)
            self._stale |= before != server.row_destination
            return before != server.row_destination
        rows, self._stale, self._rows_sorry = self._rows, True, self.sorry
        return self.rows() is not rows

    def presume_quorum(self) -> None:
        """Set the quorum by what the servers presume, before the first outcome."""
        self.count(self.servers.values(), reset=True)
        self.has_quorum = self.quorum.after(False, self.weight_up)  # as in keepalived it must be gained
        self.rows_changed()

    def adopt(self, row: ServiceRow) -> None:
        """Presume the state of each checked server by the row of the table, and the quorum by the sorry server."""
        found = {each.destination.key: each.destination for each in row.destinations}
        for key, server in self.servers.items():
            # A disabled server is absent, healthy or not.
            if server.links and server.override.standing is not Standing.DISABLED:
                server.adopt(found.get(key))
        self.presume_quorum()
        sorry_server = self.wanted.sorry_server
        in_use = sorry_server is not None and sorry_server.key in found and sorry_server.key not in self.servers
        serving = in_use and sorry_server is not None and found[sorry_server.key].weight > 0
        if serving and any(server.links for server in self.servers.values()):
            self.has_quorum = False  # until the first outcome
        else:
            self.has_quorum = self.quorum.after(not serving, self.weight_up)
        self.rows_changed()

    def count(self, servers: Iterable[ServerState], reset: bool = False) -> None:
        """Update `weight_up` after changes of these servers; with `reset`, these are all."""
        if reset:
            self.weight_up = 0
        for server in servers:
            weight = server.weight() if server.up else 0
            self.weight_up += weight if reset else weight - server.counted_weight
            server.counted_weight = weight

    def update_quorum(self, reason: str, at: float) -> Iterator[Event]:
        """Update the quorum after a change of `weight_up`, and yield events. The first call reports the start."""
        weight = self.weight_up
        had, initial = self.has_quorum, not self.started
        self.started = True
        if not initial:
            self.has_quorum = self.quorum.after(had, weight)
        if initial or had != self.has_quorum:
            self.since = at
            if self.has_quorum:
                yield self._quorum_event(QuorumGained, reason, at, initial=initial)
            else:
                silent = initial and self.wanted.sorry_server is None
                yield self._quorum_event(QuorumLost, reason, at, initial=initial, silent=silent)
        sorry = self.wanted.sorry_server.key if self.sorry and self.wanted.sorry_server else None
        before, self.sorry_announced = self.sorry_announced, sorry
        if before != sorry:
            if before is not None:
                yield SorryServerOut(at=at, service=self.wanted.name, reason=reason, server=before)
            if sorry is not None:
                yield SorryServerIn(at=at, service=self.wanted.name, reason=reason, server=sorry)

    def suspended_with(self, addresses: frozenset[Address] | None) -> bool:
        """Return whether ha_suspend stops the checks on a host with these addresses; None: they are unknown."""
        if addresses is None or not self.wanted.ha_suspend:
            return False
        own = {key.address for key in self.wanted.keys if not key.mark}
        return bool(own) and not own & addresses

    def end_events(self, servers: Iterable[ServerState], whole: bool, reason: str, at: float) -> Iterator[Event]:
        """Yield the events for the end of servers, and with `whole` of the service: what was up is down."""
        for server in servers:
            if server.up:
                yield server.event(ServerDown, reason, at, ending=True)
        if whole and self.has_quorum:
            yield self._quorum_event(QuorumLost, reason, at, ending=True)

    def _quorum_event(self, kind: type[QuorumGained | QuorumLost], reason: str, at: float, **flags: bool) -> Event:
        wanted = self.wanted
        return kind(
            at=at,
            service=wanted.name,
            reason=reason,
            weight=self.weight_up,
            quorum=wanted.quorum,
            hysteresis=wanted.hysteresis,
            **flags,
        )
