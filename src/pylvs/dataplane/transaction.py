"""One edit: written beside the live data, then put in force by one store.

    with Transaction(tables) as edit:
        edit.write_version(slot, {...})
        edit.commit()
        ...clean-up that may be lost...

Facts, services and destinations have two halves each. The generation in force decides which half packets read. An edit
writes the other halves with the next generation, and then stores that generation.

A writer that dies before the store has changed nothing. After one that dies later, the next writer finishes the
clean-up by `recover`. The caller of an edit holds the state's lock.
"""

from __future__ import annotations

import struct

from pylvs.bpf import abi
from pylvs.dataplane.slot_allocator import Book, chunks, gaps, list_of, now_s
from pylvs.dataplane.tables import Tables, key_of, service_key, write_bitmaps
from pylvs.model.service import ServiceKey, is_probe_mark

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

MASK32 = 0xFFFFFFFF
FTP_PORT = 21


class Facts:
    """Facts about the whole table, in the root, of one generation: counts of services, timeouts."""

    def __init__(self, tables: Tables, generation: int) -> None:
        self._root = tables.root
        self._codec = abi.struct("facts")
        self._base = abi.struct("root").offset("facts") + (generation & 1) * self._codec.size

    def get(self, name: str) -> tuple[int, ...]:
        """Return a fact's numbers."""
        field = self._codec.fields[name]
        return struct.unpack_from("<" + field.format, self._root.array.memory, self._base + field.offset)

    def set(self, name: str, *values: int) -> None:
        """Write a fact."""
        field = self._codec.fields[name]
        struct.pack_into("<" + field.format, self._root.array.memory, self._base + field.offset, *values)

    def copy_from(self, other: Facts) -> None:
        """Copy the facts of another generation."""
        memory = self._root.array.memory
        memory[self._base : self._base + self._codec.size] = memory[other._base : other._base + self._codec.size]


def later(one: int, other: int) -> bool:
    """Return whether generation `one` comes after `other`; they wrap at 32 bits."""
    return 0 < (one - other & MASK32) < 1 << 31


def half_in_force(generations: tuple[int, int], live: int) -> int:
    """Return the half that packets read, as version_in_force in bpf/lb/service.h."""
    newer = 1 if later(generations[1], generations[0]) else 0
    return 1 - newer if later(generations[newer], live) else newer


class Versions:
    """Reads and writes the halves of services and destinations."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._codec = abi.struct("service_version")
        self._generation = self._codec.offset("generation")
        self._pair = struct.Struct(f"<I{self._codec.size - 4}xI")  # the generations of two versions

    @property
    def live(self) -> int:
        """The generation in force."""
        return int(self.tables.root.get(0, "live")) & MASK32

    def _generations(self, slot: int) -> tuple[int, int]:
        array = self.tables.services.array
        one, other = self._pair.unpack_from(array.upto(slot), slot * array.stride + self._generation)
        return one, other

    def _half_offset(self, slot: int, half: int) -> int:
        return slot * self.tables.services.array.stride + half * self._codec.size

    def _store_generation(self, slot: int, half: int, generation: int) -> None:
        """Write a generation by one store: after a torn read a packet could take the wrong half."""
        self.tables.services.array.store_half(slot, half * self._codec.size + self._generation, generation)

    def services(self, live: int) -> list[tuple[int, dict[str, Any]]]:
        """Return slots and versions of all services."""
        found = []
        for family in 4, 6:
            for _, values, count in self.tables.service_keys(family).chunks():
                for (slot,) in struct.iter_unpack("<I", values[: 4 * count]):
                    version = self.version(slot, live)
                    if version["present"] and version["family"] == family:
                        found.append((slot, version))
        return found

    def version(self, slot: int, live: int | None = None) -> dict[str, Any]:
        """Return the fields of a service's version in force."""
        half = half_in_force(self._generations(slot), self.live if live is None else live)
        return self._codec.unpack_from(self.tables.services.array.upto(slot), self._half_offset(slot, half), whole=True)

    def write_version(self, slot: int, generation: int, fields: dict[str, Any]) -> None:
        """Write the half that is not in force. No packet reads it before `live` has reached its generation."""
        half = 1 - half_in_force(self._generations(slot), self.live)
        memory, start = self.tables.services.array.upto(slot), self._half_offset(slot, half)
        row, size = bytearray(self._codec.size), 4
        self._codec.pack_row_into(row, 0, fields)
        self._store_generation(slot, half, generation)
        before, behind = slice(self._generation), slice(self._generation + size, self._codec.size)
        for part in before, behind:
            memory[start + (part.start or 0) : start + part.stop] = row[part]

    def new_service(self, slot: int, generation: int) -> None:
        """Clear a slot: the service is absent in all generations before this one."""
        self.tables.services.clear(slot)
        self._store_generation(slot, 0, generation - 1)
        self._store_generation(slot, 1, generation - 2)

    def withdraw_version(self, slot: int, live: int) -> None:
        """Make a half that is later than `live` the older one."""
        one, other = self._generations(slot)
        for half, (mine, theirs) in enumerate(((one, other), (other, one))):
            if later(mine, live):
                self._store_generation(slot, half, theirs - 1)

    def _states(self, slot: int) -> tuple[int, int]:
        one, other = self.tables.destinations.get(slot, "states")
        return int(one), int(other)

    def write_flags(self, slot: int, generation: int, flags: int, weight: int | None = None) -> None:
        """Write a destination's other half: its weight (the present one by default), then the state by one store."""
        one, other = self._states(slot)
        half = 1 - half_in_force((one >> 32, other >> 32), self.live)
        destinations = self.tables.destinations
        if weight is None:
            weight = destinations.get(slot, "weights")[1 - half]
        destinations.array.store_half(slot, destinations.codec.offset("weights") + 4 * half, weight)
        self.store_state(slot, half, generation, flags)

    def withdraw_flags(self, slot: int, live: int) -> None:
        """Make a half that is later than `live` the older one."""
        states = self._states(slot)
        for half in 0, 1:
            if later(states[half] >> 32, live):
                self.store_state(slot, half, (states[1 - half] >> 32) - 1 & MASK32, 0)

    def store_state(self, slot: int, half: int, generation: int, flags: int) -> None:
        """Write one half of a destination's states by one store."""
        destinations = self.tables.destinations
        destinations.array.store(slot, destinations.codec.offset("states") + 8 * half, generation << 32 | flags)

    def facts(self, generation: int | None = None) -> Facts:
        """Return the facts of a generation, by default of the one in force."""
        return Facts(self.tables, self.live if generation is None else generation)


