"""Copy the connections of one table into another, while packets use and change them.

Former and fresh table may differ in size, and the former one may be of another build: its fields are found by name.
A packet program inserts the records (bpf/conntrack/restore.h), so this module knows how connections are stored in the
former table only. A copy is made of several passes: the first takes everything, each later one what has changed since
the one before.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from operator import itemgetter

from pylvs.bpf import abi, kernel
from pylvs.bpf.abi import Codec
from pylvs.bpf.maps import HashMap, LargeArray, MmapArray
from pylvs.dataplane.former import name_there
from pylvs.dataplane.tables import MASK32, Records, Tables
from pylvs.model.dataclass import dataclass

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

    from pylvs.dataplane.former import Former, Plan

_BLOCK = 2048  # IPv4 connections that are read at once; so many take whole pages
_FIELDS = (
    "connection.word",
    "connection.destination",
    "connection.port:2s",
    "connection.method",
    "connection.flags",
)
_RECORD = (
    "tuple:40s",
    "destination",
    "expiry",
    "was_expiry",
    "template",
    "timeout",
    "slot",
    "port:2s",
    "method",
    "state",
    "was_state",
    "family",
    "has_reply",
    "assured",
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A connection of the former table as a pass has read it."""

    family: int
    slot: int
    raw_tuple: bytes
    word: int
    destination: int
    port: bytes
    method: int
    flags: int
    was: int  # its word in the pass before; 0: it was not there


class _Fields:
    """Reads some fields of a structure, in the order in which they are named."""

    def __init__(self, codec: Codec, *names: str) -> None:
        """Take names as for `Codec.view`, of our structure. Raises KeyError."""
        found = []
        for each in names:
            name, colon, wanted = each.partition(":")
            found.append(name_there(codec, name) + colon + wanted)
        there = sorted(found, key=lambda each: codec.offset(each.partition(":")[0]))
        self._form = codec.view(*there)
        self._ordered = itemgetter(*map(there.index, found))

    def unpack(self, element: bytes) -> tuple[Any, ...]:
        """Return the values of the fields."""
        values: tuple[Any, ...] = self._ordered(self._form.unpack(element))
        return values


def _converter(plan: Plan) -> Callable[[bytes], bytes]:
    return bytes if plan.is_identity else plan.convert


class Source:
    """The connections of a load. All its maps are opened now: their pins may be replaced later."""

    def __init__(self, former: Former) -> None:
        """Raise Unsupported for maps that cannot be read."""
        self.first6 = former.first_slot6
        entry4 = former.entry4()
        self.size4 = entry4.size
        with former.naming("connections4"):
            self.fields4 = _Fields(entry4, *_FIELDS, "tuple:16s")
            self.tuple_at = entry4.offset("tuple")
        self.size6 = former.codec("connections6").size
        with former.naming("connections6"):
            self.fields6 = _Fields(former.codec("connections6"), *_FIELDS, "slot")
        self.ours4, self.ours6 = (_converter(plan) for plan in former.tuple_plans())
        self.control = former.controls()
        self.connections4 = LargeArray.open(former.path("connections4"))
        self.connections6 = HashMap.open(former.path("connections6"))
        self.words6 = MmapArray.open(former.path("words6"))

    def tuples(self, block: bytes) -> tuple[list[int], list[int]]:
        """Return the tuples of the IPv4 entries in a block, as two columns of words."""
        words, width, first = memoryview(block).cast("Q"), self.size4 // 8, self.tuple_at // 8
        return words[first::width].tolist(), words[first + 1 :: width].tolist()


