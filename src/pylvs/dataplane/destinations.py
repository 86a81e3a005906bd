"""Edit destinations: their slots (IPVS-SEMANTICS 1.5 to 1.8), the lists of services that name them, and cursors.

A list is an array of packed members in a chunk of its own. An edit writes a new list and never changes one in place.
It moves the scheduler's cursor into the list as rr.h and wrr.h of bpf/lb/schedulers/ do for packets. It applies the
previous change of the list before the next one: a cursor is never two versions behind.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property

from pylvs.bpf import abi, kernel, maps
from pylvs.dataplane import transaction
from pylvs.dataplane.state import ORPHANS
from pylvs.dataplane.tables import (
    MASK32,
    ListStep,
    Tables,
    address_bytes,
    address_of,
    destination_name,
    set_bit,
    tree_of,
    tunnel_state,
    tunnel_word,
    written_name,
)
from pylvs.dataplane.transaction import NatServers, Transaction, list_of, write_bitmaps
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.service import Destination, DestinationKey, Method, ServiceKey, TunnelKind
from pylvs.netlink.links import Route, Routes

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

    from pylvs.dataplane.reader import Statistics

SWEEP_S = 10  # the least time between two searches for deleted destinations to free
_WRR_WEIGHT_BITS, _WRR_POSITION_BITS, _WRR_VERSION_BITS = 31, 20, 13  # as in bpf/lb/schedulers/wrr.h


@cache
def _form(*names: str) -> struct.Struct:
    return abi.struct("destination").view(*names)


def _flags(destination: Destination) -> int:
    """Return the flags of a destination's state."""
    flags = abi.constant("DESTINATION_AVAILABLE")
    if not destination.weight:
        flags |= abi.constant("DESTINATION_QUIESCED")
    flags |= destination.method << abi.constant("DESTINATION_METHOD")
    return flags | tunnel_state(destination) << abi.constant("DESTINATION_TUNNEL")