class Transaction(Versions):
    """One edit, from its start to its clean-up."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.book = Book(tables)
        self.generation = 0
        self._live: int | None = None  # the value at the start: under the lock only this edit changes it
        self._committed = False

    @property
    def live(self) -> int:
        """The generation in force."""
        return super().live if self._live is None else self._live

    def __enter__(self) -> Transaction:
        if self.tables.book.get(0, "pending"):
            recover(self.tables)
        self.tables.book.set(0, "pending", 1)
        self.book.settle()
        self._live = self.live
        self.generation = self._live + 1 & MASK32
        self.new_facts = self.facts(self.generation)
        self.new_facts.copy_from(self.facts())
        return self

    def count_service(self, key: ServiceKey, by: int) -> None:
        """Count a service that is added (1) or deleted (-1)."""
        facts = self.new_facts
        services4, services6 = facts.get("services")
        is_ipv4 = key.address.version == 4
        facts.set("services", services4 + by * is_ipv4, services6 + by * (not is_ipv4))
        if key.mark:
            name = "" if is_probe_mark(key.mark) else "marks"
        else:
            name = {0: "zero_ports", FTP_PORT: "ftp"}.get(key.port, "")
        if name:
            facts.set(name, facts.get(name)[0] + by)

    def commit(self) -> None:
        """Put the edit in force by one store. Raises Unsupported."""
        self.tables.root.publish(0, "live", self.generation)
        self._live = self.generation
        self._committed = True

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        if kind is None and self._committed:
            self.tables.book.set(0, "pending", 0)
            return
        recover(self.tables)


def recover(tables: Tables) -> None:
    """Restore the tables to the generation in force. The caller holds the lock."""
    from pylvs.dataplane.scheduler_tables import MaglevTables  # late: needed only after a writer died

    versions, book = Versions(tables), Book(tables)
    live = versions.live
    service_top, destination_top = tables.book.get(0, "service_top"), tables.book.get(0, "destination_top")
    present: dict[int, dict[str, Any]] = {}
    for slot in range(service_top):
        versions.withdraw_version(slot, live)
        version = versions.version(slot, live)
        if version["present"]:
            present[slot] = version
    _drop_stray_keys(tables, present)
    listed = {dest_slot for version in present.values() for dest_slot in list_of(tables, version)}
    for slot in range(destination_top):
        versions.withdraw_flags(slot, live)
    member_top = tables.book.get(0, "member_top")
    book.reset(service_top, destination_top, member_top)
    for slot in range(service_top):
        if slot not in present:
            book.let_service_go(slot)
    for start, size in gaps([*chunks(present.values()), (member_top, 0)], abi.constant("LIST_CLASSES")):
        book.let_list_go(start, size)
    _settle_destinations(book, tables, destination_top, listed)
    _settle_members(tables, present)
    MaglevTables(tables).keep_only(present)
    write_bitmaps(tables, present.values())
    tables.book.set(0, "pending", 0)


def _drop_stray_keys(tables: Tables, present: dict[int, dict[str, Any]]) -> None:
    for version in 4, 6:
        keys = tables.service_keys(version)
        for key, value in list(keys.items()):
            fields = present.get(struct.unpack("<I", value)[0])
            if fields is None or service_key(key_of(fields)) != key:
                keys.remove(key)


def _settle_destinations(book: Book, tables: Tables, top: int, listed: set[int]) -> None:
    destinations, deleted = tables.destinations, []
    for slot in range(top):
        if not destinations.get(slot, "used"):
            book.free_destination(slot)
        elif slot in listed:
            destinations.set(slot, "deleted_s", 0)
        else:
            if not destinations.get(slot, "deleted_s"):
                destinations.set(slot, "deleted_s", max(now_s(), 1))
            deleted.append(slot)
    book.set_deleted(deleted)


def _settle_members(tables: Tables, present: dict[int, dict[str, Any]]) -> None:
    """Set the fields of destinations that have no versions (thresholds, service) as the lists in force have them."""
    form = abi.struct("member").view("destination", "upper", "lower")
    destinations, array = tables.destinations, tables.members
    for slot, version in present.items():
        for dest_slot, upper, lower in form.iter_unpack(array.elements(version["list"], version["count"])):
            wanted = {"upper": upper, "lower": lower, "service": slot, "service_birth": version["birth"]}
            for name, value in wanted.items():
                if destinations.get(dest_slot, name) != value:
                    destinations.set(dest_slot, name, value)
