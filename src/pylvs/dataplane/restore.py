"""Copy the connections of one table into another, while packets use and change them.

Former and fresh table may differ in size. A packet program inserts the records (bpf/conntrack/restore.h), so this
module knows how connections are stored in the former table only. A copy is made of several passes: the first takes
everything, each later one what has changed since the one before.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

from pylvs.bpf import abi, kernel
from pylvs.bpf.maps import LargeArray
from pylvs.dataplane import load
from pylvs.dataplane.tables import MASK32, Records, Tables
from pylvs.model.dataclass import dataclass

_BLOCK = 1 << 16  # bytes of the table of IPv4 connections that are read at once
_FIELDS4 = (
    "connection.word",
    "connection.destination",
    "connection.port:2s",
    "connection.method",
    "connection.flags",
    "tuple:16s",
)
_FIELDS6 = (
    "connection.word",
    "connection.destination",
    "connection.port:2s",
    "connection.method",
    "connection.flags",
    "slot",
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


class ConnectionCopy:
    """One copy of a former table into a fresh one."""

    def __init__(self, former: Tables, fresh: Tables, restore: int) -> None:
        """Take over the descriptor of the loaded `restore_conns`.

        All maps of the former table are opened now: their pins may be replaced before the last pass.
        """
        self._restore = restore
        self._connections4 = LargeArray.open(former.path("connections4"))
        self._connections6, self._words6, self._controls = former.connections6, former.words6, former.controls
        self._first6 = load.first_slot6(former.pool.get(0, "capacity"))
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
        codec = abi.struct("conn_entry4")
        form, size = codec.view(*_FIELDS4), codec.size
        unused, each, kind_at = bytes(_BLOCK), _BLOCK // codec.size, abi.struct("tuple4").offset("kind")
        claimed = abi.constant("TUPLE_CLAIMED")
        for number, block in enumerate(self._connections4.blocks(_BLOCK)):
            former = self._blocks[number] if number < len(self._blocks) else unused
            if number >= len(self._blocks):
                self._blocks.append(unused if block == unused else block)
            if block == former or (only_new and _tuples(block) == _tuples(former)):
                continue
            if not only_new:
                self._blocks[number] = block
            for at in range(0, len(block), size):
                entry = block[at : at + size]
                before = former[at : at + size]
                if entry == before:
                    continue
                word, destination, port, method, flags, raw_tuple = form.unpack(entry)
                if not raw_tuple[4:8].strip(b"\0") or raw_tuple[kind_at] == claimed or word & self._dying:
                    continue
                was, *_, former_tuple = form.unpack(before)
                raw_tuple = raw_tuple[: kind_at + 1]  # without the marks of its bucket
                slot, known = number * each + at // size, former_tuple[: kind_at + 1] == raw_tuple
                if not (known and only_new):
                    yield Seen(4, slot, raw_tuple, word, destination, port, method, flags, was if known else 0)

    def _changes6(self, only_new: bool) -> Iterator[Seen]:
        """Likewise for IPv6."""
        masq = abi.constant("METHOD_MASQ")
        codec, width = abi.struct("connection6"), abi.struct("tuple6").size
        form = codec.view(*_FIELDS6)
        for keys, values, count in self._connections6.chunks():
            for index in range(count):
                raw_tuple = bytes(keys[index * width : (index + 1) * width])
                value = bytes(values[index * codec.size : (index + 1) * codec.size])
                word, destination, port, method, flags, slot = form.unpack(value)
                if method == masq:
                    word = self._words6.words[slot - self._first6]
                former = self._former6.get(raw_tuple)
                if word & self._dying or former == (value, word) or (former and only_new):
                    continue
                if not only_new:
                    self._former6[raw_tuple] = value, word
                was = former[1] if former else 0
                yield Seen(6, slot, raw_tuple, word, destination, port, method, flags, was)

    def _put(self, seen: Seen) -> None:
        control = self._controls
        state = seen.word >> self._state & self._states
        timeout = assured = template = 0
        if state == self._template:
            timeout, assured = control.get(seen.slot, "timeout"), control.get(seen.slot, "assured")
        elif seen.flags & self._controlled:
            template = self._templates.get(control.get(seen.slot, "template"), 0)
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
            seen.word >> self._has_reply & 1,
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


def _tuples(block: bytes) -> tuple[list[int], list[int]]:
    """Return the tuples of the entries in a block, as two columns of words."""
    words, width = memoryview(block).cast("Q"), abi.struct("conn_entry4").size // 8
    first = abi.struct("conn_entry4").offset("tuple") // 8
    return words[first::width].tolist(), words[first + 1 :: width].tolist()