class DestinationSlots:
    """Take, write, revive and free the slots of destinations."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._nat_servers = NatServers(tables)

    @cached_property
    def _statistics(self) -> Statistics:
        from pylvs.dataplane.reader import Statistics  # late: most edits touch no counters

        return Statistics(self.tables)

    def find(self, key: ServiceKey, destination: DestinationKey) -> int | None:
        """Return the slot of a destination, listed or deleted."""
        return self.named(destination_name(key, destination))

    def named(self, name: bytes) -> int | None:
        """Return the slot of a destination, listed or deleted, by its key in `names`."""
        raw = self.tables.names.get(name)
        return None if raw is None else int(struct.unpack("<I", raw)[0])

    def listed(self, key: ServiceKey, destination: DestinationKey) -> int | None:
        """Return the slot of a destination that its service lists."""
        slot = self.find(key, destination)
        return None if slot is None or self.tables.destinations.get(slot, "deleted_s") else slot

    def bring(
        self,
        edit: Transaction,
        slot: int,
        version: dict[str, Any],
        name: bytes,
        destination: Destination,
        route: Route | None,
    ) -> int:
        """Take a slot for a new destination, and fill it for the edit's generation. Raises NoSpace."""
        unused = self.tables.book.get(0, "destination_top")
        dest_slot = self._fill(edit, slot, version, name, destination, route)
        if dest_slot < unused:
            self._begin_anew(dest_slot, slot)
        return dest_slot

    def _fill(
        self,
        edit: Transaction,
        slot: int,
        version: dict[str, Any],
        name: bytes,
        destination: Destination,
        route: Route | None,
    ) -> int:
        """Take a slot, and write all but its counters. `slot` and `version` are those of its service."""
        dest_slot = edit.book.take_destination()
        address = destination.key.address
        packed = address_bytes(address)
        by_nat = destination.method == Method.MASQ
        fields = {  # in the order of their offsets; all others are zero
            "states:16s": struct.pack("<2Q", edit.live << 32, edit.generation << 32 | _flags(destination)),
            "address": packed,
            "port": socket.htons(destination.key.port),
            "family": address.version,
            "used": abi.constant("DESTINATION_USED_BY_NAT" if by_nat else "DESTINATION_USED"),
            "service": slot,
            "mtu": route.mtu if route else 0,
            "weights:8s": struct.pack("<2i", 0, destination.weight),
            "saddr": address_bytes(route.source) if route and route.source else b"",
            "virtual_address": version["address"],
            "mark": version["mark"],
            "service_added": version["added"],
            "virtual_port": version["port"],
            "protocol": version["protocol"],
            "virtual_family": version["family"],
        }
        self.tables.destinations.replace(dest_slot, _form(*fields).pack(*fields.values()))
        thresholds = abi.struct("conn_counts").view("upper", "lower").pack(destination.upper, destination.lower)
        self.tables.conn_counts.replace(dest_slot, thresholds)
        if by_nat:
            set_bit(self.tables, "reply_bits", packed, address.version)
            self._nat_servers.add(dest_slot, packed, fields["port"], address.version)
        if destination.tunnel.kind == TunnelKind.GUE:
            self._note_ports()
        self.tables.names.put(name, struct.pack("<I", dest_slot))
        return dest_slot

    def bring_unlisted(self, edit: Transaction, key: ServiceKey, destination: Destination, route: Route | None) -> int:
        """Take a slot for a destination that no service lists, as if its service had been deleted. Raises NoSpace.

        Its connections are forwarded. An edit that adds it to its service later revives it with them.
        """
        unused = self.tables.book.get(0, "destination_top")
        address, family = address_bytes(key.address), key.address.version
        owner = {"address": address, "port": key.port, "protocol": int(key.protocol), "family": family}
        owner |= {"mark": key.mark, "added": MASK32}  # no service was added then
        name = destination_name(key, destination.key)
        dest_slot = self._fill(edit, 0, owner, name, destination, route)
        method = destination.method << abi.constant("DESTINATION_METHOD")
        edit.store_state(dest_slot, 1, edit.generation, abi.constant("DESTINATION_ORPHANED") | method)
        set_bit(self.tables, "vip_bits", address, family)
        if dest_slot < unused:
            self._statistics.begin(dest_slot)
        return dest_slot

    def _begin_anew(self, dest_slot: int, slot: int) -> None:
        """Start the counters of a reused slot at 0, for the destination and for its service."""
        self._statistics.begin(dest_slot)
        counted = self._statistics.passed(dest_slot)
        if any(counted):
            self._add_to_base(slot, counted)

    def adopt(self, dest_slot: int, slot: int, version: dict[str, Any], anew: bool) -> None:
        """Give a revived destination to a service; it keeps counters only in the one it left (IPVS-SEMANTICS 1.8)."""
        table, statistics = self.tables.destinations, self._statistics
        same = table.get(dest_slot, "service") == slot and table.get(dest_slot, "service_added") == version["added"]
        if same and not anew:
            return
        # The estimator leaves out what packets count while the service is deleted: else the next rate would have all.
        was_orphaned = any(state & abi.constant("DESTINATION_ORPHANED") for state in table.get(dest_slot, "states"))
        (statistics.begin if anew or was_orphaned else statistics.zero_destination)(dest_slot)
        table.set(dest_slot, "service", slot)
        table.set(dest_slot, "service_added", version["added"])
        if not same:  # last: after a kill before it, the service's counters are too high, but not below 0
            self._add_to_base(slot, statistics.passed(dest_slot))

    def _add_to_base(self, slot: int, counted: tuple[int, ...]) -> None:
        statistics = self._statistics
        base = statistics.base(self.tables.service_bases, slot)
        statistics.set_base(self.tables.service_bases, slot, tuple(map(sum, zip(base, counted, strict=True))))

    def write(self, edit: Transaction, dest_slot: int, destination: Destination, route: Route | None) -> None:
        """Write what packets read of a destination: flags, thresholds, route, and whether NAT was ever used."""
        table = self.tables.destinations
        if destination.tunnel.kind == TunnelKind.GUE:
            self._note_ports()
        edit.write_flags(dest_slot, edit.generation, _flags(destination), destination.weight)
        self._write_route(dest_slot, route)
        counts = self.tables.conn_counts
        if not destination.upper or destination.upper > counts.get(dest_slot, "upper"):
            counts.set(dest_slot, "overloaded", 0)  # (IPVS-SEMANTICS 6.2)
        counts.set(dest_slot, "upper", destination.upper)
        counts.set(dest_slot, "lower", destination.lower)
        by_nat = abi.constant("DESTINATION_USED_BY_NAT")
        if destination.method == Method.MASQ and table.get(dest_slot, "used") != by_nat:
            table.set(dest_slot, "used", by_nat)
            address, port, family = (table.get(dest_slot, name) for name in ("address", "port", "family"))
            set_bit(self.tables, "reply_bits", address, family)
            self._nat_servers.add(dest_slot, address, port, family)

    def rename(self, dest_slot: int, key: ServiceKey, former: DestinationKey, name: DestinationKey) -> None:
        """Write another port, and the name with it. At every moment the slot has its name."""
        names = self.tables.names
        names.put(destination_name(key, name), struct.pack("<I", dest_slot))
        self.tables.destinations.set(dest_slot, "port", socket.htons(name.port))
        names.remove(destination_name(key, former))
        if self.tables.destinations.get(dest_slot, "used") == abi.constant("DESTINATION_USED_BY_NAT"):  # earlier
            self._nat_servers.rebuild()

    def _write_route(self, dest_slot: int, route: Route | None) -> None:
        """Write what the packet path cannot look up of a route: an MTU that is not locked, and before Linux 6.7 saddr.

        Packets use it within a second, with the next lookup of their next hop.
        """
        table, mtu = self.tables.destinations, route.mtu if route else 0
        if table.get(dest_slot, "mtu") != mtu:
            table.set(dest_slot, "mtu", mtu)
        saddr = address_bytes(route.source) if route and route.source else None
        if saddr and table.get(dest_slot, "saddr") != saddr:
            table.set(dest_slot, "saddr", saddr)

    def _used(self) -> Iterator[tuple[int, Address]]:
        """Yield slot and address of each destination, listed or deleted."""
        table, top = self.tables.destinations, self.tables.book.get(0, "destination_top")
        elements = _form("address", "family", "used").iter_unpack(table.array.elements(0, top))
        for dest_slot, (address, family, used) in enumerate(elements):
            if used:
                yield dest_slot, address_of(address, family)

    def addresses(self) -> set[Address]:
        """Return the addresses of all destinations, listed or deleted."""
        return {address for _, address in self._used()}

    def follow_routes(self, routes: Routes) -> None:
        """Write what has changed of the routes to all destinations. The caller holds the lock."""
        for dest_slot, address in self._used():
            self._write_route(dest_slot, routes.to(address))

    def _note_ports(self) -> None:
        """Write this host's local port range: GUE takes its source ports from it (IPVS-SEMANTICS 7.4)."""
        low, high = kernel.local_ports()
        self.tables.root.set(0, "port_low", low)
        self.tables.root.set(0, "port_high", high)

    def end_orphans(self, edit: Transaction) -> None:
        """After a deletion, with expire_nodest_conn: end the connections of deleted destinations (IPVS-SEMANTICS 1.8).

        This includes destinations that were deleted before the setting was changed.
        """
        if not self.tables.root.get(0, "settings.expire_nodest_conn"):
            return
        dest_slots = edit.trash.slots()
        if not any(map(edit.trash.is_counted, dest_slots)):
            return
        templates = any(self.tables.conn_counts.get(each, "persistent") for each in dest_slots)
        for _ in range(2 if templates else 1):  # a template ends in the run after its connections
            while self.tables.state.run_program(ORPHANS):
                pass

    def sweep(self, edit: Transaction) -> bool:
        """Free the deleted destinations that can no longer be revived; return whether it freed any."""
        now, book = transaction.now_s(), self.tables.book
        if now - book.get(0, "swept_s") < SWEEP_S:
            return False
        book.set(0, "swept_s", now)
        chain = edit.trash.slots()
        kept = [dest_slot for dest_slot in chain if not edit.trash.has_freed(dest_slot)]
        if len(kept) == len(chain):
            return False
        edit.trash.keep(kept)
        gone = set(chain) - set(kept)
        self._nat_servers.remove(gone)
        maps.grace_period()  # a packet may still read a slot that it found in the index
        for dest_slot in gone:
            self._forget(edit, dest_slot)
        write_bitmaps(self.tables, [version for _, version in edit.services(edit.live)])
        return True

    def _forget(self, edit: Transaction, dest_slot: int) -> None:
        """Free a destination's name and slot; its service keeps what it counted."""
        fields = self.tables.destinations.read(dest_slot)
        name = written_name(fields)
        if self.named(name) == dest_slot:  # else a killed process left it nameless, and a later slot has its name
            self.tables.names.remove(name)
        owner = fields["service"]
        if edit.version(owner)["added"] == fields["service_added"]:  # else the slot has another service
            self._add_to_base(owner, tuple(-each for each in self._statistics.counted(dest_slot)))
        edit.book.free_destination(dest_slot)


