"""Read the tables for listings: services with their destinations and counters, drop reasons, the cost of expiry.

Readers take no lock: they repeat a read during which `live` changed.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import inf

from pylvs.bpf import abi, maps
from pylvs.dataplane.tables import Records, Tables, Versions, destination_of, service_of
from pylvs.model.dataclass import dataclass
from pylvs.model.rows import (
    Counters,
    DestinationRow,
    Expiry,
    HookPackets,
    Rates,
    ServiceRow,
    TableUse,
    TimerRuns,
    in_order,
)

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any, TypeVar

    from pylvs.bpf.abi import Abi, Codec

    Result = TypeVar("Result")

_READS = 50  # attempts at a consistent read of a table that keeps changing
_MASK64 = (1 << 64) - 1
ZEROED = "zeroed"  # a note: the totals at the last `-Z` of everything
NO_COUNTS = (0,) * 5
NO_COUNTERS, NO_RATES = Counters(), Rates()
_SHOWN = ("address", "port", "family")
_COUNTS = ("active", "inactive", "persistent")
_MEMBER = ("destination", "weight", "upper", "lower", "method", "tunnel")


_SENT_BY_HOST = 0  # the ifindex of packets that no device received
_FORWARDED = "REASON_FORWARDED_"  # counted by destination
_PLAIN = "PLAIN_"  # reasons of enum plain: counted by device
_DENIED = "REASON_CLIENT_DENIED"


@dataclass(frozen=True, slots=True)
class DeniedSyns:
    """SYNs of denied clients: by ingress device, by slot of the service, and by the edit that added it."""

    ifindex: int
    slot: int
    added: int
    count: int


def reason_counts(tables: Tables, layout: Abi | None = None) -> Mapping[str, int]:
    """Return the packet counts by reason but for forwarded packets, zeros included; the names are in bpf/abi/base.h.

    The reasons are those of `layout`, by default of this build.
    """
    layout = layout or abi.shipped()
    counts = {
        name: tables.reasons.sums(number)[0]
        for name, number in layout.enum("reason").items()
        if name not in ("REASONS", "REASON_NONE") and not name.startswith(_FORWARDED)  # no reasons
    }
    if counts.keys() >= {"REASON_NO_SERVICE"}:
        for name, count in plain_counts(layout, tables.device_packets).items():
            counts[f"REASON_{name.removeprefix(_PLAIN)}"] += count
    for denied in denied_syns(layout, tables.path("denied_syns")):
        counts[_DENIED] += denied.count
    return {name.removeprefix("REASON_").lower().replace("_", " "): count for name, count in counts.items()}


def plain_counts(layout: Abi, device_packets: maps.PerCpuArray) -> dict[str, int]:
    """Return the packets of all devices that passed by a reason of `enum plain`, by its enumerators."""
    names = [name for name in layout.enum("plain") if name != "PLAINS"]
    form = layout.struct("device_packets").view("plain")
    return dict(zip(names, map(sum, zip(*device_packets.rows(form), strict=True)), strict=True))


def denied_syns(layout: Abi, path: str) -> list[DeniedSyns]:
    """Return the SYNs of denied clients that other counters lack, from the map `denied_syns` at a path.

    A build without this map has none.
    """
    try:
        form = layout.struct("denying_service").view("input", "slot", "added", "denied")
    except KeyError:
        return []
    with maps.PerCpuArray.open(path) as found:
        found.records = layout.struct("denied_syns").fields["services"].length
        return [DeniedSyns(*row) for row in found.rows(form) if row[-1]]


def ends_by_ifindex(layout: Abi, device_packets: maps.PerCpuArray) -> dict[int, list[int]]:
    """Return the packets of devices that were not forwarded: passed, dropped and held ones.

    Raises KeyError for a layout without these fields.
    """
    form = layout.struct("device_packets").view("ifindex", "ended", "plain")
    packets = defaultdict[int, list[int]](lambda: [0, 0, 0])
    for index, passed, dropped, held, *plain in device_packets.rows(form):
        if any((passed, dropped, held, *plain)):
            counted = passed + sum(plain), dropped, held
            packets[index] = [one + other for one, other in zip(counted, packets[index], strict=True)]
    return packets


def forwarded(tables: Tables) -> dict[int, list[int]]:
    """Return the forwarded packets by the ifindex of the ingress device, those of XDP and those of TC."""
    layout, destinations = abi.shipped(), tables.book.get(0, "destination_top")
    return forwarded_by_ifindex(layout, tables.device_packets, tables.statistics, destinations)


def all_of(packets: Mapping[int, Sequence[int]]) -> HookPackets:
    """Return the sum of forwarded packets that devices received, those that are gone as well."""
    received = [each for index, each in packets.items() if index != _SENT_BY_HOST]
    return HookPackets(sum(xdp for xdp, _ in received), sum(tc for _, tc in received))


def by_device(packets: Mapping[int, Sequence[int]]) -> dict[str, HookPackets]:
    """Return forwarded packets by the name of the device instead of its ifindex, for the devices that there are."""
    from pylvs.netlink import links  # late: other listings do without

    names = {device.index: device.name for device in links.devices()}
    return {names[index]: HookPackets(*each) for index, each in packets.items() if index in names}


def forwarded_by_ifindex(
    layout: Abi, device_packets: maps.PerCpuArray, percpu: maps.PerCpuArray, destinations: int
) -> dict[int, list[int]]:
    """Return the forwarded packets by the ifindex of the ingress device, those of XDP and those of TC.

    A destination's counters have packets that are not counted by device yet. XDP forwarded those that `others` lacks,
    and they came by the fast path's device. TC forwarded those that only `listed` lacks. Raises KeyError for a layout
    without these fields.
    """
    of_device = layout.struct("device_packets").view("ifindex", "forwarded")
    packets = defaultdict[int, list[int]](lambda: [0, 0])
    for index, *by_hook in device_packets.rows(of_device):
        for hook, count in enumerate(by_hook):
            packets[index][hook] += count
    form = layout.struct("percpu_destination").view(
        *("counters.in_packets", "counters.out_packets", "others", "tc_inputs", "ingress", "listed")
    )
    ingress = layout.struct("fast_ingress").view("input")
    for row in percpu.rows(form, destinations):
        requests, replies, *rest = row
        others, inputs, inputs_of_xdp, listed = rest[:2], rest[2:4], rest[4], rest[5:]
        by_xdp = zip(
            (requests, replies), others, (index for (index,) in ingress.iter_unpack(inputs_of_xdp)), strict=True
        )
        by_tc = zip(others, listed, inputs, strict=True)
        for hook, counts in enumerate((by_xdp, by_tc)):
            for more, less, index in counts:
                if more > less:  # a packet may come while the row is read
                    packets[index][hook] += more - less
    return {index: list(map(_signed, each)) for index, each in packets.items()}


def _signed(count: int) -> int:
    """Return a sum over CPUs. What one of them has counted, another may subtract."""
    count &= _MASK64
    return count - (count >> 63 << 64)


def table_use(tables: Tables, layout: Codec | None = None) -> TableUse:
    """Return how full the connection table is, without the slots that CPUs reserve.

    `layout` is that of a CPU's reserve, by default that of this build.
    """
    credits = (layout or abi.struct("percpu_credits")).view("credits")
    with maps.PerCpuArray.open(tables.path("percpu_credits")) as reserves:
        raw = reserves.get(0) or b""
        reserved = sum(credits.unpack_from(raw, at)[0] for at in range(0, len(raw), reserves.stride))
    with maps.PerCpuArray.open(tables.path("half_open_counts")) as counts:
        half_open = counts.sums(0)[0] & _MASK64
    used = max(0, tables.pool.get(0, "used") - reserved)
    return TableUse(tables.pool.get(0, "capacity"), used, 0 if half_open >> 63 else half_open)


def expiry(tables: Tables) -> Expiry:
    """Return the cost of the expiry timer since the programs were loaded."""
    found = tables.timer_runs.read(abi.constant("TIMER_EXPIRY"))
    return Expiry(found["ended"], found["count"], found["spent_ns"] / 1e9, found["longest_ns"] / 1e9)


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
    """Counters since the last `-Z`, and rates, as the estimator's latest round left them (IPVS-SEMANTICS 9.2, 9.3).

    A service's counters are what its destinations have passed on to it, deleted ones included, minus a base.
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._fields = tuple(abi.struct("counters").fields)
        self._form = abi.struct("counters").view(*self._fields)
        estimate = abi.struct("estimate")
        self._averages, self._last, self._passed = map(estimate.view, ("averages", "last", "passed"))

    def counted(self, slot: int) -> tuple[int, ...]:
        """Return what packets have counted until now in a destination's slot, since the tables were made."""
        return self._tables.statistics.sums(slot, len(self._fields))

    def passed(self, slot: int) -> tuple[int, ...]:
        """Return the counts of a destination's slot that its service has."""
        return _unpack(self._passed, self._tables.estimates, slot)

    def destination(self, slot: int) -> Counters:
        """Return a destination's counters."""
        return self._less(_unpack(self._last, self._tables.estimates, slot), self._tables.destination_bases, slot)

    def service(self, slot: int, destinations: Iterable[int]) -> Counters:
        """Return a service's counters; `destinations` are all that count for it, deleted ones included."""
        return self._less(summed(map(self.passed, destinations)), self._tables.service_bases, slot)

    def totals(self) -> Counters:
        """Return the totals, deleted services included: a reused slot continues its counts."""
        estimates, top = self._tables.estimates.array, self._tables.book.get(0, "destination_top")
        total = summed(self._passed.iter_unpack(estimates.elements(0, top)))
        zeroed = (self._tables.state.note(ZEROED) or "0 0 0 0 0").split()
        return Counters(*[now - int(before) & _MASK64 for now, before in zip(total, zeroed, strict=True)])

    def zero_totals(self) -> None:
        """Start the totals at 0."""
        state = self._tables.state
        state.set_note(ZEROED, None)
        state.set_note(ZEROED, " ".join(map(str, in_order(self.totals()))))

    def zero_service(self, slot: int, destinations: Iterable[int]) -> None:
        """Start a service's counters and rates at 0."""
        self.set_base(self._tables.service_bases, slot, summed(map(self.passed, destinations)))
        estimates = self._tables.service_estimates
        estimates.set(slot, "averages", *NO_COUNTS)
        estimates.set(slot, "last", *estimates.get(slot, "passed"))

    def zero_destination(self, slot: int) -> None:
        """Start a destination's counters and rates at 0. What packets have counted since the last round counts."""
        self.set_base(self._tables.destination_bases, slot, _unpack(self._last, self._tables.estimates, slot))
        self._tables.estimates.set(slot, "averages", *NO_COUNTS)

    def begin(self, slot: int) -> None:
        """Start the counters and rates of a destination that nothing has counted for."""
        counted = self.counted(slot)
        self.set_base(self._tables.destination_bases, slot, counted)
        self._tables.estimates.write(slot, {"averages": NO_COUNTS, "last": counted, "passed": counted})

    def _less(self, counted: tuple[int, ...], bases: Records, slot: int) -> Counters:
        base = self.base(bases, slot)
        if base == counted:
            return NO_COUNTERS
        return Counters(*[one - other & _MASK64 for one, other in zip(counted, base, strict=True)])

    def base(self, bases: Records, slot: int) -> tuple[int, ...]:
        """Return the counts at which the counters are 0."""
        return _unpack(self._form, bases, slot)

    def set_base(self, bases: Records, slot: int, values: tuple[int, ...]) -> None:
        """Set the counts at which a destination's or a service's counters are 0."""
        self._form.pack_into(bases.array.upto(slot), slot * bases.array.stride, *[value & _MASK64 for value in values])

    def rates(self, estimates: Records, slot: int) -> Rates:
        """Return the events per second of a destination or a service, rounded as in the kernel."""
        averages = _unpack(self._averages, estimates, slot)
        if not any(averages):
            return NO_RATES
        events = [each + 511 >> 10 for each in averages[:3]]
        return Rates(*events, *(each + 15 >> 5 for each in averages[3:]))


