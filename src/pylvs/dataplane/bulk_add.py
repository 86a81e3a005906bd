"""Services that come within a batch, and the destinations that come with them: one edit, however many they are.

All is written beside what is in force, each list once at the end: no packet meets a service that still lacks some.
"""

from __future__ import annotations

import math
import struct
from contextlib import ExitStack

from pylvs.bpf import abi
from pylvs.dataplane import encode, load, scheduler_tables, server_lists
from pylvs.dataplane.destination_slots import DestinationSlots
from pylvs.dataplane.encode import set_all_bits, set_bit
from pylvs.dataplane.reader import Reader
from pylvs.dataplane.recovery import recover
from pylvs.dataplane.scheduler_tables import MaglevTables
from pylvs.dataplane.transaction import Transaction
from pylvs.model.destination import Destination
from pylvs.model.errors import DestinationExists
from pylvs.model.service import ServiceKey, VirtualService, is_probe_mark
from pylvs.netlink.links import Route

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any


class Newcomer:
    """A service on its way: its version in the making, and its list, the oldest first."""

    def __init__(self, key: ServiceKey, slot: int, fields: dict[str, Any], most: int) -> None:
        self.key = key
        self.slot = slot
        self.most = most  # destinations that its scheduler begins with
        self.fields = fields
        self.count = 0
        self.growth = 1  # members by which its chunk grows for one more
        self.cursor = 0
        self.names: set[bytes] = set()
        self.entries: list[bytes] = []
        self._gcd = self._most = 0  # of the weights above 0

    def add(self, name: bytes, place: int, destination: Destination) -> None:
        """One comes to the head of the list; the scheduler's cursor follows as if it had been the only one."""
        fields, weight = self.fields, destination.weight
        self.cursor = server_lists.followed(self.cursor, fields)
        self.names.add(name)
        self.entries.append(server_lists.packed(place, destination))
        self._gcd, self._most = math.gcd(self._gcd, weight), max(self._most, weight)
        self.count += 1
        self.growth = self.count if self.count & (self.count - 1) == 0 else 0
        fields["gcd"] = self._gcd or 1
        fields["max_weight"] = max(self._most - fields["gcd"] + 1, 0)
        fields["list_version"] += 1
        fields["edit"] = abi.constant("LIST_ADD")


class Newcomers:
    """From the first service that comes until `bring_in`, under the lock; no other edit may come in between."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self._tables = reader, reader.tables
        self._slots = DestinationSlots(reader)
        self._maglev = MaglevTables(self._tables)
        self._services: dict[ServiceKey, Newcomer] = {}
        self._revived: set[int] = set()
        self._room = self._tables.members.max_entries - self._tables.book.get(0, "member_top")
        self.whole = True  # nothing is half written
        with ExitStack() as opened:
            self._edit = opened.enter_context(Transaction(self._tables))
            self._slots.sweep(self._edit)
            self._opened = opened.pop_all()

    def __contains__(self, key: ServiceKey) -> bool:
        return key in self._services

    def add_service(self, service: VirtualService) -> None:
        """A service that is not there yet. Raises NoRoom."""
        edit, tables, key = self._edit, self._tables, service.key
        slot = edit.book.take_service()
        self.whole = False
        edit.new_service(slot, edit.generation)
        fields = encode.version_fields(service, load.ticks_per_second())
        fields |= scheduler_tables.began(edit, fields)
        fields |= {"birth": edit.generation, "list_version": 1, "edit": abi.constant("LIST_INIT")}
        fields |= {"list": 0, "count": 0, "gcd": 1, "max_weight": 0, "table": 0}
        tables.service_states.clear(slot)
        self._reader.statistics.set_base(tables.service_bases, slot, (0,) * 5)
        tables.service_keys(key.address.version).put(encode.service_key(key), struct.pack("<I", slot))
        for bits in "vip_bits", "reply_bits":
            if key.mark:
                if not is_probe_mark(key.mark):
                    set_all_bits(tables, bits)
            else:
                set_bit(tables, bits, fields["address"], fields["family"])
        most = self._maglev.most if self._maglev.uses(fields) else tables.members.max_entries
        self._services[key] = Newcomer(key, slot, fields, most)
        self.whole = True

    def that_takes(self, key: ServiceKey) -> Newcomer | None:
        """The service of this key, if one more destination can certainly come with it."""
        newcomer = self._services.get(key)
        if newcomer is None or not self.whole or newcomer.count >= newcomer.most or newcomer.growth > self._room:
            return None
        return newcomer

    def add_destination(self, newcomer: Newcomer, destination: Destination, route: Route | None) -> None:
        """One more destination of a service `that_takes` it. Raises DestinationExists, NoRoom."""
        slots, name = self._slots, encode.destination_name(newcomer.key, destination.key)
        if name in newcomer.names:
            raise DestinationExists(f"{newcomer.key} -> {destination.key}: there is such a real server already")
        place = slots.named(name)
        self.whole = False
        if place is None:
            place = slots.bring(self._edit, newcomer.slot, newcomer.fields, name, destination, route)
        else:
            expired = slots.beyond_revival(place)
            slots.write(self._edit, place, destination, route)
            slots.adopt(place, newcomer.slot, newcomer.fields, expired)
            self._revived.add(place)
        self._room -= newcomer.growth
        newcomer.add(name, place, destination)
        self.whole = True

    def bring_in(self) -> None:
        """Put them in force by one store, without what came to be half written."""
        with self._opened:
            for key, newcomer in self._services.items():
                self._write(newcomer)
                self._edit.count_service(key, 1)
            self._edit.commit()
            self._edit.book.revive(self._revived)
            if not self.whole:
                recover(self._tables)

    def _write(self, newcomer: Newcomer) -> None:
        edit, slot, fields = self._edit, newcomer.slot, newcomer.fields
        if newcomer.entries:
            entries = b"".join(reversed(newcomer.entries))
            fields |= {"list": server_lists.place(edit, entries), "count": newcomer.count}
            server_lists.fill_table(edit, slot, dict(fields), fields, entries, "LIST_ADD")
        if newcomer.cursor:
            self._tables.service_states.set(slot, "cursor", newcomer.cursor)
        edit.write_version(slot, edit.generation, fields)