def _rr(cursor: int, version: Mapping[str, Any]) -> int:
    target: int = version["list_version"] & 0xFFFF
    position = cursor & 0xFFFFFFFF
    if cursor >> 32 & 0xFFFF != target:
        position = _rr_step(position, version["edit"], version.get("edit_position", 0))
    return target << 32 | position


def _rr_step(position: int, edit: int, edit_position: int) -> int:
    if edit == abi.constant("LIST_INIT"):
        return 0
    if edit == abi.constant("LIST_ADD") and position:
        return position + 1 & 0xFFFFFFFF
    if edit == abi.constant("LIST_DELETE") and position > edit_position:
        return position - 1
    return position


def _wrr(cursor: int, version: Mapping[str, Any]) -> int:
    target: int = version["list_version"] & ((1 << _WRR_VERSION_BITS) - 1)
    position = cursor >> _WRR_WEIGHT_BITS & ((1 << _WRR_POSITION_BITS) - 1)
    weight = cursor & ((1 << _WRR_WEIGHT_BITS) - 1)
    behind = cursor >> (_WRR_WEIGHT_BITS + _WRR_POSITION_BITS) != target
    if behind and version["edit"] != abi.constant("LIST_SAME"):
        position, weight = 0, _wrr_step(weight, version["edit"], version["gcd"], version["max_weight"])
    return target << (_WRR_WEIGHT_BITS + _WRR_POSITION_BITS) | position << _WRR_WEIGHT_BITS | weight


