"""Reading the tables: services with their destinations and counters, and the connection table.

Readers take no lock. They read again when an edit came between (`live` has changed).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from pylvs.dataplane import abi, encode, load
from pylvs.dataplane.tables import Tables
from pylvs.dataplane.versions import Versions
from pylvs.model.connection import SCTP_STATES, TCP_STATES, Connection
from pylvs.model.director import DestinationRow, ServiceRow
from pylvs.model.service import Protocol
from pylvs.model.statistics import Counters, Rates

_READS = 50  # of a table that keeps changing
_MASK64 = (1 << 64) - 1
NO_COUNTS = (0,) * 5
NO_COUNTERS, NO_RATES = Counters(), Rates()
_KEY = {version: struct.Struct(f"!{width}s{width}sHHBB2x") for version, width in ((4, 4), (6, 16))}  # tuple4, tuple6
_TARGET = 1  # in what it gives
_NO_TARGET = bytes(4)
_PLACES = 1024  # of the table of IPv4 connections that are read at once
_SHOWN = ("address", "active", "inactive", "persistent", "port", "family")
_MEMBER = ("destination", "weight", "upper", "lower", "method", "tunnel")
Result = TypeVar("Result")


class Statistics:
    """Counters since the last `-Z`: what packets counted, less the base noted then."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._fields = tuple(abi.struct("counters").fields)
        self._form = abi.struct("counters").view(*self._fields)
        self._averages = abi.struct("estimate").view("averages")
        self._all: list[tuple[int, ...]] = []

    @contextmanager
    def read_at_once(self, slots: int) -> Iterator[None]:
        """Within this, the counters of the first so many slots are those of now, read in few calls."""
        width = len(self._fields)
        if self._stand_still():
            self._all = [self._last(slot) for slot in range(slots)]
        elif slots:
            self._all = [counted[:width] for counted in self._tables.statistics.all_sums(slots)]
        try:
            yield
        finally:
            self._all = []

    def _stand_still(self) -> bool:
        """Whether run_estimation is 0: what is shown is what the estimator saw last (IPVS-SEMANTICS 9.2)."""
        return not self._tables.root.get(0, "settings.run_estimation")

    def _last(self, slot: int) -> tuple[int, ...]:
        return tuple(self._tables.estimates.get(slot, "last"))

    def counted(self, slot: int) -> tuple[int, ...]:
        """All that packets ever counted for a destination's slot, as it is shown."""
        if slot < len(self._all):
            return self._all[slot]
        if self._stand_still():
            return self._last(slot)
        return self._tables.statistics.sums(slot)[: len(self._fields)]

    def destination(self, slot: int) -> Counters:
        """A destination's counters."""
        return self._less(self.counted(slot), self._tables.destination_bases.array, slot)

    def service(self, slot: int, destinations: list[int]) -> Counters:
        """A service's counters: those of all its destinations, deleted ones among them."""
        counted = [each for each in map(self.counted, destinations) if any(each)]
        total = tuple(map(sum, zip(*counted, strict=True))) or NO_COUNTS
        return self._less(total, self._tables.service_bases.array, slot)

    def _less(self, counted: tuple[int, ...], bases: Any, slot: int) -> Counters:
        base = self._form.unpack_from(bases.memory, slot * bases.stride)
        if base == counted:
            return NO_COUNTERS
        return Counters(*[one - other & _MASK64 for one, other in zip(counted, base, strict=True)])

    def set_base(self, bases: Any, slot: int, values: tuple[int, ...]) -> None:
        """Note from where a destination's or a service's counters begin."""
        self._form.pack_into(bases.array.memory, slot * bases.array.stride, *[value & _MASK64 for value in values])

    def begin(self, slot: int, counted: tuple[int, ...]) -> None:
        """A destination's counters and rates begin at 0, now that so much was counted."""
        self.set_base(self._tables.destination_bases, slot, counted)
        self._tables.estimates.write(slot, {"averages": NO_COUNTS, "last": counted})

    def rates(self, destinations: Iterable[int]) -> Rates:
        """Events per second of destinations together, rounded as the kernel shows them (IPVS-SEMANTICS 9.3)."""
        estimates, averages = self._tables.estimates.array, self._averages.unpack_from
        read = (averages(estimates.memory, slot * estimates.stride) for slot in destinations)
        busy = [each for each in read if any(each)]
        if not busy:
            return NO_RATES
        total = list(map(sum, zip(*busy, strict=True)))
        if not any(total):
            return NO_RATES
        events = [each + 511 >> 10 for each in total[:3]]
        return Rates(*events, *(each + 15 >> 5 for each in total[3:]))

    def base(self, bases: Any, slot: int) -> tuple[int, ...]:
        """Where they begin."""
        return self._form.unpack_from(bases.array.memory, slot * bases.array.stride)


