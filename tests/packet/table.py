"""The connection table as packets see it. A test may change entries."""

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

    key: bytes  # its tuple, as struct tuple4 or tuple6
    slot: int
    word: int
    change: Change  # replaces the state

    @property
    def version(self) -> int:
        """Return the version of IP."""
        return 4 if len(self.key) == abi.struct("tuple4").size else 6

    @property
    def client_port(self) -> int:
        return self._port("sport")

    @property
    def service_port(self) -> int:
        return self._port("dport")

    def _port(self, name: str) -> int:
        at = abi.struct(f"tuple{self.version}").offset(name)
        return int.from_bytes(self.key[at : at + 2], "big")

    @property
    def is_template(self) -> bool:
        """Return whether it is a persistence template."""
        return self.key[abi.struct(f"tuple{self.version}").offset("kind")] != abi.constant("TUPLE_CONNECTION")

    @property
    def expiry(self) -> int:
        """Return the tick at which it ends."""
        return self.word & TICKS

    def end_at(self, tick: int) -> None:
        """Set another tick for its end, of which the expiry timer has no record."""
        self.change(self.word & ~TICKS | tick & TICKS)


def entries(tables: Tables) -> list[Entry]:
    return list(_entries(tables))


def words(tables: Tables, version: int) -> Iterator[tuple[bytes, int, Change]]:
    """Yield tuples, states, and functions that replace the state."""
    for taken in _entries(tables):
        if taken.version == version:
            yield taken.key, taken.word, taken.change


def entry(tables: Tables, client_port: int) -> Entry:
    """Return the only connection of a client port."""
    (found,) = [each for each in entries(tables) if each.client_port == client_port]
    return found


def shorten(tables: Tables, seconds: float, service_port: int = 0) -> None:
    """Let each connection, or each to a port of a virtual address, end after this time. None may be about to end."""
    then = load.clock(tables.state) + round(seconds * load.ticks_per_second()) & TICKS
    for connection in entries(tables):
        if service_port in (0, connection.service_port):
            connection.end_at(then)
            set_expiry_tick(tables, connection.slot, then)