def _wrr_step(weight: int, edit: int, gcd: int, most: int) -> int:
    if edit == abi.constant("LIST_INIT") or weight > most or not weight:
        return most
    return weight // gcd * gcd + 1 if gcd > 1 else weight


def followed(cursor: int, version: Mapping[str, Any]) -> int:
    """Return the cursor for the list of this version; unchanged for schedulers without a cursor."""
    if version["scheduler"] == abi.constant("SCHED_RR"):
        return _rr(cursor, version)
    return _wrr(cursor, version) if version["scheduler"] == abi.constant("SCHED_WRR") else cursor


def outdated(version: Mapping[str, Any]) -> int:
    """Return a cursor of the version before, so that the edit of this one (LIST_INIT) takes effect."""
    before: int = version["list_version"] - 1
    if version["scheduler"] == abi.constant("SCHED_WRR"):
        return (before & ((1 << _WRR_VERSION_BITS) - 1)) << (_WRR_WEIGHT_BITS + _WRR_POSITION_BITS)
    return (before & 0xFFFF) << 32


class Weights:
    """The weights above 0 in a list, while its destinations change."""

    def __init__(self, entries: bytes) -> None:
        self._number = Counter(_weights(entries))

    def replace(self, before: bytes, after: bytes) -> None:
        """Replace the packed members `before` of the list."""
        self._number.update(_weights(after))
        for weight in _weights(before):
            self._number[weight] -= 1
            if not self._number[weight]:
                del self._number[weight]

    def _gcd(self) -> int:
        """Return their greatest common divisor, 1 of no weights."""
        divisor = 0
        for weight in self._number:  # not math.gcd: to import math costs more than these few steps
            while weight:
                divisor, weight = weight, divisor % weight
            if divisor == 1:
                break
        return divisor or 1

    @property
    def fields(self) -> dict[str, int]:
        """The fields of a version that describe them."""
        gcd = self._gcd()
        return {"gcd": gcd, "max_weight": max(self._number, default=gcd - 1) - (gcd - 1)}


def _weights(entries: bytes) -> list[int]:
    """Return the weights above 0 of packed members."""
    return [weight for (weight,) in abi.struct("member").view("weight").iter_unpack(entries) if weight > 0]


def pack_member(slot: int, destination: Destination, last_weight: int = 0) -> bytes:
    """Return the member for the destination in a slot; `last_weight` is its latest weight above 0."""
    return _member_form().pack(
        slot,
        destination.weight,
        destination.upper,
        destination.lower,
        destination.method,
        tunnel_word(destination.tunnel),
        destination.weight or last_weight,
    )


@cache
def _member_form() -> struct.Struct:
    return abi.struct("member").view("destination", "weight", "upper", "lower", "method", "tunnel", "last_weight")


def method_of(entry: bytes) -> Method:
    """Return the forwarding method of a member's destination."""
    return Method(*abi.struct("member").view("method").unpack(entry))


def last_weight(entry: bytes) -> int:
    """Return the latest weight above 0 of a member's destination."""
    (weight,) = abi.struct("member").view("last_weight").unpack(entry)
    return int(weight)


def packed_members(tables: Tables, version: dict[str, Any]) -> bytes:
    """Return the packed members of a service's list."""
    return bytes(tables.members.elements(version["list"], version["count"]))