class Reader:
    """What listings need of one state."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.versions = Versions(tables)
        self.statistics = Statistics(tables)
        self._member = abi.struct("member").view(*_MEMBER)
        self._shown = abi.struct("destination").view(*_SHOWN)

    def steadily(self, read: Callable[[int], Result]) -> Result:
        """What `read` finds in one generation: it is called again when an edit came between."""
        for _ in range(_READS):
            live = self.versions.live
            found = read(live)
            if self.versions.live == live:
                return found
        return found

    def service_slots(self, live: int) -> list[tuple[int, dict[str, Any]]]:
        """Slots and versions of all services."""
        found = []
        for version in 4, 6:
            for keys, values, count in self.tables.service_keys(version).chunks():
                del keys
                for (slot,) in struct.iter_unpack("<I", values[: 4 * count]):
                    fields = self.versions.version(slot, live)
                    if fields["present"] and fields["family"] == version:
                        found.append((slot, fields))
        return found

    def rows(self) -> list[ServiceRow]:
        """All services."""

        def read(live: int) -> list[ServiceRow]:
            owned = self._owned()
            with self.statistics.read_at_once(self.tables.book.get(0, "destination_top")):
                return [
                    self._row(slot, fields, owned.get((slot, fields["birth"]), []))
                    for slot, fields in self.service_slots(live)
                ]

        return self.steadily(read)

    def row(self, slot: int) -> ServiceRow:
        """One service."""

        def read(live: int) -> ServiceRow:
            version = self.versions.version(slot, live)
            return self._row(slot, version, self.owned(slot, version))

        return self.steadily(read)

    def owned(self, slot: int, version: dict[str, Any]) -> list[int]:
        """The destinations that count for a service, deleted ones among them."""
        return self._owned().get((slot, version["birth"]), [])

    def _owned(self) -> dict[tuple[int, int], list[int]]:
        """By slot and birth: deleted destinations outlive their service, whose slot may have another one by then."""
        destinations = self.tables.destinations
        form = abi.struct("destination").view("used", "service", "service_birth")
        top = self.tables.book.get(0, "destination_top")
        found: dict[tuple[int, int], list[int]] = {}
        memory = destinations.array.memory[: top * destinations.array.stride]
        for slot, (used, service, birth) in enumerate(form.iter_unpack(memory)):
            if used:
                found.setdefault((service, birth), []).append(slot)
        return found

    def members(self, version: dict[str, Any]) -> Iterator[tuple[int, int, int, int, int, int]]:
        """Slots of a service's destinations in list order, each with weight, upper, lower, method, tunnel."""
        array = self.tables.members
        start = version["list"] * array.stride
        members = array.memory[start : start + version["count"] * array.stride]
        return cast("Iterator[tuple[int, int, int, int, int, int]]", self._member.iter_unpack(members))

    def _row(self, slot: int, version: dict[str, Any], owned: list[int]) -> ServiceRow:
        rows, statistics = [], self.statistics
        table, shown = self.tables.destinations.array, self._shown.unpack_from
        for place, *member in self.members(version):
            address, active, inactive, persistent, port, family = shown(table.memory, place * table.stride)
            destination = encode.destination_of(address, family, port, *member)
            counters, rates = statistics.destination(place), statistics.rates((place,))
            rows.append(DestinationRow(destination, active, inactive, persistent, counters, rates))
        counters, rates = statistics.service(slot, owned), statistics.rates(owned)
        return ServiceRow(encode.service_of(version), tuple(rows), counters, rates)


