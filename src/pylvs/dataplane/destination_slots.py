"""The slots of destinations: taken, written, revived from deletion, and freed (IPVS-SEMANTICS 1.5 to 1.8)."""

from __future__ import annotations

import os
import struct
from functools import cache

from pylvs.bpf import abi, kernel
from pylvs.bpf.libbpf import open_pin
from pylvs.dataplane import encode, load
from pylvs.dataplane.encode import set_bit, write_bitmaps
from pylvs.dataplane.reader import Reader
from pylvs.dataplane.slot_allocator import now_s
from pylvs.dataplane.transaction import Transaction
from pylvs.model import sockets as socket
from pylvs.model.destination import Destination, DestinationKey, Method, TunnelKind
from pylvs.model.service import ServiceKey
from pylvs.netlink.links import Route

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

REVIVAL_S = 180  # a deleted destination without connections can be revived so long (IPVS-SEMANTICS 1.8)
SWEEP_S = 10  # deleted destinations are looked through at most so often


@cache
def _fresh_form() -> struct.Struct:
    """A whole destination of which these fields are not zero."""
    return abi.struct("destination").view(
        "states",
        "address",
        "port",
        "family",
        "used",
        "upper",
        "lower",
        "service",
        "mtu",
        "weights",
        "source",
        "virtual_address",
        "mark",
        "service_birth",
        "virtual_port",
        "protocol",
        "virtual_family",
    )


def _flags(destination: Destination) -> int:
    """What a destination's state says of it."""
    flags = abi.constant("DESTINATION_AVAILABLE")
    if not destination.weight:
        flags |= abi.constant("DESTINATION_QUIESCED")
    flags |= destination.method << abi.constant("DESTINATION_METHOD")
    return flags | encode.tunnel_state(destination) << abi.constant("DESTINATION_TUNNEL")


@cache
def _deleted_form() -> struct.Struct:
    """What keeps a deleted destination: connections, templates and places in schedulers' caches; and since when."""
    return abi.struct("destination").view("active", "inactive", "persistent", "cached", "deleted_s")


