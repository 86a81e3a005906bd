"""The pinned maps of one state, opened at first use, and their elements by field."""

from __future__ import annotations

import os
import struct
from functools import cached_property

from pylvs.bpf import abi, maps
from pylvs.dataplane.state import State

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

# --- facts -----------------------------------------------------------------------------------------------------------
# Facts about the whole table that change with a generation: counts of services, timeouts.


class Facts:
    """The facts of one generation, in the root."""

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


# --- tables ----------------------------------------------------------------------------------------------------------

MAP_DIRECTORY = "maps"


class Records:
    """An array of structures in shared memory. A 64-bit field is written by a single store."""

    def __init__(self, array: maps.MmapArray, structure: str) -> None:
        self.array = array
        self.codec = abi.struct(structure)
        self.count = array.max_entries
        self._forms: dict[str, tuple[int, struct.Struct, bool]] = {}

    def _form(self, name: str) -> tuple[int, struct.Struct, bool]:
        found = self._forms.get(name)
        if found is None:
            field = self.codec.fields[name]
            single = not field.length or field.format.endswith("s")
            found = self._forms[name] = (field.offset, struct.Struct("<" + field.format), single)
        return found

    def get(self, index: int, name: str) -> Any:
        """Return one field: an integer, a tuple or bytes."""
        offset, form, single = self._form(name)
        values = form.unpack_from(self.array.upto(index), index * self.array.stride + offset)
        return values[0] if single else values

    def set(self, index: int, name: str, *values: Any) -> None:
        """Write one field."""
        offset, form, single = self._form(name)
        at = index * self.array.stride + offset
        if single and form.size == 8 and at % 8 == 0:
            self.array.store(index, offset, values[0])
        elif single and form.size == 4 and at % 4 == 0:
            self.array.store_half(index, offset, values[0])
        else:
            form.pack_into(self.array.upto(index), at, *values)

    def publish(self, index: int, name: str, value: int) -> None:
        """Write the 64-bit field by which packets find what was written before (`MmapArray.publish`)."""
        self.array.publish(index, self._form(name)[0], value)

    def read(self, index: int) -> dict[str, Any]:
        """Return all fields."""
        return self.codec.unpack_from(self.array.upto(index), index * self.array.stride, whole=True)

    def write(self, index: int, values: dict[str, Any]) -> None:
        """Write these fields, and leave the others unchanged."""
        self.codec.pack_into(self.array.upto(index), index * self.array.stride, values)

    def replace(self, index: int, element: bytes) -> None:
        """Write a packed element."""
        start = index * self.array.stride
        self.array.upto(index)[start : start + len(element)] = element

    def clear(self, index: int) -> None:
        """Zero all fields."""
        start = index * self.array.stride
        self.array.upto(index)[start : start + self.array.stride] = bytes(self.array.stride)


