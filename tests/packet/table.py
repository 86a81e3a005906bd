"""The connection tables as packets see them. A test may change entries."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pylvs.bpf import abi, maps
from pylvs.dataplane import load
from pylvs.dataplane.tables import Tables

Change = Callable[[int], None]

TICKS = 0xFFFFFFFF  # the bits of the tick at which the connection ends
_TICK = struct.Struct("<I")


class Entry(NamedTuple):
    """A connection in the table of the packet path."""

    key: bytes  # its tuple
    slot: int
    word: int
    change: Change  # replaces the state

    @property
    def client_port(self) -> int:
        at = abi.struct("tuple4" if len(self.key) == abi.struct("tuple4").size else "tuple6").offset("sport")
        return int.from_bytes(self.key[at : at + 2], "big")

    @property
    def is_template(self) -> bool:
        """Return whether it is a persistence template."""
        at = abi.struct("tuple4" if len(self.key) == abi.struct("tuple4").size else "tuple6").offset("kind")
        return self.key[at] != abi.constant("TUPLE_CONNECTION")

    @property
    def expiry(self) -> int:
        """Return the tick at which it ends."""
        return self.word & TICKS

    def end_at(self, tick: int) -> None:
        """Set another tick for its end, of which the expiry timer has no record."""
        self.change(self.word & ~TICKS | tick & TICKS)


def entries(tables: Tables) -> list[Entry]:
    return [*_entries4(tables), *_entries6(tables)]


def words(tables: Tables, version: int) -> Iterator[tuple[bytes, int, Change]]:
    """Yield tuples, states, and functions that replace the state."""
    for key, _, word, change in _entries4(tables) if version == 4 else _entries6(tables):
        yield key, word, change


def entry(tables: Tables, client_port: int) -> Entry:
    """Return the only connection of a client port."""
    (found,) = [each for each in entries(tables) if each.client_port == client_port]
    return found


def shorten(tables: Tables, seconds: float) -> None:
    """Let each connection end after this time. None of them may be about to end."""
    then = load.clock(tables.state) + round(seconds * load.ticks_per_second()) & TICKS
    for each in entries(tables):
        each.end_at(then)
        look_at(tables, each.slot, then)


def _look(tables: Tables, slot: int) -> int:
    """Return the position of a slot's tick; slots of IPv4 share it with others."""
    first, each = load.first_slot6(tables.pool.get(0, "capacity")), abi.constant("LOOK_SLOTS")
    return slot // each if slot < first else first // each + slot - first


def look_at(tables: Tables, slot: int, tick: int) -> None:
    """Set the tick at which the expiry timer checks a connection."""
    with maps.MmapArray.open(tables.path("looks")) as looks:
        _TICK.pack_into(looks.memory, _look(tables, slot) * _TICK.size, tick & TICKS or 1)


def looked_at(tables: Tables, slot: int) -> int:
    """Return the tick at which the expiry timer checks a connection; 0: never."""
    with maps.MmapArray.open(tables.path("looks")) as looks:
        return int(_TICK.unpack_from(looks.memory, _look(tables, slot) * _TICK.size)[0])


@contextmanager
def only_templates(tables: Tables) -> Iterator[None]:
    """Let the expiry timer check templates alone in the block. It is stopped before and after."""
    first, hidden = load.first_slot6(tables.pool.get(0, "capacity")), []
    with maps.MmapArray.open(tables.path("looks")) as looks:
        for each in entries(tables):
            if each.is_template:
                continue
            if each.slot < first:  # as if another CPU had not finished it
                memory, at, bit = (
                    tables.connections4.memory,
                    _marks4(each.slot),
                    4 << each.slot % abi.constant("ENTRIES"),
                )
                memory[at] &= ~bit
                hidden.append((memory, at, bytes((bit,))))
            else:
                at, size = _look(tables, each.slot) * _TICK.size, _TICK.size
                hidden.append((looks.memory, at, bytes(looks.memory[at : at + size])))
                looks.memory[at : at + size] = bytes(size)
        try:
            yield
        finally:
            for memory, at, before in hidden:
                for number, byte in enumerate(before):
                    memory[at + number] |= byte