def summed(counted: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Return the sums of counters, in the order of the structure; zeros of none."""
    busy = [each for each in counted if any(each)]
    return tuple(map(sum, zip(*busy, strict=True))) or NO_COUNTS


def _unpack(form: struct.Struct, records: Records, slot: int) -> tuple[int, ...]:
    return form.unpack_from(records.array.upto(slot), slot * records.array.stride)


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
            return [
                self._row(slot, fields, owned.get((slot, fields["added"]), []))
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
        return self.owned_by_service().get((slot, version["added"]), [])

    def owned_by_service(self) -> dict[tuple[int, int], list[int]]:
        """Return slots of destinations by slot and birth of their service.

        The birth matters: deleted destinations outlive their service, and another service may reuse its slot.
        """
        destinations = self.tables.destinations
        form = abi.struct("destination").view("used", "service", "service_added")
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
        rows, statistics, estimates = [], self.statistics, self.tables.estimates
        table, shown = self.tables.destinations.array, self._shown.unpack_from
        counted, counts = self.tables.conn_counts.array, self._counts.unpack_from
        for dest_slot, *member in self.members(version):
            address, port, family = shown(table.upto(dest_slot), dest_slot * table.stride)
            active, inactive, persistent = counts(counted.upto(dest_slot), dest_slot * counted.stride)
            destination = destination_of(address, family, port, *member)
            counters, rates = statistics.destination(dest_slot), statistics.rates(estimates, dest_slot)
            rows.append(DestinationRow(destination, active, inactive, persistent, counters, rates))
        counters = statistics.service(slot, owned)
        rates = statistics.rates(self.tables.service_estimates, slot)
        return ServiceRow(service_of(version), tuple(rows), counters, rates)