def split_list(tables: Tables, version: dict[str, Any], dest_slot: int) -> tuple[int, bytes, bytes, bytes]:
    """Return the position of a destination, and the packed members before it, its own, and those after it."""
    position = list_of(tables, version).index(dest_slot)
    entries, stride = packed_members(tables, version), tables.members.stride
    begin, end = position * stride, (position + 1) * stride
    return position, entries[:begin], entries[begin:end], entries[end:]


def put_list(edit: Transaction, entries: bytes) -> int:
    """Write a list to a free chunk, and return the index of its first member. Raises NoSpace."""
    array = edit.tables.members
    count = len(entries) // array.stride
    start = edit.book.take_list(count)
    array.elements(start, count)[:] = entries
    return start


def write_list(
    edit: Transaction, slot: int, version: dict[str, Any], entries: bytes, change: str, position: int = 0
) -> None:
    """Write a new list beside the old one, and point the service's next version to it."""
    fields = version | list_fields(edit, entries)
    change_list(edit, slot, version, fields, change, position)
    fill_table(edit, slot, version, fields, entries, [ListStep(change, position)])
    edit.write_version(slot, edit.generation, fields)


def list_fields(edit: Transaction, entries: bytes) -> dict[str, Any]:
    """Write a list to a free chunk, and return the fields of a version that describe it. Raises NoSpace."""
    count = len(entries) // edit.tables.members.stride
    return {"list": put_list(edit, entries), "count": count, **Weights(entries).fields}


def change_scheduler(edit: Transaction, slot: int, version: dict[str, Any], fields: dict[str, Any]) -> None:
    """Start the scheduler that these fields name, with the present list (IPVS-SEMANTICS 1.4). Raises NoSpace."""
    from pylvs.dataplane import scheduler_tables  # late: most edits keep the scheduler

    if tree_of(version) and tree_of(fields):
        fields["list"] = put_list(edit, packed_members(edit.tables, version))
    change_list(edit, slot, version, fields, "LIST_INIT")
    fields.update(scheduler_tables.began(edit.tables, edit.generation, fields))
    fill_table(edit, slot, version, fields, packed_members(edit.tables, version), [ListStep("LIST_INIT")])


def fill_table(
    edit: Transaction,
    slot: int,
    version: dict[str, Any],
    fields: dict[str, Any],
    entries: bytes,
    steps: Sequence[ListStep],
) -> None:
    """For a service of mh or sh: fill its table that is not in force, after these changes of its list."""
    if fields["scheduler"] not in (abi.constant("SCHED_MH"), abi.constant("SCHED_SH")):
        return
    from pylvs.dataplane.scheduler_tables import HashTables  # late: most services use another scheduler

    tables = HashTables(edit.tables)
    if tables.uses(fields):
        tables.write(slot, version, fields, entries, steps)


def change_list(
    edit: Transaction, slot: int, version: dict[str, Any], fields: dict[str, Any], change: str, position: int = 0
) -> None:
    """Record a change of the list in the fields, after the cursor has followed the previous change."""
    states = edit.tables.service_states
    before = states.get(slot, "cursor")
    after = followed(before, version)
    if after != before:
        states.set(slot, "cursor", after)
    fields["list_version"] = version["list_version"] + 1 & 0xFFFFFFFF
    fields["edit"] = abi.constant(change)
    if change == "LIST_INIT":
        states.set(slot, "cursor", outdated(fields))
    fields["edit_position"] = position


def cursor_after(cursor: int, version: Mapping[str, Any], fields: dict[str, Any], steps: Sequence[ListStep]) -> int:
    """Record several changes of a list as one in the fields; return the cursor to store when they take effect.

    Packets follow the last change. The cursor has followed the others already, as if they had been made one by one.
    """
    *earlier, last = steps
    fields["list_version"] = version["list_version"] + 1 & 0xFFFFFFFF
    fields["edit"], fields["edit_position"] = abi.constant(last.change), last.position
    if last.change == "LIST_INIT":
        return outdated(fields)
    cursor = followed(cursor, version)
    if version["scheduler"] == abi.constant("SCHED_RR"):
        position = cursor & 0xFFFFFFFF
        for each in earlier:
            position = _rr_step(position, abi.constant(each.change), each.position)
        cursor = cursor >> 32 << 32 | position
    if version["scheduler"] == abi.constant("SCHED_WRR"):
        weight = cursor & ((1 << _WRR_WEIGHT_BITS) - 1)
        for each in earlier:
            weight = _wrr_step(weight, abi.constant(each.change), each.gcd, each.max_weight)
        cursor = cursor >> _WRR_WEIGHT_BITS << _WRR_WEIGHT_BITS | weight
    return cursor
