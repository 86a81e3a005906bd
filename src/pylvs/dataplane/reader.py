"""Read the tables for listings: services with their destinations and counters, drop reasons, the cost of expiry.

Readers take no lock: they repeat a read during which `live` changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import inf

from pylvs.bpf import abi, maps
from pylvs.dataplane.tables import Records, Tables, Versions, destination_of, service_of
from pylvs.model.rows import Counters, DestinationRow, Expiry, HookPackets, Rates, ServiceRow, TableUse, TimerRuns

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from pylvs.bpf.abi import Abi

    Result = TypeVar("Result")

_READS = 50  # attempts at a consistent read of a table that keeps changing
_MASK64 = (1 << 64) - 1
ZEROED = "zeroed"  # a note: the totals at the last `-Z` of everything
NO_COUNTS = (0,) * 5
NO_COUNTERS, NO_RATES = Counters(), Rates()
_SHOWN = ("address", "port", "family")
_COUNTS = ("active", "inactive", "persistent")
_MEMBER = ("destination", "weight", "upper", "lower", "method", "tunnel")


def reason_counts(tables: Tables) -> Mapping[str, int]:
    """Return the packet counts by drop reason, zeros included; "table full dropped" is so named in bpf/abi/base.h."""
    return {
        name.removeprefix("REASON_").lower().replace("_", " "): tables.reasons.sums(number)[0]
        for name, number in abi.shipped().enum("reason").items()
        if name not in ("REASONS", "REASON_NONE")  # no reasons
    }


def forwarded(tables: Tables) -> dict[str, HookPackets]:
    """Return the forwarded packets by ingress device, for the devices that there are."""
    from pylvs.netlink import links  # late: other listings do without

    layout, destinations = abi.shipped(), tables.book.get(0, "destination_top")
    packets = forwarded_by_ifindex(layout, tables.device_packets, tables.statistics, destinations)
    names = {device.index: device.name for device in links.devices()}
    return {names[index]: HookPackets(*each) for index, each in packets.items() if index in names}


def forwarded_by_ifindex(
    layout: Abi, device_packets: maps.PerCpuArray, lanes: maps.PerCpuArray, destinations: int
) -> dict[int, list[int]]:
    """Return the forwarded packets by the ifindex of the ingress device, those of XDP and those of TC.

    A destination's counters have packets that are not counted by device yet. XDP forwarded those that `others` lacks,
    and they came by the entrance. TC forwarded those that only `listed` lacks. Raises KeyError for a layout without
    these fields.
    """
    of_device = layout.struct("device_packets").view("ifindex", "forwarded")
    packets = defaultdict[int, list[int]](lambda: [0, 0])
    for index, *by_hook in device_packets.rows(of_device):
        for hook, count in enumerate(by_hook):
            packets[index][hook] += count
    lane = layout.struct("lane").view(
        *("counters.in_packets", "counters.out_packets", "others", "tc_inputs", "entrances", "listed")
    )
    entrance = layout.struct("entrance").view("input")
    for row in lanes.rows(lane, destinations):
        requests, replies, *rest = row
        others, inputs, entrances, listed = rest[:2], rest[2:4], rest[4], rest[5:]
        by_xdp = zip((requests, replies), others, (index for (index,) in entrance.iter_unpack(entrances)), strict=True)
        by_tc = zip(others, listed, inputs, strict=True)
        for hook, each in enumerate((by_xdp, by_tc)):
            for more, less, index in each:
                if more > less:  # a packet may come while the row is read
                    packets[index][hook] += more - less
    return packets


def table_use(tables: Tables) -> TableUse:
    """Return how full the connection table is, without the slots that CPUs reserve."""
    credits = abi.struct("magazine").view("credits")
    with maps.PerCpuArray.open(tables.path("magazines")) as magazines:
        raw = magazines.get(0) or b""
        reserved = sum(credits.unpack_from(raw, at)[0] for at in range(0, len(raw), magazines.stride))
    with maps.PerCpuArray.open(tables.path("half_open_counts")) as counts:
        half_open = counts.sums(0)[0] & _MASK64
    used = max(0, tables.pool.get(0, "used") - reserved)
    return TableUse(tables.pool.get(0, "capacity"), used, 0 if half_open >> 63 else half_open)


def expiry(tables: Tables) -> Expiry:
    """Return the cost of the expiry timer since the programs were loaded."""
    found = tables.timer_runs.read(abi.constant("TIMER_EXPIRY"))
    return Expiry(found["ended"], found["goes"], found["spent_ns"] / 1e9, found["longest_ns"] / 1e9)


def timer_runs(tables: Tables) -> tuple[TimerRuns, ...]:
    """Return the lengths of the runs of each timer since the programs were loaded."""
    names = {number: name for name, number in abi.shipped().enum("timers").items() if name != "TIMERS"}
    first_s = abi.constant("RUN_FIRST_NS") / 1e9
    bounds = (*(first_s * (1 << n) for n in range(abi.constant("RUN_CLASSES") - 1)), inf)
    return tuple(
        TimerRuns(
            names[number].removeprefix("TIMER_").lower(),
            tuple(zip(bounds, found["lengths"], strict=True)),
            found["spent_ns"] / 1e9,
            found["longest_ns"] / 1e9,
        )
        for number in sorted(names)
        for found in (tables.timer_runs.read(number),)
    )


class Statistics:
    """Counters since the last `-Z`: the counts of packets minus the base of that moment."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._fields = tuple(abi.struct("counters").fields)
        self._form = abi.struct("counters").view(*self._fields)
        self._averages = abi.struct("estimate").view("averages")
        self._all: list[tuple[int, ...]] = []

    @contextmanager
    def read_at_once(self, slots: int) -> Iterator[None]:
        """Read the counters of the first `slots` slots in few calls, and use them within the context."""
        width = len(self._fields)
        if self._stand_still():
            self._all = [self._last(slot) for slot in range(slots)]
        elif slots:
            self._all = self._tables.statistics.all_sums(slots, width)
        try:
            yield
        finally:
            self._all = []

    def _stand_still(self) -> bool:
        """Return whether run_estimation is 0: then counters stay at the last estimate (IPVS-SEMANTICS 9.2)."""
        return not self._tables.root.get(0, "settings.run_estimation")

    def _last(self, slot: int) -> tuple[int, ...]:
        return tuple(self._tables.estimates.get(slot, "last"))

    def counted(self, slot: int) -> tuple[int, ...]:
        """Return the counts of a destination's slot since the tables were made."""
        if slot < len(self._all):
            return self._all[slot]
        if self._stand_still():
            return self._last(slot)
        return self._tables.statistics.sums(slot, len(self._fields))

    def destination(self, slot: int) -> Counters:
        """Return a destination's counters."""
        return self._less(self.counted(slot), self._tables.destination_bases, slot)

    def service(self, slot: int, destinations: list[int]) -> Counters:
        """Return a service's counters: the sums over all its destinations, deleted ones included."""
        counted = [each for each in map(self.counted, destinations) if any(each)]
        total = tuple(map(sum, zip(*counted, strict=True))) or NO_COUNTS
        return self._less(total, self._tables.service_bases, slot)

    def totals(self) -> Counters:
        """Return the totals, deleted services included: a reused slot continues its counts."""
        top = self._tables.book.get(0, "destination_top")
        with self.read_at_once(top):
            total = tuple(map(sum, zip(*map(self.counted, range(top)), strict=True))) or NO_COUNTS
        zeroed = (self._tables.state.note(ZEROED) or "0 0 0 0 0").split()
        return Counters(*[now - int(before) & _MASK64 for now, before in zip(total, zeroed, strict=True)])

    def zero_totals(self) -> None:
        """Start the totals at 0."""
        state = self._tables.state
        state.set_note(ZEROED, None)
        now = self.totals()
        counted = (now.connections, now.in_packets, now.out_packets, now.in_bytes, now.out_bytes)
        state.set_note(ZEROED, " ".join(map(str, counted)))

    def _less(self, counted: tuple[int, ...], bases: Records, slot: int) -> Counters:
        base = self.base(bases, slot)
        if base == counted:
            return NO_COUNTERS
        return Counters(*[one - other & _MASK64 for one, other in zip(counted, base, strict=True)])

    def set_base(self, bases: Records, slot: int, values: tuple[int, ...]) -> None:
        """Set the counts at which a destination's or a service's counters are 0."""
        self._form.pack_into(bases.array.upto(slot), slot * bases.array.stride, *[value & _MASK64 for value in values])

    def begin(self, slot: int, counted: tuple[int, ...]) -> None:
        """Start a destination's counters and rates at 0; `counted` are its counts now."""
        self.set_base(self._tables.destination_bases, slot, counted)
        self._tables.estimates.write(slot, {"averages": NO_COUNTS, "last": counted})

    def rates(self, destinations: Iterable[int]) -> Rates:
        """Return the events per second of destinations together, rounded as in the kernel (IPVS-SEMANTICS 9.3)."""
        estimates, averages = self._tables.estimates.array, self._averages.unpack_from
        read = (averages(estimates.upto(slot), slot * estimates.stride) for slot in destinations)
        busy = [each for each in read if any(each)]
        if not busy:
            return NO_RATES
        total = list(map(sum, zip(*busy, strict=True)))
        if not any(total):
            return NO_RATES
        events = [each + 511 >> 10 for each in total[:3]]
        return Rates(*events, *(each + 15 >> 5 for each in total[3:]))

    def base(self, bases: Records, slot: int) -> tuple[int, ...]:
        """Return the counts at which the counters are 0."""
        return self._form.unpack_from(bases.array.upto(slot), slot * bases.array.stride)


