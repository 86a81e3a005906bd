"""The pinned maps of one state, opened when they are first needed, and their elements field by field."""

from __future__ import annotations

import os
import struct
from functools import cached_property

from pylvs.dataplane import abi, maps
from pylvs.dataplane.state import State

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

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
        """One field: an integer, a tuple or bytes."""
        offset, form, single = self._form(name)
        values = form.unpack_from(self.array.upto(index), index * self.array.stride + offset)
        return values[0] if single else values

    def set(self, index: int, name: str, *values: Any) -> None:
        """Write one field."""
        offset, form, single = self._form(name)
        place = index * self.array.stride + offset
        if single and form.size == 8 and place % 8 == 0:
            self.array.store(index, offset, values[0])
        elif single and form.size == 4 and place % 4 == 0:
            self.array.store_half(index, offset, values[0])
        else:
            form.pack_into(self.array.upto(index), place, *values)

    def publish(self, index: int, name: str, value: int) -> None:
        """Write the 64-bit field by which packets find what was written before (`MmapArray.publish`)."""
        self.array.publish(index, self._form(name)[0], value)

    def read(self, index: int) -> dict[str, Any]:
        """All fields."""
        return self.codec.unpack_from(self.array.upto(index), index * self.array.stride, whole=True)

    def write(self, index: int, values: dict[str, Any]) -> None:
        """Write these fields and leave the others."""
        self.codec.pack_into(self.array.upto(index), index * self.array.stride, values)

    def replace(self, index: int, element: bytes) -> None:
        """Write all fields, packed."""
        start = index * self.array.stride
        self.array.upto(index)[start : start + len(element)] = element

    def clear(self, index: int) -> None:
        """Zero all fields."""
        start = index * self.array.stride
        self.array.upto(index)[start : start + self.array.stride] = bytes(self.array.stride)


class Tables:
    """Every map of a state by its name in bpf/abi/."""

    def __init__(self, state: State) -> None:
        self.state = state

    def path(self, name: str) -> str:
        """Where a map is pinned."""
        return self.state.pin_path(os.path.join(MAP_DIRECTORY, name))

    def mark(self) -> int:
        """What differs when other tables are pinned in place of these; 0 while there are none."""
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
        """The one element that names the generation in force."""
        return Records(self._array("roots"), "root")

    @cached_property
    def book(self) -> Records:
        """Which slots are free."""
        return Records(self._array("books"), "book")

    @cached_property
    def services(self) -> Records:
        """Services by slot: two versions each."""
        return Records(self._array("services"), "service")

    @cached_property
    def service_states(self) -> Records:
        """What packets write of a service."""
        return Records(self._array("service_states"), "service_state")

    @cached_property
    def service_bases(self) -> Records:
        """What is taken off a service's counters."""
        return Records(self._array("service_bases"), "counters")

    @cached_property
    def members(self) -> maps.MmapArray:
        """The lists of all services, in chunks."""
        return self._array("members")

    @cached_property
    def destinations(self) -> Records:
        """Destinations by slot, deleted ones among them."""
        return Records(self._array("destinations"), "destination")

    @cached_property
    def destination_bases(self) -> Records:
        """What is taken off a destination's counters."""
        return Records(self._array("destination_bases"), "counters")

    @cached_property
    def devices(self) -> Records:
        """The devices whose frames XDP looks at."""
        return Records(self._array("devices"), "device")

    @cached_property
    def pool(self) -> Records:
        """The connection table's capacity and how far it was ever used."""
        return Records(self._array("pools"), "pool")

    @cached_property
    def pace(self) -> Records:
        """How long the expirer held its CPU."""
        return Records(self._array("paces"), "pace")

    @cached_property
    def connections4(self) -> maps.MmapArray:
        """The places of IPv4 connections, by slot."""
        return self._array("connections4")

    @cached_property
    def words6(self) -> maps.MmapArray:
        """The words of IPv6 connections by NAT, by slot."""
        return self._array("words6")

    @cached_property
    def controls(self) -> Records:
        """What persistence keeps of connections and templates by slot."""
        return Records(self._array("controls"), "control")

    @cached_property
    def names(self) -> maps.HashMap:
        """Destinations by name."""
        return self._hash("names")

    @cached_property
    def maglev_tables(self) -> maps.HashMap:
        """What mh looks its choices up in, two for each service that uses it."""
        return self._hash("maglev_tables")

    @cached_property
    def cache(self) -> maps.HashMap:
        """What lblc and lblcr remember of targets."""
        return self._hash("cache")

    @cached_property
    def locals(self) -> maps.HashMap:
        """Snapshot of this host's addresses."""
        return self._hash("locals")

    @cached_property
    def accept_locals(self) -> maps.HashMap:
        """Devices by ifindex (0: all of them) where a packet from outside may have a local source."""
        return self._hash("accept_locals")

    @cached_property
    def mark_rules(self) -> Records:
        """The classifier's rules: two lists."""
        return Records(self._array("mark_rules"), "mark_rule")

    @cached_property
    def routed_marks(self) -> maps.HashMap:
        """Snapshot of the marks that policy routing calls local."""
        return self._hash("routed_marks")

    @cached_property
    def standby(self) -> maps.HashMap:
        """The addresses of this host's virtual routers, with those that stand by marked."""
        return self._hash("standby")

    @cached_property
    def transmitters(self) -> maps.HashMap:
        """Devices that XDP may redirect to."""
        return self._hash("transmitters")

    @cached_property
    def statistics(self) -> maps.PerCpuArray:
        """What each processor keeps of destinations, by their slots: counters first."""
        lanes = self._per_cpu("lanes")
        lanes.records = abi.constant("LANES")
        return lanes

    @cached_property
    def estimates(self) -> Records:
        """Averages by destination slot."""
        return Records(self._array("estimates"), "estimate")

    @cached_property
    def reasons(self) -> maps.PerCpuArray:
        """What happened to packets beyond being forwarded."""
        return self._per_cpu("reasons")

    def service_keys(self, version: int) -> maps.HashMap:
        """Slots by key, of IPv4 (4) or IPv6 (6)."""
        return self._service_keys4 if version == 4 else self._service_keys6

    @cached_property
    def _service_keys4(self) -> maps.HashMap:
        return self._hash("services4")

    @cached_property
    def _service_keys6(self) -> maps.HashMap:
        return self._hash("services6")

    @cached_property
    def connections6(self) -> maps.HashMap:
        """The table of IPv6 connections."""
        return self._hash("connections6")
