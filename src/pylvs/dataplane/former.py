"""Read the maps of a load, of this build or of another one, by the BTF that the kernel has of them.

The tables below name what was renamed since commit 5189436, whose layout is the first one that can be read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from typing import cast

from pylvs.bpf import abi, btf, kernel
from pylvs.bpf.abi import Abi, Codec
from pylvs.bpf.maps import ArrayMap, HashMap, Map, MmapArray, PerCpuArray
from pylvs.dataplane.state import CLOCK, LOADED, OBJECT, TC, State
from pylvs.dataplane.tables import MASK32, Records, Tables, Versions
from pylvs.model.errors import Unsupported
from pylvs.model.rows import Counters, HookPackets, PacketCounts

# Fields by the names of commit 5189436.
_RENAMED = {
    "saddr": "source",
    "saddr_mask": "source_mask",
    "daddr": "target",
    "daddr_mask": "target_mask",
    "sport": "source_port",
    "sport_ranges": "source_ranges",
    "sports": "source_ports",
    "dport": "target_port",
    "dport_ranges": "target_ranges",
    "dports": "target_ports",
    "list_positions": "places",
    "tailroom": "room",
    "flags": "controlled",
}
# Maps by the names of commit 5189436, and maps whose fields were in another one.
_RENAMED_MAPS = {"conn_counts": "destinations", "lanes": "statistics", "frag_queues": "gathers"}
# Fields that are computed again, or that begin anew: chains of free slots, bitmaps with their keys, locks. Likewise
# counts of connections and of references, and positions in rings.
_ANEW = {
    "root": ("vip_bits", "reply_bits", "standby_bits", "address_keys"),
    "facts": ("timeouts",),
    "destination": ("cached", "active", "inactive", "persistent", "upper", "lower", "overloaded"),
    "conn_counts": ("active", "inactive", "persistent"),
    "service_state": ("syns",),
    "cached": ("busy",),
    "tuple4": ("marks", "number"),
}
# Structures with few fields to copy.
_COPIED = {"book": ("service_top", "destination_top", "member_top", "trash_began_s")}
_WITH_DEFAULTS = "settings"  # a structure: a setting that the other build lacks has its default
# Fields that earlier builds lack, by structure. They begin as in new tables, most of them at 0.
_ADDED: dict[str, tuple[str, ...]] = {
    "root": ("fallback_key", "nat", "unprivileged_port"),
    "facts": ("engines",),
    "book": ("trash_began_s",),
    "frag_queue": ("moment",),
    "device": ("bond", "trunk", "vid"),
}
# Enumerations whose values maps store.
_STORED = (
    *("scheduler", "method", "state", "service_flag", "destination_flag", "destination_use", "tunnel_kind"),
    *("tunnel_flag", "tuple_kind", "word_bits", "list_edit", "mark_flag", "probe_marks"),
)
# What `pylvs show` prints by its names in JSON, each with the map that it needs, and that earlier builds lack.
_SHOWN = {
    "half_open": "half_open_counts",
    "half_open_share": "half_open_counts",
    "forwarded": "device_packets",
    "rp_filter": "rp_filters",
}
_ROOT = "root"  # the structure of the map `roots`, which is a variable
COUNTERS = ("connections", "in_packets", "out_packets", "in_bytes", "out_bytes")


def name_there(codec: Codec, name: str) -> str:
    """Return the name of our field `outer.inner` in a structure of another build. Raises KeyError."""
    outer, dot, inner = name.rpartition(".")
    renamed = _RENAMED.get(inner, inner)
    for each in name, inner, f"{outer}{dot}{renamed}", renamed:
        if each in codec.fields:
            return each
    raise KeyError(name)


class Plan:
    """Which bytes of a structure of another build become which bytes of ours."""

    def __init__(self, other: Abi, former: str, name: str, where: str, whole: bool = True) -> None:
        """Match the fields of the structure `former` of another build and of our structure `name`.

        With `whole` false, the former structure has fields of other maps, too. Raises Unsupported.
        """
        self._other = other
        self.size = abi.struct(name).size
        self._ranges: list[tuple[int, int, int]] = []
        self.unknown: list[tuple[str, int, int]] = []  # name, offset and size of fields that only the former has
        self._add(former, name, 0, 0, where)
        if not whole:
            self.unknown.clear()
        self.is_identity = len(self._ranges) == 1 and self._ranges[0][:2] == (0, 0)  # nothing has moved

    def _add(self, former: str, name: str, from_: int, to: int, where: str) -> None:
        there, ours, anew = self._other.struct(former), abi.struct(name), _ANEW.get(name, ())
        wanted = _COPIED.get(name, tuple(ours.fields))
        known = {*anew, *(there.fields if name in _COPIED or name == _WITH_DEFAULTS else ())}
        for field in ours.fields.values():
            if "." in field.name or _is_pad(field.name) or field.name in anew or field.name not in wanted:
                continue
            source = there.fields.get(field.name) or there.fields.get(_RENAMED.get(field.name, ""))
            if source is None:
                if name == _WITH_DEFAULTS or field.name in _ADDED.get(name, ()):
                    continue
                raise Unsupported(f"{where} lacks the field {field.name}")
            known.add(source.name)
            of_same_kind = source.length == field.length and bool(source.type) == bool(field.type)
            if not of_same_kind or (source.size != field.size and not field.type):
                raise Unsupported(f"{where} has the field {field.name} in another size")
            each, ours_each = (size // (field.length or 1) for size in (source.size, field.size))
            for number in range(field.length or 1) if field.type else ():
                inner = (from_ + source.offset + number * each, to + field.offset + number * ours_each)
                self._add(source.type, field.type, *inner, f"{where}.{field.name}")
            if not field.type:
                self._move(from_ + source.offset, to + field.offset, field.size)
        for field in there.fields.values():
            if not ("." in field.name or _is_pad(field.name) or field.name in known):
                self.unknown.append((f"{where}: {field.name}", from_ + field.offset, field.size))

    def _move(self, from_: int, to: int, size: int) -> None:
        if self._ranges:
            before = self._ranges[-1]
            if (before[0] + before[2], before[1] + before[2]) == (from_, to):
                self._ranges[-1] = (before[0], before[1], before[2] + size)
                return
        self._ranges.append((from_, to, size))

    def check(self, element: bytes | memoryview) -> None:
        """Raise Unsupported if an element has something in a field that we do not know."""
        for name, at, size in self.unknown:
            if any(element[at : at + size]):
                raise Unsupported(f"{name} is in use, a field that this pylvs does not know")

    def write(self, element: bytes | memoryview, into: bytearray | memoryview) -> None:
        """Write the fields of a former element into ours."""
        for from_, to, size in self._ranges:
            into[to : to + size] = element[from_ : from_ + size]

    def convert(self, element: bytes | memoryview) -> bytes:
        """Return our element."""
        found = bytearray(self.size)
        self.write(element, found)
        return bytes(found)


def _is_pad(name: str) -> bool:
    return name.startswith("pad")


class Former:
    """The maps of a load, of this build or another one, by the BTF that the kernel has of them."""

    def __init__(self, state: State, directory: str = LOADED) -> None:
        self.state = state
        self.directory = directory
        self._blocks: dict[int, btf.Btf] = {}  # by the kernel's number
        self._layout: tuple[int, Abi] | None = None  # with the number of structures that were read

    def path(self, name: str) -> str:
        """Return the path of a map's pin."""
        return self.state.pin_path(f"{self.directory}/{name}")

    def name(self, ours: str) -> str:
        """Return the name of a map there. Raises Unsupported if it lacks the map."""
        for name in ours, _RENAMED_MAPS.get(ours):
            if name and os.path.exists(self.path(name)):
                return name
        raise Unsupported(f"{self.what} lack the map {ours}")

    @property
    def what(self) -> str:
        """These tables, for messages."""
        return f"the tables of {self.state.build(self.directory) or 'another pylvs'}"

    def _block(self, descriptor: int) -> tuple[btf.Btf, int, int]:
        number, key, value = kernel.map_types(descriptor)
        if not number:
            raise Unsupported(f"{self.what} have no BTF")
        if number not in self._blocks:
            self._blocks[number] = btf.Btf(kernel.read_btf(number))
        return self._blocks[number], key, value

    def types(self, name: str) -> tuple[str, str]:
        """Return the names of the structures of a map's keys and values; empty for numbers."""
        with self.state.opened(f"{self.directory}/{name}") as descriptor:
            if descriptor is None:
                raise Unsupported(f"{self.what} lack the map {name}")
            block, *numbers = self._block(descriptor)
        found = []
        for number in numbers:
            entry = block.strip(number)
            if entry.kind == btf.DATASEC:  # of a variable in a section of its own
                number = block.types[entry.extra[0][0]].size_or_type
            try:
                found.append(block.field(name, 0, number).get("type", "") if number else "")
            except btf.LayoutError as error:
                raise Unsupported(f"{self.what}: the map {name}: {error}") from None
        return found[0], found[1]

    @property
    def layout(self) -> Abi:
        """The structures of the maps whose types were asked for, and all enumerations."""
        count = sum(len(each.structs) for each in self._blocks.values())
        if self._layout is None or self._layout[0] != count:
            structs = {name: each for block in self._blocks.values() for name, each in block.structs.items()}
            enums = {name: each for block in self._blocks.values() for name, each in block.enums.items()}
            self._layout = count, Abi("", abi.words_of(structs, enums))
        return self._layout[1]

    @contextmanager
    def naming(self, name: str) -> Iterator[None]:
        """Raise Unsupported for a field that a map lacks."""
        try:
            yield
        except KeyError as error:
            raise Unsupported(f"{self.what}: the map {name} lacks the field {error.args[0]}") from None

    def codec(self, name: str) -> Codec:
        """Return the codec of a map's values."""
        structure = self.types(name)[1]
        return self.layout.struct(structure)

    def records(self, name: str) -> Records:
        """Return an array of structures."""
        codec = self.codec(name)
        return Records(MmapArray.open(self.path(name)), codec)

    @cached_property
    def pool(self) -> Records:
        """The pool of connections."""
        return self.records("pools")

    @cached_property
    def book(self) -> Records:
        """The allocator of slots."""
        return self.records("books")

    def check_numbers(self) -> None:
        """Raise Unsupported if a number that maps store has another meaning. Call it after a map was opened."""
        for enum, values in self.layout.enums.items():
            ours = abi.shipped().enums.get(enum, {}) if enum in _STORED else {}
            for name in values.keys() & ours.keys() - {f"{enum.upper()}S"}:  # their number may grow
                if values[name] != ours[name]:
                    raise Unsupported(f"{self.what} have another value for {name}")

    @contextmanager
    def _program(self, name: str) -> Iterator[int | None]:
        """Open a program. Commit 5189436 has the programs beside the directory of the maps."""
        pinned = f"{self.directory}/{name}"
        with self.state.opened(pinned if os.path.exists(self.path(name)) else name) as program:
            yield program

    def clock(self) -> int:
        """Return the clock of the programs, in ticks."""
        with self._program(CLOCK) as program:
            return 0 if program is None else kernel.run_program(program, bytes(64)).verdict & MASK32

    def variable(self, name: str) -> int:
        """Return a 32-bit value that was set when the programs were loaded."""
        with self._program(TC) as program:
            numbers = kernel.program_info(program).map_ids if program is not None else ()
        for number in numbers:
            with closing(Map(kernel.map_by_id(number))) as found:
                if not found.name.endswith(".rodata"):
                    continue
                block, _, value = self._block(found.fd)
                for variable, offset, _size in block.types[value].extra:
                    if block.types[variable].name == name:
                        raw = ArrayMap.duplicate(found.fd).get(0) or b""
                        return int.from_bytes(raw[offset : offset + 4], "little")
        raise Unsupported(f"{self.what} lack the variable {name}")

    # Connections.

    def plan(self, map_name: str, part: int, name: str, whole: bool = True) -> Plan:
        """Return the plan for the keys (0) or values (1) of a map."""
        former = self.types(map_name)[part]
        return Plan(self.layout, former, name, f"{self.what}: the map {map_name}", whole)

    def plans(self, name: str) -> tuple[Plan | None, Plan | None]:
        """Return the plans for keys and values of one of our maps; None for numbers. Raises Unsupported."""
        there, found = self.name(name), []
        for part, kind in enumerate(("key", "value")):
            declared = abi.shipped().objects[OBJECT]["maps"].get(name, {}).get(kind, {})
            ours = declared.get("type") or (_ROOT if (name, kind) == ("roots", "value") else "")
            found.append(self.plan(there, part, ours, name == there) if ours else None)
        return found[0], found[1]

    @cached_property
    def table(self) -> str:
        """The name of the map with the connections: of both families, or of IPv4 alone in earlier builds."""
        return "connections" if os.path.exists(self.path("connections")) else "connections4"

    @property
    def has_connections6(self) -> bool:
        """Return whether connections of IPv6 are in a hash map, as in earlier builds."""
        return self.table != "connections"

    def entry4(self) -> Codec:
        """Return the codec of an entry of IPv4, which may be in buckets."""
        codec = self.codec(self.table)
        return self.layout.struct(codec.fields["entry"].type) if "entry" in codec.fields else codec

    def tuple_plan4(self) -> Plan:
        """Return the plan for the tuples of IPv4 connections."""
        with self.naming(self.table):
            of_ipv4 = self.entry4().fields["tuple"].type
        return Plan(self.layout, of_ipv4, "tuple4", f"{self.what}: the map {self.table}")

    def tuple_plan6(self) -> Plan:
        """Return the plan for the keys of a hash map of IPv6 connections."""
        return self.plan("connections6", 0, "tuple6")

    @cached_property
    def first_slot6(self) -> int:
        """The first slot of IPv6, of builds that have connections of IPv6 in a hash map."""
        return self.variable("first_slot6")

    def controls(self) -> Callable[[int, str], int]:
        """Return a function for what persistence remembers of a slot: by slot and field of struct control."""
        if os.path.exists(self.path("controls")):
            return self.records("controls").get
        # Commit 5189436 has them in the entries of IPv4, and in a map of IPv6 alone.
        of_ipv4, of_ipv6, first6 = self.records("connections4"), self.records("controls6"), self.first_slot6

        def control(slot: int, name: str) -> int:
            found: int = of_ipv6.get(slot - first6, name) if slot >= first6 else of_ipv4.get(slot, f"control.{name}")
            return found

        return control

    # Counters.

    def counter_words(self) -> tuple[list[int], int]:
        """Return the positions of the counters in the record of a destination, and the records in an element."""
        name = self.name("lanes")
        codec, records = self.codec(name), 1
        if "of" in codec.fields:
            of = codec.fields["of"]
            codec, records = self.layout.struct(of.type), of.length
        prefix = "counters." if "counters" in codec.fields else ""
        with self.naming(name):
            return [codec.offset(prefix + each) // 8 for each in COUNTERS], records

    def counted(self) -> list[tuple[int, ...]]:
        """Return the counts of packets of all destinations, by slot, since the maps were made."""
        words, records = self.counter_words()
        with PerCpuArray.open(self.path(self.name("lanes"))) as found:
            found.records = records
            top = self.book.get(0, "destination_top")
            sums = found.all_sums(top)[:top] if top else []
        return [tuple(each[word] for word in words) for each in sums]

    def forwarded(self) -> dict[int, list[int]]:
        """Return the forwarded packets by the ifindex of the ingress device and by hook; none of earlier builds."""
        from pylvs.dataplane.reader import forwarded_by_ifindex  # late: only migration needs it

        if not os.path.exists(self.path("device_packets")):
            return {}
        _, records = self.counter_words()
        self.codec("device_packets")  # its layout
        with (
            PerCpuArray.open(self.path("device_packets")) as device_packets,
            PerCpuArray.open(self.path("lanes")) as lanes,
        ):
            lanes.records = records
            return forwarded_by_ifindex(self.layout, device_packets, lanes, self.book.get(0, "destination_top"))


# Listings.


class CopiedArray:
    """An array in our layout for reading, as `MmapArray`. Elements are copied at their first use, each once."""

    def __init__(self, count: int, size: int, element: Callable[[int], bytes]) -> None:
        self.max_entries, self.stride = count, (size + 7) & ~7
        self._element = element
        self._copied = bytearray()

    @property
    def memory(self) -> memoryview:
        """All elements."""
        return self.upto(self.max_entries - 1)

    def upto(self, index: int) -> memoryview:
        """Return the elements up to this one."""
        for each in range(len(self._copied) // self.stride, index + 1):
            self._copied = self._copied + self._element(each).ljust(self.stride, b"\0")
        return memoryview(self._copied)

    def elements(self, start: int, count: int) -> memoryview:
        """Return `count` elements."""
        return self.upto(start + count - 1)[start * self.stride : (start + count) * self.stride]


class CopiedHash:
    """A hash map in our layout for reading, as `HashMap`."""

    def __init__(self, elements: dict[bytes, bytes]) -> None:
        self._elements = elements

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key."""
        return self._elements.get(key)

    def chunks(self) -> Iterator[tuple[memoryview, memoryview, int]]:
        """Yield all keys and values, with their number."""
        keys, values = b"".join(self._elements), b"".join(self._elements.values())
        yield memoryview(keys), memoryview(values), len(self._elements)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all keys with their values."""
        yield from self._elements.items()


class FormerTables(Tables):
    """The tables of a build with another layout as copies in ours, for listings of all but connections.

    Raises Unsupported for what cannot be copied.
    """

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.former = Former(state)
        self._former_root = self.former.records("roots")
        self.former.check_numbers()

    @property
    def is_stale(self) -> bool:
        """Whether an edit was committed since the copies were made."""
        return int(self._former_root.get(0, "live")) != int(self.root.get(0, "live"))

    @property
    def lacks(self) -> frozenset[str]:
        """What these tables do not have of all that `pylvs show` prints, by the names in JSON."""
        return frozenset(name for name, needed in _SHOWN.items() if not os.path.exists(self.path(needed)))

    def packet_counts(self, totals: Counters) -> PacketCounts:
        """Return `totals` with drop reasons, use of the table and forwarded packets; the others are not copied."""
        from pylvs.dataplane import reader  # late: only listings need it

        with self.former.naming("magazines"):
            use = reader.table_use(self, self.former.codec("magazines"), "half_open" not in self.lacks)
        forwarded: dict[str, HookPackets] = {}
        if "forwarded" not in self.lacks:
            with self.former.naming("lanes"):
                forwarded = reader.by_device(self.former.forwarded())
        reasons = reader.reason_counts(self, self.former.layout)
        return PacketCounts(reasons, use, totals=totals, forwarded=forwarded, lacks=self.lacks)

    def open_array(self, name: str) -> MmapArray:
        """Return a copy of an array."""
        made = {
            "conn_counts": self._conn_counts,
            "estimates": self._estimates,
            "pools": self._pools,
            "service_estimates": self._service_estimates,
        }
        return cast(MmapArray, made.get(name, lambda: self._converted(name))())

    def open_hash(self, name: str) -> HashMap:
        """Return a copy of a hash map."""
        by_key, by_value = self.former.plans(name)
        with HashMap.open(self.former.path(self.former.name(name))) as found:
            elements = {
                by_key.convert(key) if by_key else key: by_value.convert(value) if by_value else value
                for key, value in found.items()
            }
        return cast(HashMap, CopiedHash(elements))

    def _converted(self, name: str) -> CopiedArray:
        there = MmapArray.open(self.former.path(self.former.name(name)))
        plan = self.former.plans(name)[1]

        def element(index: int) -> bytes:
            raw = there.elements(index, 1)
            return plan.convert(raw) if plan else bytes(raw[: there.value_size])

        return CopiedArray(there.max_entries, plan.size if plan else there.value_size, element)

    def _fields(self, name: str, structure: str, names: dict[str, str]) -> CopiedArray:
        """Return an array of our structure with these fields, which have other names there."""
        former, codec = self.former.records(self.former.name(name)), abi.struct(structure)

        def element(index: int) -> bytes:
            return codec.pack({ours: former.get(index, there) for ours, there in names.items()})

        return CopiedArray(former.count, codec.size, element)

    def _conn_counts(self) -> CopiedArray:
        return self._fields("conn_counts", "conn_counts", {each: each for each in ("active", "inactive", "persistent")})

    def _pools(self) -> CopiedArray:
        return self._fields("pools", "pool", {each: each for each in ("capacity", "used")})

    def _estimates(self) -> CopiedArray:
        codec = self.former.codec("estimates")
        passed = "passed" if "passed" in codec.fields else "last"  # earlier builds have no snapshot of services
        return self._fields("estimates", "estimate", {"averages": "averages", "last": "last", "passed": passed})

    def _service_estimates(self) -> CopiedArray:
        """Return the rates of services; earlier builds add those of their destinations."""
        if os.path.exists(self.former.path("service_estimates")):
            return self._fields("service_estimates", "estimate", {"averages": "averages"})
        from pylvs.dataplane.reader import Reader, summed  # late: only listings need it

        codec, versions = abi.struct("estimate"), Versions(self)
        owners = Reader(self).owned_by_service()

        def element(slot: int) -> bytes:
            owned = owners.get((slot, versions.version(slot)["birth"]), [])
            return codec.pack(averages=summed(self.estimates.get(each, "averages") for each in owned))

        return CopiedArray(self.services.count, codec.size, element)