class Reader:
    """Reads the tables of one state for listings."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.versions = Versions(tables)
        self.statistics = Statistics(tables)
        self._member = abi.struct("member").view(*_MEMBER)
        self._shown = abi.struct("destination").view(*_SHOWN)
        self._counts = abi.struct("conn_counts").view(*_COUNTS)

    def steadily(self, read: Callable[[int], Result]) -> Result:
        """Return what `read` finds in one generation; call it again if an edit was committed during the call."""
        for _ in range(_READS):
            live = self.versions.live
            found = read(live)
            if self.versions.live == live:
                return found
        return found

    def rows(self) -> list[ServiceRow]:
        """Return all services with their destinations and counters."""

        def read(live: int) -> list[ServiceRow]:
            owned = self.owned_by_service()
            with self.statistics.read_at_once(self.tables.book.get(0, "destination_top")):
                return [
                    self._row(slot, fields, owned.get((slot, fields["birth"]), []))
                    for slot, fields in self.versions.services(live)
                ]

        return self.steadily(read)

    def row(self, slot: int) -> ServiceRow:
        """Return one service with its destinations and counters."""

        def read(live: int) -> ServiceRow:
            version = self.versions.version(slot, live)
            return self._row(slot, version, self.owned(slot, version))

        return self.steadily(read)

    def owned(self, slot: int, version: dict[str, Any]) -> list[int]:
        """Return the slots of the destinations that count for a service, deleted ones included."""
        return self.owned_by_service().get((slot, version["birth"]), [])

    def owned_by_service(self) -> dict[tuple[int, int], list[int]]:
        """Return slots of destinations by slot and birth of their service.

        The birth matters: deleted destinations outlive their service, and another service may reuse its slot.
        """
        destinations = self.tables.destinations
        form = abi.struct("destination").view("used", "service", "service_birth")
        top = self.tables.book.get(0, "destination_top")
        found: dict[tuple[int, int], list[int]] = {}
        memory = destinations.array.elements(0, top)
        for slot, (used, service, birth) in enumerate(form.iter_unpack(memory)):
            if used:
                found.setdefault((service, birth), []).append(slot)
        return found

    def members(self, version: dict[str, Any]) -> Iterator[tuple[int, int, int, int, int, int]]:
        """Return the slots of a service's destinations in list order, with weight, upper, lower, method, tunnel."""
        array = self.tables.members
        members = array.elements(version["list"], version["count"])
        return self._member.iter_unpack(members)

    def _row(self, slot: int, version: dict[str, Any], owned: list[int]) -> ServiceRow:
        rows, statistics = [], self.statistics
        table, shown = self.tables.destinations.array, self._shown.unpack_from
        counted, counts = self.tables.conn_counts.array, self._counts.unpack_from
        for dest_slot, *member in self.members(version):
            address, port, family = shown(table.upto(dest_slot), dest_slot * table.stride)
            active, inactive, persistent = counts(counted.upto(dest_slot), dest_slot * counted.stride)
            destination = destination_of(address, family, port, *member)
            counters, rates = statistics.destination(dest_slot), statistics.rates((dest_slot,))
            rows.append(DestinationRow(destination, active, inactive, persistent, counters, rates))
        counters, rates = statistics.service(slot, owned), statistics.rates(owned)
        return ServiceRow(service_of(version), tuple(rows), counters, rates)
