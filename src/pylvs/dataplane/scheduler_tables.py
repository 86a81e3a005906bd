"""What lblc and lblcr remember of targets (IPVS-SEMANTICS 3.9, 3.10): packets fill it, a timer empties it."""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache

from pylvs.bpf import abi, kernel
from pylvs.bpf.libbpf import open_pin
from pylvs.dataplane import load
from pylvs.dataplane.slot_allocator import WAIT_MS
from pylvs.dataplane.state import State
from pylvs.dataplane.tables import Tables
from pylvs.dataplane.transaction import Transaction

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from array import array
    from typing import Any


def remembers(version: dict[str, Any]) -> bool:
    """Whether a service's scheduler remembers targets."""
    names = "SCHED_LBLC", "SCHED_LBLCR"
    return bool(version["present"]) and version["scheduler"] in [abi.constant(name) for name in names]


def began(edit: Transaction, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a version whose scheduler begins with this edit: nothing that was remembered before is its own."""
    if not remembers(fields):
        return {}
    return {"epoch": edit.generation, "epoch_tick": load.clock(edit.tables.state)}


def sweep(state: State) -> None:
    """Forget what services remembered that are there no more, or have another scheduler."""
    program = open_pin(state.pin_path(load.CACHE_SWEEP))
    if program is not None:
        try:
            while kernel.run_program(program, bytes(64)).verdict:
                pass
        finally:
            os.close(program)


# --- maglev ----------------------------------------------------------------------------------------------------------
# The tables of mh, Maglev hashing (IPVS-SEMANTICS 3.14): which destination each of 4093 slots belongs to.
#
# A service has two tables, one of them in force; an edit that changes what a table depends on fills the other and names
# it in the service's next version. Services of other schedulers have none.


_MASK32, _MASK64 = (1 << 32) - 1, (1 << 64) - 1
_WEIGHT_BITS = 6  # weights are scaled down to about so many bits


def siphash13(value: int, key: int) -> int:
    """The low 32 bits of SipHash-1-3 of a 32-bit number, under a key whose two words are `key`."""
    last = 4 << 56 | value
    v0, v1 = key ^ 0x736F6D6570736575, key ^ 0x646F72616E646F6D
    v2, v3 = key ^ 0x6C7967656E657261, key ^ 0x7465646279746573 ^ last
    for number in range(4):  # one round for the block, three to finish
        v0 = v0 + v1 & _MASK64
        v1 = _rotated(v1, 13) ^ v0
        v0 = _rotated(v0, 32)
        v2 = v2 + v3 & _MASK64
        v3 = _rotated(v3, 16) ^ v2
        v0 = v0 + v3 & _MASK64
        v3 = _rotated(v3, 21) ^ v0
        v2 = v2 + v1 & _MASK64
        v1 = _rotated(v1, 17) ^ v2
        v2 = _rotated(v2, 32)
        if number == 0:
            v0 ^= last
            v2 ^= 0xFF
    return (v0 ^ v1 ^ v2 ^ v3) & _MASK32


def _rotated(word: int, bits: int) -> int:
    return (word << bits | word >> 64 - bits) & _MASK64


@lru_cache(maxsize=1 << 16)
def _start_and_skip(number: int) -> tuple[int, int]:
    slots = abi.constant("MAGLEV_SLOTS")
    return (
        siphash13(number, abi.constant("MAGLEV_KEY_1")) % slots,
        siphash13(number, abi.constant("MAGLEV_KEY_2")) % (slots - 1) + 1,
    )


def fold(address: bytes, port: int, version: int) -> int:
    """What is hashed of a destination: its address, folded as for a service of IPv4 or IPv6, and its port."""
    first, second, third, fourth = struct.unpack("!4I", address)
    folded: int = first if version == 4 else first ^ second ^ third ^ fourth
    return folded + port & _MASK32


def places(destinations: Sequence[tuple[int, int]]) -> array[int] | None:
    """The place in the list that each slot belongs to; None if no destination ever had a weight.

    Destinations are given in list order, each as its `fold` and its latest weight that was not 0.
    """
    divisor = math.gcd(*[weight for _, weight in destinations])
    if not divisor:
        return None
    shift = max(0, (max(weight for _, weight in destinations) // divisor).bit_length() - _WEIGHT_BITS)
    walkers = [
        [place, *_start_and_skip(number), weight // divisor >> shift or 1]
        for place, (number, weight) in enumerate(destinations)
        if weight
    ]
    size, left = abi.constant("MAGLEV_SLOTS"), abi.constant("MAGLEV_SLOTS")
    from array import array  # late, here and below: most services use another scheduler

    taken, found = bytearray(size), array("H", bytes(2 * size))
    while True:
        for walker in walkers:
            place, at, skip, turns = walker
            for _ in range(turns):
                while taken[at]:
                    at += skip
                    if at >= size:
                        at -= size
                taken[at] = 1
                found[at] = place
                left -= 1
                if not left:
                    return found
            walker[1] = at


def _shifted(old: bytes, change: str, position: int) -> array[int]:
    """A table that is not filled anew, for there are too many destinations, with the places they have now."""
    from array import array

    nobody, found = abi.constant("MAGLEV_NOBODY"), array("H", old)
    for slot, place in enumerate(found):
        if change == "LIST_ADD" and place < nobody:
            found[slot] = place + 1
        elif change == "LIST_DELETE" and position <= place < nobody:
            found[slot] = nobody if place == position else place - 1
    return found


class MaglevTables:
    """The tables of all services that use mh."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._mh = abi.constant("SCHED_MH")
        self.most = abi.constant("MAGLEV_SLOTS")  # destinations that mh can begin with
        self._member = abi.struct("member").view("destination", "last_weight")
        self._destination = abi.struct("destination").view("address", "port:2s")
        self._size = abi.struct("maglev_table").size

    def uses(self, version: dict[str, Any]) -> bool:
        """Whether a service's version is scheduled by mh."""
        return bool(version["present"] and version["scheduler"] == self._mh)

    def fits(self, version: dict[str, Any]) -> bool:
        """Whether mh can begin with so many destinations."""
        return bool(version["count"] <= self.most)

    def write(
        self, slot: int, version: dict[str, Any], fields: dict[str, Any], entries: bytes, change: str, position: int
    ) -> None:
        """Fill the table that is not in force for a new list, and name it in the fields of the next version."""
        before = self._key(slot, version["table"]) if self.uses(version) else None
        if fields["count"] > self.most and before is not None:
            old = self._tables.maglev_tables.get(before)
            filled = _shifted(old[: 2 * self.most], change, position) if old else None
        else:
            filled = places(self._destinations(fields["family"], entries))
        fields["table"] = 1 - version["table"]
        key = self._key(slot, fields["table"])
        if filled is None:
            self._tables.maglev_tables.remove(key)
        else:
            self._tables.maglev_tables.put(key, filled.tobytes().ljust(self._size, b"\0"))

    def _destinations(self, version: int, entries: bytes) -> list[tuple[int, int]]:
        table, found = self._tables.destinations.array, []
        for place, weight in self._member.iter_unpack(entries):
            address, port = self._destination.unpack_from(table.upto(place), place * table.stride)
            found.append((fold(address, int.from_bytes(port, "big"), version), weight))
        return found

    @staticmethod
    def _key(slot: int, which: int) -> bytes:
        return struct.pack("<I", slot << 1 | which)

    def forget(self, slots: Iterable[int]) -> None:
        """Give back the memory of services that do not use mh any more, once no packet can look at it."""
        time.sleep(WAIT_MS / 1000)
        for slot in slots:
            for which in 0, 1:
                self._tables.maglev_tables.remove(self._key(slot, which))

    def keep_only(self, present: dict[int, dict[str, Any]]) -> None:
        """Remove the tables that no service of these, by slot, has in force."""
        kept = {self._key(slot, version["table"]) for slot, version in present.items() if self.uses(version)}
        for key in list(self._tables.maglev_tables.keys()):
            if key not in kept:
                self._tables.maglev_tables.remove(key)