class DestinationSlots:
    """What edits do to destinations as such; the lists of services are `lists`' affair."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.tables = reader.tables

    def find(self, key: ServiceKey, destination: DestinationKey) -> int | None:
        """The slot of a destination, listed or deleted."""
        return self.named(encode.destination_name(key, destination))

    def named(self, name: bytes) -> int | None:
        """The same, by the key of `names`."""
        raw = self.tables.names.get(name)
        return None if raw is None else int(struct.unpack("<I", raw)[0])

    def listed(self, key: ServiceKey, destination: DestinationKey) -> int | None:
        """The slot of a destination that its service lists."""
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
        """A slot for a destination never seen before, filled for the edit's generation. Raises NoRoom."""
        unused = self.tables.book.get(0, "destination_top")
        place = edit.book.take_destination()
        address = destination.key.address
        packed = encode.address_bytes(address)
        by_nat = destination.method == Method.MASQ
        self.tables.destinations.replace(
            place,
            _fresh_form().pack(
                edit.live << 32,
                edit.generation << 32 | _flags(destination),
                packed,
                socket.htons(destination.key.port),
                address.version,
                abi.constant("DESTINATION_USED_BY_NAT" if by_nat else "DESTINATION_USED"),
                destination.upper,
                destination.lower,
                slot,
                route.mtu if route else 0,
                0,
                destination.weight,
                encode.address_bytes(route.source) if route and route.source else b"",
                version["address"],
                version["mark"],
                version["birth"],
                version["port"],
                version["protocol"],
                version["family"],
            ),
        )
        if place < unused:
            self._begin_anew(place, slot)
        if by_nat:
            set_bit(self.tables, "reply_bits", packed, address.version)
        if destination.tunnel.kind == TunnelKind.GUE:
            self._note_ports()
        self.tables.names.put(name, struct.pack("<I", place))
        return place

    def _begin_anew(self, place: int, slot: int) -> None:
        """What was counted by whoever had a destination's slot before is not of the service that has it now."""
        statistics = self.reader.statistics
        counted = statistics.counted(place)
        statistics.begin(place, counted)
        if any(counted):
            self._add_to_base(slot, counted)

    def beyond_revival(self, place: int) -> bool:
        """Whether IPVS would have forgotten a deleted destination by now."""
        array = self.tables.destinations.array
        *referring, deleted_s = _deleted_form().unpack_from(array.upto(place), place * array.stride)
        return not any(referring) and now_s() - deleted_s >= REVIVAL_S

    def adopt(self, place: int, slot: int, version: dict[str, Any], anew: bool) -> None:
        """A revived destination keeps its counters only within the service that it left (IPVS-SEMANTICS 1.8)."""
        table, statistics = self.tables.destinations, self.reader.statistics
        same = table.get(place, "service") == slot and table.get(place, "service_birth") == version["birth"]
        if same and not anew:
            return
        counted = statistics.counted(place)
        statistics.begin(place, counted)
        if not same:
            self._add_to_base(slot, counted)
        table.set(place, "service", slot)
        table.set(place, "service_birth", version["birth"])

    def _add_to_base(self, slot: int, counted: tuple[int, ...]) -> None:
        statistics = self.reader.statistics
        base = statistics.base(self.tables.service_bases, slot)
        statistics.set_base(self.tables.service_bases, slot, tuple(map(sum, zip(base, counted, strict=True))))

    def write(self, edit: Transaction, place: int, destination: Destination, route: Route | None) -> None:
        """What packets read of the destination itself: flags, thresholds, its route, whether NAT was ever used."""
        table = self.tables.destinations
        if destination.tunnel.kind == TunnelKind.GUE:
            self._note_ports()
        edit.write_flags(place, edit.generation, _flags(destination), destination.weight)
        if route and route.source:
            table.write(place, {"source": encode.address_bytes(route.source)})
        table.set(place, "mtu", route.mtu if route else 0)
        if not destination.upper or destination.upper > table.get(place, "upper"):
            table.set(place, "overloaded", 0)  # (IPVS-SEMANTICS 6.2)
        table.set(place, "upper", destination.upper)
        table.set(place, "lower", destination.lower)
        if destination.method == Method.MASQ:
            table.set(place, "used", abi.constant("DESTINATION_USED_BY_NAT"))
            set_bit(self.tables, "reply_bits", table.get(place, "address"), table.get(place, "family"))

    def _note_ports(self) -> None:
        """This host's local port range, which GUE takes its source ports from (IPVS-SEMANTICS 7.4)."""
        from pylvs.bpf import kernel

        low, high = kernel.local_ports()
        self.tables.root.set(0, "port_low", low)
        self.tables.root.set(0, "port_high", high)

    # --- deleted destinations ---

    def end_orphans(self, edit: Transaction) -> None:
        """After a deletion: with expire_nodest_conn, end what deleted destinations have (IPVS-SEMANTICS 1.8).

        That is what all of them have: those that went before the setting was changed, too.
        """
        if not self.tables.root.get(0, "settings.expire_nodest_conn"):
            return
        table, places = self.tables.destinations, edit.book.deleted()
        templates = any(table.get(place, "persistent") for place in places)
        if not templates and not any(table.get(place, "active") or table.get(place, "inactive") for place in places):
            return
        program = open_pin(self.tables.state.pin_path(load.ORPHANS))
        if program is not None:
            try:
                for _ in range(2 if templates else 1):  # a template goes after its connections
                    while kernel.run_program(program, bytes(64)).verdict:
                        pass
            finally:
                os.close(program)

    def sweep(self, edit: Transaction) -> bool:
        """Free the deleted destinations that nothing refers to and that can no longer be revived; False for none."""
        now, book = now_s(), self.tables.book
        if now - book.get(0, "swept_s") < SWEEP_S:
            return False
        book.set(0, "swept_s", now)
        chain = edit.book.deleted()
        kept = [place for place in chain if not self.beyond_revival(place)]
        if len(kept) == len(chain):
            return False
        edit.book.set_deleted(kept)
        for place in set(chain) - set(kept):
            self._forget(edit, place)
        versions = [version for _, version in self.reader.service_slots(self.reader.versions.live)]
        write_bitmaps(self.tables, versions)
        return True

    def _forget(self, edit: Transaction, place: int) -> None:
        """What it counted stays with its service; its name and slot are free."""
        fields, statistics = self.tables.destinations.read(place), self.reader.statistics
        owner = fields["service"]
        if self.reader.versions.version(owner)["birth"] == fields["service_birth"]:  # else the slot has another service
            base, counted = statistics.base(self.tables.service_bases, owner), statistics.counted(place)
            kept = tuple(one - other for one, other in zip(base, counted, strict=True))
            statistics.set_base(self.tables.service_bases, owner, kept)
        virtual = encode.key_of(
            {
                "family": fields["virtual_family"],
                "mark": fields["mark"],
                "protocol": fields["protocol"],
                "address": fields["virtual_address"],
                "port": fields["virtual_port"],
            }
        )
        key = DestinationKey(encode.address_of(fields["address"], fields["family"]), socket.ntohs(fields["port"]))
        self.tables.names.remove(encode.destination_name(virtual, key))
        edit.book.free_destination(place)
