"""A Director and VRRP roles in memory.

The Director's tables are Python objects: no packets, but IPVS's rules for edits (IPVS-SEMANTICS 1).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.model.addresses import Address
from pylvs.model.client_rules import ClientRule, checked
from pylvs.model.dataclass import dataclass, field
from pylvs.model.director import Connection, Deleted, InMemory, Trash
from pylvs.model.errors import (
    DestinationExists,
    InvalidOperation,
    NoSuchDestination,
    NoSuchService,
    PylvsError,
    ServiceExists,
)
from pylvs.model.rows import Counters, DestinationRow, DeviceProblem, Handshakes, PacketCounts, Rates, ServiceRow
from pylvs.model.service import (
    KNOWN_ENGINES,
    Destination,
    DestinationKey,
    Method,
    ServiceKey,
    Timeouts,
    VirtualService,
    check_destination,
    check_service,
)

_NONE: frozenset[Address] = frozenset()


def _is_referred(row: DestinationRow) -> bool:
    """Return whether connections or templates refer to a destination."""
    return bool(row.active or row.inactive or row.persistent)


@dataclass(slots=True)
class _Entry:
    """A service with its destinations, the newest last; a service that was added again has another `identity`."""

    service: VirtualService
    identity: int
    rows: dict[DestinationKey, DestinationRow] = field(default_factory=dict)
    counters: Counters = Counters()
    rates: Rates = Rates()
    client_rules: tuple[ClientRule, ...] = ()


class MemoryDirector(InMemory):
    """The tables in memory. `put_connections`, `count` and `count_service` stand for packets.

    `broadcasts` are the broadcast addresses of the simulated host, `local` its own IPv6 addresses.
    """

    def __init__(
        self,
        *,
        schedulers: Collection[str] = SCHEDULERS,
        engines: Collection[str] = KNOWN_ENGINES,
        broadcasts: Iterable[Address] = (),
        local: Iterable[Address] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._schedulers = tuple(schedulers)
        self._engines = tuple(engines)
        self._broadcasts = frozenset(broadcasts)
        self._local = frozenset(local)
        self._clock = clock
        self._identities = 0
        self._edition = 1
        self._entries: dict[ServiceKey, _Entry] = {}
        self._trash: Trash[DestinationRow] = Trash(_is_referred)
        self._connections: tuple[Connection, ...] = ()
        self.shaken: dict[tuple[ServiceKey, DestinationKey], Handshakes] = {}
        self.read_handshakes = False

    def add_service(self, service: VirtualService) -> None:
        """Raises ServiceExists, NoSuchScheduler, InvalidOperation."""
        if service.key in self._entries:
            raise ServiceExists(f"{service.key} is there already")
        check_service(service, self._schedulers, self._engines)
        self._identities += 1
        self._edition += 1
        self._entries[service.key] = _Entry(service, self._identities)

    def edit_service(self, service: VirtualService) -> None:
        """Replace all but the key. Raises NoSuchService, NoSuchScheduler, InvalidOperation."""
        entry = self._entry(service.key)
        check_service(service, self._schedulers, self._engines)
        entry.service = service
        self._edition += 1

    def client_rules(self) -> Mapping[ServiceKey, tuple[ClientRule, ...]]:
        """Return the client rules of the services that have any."""
        return {key: entry.client_rules for key, entry in self._entries.items() if entry.client_rules}

    def change_client_rules(self, key: ServiceKey, change: Callable[[list[ClientRule]], Sequence[ClientRule]]) -> None:
        """Replace the client rules of a service. Raises NoSuchService, InvalidOperation."""
        entry = self._entry(key)
        entry.client_rules = checked(key, key.address.version, change(list(entry.client_rules)))
        self._edition += 1

    def delete_service(self, key: ServiceKey) -> None:
        """Raises NoSuchService."""
        entry = self._entry(key)
        for row in entry.rows.values():
            self._discard(key, row, entry)
        del self._entries[key]
        self._edition += 1

    def flush(self) -> None:
        for key in list(self._entries):
            self.delete_service(key)

    def zero(self, key: ServiceKey | None = None) -> None:
        """Set the counters of one service, or all, to 0. Raises NoSuchService."""
        for entry in self._entries.values() if key is None else (self._entry(key),):
            entry.counters, entry.rates = Counters(), Rates()
            entry.rows = {name: replace(row, counters=Counters(), rates=Rates()) for name, row in entry.rows.items()}

    def add_destination(self, key: ServiceKey, destination: Destination) -> None:
        """Raises NoSuchService, DestinationExists, OutOfRange, InvalidOperation."""
        entry = self._entry(key)
        check_destination(entry.service, destination, self._broadcasts.__contains__, self._local.__contains__)
        if destination.key in entry.rows:
            raise DestinationExists(f"{key} has {destination.key} already")
        row = DestinationRow(destination)
        self._trash.advance(self._clock())
        deleted = self._trash.take(key, destination.key)
        if deleted is not None:
            row = replace(deleted.destination, destination=destination)
            if deleted.owner != entry.identity:
                row = replace(row, counters=Counters(), rates=Rates())
        entry.rows[destination.key] = row
        self._edition += 1

    def edit_destination(self, key: ServiceKey, destination: Destination) -> None:
        """Replace all but the key. Raises NoSuchService, NoSuchDestination, OutOfRange, InvalidOperation."""
        entry = self._entry(key)
        check_destination(entry.service, destination)
        entry.rows[destination.key] = replace(self._row(entry, destination.key), destination=destination)
        self._edition += 1

    def rename_destination(self, key: ServiceKey, former: DestinationKey, name: DestinationKey) -> None:
        """Raises NoSuchService, NoSuchDestination, DestinationExists, InvalidOperation."""
        entry = self._entry(key)
        row = self._row(entry, former)
        if name.address != former.address or row.destination.method is Method.MASQ:
            raise InvalidOperation(f"{key} -> {former}: only DR and TUN take another port, not {name}", "port")
        if name in entry.rows:
            raise DestinationExists(f"{key} -> {name}: there is such a real server already")
        self._trash.take(key, name)
        renamed = replace(row, destination=replace(row.destination, key=name))
        rows = (renamed if each == former else at for each, at in entry.rows.items())
        entry.rows = {each.destination.key: each for each in rows}
        self._edition += 1

    def delete_destination(self, key: ServiceKey, destination: DestinationKey) -> None:
        """Raises NoSuchService, NoSuchDestination."""
        entry = self._entry(key)
        row = self._row(entry, destination)
        del entry.rows[destination]
        self._discard(key, row, entry)
        self._edition += 1

    def _discard(self, key: ServiceKey, row: DestinationRow, entry: _Entry) -> None:
        self._trash.put(key, row.destination.key, Deleted(row, entry.identity), self._clock())

    def services(self) -> list[ServiceRow]:
        """Return all services, in no particular order."""
        return [_service_row(entry) for entry in self._entries.values()]

    def service(self, key: ServiceKey) -> ServiceRow:
        """Raises NoSuchService."""
        return _service_row(self._entry(key))

    def connections(self) -> Iterator[Connection]:
        """Return what `put_connections` set."""
        return iter(self._connections)

    def device_problems(self) -> Sequence[DeviceProblem]:
        return ()

    def set_timeouts(self, timeouts: Timeouts) -> None:
        super().set_timeouts(timeouts)
        self._edition += 1

    def edition(self) -> int:
        """Return a number that every edit of the tables changes."""
        return self._edition

    def larger_capacity(self) -> int:
        """Return 0: the table has no limit."""
        return 0

    def packet_counts(self) -> PacketCounts:
        """Return zeros: there are no packets."""
        return PacketCounts()

    def handshakes(self) -> Mapping[tuple[ServiceKey, DestinationKey], Handshakes]:
        """Return what `shaken` has: there are no packets."""
        self.read_handshakes = True
        return self.shaken

    def follow_host(self) -> Sequence[str]:
        """There is no host, so no program changes it."""
        return ()

    def put_connections(self, connections: Iterable[Connection]) -> None:
        """Set the connection table."""
        self._connections = tuple(connections)

    def count(
        self,
        key: ServiceKey,
        destination: DestinationKey,
        *,
        active: int = 0,
        inactive: int = 0,
        persistent: int = 0,
        counters: Counters = Counters(),
        rates: Rates = Rates(),
    ) -> None:
        """Set the counts of a destination. Raises NoSuchService, NoSuchDestination."""
        entry = self._entry(key)
        row = self._row(entry, destination)
        entry.rows[destination] = DestinationRow(row.destination, active, inactive, persistent, counters, rates)

    def count_service(self, key: ServiceKey, counters: Counters, rates: Rates = Rates()) -> None:
        """Set the counts of a service. Raises NoSuchService."""
        entry = self._entry(key)
        entry.counters, entry.rates = counters, rates

    def _entry(self, key: ServiceKey) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            raise NoSuchService(f"{key} is not there")
        return entry

    def _row(self, entry: _Entry, key: DestinationKey) -> DestinationRow:
        row = entry.rows.get(key)
        if row is None:
            raise NoSuchDestination(f"{entry.service.key} has no {key}")
        return row


def _service_row(entry: _Entry) -> ServiceRow:
    return ServiceRow(entry.service, tuple(reversed(entry.rows.values())), entry.counters, entry.rates)


class MemoryRoles:
    """`pylvs.model.vrrp.Roles` without a data plane; records every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[frozenset[Address], frozenset[Address]]] = []  # standby and held of each call
        self.error: PylvsError | None = None  # every call raises it, if set

    @property
    def standby(self) -> frozenset[Address]:
        """Return the standby addresses."""
        return self.calls[-1][0] if self.calls else _NONE

    @property
    def held(self) -> frozenset[Address]:
        """Return the addresses whose master is this host."""
        return self.calls[-1][1] if self.calls else _NONE

    def set_standby(self, addresses: frozenset[Address], held: frozenset[Address] = _NONE) -> None:
        """Record the call, or raise `error`."""
        if self.error is not None:
            raise self.error
        self.calls.append((addresses, held - addresses))