class ConnectionReader:
    """The connection table as a listing shows it."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._second = load.ticks_per_second()
        self._plain = abi.constant("TUPLE_CONNECTION")
        self._masq = abi.constant("METHOD_MASQ")
        self._bypass = abi.constant("METHOD_BYPASS")
        self._before_sctp = abi.constant("STATE_SCTP_INIT1") - 1
        codec = abi.struct("connection")
        self._form = codec.view("word", "slot", "destination", "port:2s", "method")

    def clock(self) -> int:
        """The packet path's clock, in ticks."""
        return load.clock(self._tables.state)

    def connections(self) -> Iterator[Connection]:
        """Every entry, in no particular order, a batch at a time."""
        yield from self._connections4()
        yield from self._connections6()

    def _connections4(self) -> Iterator[Connection]:
        """Of IPv4: the places of the table that somebody has."""
        table, codec = self._tables.connections4, abi.struct("place4")
        at_tuple, at_connection, at_control = (codec.fields[name].offset for name in ("tuple", "connection", "control"))
        taken_at = (at_connection + abi.struct("connection").fields["slot"].offset) // 4
        assured_at = at_control + abi.struct("control").fields["assured"].offset
        batch = _PLACES * table.stride
        nobody = bytes(batch)
        for start in range(0, len(table.memory), batch):
            block = bytes(table.memory[start : start + batch])
            if block == nobody:
                continue
            now = self.clock()
            for place, slot in enumerate(memoryview(block).cast("I")[taken_at :: table.stride // 4].tolist()):
                if not slot:
                    continue
                base = place * table.stride
                key = _KEY[4].unpack_from(block, base + at_tuple)
                if key[_TARGET] != _NO_TARGET:  # else it is just being filled
                    word, _, *rest = self._form.unpack_from(block, base + at_connection)
                    yield self._connection(4, key, word, rest, block[base + assured_at], now)

    def _connections6(self) -> Iterator[Connection]:
        """Of IPv6: NAT's have their word, and templates what became of them, in arrays."""
        form, controls = _KEY[6], self._tables.controls6
        first = load.places(self._tables.pool.get(0, "capacity"))
        for keys, values, count in self._tables.connections6.chunks():
            now = self.clock()
            pairs = zip(
                form.iter_unpack(keys[: count * form.size]),
                self._form.iter_unpack(values[: count * self._form.size]),
                strict=True,
            )
            for key, (word, slot, *rest) in pairs:
                if rest[-1] == self._masq:
                    word = self._tables.words6.words[slot - first]
                yield self._connection(6, key, word, rest, controls.get(slot - first, "assured"), now)

    def _connection(
        self, version: int, key: tuple[Any, ...], word: int, rest: Sequence[Any], assured: int, now: int
    ) -> Connection:
        source, target, source_port, target_port, protocol, kind = key
        destination, port, method = rest
        state = word >> abi.constant("WORD_STATE") & 0xFF
        left = (word & 0xFFFFFFFF) - now & 0xFFFFFFFF
        if left >= 1 << 31:
            left = 0  # due, and about to go
        template = "ASSURED" if assured else "NONE"
        name = self._state_name(protocol, state) if kind == self._plain else template
        family, real = version, bytes(encode.ADDRESS_BYTES)
        if method != self._bypass:  # which has no destination
            fields = self._tables.destinations
            family, real = fields.get(destination, "family") or version, fields.get(destination, "address")
        return Connection(
            protocol,
            name,
            int(left / self._second),
            encode.address_of(source, version),
            source_port,
            encode.address_of(target, version),
            target_port,
            encode.address_of(real, family),
            int.from_bytes(port, "big"),
        )

    def _state_name(self, protocol: int, state: int) -> str:
        if protocol == Protocol.UDP:
            return "UDP"
        if protocol == Protocol.SCTP:
            return SCTP_STATES[max(state - self._before_sctp, 0)]
        return TCP_STATES[state] if state < len(TCP_STATES) else "NONE"