def set_expiry_tick(tables: Tables, slot: int, tick: int) -> None:
    """Set the tick at which the expiry timer checks a connection, and its neighbours."""
    with maps.MmapArray.open(tables.path("expiry_ticks")) as found:
        _TICK.pack_into(found.memory, slot // abi.constant("TICK_SLOTS") * _TICK.size, tick & TICKS or 1)


def expiry_tick(tables: Tables, slot: int) -> int:
    """Return the tick at which the expiry timer checks a connection; 0: never."""
    with maps.MmapArray.open(tables.path("expiry_ticks")) as found:
        return int(_TICK.unpack_from(found.memory, slot // abi.constant("TICK_SLOTS") * _TICK.size)[0])


@contextmanager
def only_templates(tables: Tables) -> Iterator[None]:
    """Let the expiry timer check templates alone in the block. It is stopped before and after."""
    with unfinished(tables, *(each.slot for each in entries(tables) if not each.is_template)):
        yield


@contextmanager
def unfinished(tables: Tables, *slots: int) -> Iterator[None]:
    """Show connections in the block as if other CPUs had not finished them."""
    hidden, memory = [(_marks(slot), 4 << slot % abi.constant("ENTRIES")) for slot in slots], tables.connections.memory
    for at, bit in hidden:
        memory[at] &= ~bit
    try:
        yield
    finally:
        for at, bit in hidden:
            memory[at] |= bit


def at_slot(slot: int) -> int:
    """Return where the entry of a slot begins."""
    return slot * abi.struct("conn_entry4").size


def _marks(slot: int) -> int:
    """Return where the marks of a slot's bucket are."""
    per_bucket = abi.constant("ENTRIES")
    return at_slot(slot // per_bucket * per_bucket) + abi.struct("conn_entry4").offset("tuple.marks")


def _taken(tables: Tables) -> dict[int, int]:
    """Return the kinds of the entries in use, by slot."""
    codec = abi.struct("conn_entry4")
    size, at = codec.size, codec.offset("tuple.protocol")
    assert codec.offset("tuple.kind") == at + 1
    pairs = tables.connections.memory.cast("H")[at // 2 :: size // 2].tolist()
    second = abi.constant("TUPLE_SECOND")
    return {slot: pair >> 8 for slot, pair in enumerate(pairs) if pair and pair >> 8 != second}


def entries_in_use(tables: Tables) -> int:
    """Return the number of entries.

    Raises AssertionError unless exactly those are in force and complete, and none overflows from an empty table. The
    second half of a bucket is taken exactly for IPv6, and names as many slots as have overflowed into the group.
    """
    taken, per_bucket, memory = _taken(tables), abi.constant("ENTRIES"), tables.connections.memory
    size = at_slot(per_bucket)
    marks = [memory[at] for at in range(_marks(0), len(memory), size)]
    for first in (0, per_bucket):
        assert {
            bucket * per_bucket + i
            for bucket, mark in enumerate(marks)
            for i in range(per_bucket)
            if mark >> first + i & 1
        } == set(taken)
    assert taken or not list(tables.overflow_index.keys()), "an empty table names a connection"
    others = [memory[at + 1] & 0x7F for at in range(_marks(0), len(memory), size)]
    assert 1 << 6 not in others, "a bucket without connections in other groups has some in those behind the first"
    near = [memory[at] >> 4 for at in range(_marks(0), len(memory), size)]
    assert taken or not any((*near, *others)), "an empty table counts connections that overflowed"
    tuple_bits, slots_at = (1 << abi.constant("REST_SLOTS")) - 1, abi.constant("REST_SLOTS")
    second = abi.constant("TUPLE_SECOND") << abi.constant("REST_KIND")
    of_ipv6 = {slot for slot, kind in taken.items() if kind & abi.constant("TUPLE_IPV6")}
    halves = memory.cast("Q")[abi.struct("conn_entry6").offset("second") // 8 :: size // 8].tolist()
    assert {number * per_bucket for number, half in enumerate(halves) if half & tuple_bits == second} == of_ipv6
    assert [(half >> slots_at).bit_count() for half in halves] == near
    return len(taken)


def overflowed(tables: Tables) -> int:
    """Return how many entries are not in the bucket of their hash."""
    memory, size = tables.connections.memory, at_slot(abi.constant("ENTRIES"))
    return sum((memory[at] >> 4) + (memory[at + 1] & 0x3F) for at in range(_marks(0), len(memory), size))


def _entries(tables: Tables) -> Iterator[Entry]:
    table, four, six = tables.connections, abi.struct("conn_entry4"), abi.struct("conn_entry6")
    first = four.offset("tuple")
    of_ipv6 = abi.constant("TUPLE_IPV6")
    for slot, kind in _taken(tables).items():
        start = at_slot(slot)

        def change(word: int, at: int = start // 8) -> None:
            table.words[at] = word

        if kind & of_ipv6:
            found = six.unpack_from(table.memory, start)
            key = abi.struct("tuple6").pack(
                saddr=struct.pack("<2Q", found["saddr_first"], found["saddr_last"]),
                daddr=struct.pack("<2Q", *found["daddr"]),
                sport=found["sport"],
                dport=found["dport"],
                protocol=found["protocol"],
                kind=kind & ~of_ipv6,
            )
        else:
            end = four.offset("tuple.marks") - first
            key = bytes(table.memory[start + first : start + first + end]).ljust(abi.struct("tuple4").size, b"\0")
        yield Entry(key, slot, table.words[start // 8], change)


def wipe(tables: Tables) -> None:
    """Remove all connections; credits that CPUs hold stay.

    The expiry timer is stopped.
    """
    pool, taken = tables.pool, len(_taken(tables))
    for name in "expiry_ticks", "connections", "controls":  # a new template keeps its slot's references
        with maps.MmapArray.open(tables.path(name)) as array:
            array.memory[:] = bytes(len(array.memory))
    for key in list(tables.overflow_index.keys()):
        tables.overflow_index.remove(key)
    pool.set(0, "used", pool.get(0, "used") - taken)