class ConnectionCopy:
    """One copy of a former table into a fresh one."""

    def __init__(self, former: Former, fresh: Tables, restore: int) -> None:
        """Take over the descriptor of the loaded `restore_conns`."""
        self._restore = restore
        self._source = Source(former)
        self._records = Records(fresh.open_array("conn_records"), "conn_record")
        self._form = abi.struct("conn_record").view(*_RECORD)
        self._slot_at = abi.struct("conn_record").offset("slot")
        self._state, self._has_reply = abi.constant("WORD_STATE"), abi.constant("WORD_ANSWERED")
        self._dying, self._template = 1 << abi.constant("WORD_DYING"), abi.constant("STATE_TEMPLATE")
        self._states = abi.constant("STATES") - 1
        self._controlled = abi.constant("CONN_CONTROLLED")
        self._blocks: list[bytes] = []  # of connections4, as the last pass read them
        self._former6: dict[bytes, tuple[bytes, int]] = {}  # by tuple: value and word of the last pass
        self._templates: dict[int, int] = {}  # slots of the templates in the fresh table, by those in the former one
        self._batch: list[Seen] = []
        self._memory = bytearray()
        self.restored = self.refused = 0  # records of the last pass: taken, and refused by a full table

    def __enter__(self) -> ConnectionCopy:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._restore)

    def run(self, only_new: bool = False) -> int:
        """Make one pass; return how many connections and templates were new or different.

        A pass for those that no pass has seen yet is quick, even if packets changed all others.
        """
        self.restored = self.refused = 0
        later = []
        for seen in self._changes(only_new):
            if seen.flags & self._controlled:  # its template first
                later.append(seen)
            else:
                self._put(seen)
        self._flush()
        for seen in later:
            self._put(seen)
        self._flush()
        return self.restored + self.refused

    def _changes(self, only_new: bool) -> Iterator[Seen]:
        yield from self._changes4(only_new)
        yield from self._changes6(only_new)

    def _changes4(self, only_new: bool) -> Iterator[Seen]:
        """Yield the IPv4 connections that differ from the last pass, or those with another tuple."""
        source, size, fields = self._source, self._source.size4, self._source.fields4
        unused, kind_at = bytes(_BLOCK * size), abi.struct("tuple4").offset("kind")
        claimed = abi.constant("TUPLE_CLAIMED")
        for number, block in enumerate(source.connections4.blocks(len(unused))):
            former = self._blocks[number] if number < len(self._blocks) else unused
            if number >= len(self._blocks):
                self._blocks.append(unused if block == unused else block)
            if block == former or (only_new and source.tuples(block) == source.tuples(former)):
                continue
            if not only_new:
                self._blocks[number] = block
            for at in range(0, len(block) - size + 1, size):
                entry = block[at : at + size]
                before = former[at : at + size]
                if entry == before:
                    continue
                word, destination, port, method, flags, raw_tuple = fields.unpack(entry)
                our_tuple = source.ours4(raw_tuple)[: kind_at + 1]  # without the marks of its bucket
                if not our_tuple[4:8].strip(b"\0") or our_tuple[kind_at] == claimed or word & self._dying:
                    continue
                was, *_, former_tuple = fields.unpack(before)
                slot, known = number * _BLOCK + at // size, source.ours4(former_tuple)[: kind_at + 1] == our_tuple
                if not (known and only_new):
                    yield Seen(4, slot, our_tuple, word, destination, port, method, flags, was if known else 0)

    def _changes6(self, only_new: bool) -> Iterator[Seen]:
        """Likewise for IPv6."""
        masq = abi.constant("METHOD_MASQ")
        source, size, fields = self._source, self._source.size6, self._source.fields6
        width = source.connections6.key_size
        for keys, values, count in source.connections6.chunks():
            for index in range(count):
                raw_tuple = bytes(keys[index * width : (index + 1) * width])
                value = bytes(values[index * size : (index + 1) * size])
                word, destination, port, method, flags, slot = fields.unpack(value)
                if method == masq:
                    word = source.words6.words[slot - source.first6]
                former = self._former6.get(raw_tuple)
                if word & self._dying or former == (value, word) or (former and only_new):
                    continue
                if not only_new:
                    self._former6[raw_tuple] = value, word
                was = former[1] if former else 0
                yield Seen(6, slot, source.ours6(raw_tuple), word, destination, port, method, flags, was)

    def _put(self, seen: Seen) -> None:
        state = seen.word >> self._state & self._states
        timeout = assured = template = 0
        if state == self._template:
            timeout, assured = self._source.control(seen.slot, "timeout"), self._source.control(seen.slot, "assured")
        elif seen.flags & self._controlled:
            template = self._templates.get(self._source.control(seen.slot, "template"), 0)
        self._memory += self._form.pack(
            seen.raw_tuple,
            seen.destination,
            seen.word & MASK32,
            seen.was & MASK32,
            template,
            timeout,
            0,
            seen.port,
            seen.method,
            state,
            seen.was >> self._state & self._states,
            seen.family,
            seen.word >> self._has_reply & 3,  # and WORD_NO_REPLIES
            assured,
        )
        self._batch.append(seen)
        if len(self._batch) == self._records.count:
            self._flush()

    def _flush(self) -> None:
        """Let the packet program take the records."""
        if not self._batch:
            return
        array, size = self._records.array, self._form.size
        if len(self._batch) < self._records.count:
            self._memory += bytes(size)  # ends the batch
        array.memory[: len(self._memory)] = self._memory
        kernel.run_program(self._restore, bytes(64))
        slots = struct.Struct(f"<{self._slot_at}xI{size - self._slot_at - 4}x")
        taken = slots.iter_unpack(array.memory[: size * len(self._batch)])
        for seen, (slot,) in zip(self._batch, taken, strict=True):
            if not slot:
                self.refused += 1
                continue
            self.restored += 1
            if seen.word >> self._state & self._states == self._template:
                self._templates[seen.slot] = slot
        self._batch.clear()
        self._memory.clear()
