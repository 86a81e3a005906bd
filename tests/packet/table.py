"""The connection tables as packets see them: each tuple with its word, which a test may change."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pylvs.dataplane import abi, load
from pylvs.dataplane.tables import Tables

Change = Callable[[int], None]


def words(tables: Tables, version: int) -> Iterator[tuple[bytes, int, Change]]:
    """Tuples, words, and how to put other words in their place."""
    return _words4(tables) if version == 4 else _words6(tables)


def _taken4(tables: Tables) -> list[int]:
    """The slots that somebody has."""
    at = abi.struct("place4").fields["connection"].offset + abi.struct("connection").fields["slot"].offset
    table = tables.connections4
    return [slot for slot in table.memory.cast("I")[at // 4 :: table.stride // 4].tolist() if slot]


def _words4(tables: Tables) -> Iterator[tuple[bytes, int, Change]]:
    table, codec = tables.connections4, abi.struct("place4")
    first, second = codec.fields["tuple"].offset, codec.fields["connection"].offset
    for slot in _taken4(tables):
        start = slot * table.stride
        at = (start + second) // 8

        def change(word: int, at: int = at) -> None:
            table.words[at] = word

        yield bytes(table.memory[start + first : start + second]), table.words[at], change


def _words6(tables: Tables) -> Iterator[tuple[bytes, int, Change]]:
    codec, table = abi.struct("connection"), tables.connections6
    first = load.places(tables.pool.get(0, "capacity"))
    for key, value in list(table.items()):
        fields = codec.unpack_from(value)
        by_slot = fields["method"] == abi.constant("METHOD_MASQ")
        slot = fields["slot"] - first if by_slot else None

        def change(word: int, key: bytes = key, value: bytes = value, slot: int | None = slot) -> None:
            if slot is None:
                table.put(key, word.to_bytes(8, "little") + value[8:])
            else:
                tables.words6.words[slot] = word

        yield key, fields["word"] if slot is None else tables.words6.words[slot], change


def wipe4(tables: Tables) -> None:
    """Nobody has a place in the table of IPv4 connections any more; what CPUs keep for themselves stays theirs."""
    table = tables.connections4
    taken = len(_taken4(tables))
    table.memory[:] = bytes(len(table.memory))
    tables.pool.set(0, "used", tables.pool.get(0, "used") - taken)
