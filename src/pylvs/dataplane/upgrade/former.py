"""Read the maps of a load, of this build or of another one, by the BTF that the kernel has of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import cast

from pylvs.bpf import abi, btf, kernel
from pylvs.bpf.abi import Abi, Codec
from pylvs.bpf.maps import HashMap, MmapArray, PerCpuArray
from pylvs.dataplane import reader
from pylvs.dataplane.state import CLOCK, LOADED, OBJECT, State
from pylvs.dataplane.tables import MASK32, Records, Tables
from pylvs.model.errors import Unsupported
from pylvs.model.rows import Counters, PacketCounts

# Fields that are computed again, or that begin anew: chains of free slots, bitmaps with their keys, locks.
# So do counts of connections and of references, and positions in rings.
_ANEW = {
    "root": ("vip_bits", "reply_bits", "standby_bits", "address_keys", "trace"),
    "facts": ("timeouts",),
    "destination": ("cached",),
    "conn_counts": ("active", "inactive", "persistent"),
    "service_state": ("syns",),
    "cached": ("busy",),
    "tuple4": ("marks",),
}
# Structures with few fields to copy.
_COPIED = {"book": ("service_top", "destination_top", "member_top", "trash_began_s")}
_WITH_DEFAULTS = "settings"  # a structure: a setting that the other build lacks has its default
_ADDED: dict[str, tuple[str, ...]] = {
    "root": ("log", "sync", "backup"),
    "facts": ("mss_clamps", "client_rules"),
    "service_version": ("mss_clamp", "client_rules", "rule_bits"),
}  # fields that an earlier release lacks, by structure: they begin at 0
# Enumerations whose values maps store.
_STORED = (
    *("scheduler", "method", "state", "service_flag", "destination_flag", "destination_use", "tunnel_kind"),
    *("client_action", "tunnel_flag", "tuple_kind", "word_bits", "list_edit", "mark_flag", "probe_marks"),
)
# Structures of which listings read some fields, by map.
_LISTED = {"conn_counts": ("conn_counts", "active", "inactive", "persistent"), "pools": ("pool", "capacity", "used")}
_ROOT = "root"  # the structure of the map `roots`, which is a variable
COUNTERS = ("connections", "in_packets", "out_packets", "in_bytes", "out_bytes")


class Plan:
    """Which bytes of a structure of another build become which bytes of ours."""

    def __init__(self, other: Abi, former: str, name: str, where: str) -> None:
        """Match the fields of the structure `former` of another build and of our structure `name`.

        Raises Unsupported.
        """
        self._other = other
        self.size = abi.struct(name).size
        self._ranges: list[tuple[int, int, int]] = []
        self.unknown: list[tuple[str, int, int]] = []  # name, offset and size of fields that only the former has
        self._add(former, name, 0, 0, where)
        self.is_identity = len(self._ranges) == 1 and self._ranges[0][:2] == (0, 0)  # nothing has moved

    def _add(self, former: str, name: str, from_: int, to: int, where: str) -> None:
        there, ours, anew = self._other.struct(former), abi.struct(name), _ANEW.get(name, ())
        wanted = _COPIED.get(name, tuple(ours.fields))
        known = {*anew, *(there.fields if name in _COPIED or name == _WITH_DEFAULTS else ())}
        for field in ours.fields.values():
            if "." in field.name or _is_pad(field.name) or field.name in anew or field.name not in wanted:
                continue
            source = there.fields.get(field.name)
            if source is None:
                if name == _WITH_DEFAULTS or field.name in _ADDED.get(name, ()):
                    continue
                raise Unsupported(f"{where} lacks the field {field.name}")
            known.add(source.name)
            of_same_kind = source.length == field.length and bool(source.type) == bool(field.type)
            if not of_same_kind or (source.size != field.size and not field.type):
                raise Unsupported(f"{where} has the field {field.name} in another size")
            length, our_length = (size // (field.length or 1) for size in (source.size, field.size))
            for number in range(field.length or 1) if field.type else ():
                inner = (from_ + source.offset + number * length, to + field.offset + number * our_length)
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

    def has(self, name: str) -> bool:
        """Return whether the load has a map."""
        return os.path.exists(self.path(name))

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

    def clock(self) -> int:
        """Return the clock of the programs, in ticks."""
        with self.state.opened(f"{self.directory}/{CLOCK}") as program:
            return 0 if program is None else kernel.run_program(program, bytes(64)).verdict & MASK32

    def plan(self, map_name: str, former: str, name: str) -> Plan:
        """Return the plan for the structure `former` of a map and our structure `name`. Raises Unsupported."""
        return Plan(self.layout, former, name, f"{self.what}: the map {map_name}")

    def plans(self, name: str) -> tuple[Plan | None, Plan | None]:
        """Return the plans for keys and values of a map; None for numbers. Raises Unsupported."""
        there, found = self.types(name), []
        for former, kind in zip(there, ("key", "value"), strict=True):
            declared = abi.shipped().objects[OBJECT]["maps"].get(name, {}).get(kind, {})
            ours = declared.get("type") or (_ROOT if (name, kind) == ("roots", "value") else "")
            found.append(self.plan(name, former, ours) if ours else None)
        return found[0], found[1]

    # Counters.

    def counter_words(self) -> tuple[list[int], int]:
        """Return the positions of the counters in the record of a destination, and the records in an element."""
        with self.naming("percpu_destinations"):
            of = self.codec("percpu_destinations").fields["of"]
            codec = self.layout.struct(of.type)
            return [codec.offset(f"counters.{each}") // 8 for each in COUNTERS], of.length

    def counted(self) -> list[tuple[int, ...]]:
        """Return the counts of packets of all destinations, by slot, since the maps were made."""
        words, records = self.counter_words()
        with PerCpuArray.open(self.path("percpu_destinations")) as found:
            found.records = records
            top = self.book.get(0, "destination_top")
            sums = found.all_sums(top)[:top] if top else []
        return [tuple(each[word] for word in words) for each in sums]

    def forwarded(self) -> dict[int, list[int]]:
        """Return the forwarded packets by the ifindex of the ingress device and by hook."""
        _, records = self.counter_words()
        self.codec("device_packets")  # its layout
        with (
            PerCpuArray.open(self.path("device_packets")) as device_packets,
            PerCpuArray.open(self.path("percpu_destinations")) as percpu,
        ):
            percpu.records = records
            return reader.forwarded_by_ifindex(self.layout, device_packets, percpu, self.book.get(0, "destination_top"))

    def denied(self) -> list[reader.DeniedSyns]:
        """Return the SYNs of denied clients that other counters lack."""
        return reader.denied_syns(self.layout, self.path("denied_syns"))

    def ends(self) -> dict[int, tuple[list[int], list[int]]]:
        """Return the packets of devices that passed, were dropped or held, and those that passed by plain reasons.

        A build that counts none of them has none.
        """
        try:
            form = self.layout.struct("device_packets").view("ifindex", "ended", "plain")
        except KeyError:
            return {}
        packets = dict[int, list[int]]()
        with PerCpuArray.open(self.path("device_packets")) as found:
            for index, *counts in found.rows(form):
                if any(counts):
                    before = packets.get(index, [0] * len(counts))
                    packets[index] = [one + other for one, other in zip(counts, before, strict=True)]
        for each in self.denied():
            packets.setdefault(each.ifindex, [0] * (3 + abi.constant("PLAINS")))[1] += each.count
        return {index: (counts[:3], counts[3:]) for index, counts in packets.items()}


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

    def packet_counts(self, totals: Counters) -> PacketCounts:
        """Return `totals` with drop reasons, use of the table and forwarded packets; the others are not copied."""
        with self.former.naming("percpu_credits"):
            use = reader.table_use(self, self.former.codec("percpu_credits"))
        with self.former.naming("percpu_destinations"):
            forwarded = self.former.forwarded()
        reasons, by_device = reader.reason_counts(self, self.former.layout), reader.by_device(forwarded)
        total = reader.all_of(forwarded)
        return PacketCounts(reasons, use, totals=totals, forwarded=by_device, all_forwarded=total)

    def open_array(self, name: str) -> MmapArray:
        """Return a copy of an array."""
        return cast(MmapArray, self._fields(name, *_LISTED[name]) if name in _LISTED else self._converted(name))

    def open_hash(self, name: str) -> HashMap:
        """Return a copy of a hash map."""
        by_key, by_value = self.former.plans(name)
        with HashMap.open(self.former.path(name)) as found:
            elements = {
                by_key.convert(key) if by_key else key: by_value.convert(value) if by_value else value
                for key, value in found.items()
            }
        return cast(HashMap, CopiedHash(elements))

    def _converted(self, name: str) -> CopiedArray:
        plan = self.former.plans(name)[1]
        there = MmapArray.open(self.former.path(name))

        def element(index: int) -> bytes:
            raw = there.elements(index, 1)
            return plan.convert(raw) if plan else bytes(raw[: there.value_size])

        return CopiedArray(there.max_entries, plan.size if plan else there.value_size, element)

    def _fields(self, name: str, structure: str, *fields: str) -> CopiedArray:
        former, codec = self.former.records(name), abi.struct(structure)

        def element(index: int) -> bytes:
            return codec.pack({each: former.get(index, each) for each in fields})

        return CopiedArray(former.count, codec.size, element)
