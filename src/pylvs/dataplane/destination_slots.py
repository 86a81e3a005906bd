"""Take, write, revive and free the slots of destinations (IPVS-SEMANTICS 1.5 to 1.8)."""

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
SWEEP_S = 10  # the least time between two searches for deleted destinations to free


@cache
def _fresh_form() -> struct.Struct:
    """The fields of a new destination that are not zero."""
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
    """Return the flags of a destination's state."""
    flags = abi.constant("DESTINATION_AVAILABLE")
    if not destination.weight:
        flags |= abi.constant("DESTINATION_QUIESCED")
    flags |= destination.method << abi.constant("DESTINATION_METHOD")
    return flags | encode.tunnel_state(destination) << abi.constant("DESTINATION_TUNNEL")


@cache
def _deleted_form() -> struct.Struct:
    """The fields that keep a deleted destination: what refers to it, and the time of the deletion."""
    return abi.struct("destination").view("active", "inactive", "persistent", "cached", "deleted_s")


class DestinationSlots:
    """Edits destinations themselves; `server_lists` edits the lists of services."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.tables = reader.tables

    def find(self, key: ServiceKey, destination: DestinationKey) -> int | None:
        """Return the slot of a destination, listed or deleted."""
        return self.named(encode.destination_name(key, destination))

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
        """Take a slot for a new destination, and fill it for the edit's generation. Raises NoRoom."""
        unused = self.tables.book.get(0, "destination_top")
        dest_slot = edit.book.take_destination()
        address = destination.key.address
        packed = encode.address_bytes(address)
        by_nat = destination.method == Method.MASQ
        self.tables.destinations.replace(
            dest_slot,
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
        if dest_slot < unused:
            self._begin_anew(dest_slot, slot)
        if by_nat:
            set_bit(self.tables, "reply_bits", packed, address.version)
        if destination.tunnel.kind == TunnelKind.GUE:
            self._note_ports()
        self.tables.names.put(name, struct.pack("<I", dest_slot))
        return dest_slot

    def _begin_anew(self, dest_slot: int, slot: int) -> None:
        """Start the counters of a reused slot at 0, for the destination and for its service."""
        statistics = self.reader.statistics
        counted = statistics.counted(dest_slot)
        statistics.begin(dest_slot, counted)
        if any(counted):
            self._add_to_base(slot, counted)

    def beyond_revival(self, dest_slot: int) -> bool:
        """Return whether IPVS would have forgotten a deleted destination by now."""
        array = self.tables.destinations.array
        *referring, deleted_s = _deleted_form().unpack_from(array.upto(dest_slot), dest_slot * array.stride)
        return not any(referring) and now_s() - deleted_s >= REVIVAL_S

    def adopt(self, dest_slot: int, slot: int, version: dict[str, Any], anew: bool) -> None:
        """Give a revived destination to a service; it keeps counters only in the one it left (IPVS-SEMANTICS 1.8)."""
        table, statistics = self.tables.destinations, self.reader.statistics
        same = table.get(dest_slot, "service") == slot and table.get(dest_slot, "service_birth") == version["birth"]
        if same and not anew:
            return
        counted = statistics.counted(dest_slot)
        statistics.begin(dest_slot, counted)
        if not same:
            self._add_to_base(slot, counted)
        table.set(dest_slot, "service", slot)
        table.set(dest_slot, "service_birth", version["birth"])

    def _add_to_base(self, slot: int, counted: tuple[int, ...]) -> None:
        statistics = self.reader.statistics
        base = statistics.base(self.tables.service_bases, slot)
        statistics.set_base(self.tables.service_bases, slot, tuple(map(sum, zip(base, counted, strict=True))))

    def write(self, edit: Transaction, dest_slot: int, destination: Destination, route: Route | None) -> None:
        """Write what packets read of a destination: flags, thresholds, route, and whether NAT was ever used."""
        table = self.tables.destinations
        if destination.tunnel.kind == TunnelKind.GUE:
            self._note_ports()
        edit.write_flags(dest_slot, edit.generation, _flags(destination), destination.weight)
        if route and route.source:
            table.write(dest_slot, {"source": encode.address_bytes(route.source)})
        table.set(dest_slot, "mtu", route.mtu if route else 0)
        if not destination.upper or destination.upper > table.get(dest_slot, "upper"):
            table.set(dest_slot, "overloaded", 0)  # (IPVS-SEMANTICS 6.2)
        table.set(dest_slot, "upper", destination.upper)
        table.set(dest_slot, "lower", destination.lower)
        if destination.method == Method.MASQ:
            table.set(dest_slot, "used", abi.constant("DESTINATION_USED_BY_NAT"))
            set_bit(self.tables, "reply_bits", table.get(dest_slot, "address"), table.get(dest_slot, "family"))

    def _note_ports(self) -> None:
        """Write this host's local port range: GUE takes its source ports from it (IPVS-SEMANTICS 7.4)."""
        from pylvs.bpf import kernel

        low, high = kernel.local_ports()
        self.tables.root.set(0, "port_low", low)
        self.tables.root.set(0, "port_high", high)

    # --- deleted destinations ---

    def end_orphans(self, edit: Transaction) -> None:
        """After a deletion, with expire_nodest_conn: end the connections of deleted destinations (IPVS-SEMANTICS 1.8).

        This includes destinations that were deleted before the setting was changed.
        """
        if not self.tables.root.get(0, "settings.expire_nodest_conn"):
            return
        table, dest_slots = self.tables.destinations, edit.book.deleted()
        templates = any(table.get(each, "persistent") for each in dest_slots)
        if not templates and not any(
            table.get(dest_slot, "active") or table.get(dest_slot, "inactive") for dest_slot in dest_slots
        ):
            return
        program = open_pin(self.tables.state.pin_path(load.ORPHANS))
        if program is not None:
            try:
                for _ in range(2 if templates else 1):  # a template ends in the run after its connections
                    while kernel.run_program(program, bytes(64)).verdict:
                        pass
            finally:
                os.close(program)

    def sweep(self, edit: Transaction) -> bool:
        """Free the deleted destinations that can no longer be revived; return whether it freed any."""
        now, book = now_s(), self.tables.book
        if now - book.get(0, "swept_s") < SWEEP_S:
            return False
        book.set(0, "swept_s", now)
        chain = edit.book.deleted()
        kept = [dest_slot for dest_slot in chain if not self.beyond_revival(dest_slot)]
        if len(kept) == len(chain):
            return False
        edit.book.set_deleted(kept)
        for dest_slot in set(chain) - set(kept):
            self._forget(edit, dest_slot)
        versions = [version for _, version in self.reader.service_slots(self.reader.versions.live)]
        write_bitmaps(self.tables, versions)
        return True

    def _forget(self, edit: Transaction, dest_slot: int) -> None:
        """Free a destination's name and slot; its service keeps what it counted."""
        fields, statistics = self.tables.destinations.read(dest_slot), self.reader.statistics
        owner = fields["service"]
        if self.reader.versions.version(owner)["birth"] == fields["service_birth"]:  # else the slot has another service
            base, counted = statistics.base(self.tables.service_bases, owner), statistics.counted(dest_slot)
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
        edit.book.free_destination(dest_slot)
