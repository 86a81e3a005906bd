"""The connection tables as packets see them. A test may change entries."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pylvs.bpf import abi, maps
from pylvs.bpf.libbpf import library
from pylvs.dataplane import load
from pylvs.dataplane.tables import Tables
from tests.maps import values

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


def look_at(tables: Tables, slot: int, tick: int) -> None:
    """Set the tick at which the expiry timer checks a connection."""
    with maps.MmapArray.open(tables.path("looks")) as looks:
        _TICK.pack_into(looks.memory, slot * _TICK.size, tick & TICKS or 1)


def looked_at(tables: Tables, slot: int) -> int:
    """Return the tick at which the expiry timer checks a connection; 0: never."""
    with maps.MmapArray.open(tables.path("looks")) as looks:
        return int(_TICK.unpack_from(looks.memory, slot * _TICK.size)[0])


@contextmanager
def only_templates(tables: Tables) -> Iterator[None]:
    """Let the expiry timer check templates alone in the block. It is stopped before and after."""
    with maps.MmapArray.open(tables.path("looks")) as looks:
        hidden = []
        for each in entries(tables):
            if not each.is_template:
                at = each.slot * _TICK.size
                hidden.append((at, bytes(looks.memory[at : at + _TICK.size])))
                looks.memory[at : at + _TICK.size] = bytes(_TICK.size)
        try:
            yield
        finally:
            for at, tick in hidden:
                looks.memory[at : at + _TICK.size] = tick


def _taken4(tables: Tables) -> list[int]:
    """Return the slots in use."""
    at = abi.struct("conn_entry4").offset("tuple.daddr")
    table = tables.connections4
    targets = table.memory.cast("I")[at // 4 :: table.stride // 4].tolist()
    return [slot for slot, target in enumerate(targets) if target]


def entries4(tables: Tables) -> int:
    """Return the number of entries in the index of IPv4 connections.

    Raises AssertionError unless exactly the slots in use are in force.
    """
    entries, number = tables.path("index4"), abi.constant("ENTRIES")
    with maps.MmapArray.open(entries) as index, maps.MmapArray.open(tables.path("marks4")) as marks:
        taken, in_force = index.memory.cast("I").tolist(), marks.memory.cast("I").tolist()
    assert any(taken) or not any(in_force), "nothing is there, but something is said to be elsewhere"
    for at, entry in enumerate(taken):
        assert bool(entry) == bool(in_force[at // number] >> at % number & 1), f"entry {at}: {entry:#x}"
    return sum(1 for entry in taken if entry)


def _entries4(tables: Tables) -> Iterator[Entry]:
    table, codec = tables.connections4, abi.struct("conn_entry4")
    first, size = codec.fields["tuple"].offset, abi.struct("tuple4").size
    second = codec.fields["connection"].offset
    for slot in _taken4(tables):
        start = slot * table.stride
        at = (start + second) // 8

        def change(word: int, at: int = at) -> None:
            table.words[at] = word

        yield Entry(bytes(table.memory[start + first : start + first + size]), slot, table.words[at], change)


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


def _without_slots4(magazine: bytes) -> bytes:
    """Return a magazine without free slots of IPv4; the first field is their number."""
    at = abi.struct("magazine").offset("free")
    return magazine[:at] + bytes(4) + magazine[at + 4 :]


def wipe4(tables: Tables) -> None:
    """Remove all IPv4 connections and reset the slots; credits that CPUs hold stay.

    The expiry timer is stopped.
    """
    first = load.first_slot6(tables.pool.get(0, "capacity"))
    with maps.MmapArray.open(tables.path("looks")) as looks:
        looks.memory[: 4 * first] = bytes(4 * first)
    taken = len(_taken4(tables))
    for name in "connections4", "index4", "marks4":
        with maps.MmapArray.open(tables.path(name)) as table:
            table.memory[:] = bytes(len(table.memory))
    with maps.Map.open(tables.path("free_slots4")) as free:
        while not library().bpf_map_lookup_and_delete_elem(free.fd, None, bytes(abi.struct("bundle").size)):
            pass
    with maps.PerCpuArray.open(tables.path("magazines")) as magazines:
        emptied = [_without_slots4(value).ljust(magazines.stride, b"\0") for value in values(magazines, 0)]
        magazines.put(0, b"".join(emptied))
    with maps.ArrayMap.open(tables.path("commands_magazine")) as commands:
        commands.put(0, _without_slots4(commands.get(0) or b""))
    pool = tables.pool
    pool.set(0, "fresh", 0, pool.get(0, "fresh")[1])
    pool.set(0, "used", pool.get(0, "used") - taken)
