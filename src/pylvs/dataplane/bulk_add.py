"""Add the new services of a batch, with their destinations, as one edit.

It writes all of them beside what is in force, and each list once, at the end. So no packet sees an incomplete service.
"""

from __future__ import annotations

import math
import struct
from contextlib import ExitStack

from pylvs.bpf import abi
from pylvs.dataplane import load, scheduler_tables
from pylvs.dataplane.destinations import DestinationSlots, fill_table, followed, pack_member, put_list
from pylvs.dataplane.scheduler_tables import HashTables
from pylvs.dataplane.tables import (
    ALL_ONES,
    ListStep,
    Tables,
    destination_name,
    service_key,
    set_bit,
    version_fields,
    write_bitmap,
)
from pylvs.dataplane.transaction import NO_RULES, Transaction, recover
from pylvs.model.errors import DestinationExists
from pylvs.model.service import Destination, ServiceKey, VirtualService, is_probe_mark
from pylvs.netlink.links import Route

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any


def set_all_bits(tables: Tables, name: str) -> None:
    """Set all bits of a bitmap: a packet to any address may belong to a service of a firewall mark."""
    write_bitmap(tables, name, [ALL_ONES] * abi.constant("BITMAP_WORDS"))


class NewService:
    """A service that is not in force yet: the fields of its version, and the entries of its list, the oldest first."""

    def __init__(self, key: ServiceKey, slot: int, fields: dict[str, Any], most: int) -> None:
        self.key = key
        self.slot = slot
        self.most = most  # the largest list that its scheduler can begin with
        self.fields = fields
        self.count = 0
        self.growth = 1  # members that one more destination takes: a chunk doubles at each power of two
        self.cursor = 0
        self.names: set[bytes] = set()
        self.entries: list[bytes] = []
        self._gcd = self._most = 0  # of the weights above 0

    def add(self, name: bytes, dest_slot: int, destination: Destination) -> None:
        """Put a destination at the head of the list, and move the scheduler's cursor as a single edit would."""
        fields, weight = self.fields, destination.weight
        self.cursor = followed(self.cursor, fields)
        self.names.add(name)
        self.entries.append(pack_member(dest_slot, destination))
        self._gcd, self._most = math.gcd(self._gcd, weight), max(self._most, weight)
        self.count += 1
        self.growth = self.count if self.count & (self.count - 1) == 0 else 0
        fields["gcd"] = self._gcd or 1
        fields["max_weight"] = max(self._most - fields["gcd"] + 1, 0)
        fields["list_version"] += 1
        fields["edit"] = abi.constant("LIST_ADD")


class BulkAdd:
    """The edit from the first new service until `bring_in`. The caller holds the lock and makes no other edit.

    Or the new services of an edit that the caller has begun, and ends after `write`.
    """

    def __init__(self, tables: Tables, edit: Transaction | None = None) -> None:
        self._tables = tables
        self._slots = DestinationSlots(tables)
        self._hash_tables = HashTables(tables)
        self._services: dict[ServiceKey, NewService] = {}
        self.revived: set[int] = set()  # deleted destinations that a new service has again
        self._free_members = tables.members.max_entries - tables.book.get(0, "member_top")
        self.whole = True  # no service or destination is half written
        with ExitStack() as opened:
            self._edit = edit or opened.enter_context(Transaction(tables))
            if not edit:  # else it may have added deleted destinations again, which a sweep would free
                self._slots.sweep(self._edit)
            self._opened = opened.pop_all()

    def __contains__(self, key: ServiceKey) -> bool:
        return key in self._services

    def add_service(self, service: VirtualService) -> NewService:
        """Add a service that the table does not have. Raises NoSpace, and what `load.provide_for` raises."""
        edit, tables, key = self._edit, self._tables, service.key
        load.provide_for(service, tables.state)  # before anything is written, so that only this service fails
        slot = edit.book.take_service()
        self.whole = False
        edit.new_service(slot, edit.generation)
        fields = version_fields(service, load.ticks_per_second())
        fields |= scheduler_tables.began(edit.tables, edit.generation, fields)
        fields |= {"added": edit.generation, "list_version": 1, "edit": abi.constant("LIST_INIT")}
        fields |= {"list": 0, "count": 0, "gcd": 1, "max_weight": 0, "table": 0, **NO_RULES}
        tables.service_states.clear(slot)
        tables.service_bases.clear(slot)
        tables.service_estimates.clear(slot)
        tables.service_keys(key.address.version).put(service_key(key), struct.pack("<I", slot))
        for bits in "vip_bits", "reply_bits":
            if key.mark:
                if not is_probe_mark(key.mark):
                    set_all_bits(tables, bits)
            else:
                set_bit(tables, bits, fields["address"], fields["family"])
        added = self._services[key] = NewService(key, slot, fields, self._hash_tables.most(fields))
        self.whole = True
        return added

    def without_rules(self, key: ServiceKey) -> tuple[int, dict[str, Any], int] | None:
        """Return the slot of a new service that has no client rules, the fields of its version, and their generation.

        None: there is no such service.
        """
        service = self._services.get(key)
        if service is None or not self.whole or service.fields["client_rules"]:
            return None
        return service.slot, service.fields, self._edit.generation

    def that_takes(self, key: ServiceKey) -> NewService | None:
        """Return the new service of this key if it takes one more destination for certain, else None."""
        service = self._services.get(key)
        if service is None or not self.whole or service.count >= service.most or service.growth > self._free_members:
            return None
        return service

    def add_destination(self, service: NewService, destination: Destination, route: Route | None) -> None:
        """Add a destination to a service that `that_takes` returned. Raises DestinationExists, NoSpace."""
        slots, name = self._slots, destination_name(service.key, destination.key)
        if name in service.names:
            raise DestinationExists(f"{service.key} -> {destination.key}: there is such a real server already")
        dest_slot = slots.named(name)
        self.whole = False
        if dest_slot is None:
            dest_slot = slots.bring(self._edit, service.slot, service.fields, name, destination, route)
        else:
            expired = self._edit.trash.has_freed(dest_slot)
            slots.write(self._edit, dest_slot, destination, route)
            slots.adopt(dest_slot, service.slot, service.fields, expired)
            self.revived.add(dest_slot)
        self._free_members -= service.growth
        service.add(name, dest_slot, destination)
        self.whole = True

    def bring_in(self) -> None:
        """Put them in force by one store, without what came to be half written."""
        with self._opened:
            self.write()
            self._edit.commit()
            self._edit.trash.revive(self.revived)
            if not self.whole:
                recover(self._tables)

    def write(self) -> None:
        """Write versions and lists, which the commit puts in force. Raises NoSpace."""
        for key, service in self._services.items():
            self._write(service)
            self._edit.count_service(key, service.fields, 1)

    def _write(self, service: NewService) -> None:
        edit, slot, fields = self._edit, service.slot, service.fields
        if service.entries:
            entries = b"".join(reversed(service.entries))
            fields |= {"list": put_list(edit, entries), "count": service.count}
            fill_table(edit, slot, dict(fields), fields, entries, [ListStep("LIST_ADD")])
        if service.cursor:
            self._tables.service_states.set(slot, "cursor", service.cursor)
        edit.write_version(slot, edit.generation, fields)