class Tables:
    """The maps of a state."""

    def __init__(self, state: State) -> None:
        self.state = state

    def path(self, name: str) -> str:
        """Return the path of a map's pin."""
        return self.state.pin_path(os.path.join(MAP_DIRECTORY, name))

    def mark(self) -> int:
        """Return a number that changes when other tables replace these; 0 while there are none."""
        try:
            return os.stat(self.path("pools")).st_ino if self.state.path else 0
        except FileNotFoundError:
            return 0

    def _array(self, name: str) -> maps.MmapArray:
        return maps.MmapArray.open(self.path(name))

    def _hash(self, name: str) -> maps.HashMap:
        return maps.HashMap.open(self.path(name))

    def _per_cpu(self, name: str) -> maps.PerCpuArray:
        return maps.PerCpuArray.open(self.path(name))

    @cached_property
    def root(self) -> Records:
        """The one element with the generation in force, facts and settings."""
        return Records(self._array("roots"), "root")

    @cached_property
    def book(self) -> Records:
        """The allocator's lists of free slots."""
        return Records(self._array("books"), "book")

    @cached_property
    def services(self) -> Records:
        """Services by slot, each with two versions."""
        return Records(self._array("services"), "service")

    @cached_property
    def service_states(self) -> Records:
        """What packets write about a service, by its slot."""
        return Records(self._array("service_states"), "service_state")

    @cached_property
    def service_bases(self) -> Records:
        """The counts at which a service's counters are 0."""
        return Records(self._array("service_bases"), "counters")

    @cached_property
    def members(self) -> maps.MmapArray:
        """The lists of all services, in chunks."""
        return self._array("members")

    @cached_property
    def destinations(self) -> Records:
        """Destinations by slot, deleted ones included."""
        return Records(self._array("destinations"), "destination")

    @cached_property
    def destination_bases(self) -> Records:
        """The counts at which a destination's counters are 0."""
        return Records(self._array("destination_bases"), "counters")

    @cached_property
    def devices(self) -> Records:
        """The devices that run XDP."""
        return Records(self._array("devices"), "device")

    @cached_property
    def pool(self) -> Records:
        """Capacity, use and hash seeds of the connection table."""
        return Records(self._array("pools"), "pool")

    @cached_property
    def pace(self) -> Records:
        """The cost of the expiry timer: connections ended, runs, CPU time."""
        return Records(self._array("paces"), "pace")

    @cached_property
    def connections4(self) -> maps.MmapArray:
        """IPv4 connections by slot."""
        return self._array("connections4")

    @cached_property
    def words6(self) -> maps.MmapArray:
        """State and timeout of IPv6 connections by NAT, by slot."""
        return self._array("words6")

    @cached_property
    def controls(self) -> Records:
        """What persistence remembers of connections and templates, by slot."""
        return Records(self._array("controls"), "control")

    @cached_property
    def names(self) -> maps.HashMap:
        """Slots of destinations by `encode.destination_name`."""
        return self._hash("names")

    @cached_property
    def maglev_tables(self) -> maps.HashMap:
        """The tables of mh, two for each service that uses it."""
        return self._hash("maglev_tables")

    @cached_property
    def cache(self) -> maps.HashMap:
        """The destinations that lblc and lblcr remember, by daddr."""
        return self._hash("cache")

    @cached_property
    def locals(self) -> maps.HashMap:
        """A snapshot of this host's addresses."""
        return self._hash("locals")

    @cached_property
    def accept_locals(self) -> maps.HashMap:
        """Devices by ifindex (0: all of them) on which a received packet may have a local saddr."""
        return self._hash("accept_locals")

    @cached_property
    def mark_rules(self) -> Records:
        """The rules that set firewall marks: two lists."""
        return Records(self._array("mark_rules"), "mark_rule")

    @cached_property
    def routed_marks(self) -> maps.HashMap:
        """A snapshot of the marks whose packets policy routing delivers locally."""
        return self._hash("routed_marks")

    @cached_property
    def standby(self) -> maps.HashMap:
        """The addresses of this host's virtual routers, and whether each is standby."""
        return self._hash("standby")

    @cached_property
    def transmitters(self) -> maps.HashMap:
        """Devices to which XDP may redirect."""
        return self._hash("transmitters")

    @cached_property
    def statistics(self) -> maps.PerCpuArray:
        """Per-CPU data of destinations by slot; it begins with the counters."""
        lanes = self._per_cpu("lanes")
        lanes.records = abi.constant("LANES")
        return lanes

    @cached_property
    def estimates(self) -> Records:
        """Averages of the rates, by slot of the destination."""
        return Records(self._array("estimates"), "estimate")

    @cached_property
    def reasons(self) -> maps.PerCpuArray:
        """Packet counts by drop reason."""
        return self._per_cpu("reasons")

    def service_keys(self, version: int) -> maps.HashMap:
        """Return the slots of services by key, of IPv4 (4) or IPv6 (6)."""
        return self._service_keys4 if version == 4 else self._service_keys6

    @cached_property
    def _service_keys4(self) -> maps.HashMap:
        return self._hash("services4")

    @cached_property
    def _service_keys6(self) -> maps.HashMap:
        return self._hash("services6")

    @cached_property
    def connections6(self) -> maps.HashMap:
        """IPv6 connections by tuple."""
        return self._hash("connections6")


# --- generations -----------------------------------------------------------------------------------------------------
# Services and destinations have two halves each. The generation in force decides which half packets read. An edit
# writes the other halves with the next generation, and then stores that generation (`transaction`).


MASK32 = 0xFFFFFFFF


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

    @property
    def live(self) -> int:
        """The generation in force."""
        return int(self.tables.root.get(0, "live")) & MASK32

    def _generations(self, slot: int) -> tuple[int, int]:
        array, offset = self.tables.services.array, self._generation
        base = slot * array.stride + offset
        (one,) = struct.unpack_from("<I", array.upto(slot), base)
        (other,) = struct.unpack_from("<I", array.upto(slot), base + self._codec.size)
        return one, other

    def _half_offset(self, slot: int, half: int) -> int:
        return slot * self.tables.services.array.stride + half * self._codec.size

    def _store_generation(self, slot: int, half: int, generation: int) -> None:
        """Write a generation by one store: after a torn read a packet could take the wrong half."""
        self.tables.services.array.store_half(slot, half * self._codec.size + self._generation, generation)

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

    def flags(self, slot: int, live: int | None = None) -> int:
        """Return a destination's flags in force."""
        one, other = self._states(slot)
        half = half_in_force((one >> 32, other >> 32), self.live if live is None else live)
        return (one, other)[half] & MASK32

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
