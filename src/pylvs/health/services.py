"""One service: its servers, its quorum, its sorry server, and the rows that follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pylvs.health.events import Event, QuorumGained, QuorumLost, ServerDown, SorryServerIn, SorryServerOut
from pylvs.health.quorum import Quorum
from pylvs.health.servers import ServerState
from pylvs.model.addresses import Address
from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.wanted import WantedRow, WantedService


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