def _marks4(slot: int) -> int:
    """Return where the marks of a slot's bucket are."""
    return _entry4(slot // abi.constant("ENTRIES") * abi.constant("ENTRIES")) + abi.struct("conn_entry4").offset(
        "tuple.marks"
    )


def _entry4(slot: int) -> int:
    """Return where the entry of a slot begins."""
    return slot * abi.struct("conn_entry4").size


def _taken4(tables: Tables) -> list[int]:
    """Return the slots in use."""
    codec = abi.struct("conn_entry4")
    targets = tables.connections4.memory.cast("I")[codec.offset("tuple.daddr") // 4 :: codec.size // 4].tolist()
    return [slot for slot, target in enumerate(targets) if target]


def entries4(tables: Tables) -> int:
    """Return the number of entries of IPv4.

    Raises AssertionError unless exactly those are in force and complete, and none overflows from an empty table.
    """
    taken, each, memory = set(_taken4(tables)), abi.constant("ENTRIES"), tables.connections4.memory
    size = abi.struct("conn_entry4").size * each
    marks = [memory[at] for at in range(_marks4(0), len(memory), size)]
    for first in (0, each):
        assert {
            bucket * each + i for bucket, mark in enumerate(marks) for i in range(each) if mark >> first + i & 1
        } == taken
    assert taken or not list(tables.crowd4.keys()), "an empty table names a connection"
    counts = [memory[at] >> 4 or memory[at + 1] & 0x7F for at in range(_marks4(0), len(memory), size)]
    assert taken or not any(counts), "an empty table counts connections that overflowed"
    return len(taken)


def _entries4(tables: Tables) -> Iterator[Entry]:
    table, codec = tables.connections4, abi.struct("conn_entry4")
    first, size = codec.fields["tuple"].offset, codec.offset("tuple.marks") - codec.fields["tuple"].offset
    for slot in _taken4(tables):
        start = _entry4(slot)
        at = (start + codec.fields["connection"].offset) // 8

        def change(word: int, at: int = at) -> None:
            table.words[at] = word

        key = bytes(table.memory[start + first : start + first + size]).ljust(abi.struct("tuple4").size, b"\0")
        yield Entry(key, slot, table.words[at], change)


def _entries6(tables: Tables) -> Iterator[Entry]:
    form, table = abi.struct("connection6").view("connection.word", "connection.method", "slot"), tables.connections6
    first = load.first_slot6(tables.pool.get(0, "capacity"))
    for key, value in list(table.items()):
        own, method, number = form.unpack_from(value)
        slot = number - first if method == abi.constant("METHOD_MASQ") else None

        def change(word: int, key: bytes = key, value: bytes = value, slot: int | None = slot) -> None:
            if slot is None:
                table.put(key, word.to_bytes(8, "little") + value[8:])
            else:
                tables.words6.words[slot] = word

        yield Entry(key, number, own if slot is None else tables.words6.words[slot], change)


def wipe4(tables: Tables) -> None:
    """Remove all IPv4 connections; credits that CPUs hold stay.

    The expiry timer is stopped.
    """
    looks4 = load.first_slot6(tables.pool.get(0, "capacity")) // abi.constant("LOOK_SLOTS")
    with maps.MmapArray.open(tables.path("looks")) as looks:
        looks.memory[: _TICK.size * looks4] = bytes(_TICK.size * looks4)
    taken = len(_taken4(tables))
    with maps.MmapArray.open(tables.path("connections4")) as table:
        table.memory[:] = bytes(len(table.memory))
    for key in list(tables.crowd4.keys()):
        tables.crowd4.remove(key)
    pool = tables.pool
    with maps.MmapArray.open(tables.path("controls")) as controls:  # a new template keeps its slot's references
        slots4 = load.first_slot6(pool.get(0, "capacity"))
        controls.memory[: slots4 * controls.stride] = bytes(slots4 * controls.stride)
    pool.set(0, "used", pool.get(0, "used") - taken)
