"""Tables of the schedulers: the cache of lblc and lblcr, the tables of mh and sh, and winner trees.

lblc and lblcr remember the destination of each daddr (IPVS-SEMANTICS 3.9, 3.10). Packets fill their cache, a timer
empties it.

mh, Maglev hashing, has the destination of each of 4093 slots in a table (IPVS-SEMANTICS 3.14), sh that of each of 256
buckets (3.13). Such a service has two tables, one of them in force. An edit that changes the choice of destinations
fills the other one and names it in the service's next version.

A long list has a winner tree, by which the scheduler finds its choice without a walk (bpf/lb/winners.h). lc, wlc, sed,
nq, lblc and lblcr find the least loaded server; rr, wrr, fo and twos find one by weight. An edit makes the tree of each
list that it writes. From then on packets keep it, beside that of the list in force; after the commit they keep the new
one alone. A tree lies where its list's chunk is. So a list whose scheduler changes from one of these to another moves
to another chunk.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

from pylvs.bpf import abi, maps
from pylvs.dataplane.state import CACHE_SWEEP, CLOCK, INDEX, State
from pylvs.dataplane.tables import ListStep, Tables, Tree, Versions, tree_of
from pylvs.model.errors import InvalidOperation
from pylvs.model.service import ServiceKey

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from array import array
    from typing import Any

    from pylvs.bpf.maps import HashMap

_MASK32, _MASK64 = (1 << 32) - 1, (1 << 64) - 1
_REQUEST_OFFSET = 16  # INDEX_REQUEST_OFFSET of bpf/lb/index_list.h
_WEIGHT_BITS = 6  # weights are scaled down to about 6 bits


def remembers(version: dict[str, Any]) -> bool:
    """Return whether a service's scheduler uses the cache: lblc or lblcr."""
    names = "SCHED_LBLC", "SCHED_LBLCR"
    return bool(version["present"]) and version["scheduler"] in [abi.constant(name) for name in names]


def began(tables: Tables, generation: int, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the version's fields for a scheduler that begins with this edit: older cache entries are not its own."""
    if not remembers(fields):
        return {}
    return {"epoch": generation, "epoch_tick": tables.state.run_program(CLOCK) & _MASK32}


def sweep(state: State) -> None:
    """Remove the cache entries of services that were deleted or changed their scheduler."""
    while state.run_program(CACHE_SWEEP):
        pass


def siphash13(value: int, key: int) -> int:
    """Return the low 32 bits of SipHash-1-3 of a 32-bit number; both halves of its 128-bit key are `key`."""
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
    """Return the number of a destination that mh hashes: address, folded for the service's IP version, plus port."""
    first, second, third, fourth = struct.unpack("!4I", address)
    folded: int = first if version == 4 else first ^ second ^ third ^ fourth
    return folded + port & _MASK32


def slot_positions(destinations: Sequence[tuple[int, int]]) -> array[int] | None:
    """Return the list position of each slot's destination; None if no destination ever had a weight.

    Destinations are in list order, each as its `fold` and its latest weight above 0.
    """
    divisor = math.gcd(*[weight for _, weight in destinations])
    if not divisor:
        return None
    shift = max(0, (max(weight for _, weight in destinations) // divisor).bit_length() - _WEIGHT_BITS)
    walkers = [
        [position, *_start_and_skip(number), weight // divisor >> shift or 1]
        for position, (number, weight) in enumerate(destinations)
        if weight
    ]
    size = left = abi.constant("MAGLEV_SLOTS")
    from array import array  # late: most services use another scheduler

    taken, found = bytearray(size), array("H", bytes(2 * size))
    while True:
        for walker in walkers:
            position, at, skip, turns = walker
            for _ in range(turns):
                while taken[at]:
                    at += skip
                    if at >= size:
                        at -= size
                taken[at] = 1
                found[at] = position
                left -= 1
                if not left:
                    return found
            walker[1] = at


def _shifted(old: bytes, steps: Sequence[ListStep]) -> array[int]:
    """Return the old table with the new list positions: with too many destinations, mh does not fill it again."""
    from array import array  # late: as above

    none, found = abi.constant("MAGLEV_EMPTY"), array("H", old)
    for step in steps:
        for slot, former in enumerate(found):
            if step.change == "LIST_ADD" and former < none:
                found[slot] = former + 1
            elif step.change == "LIST_DELETE" and step.position <= former < none:
                found[slot] = none if former == step.position else former - 1
    return found


def bucket_positions(weights: Sequence[int]) -> array[int]:
    """Return the list position of the destination of each bucket of sh, from the weights in list order."""
    from array import array  # late: as above

    size = abi.constant("SH_BUCKETS")
    once = array("H")
    for position, weight in enumerate(weights[:size]):  # each of them has a bucket
        once.extend([position] * min(max(1, weight), size - len(once)))
        if len(once) == size:
            break
    return once * -(-size // len(once)) if once else once


def too_many(key: ServiceKey, most: int) -> InvalidOperation:
    """Return the error for a service whose scheduler cannot begin with so many destinations."""
    error = InvalidOperation(f"{key}: mh begins with {most} real servers at most; others can be added", "scheduler")
    error.subject = key, None
    return error


class HashTables:
    """The tables of all services whose scheduler is mh or sh."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._mh, self._sh = abi.constant("SCHED_MH"), abi.constant("SCHED_SH")
        self._member = abi.struct("member").view("destination", "last_weight")
        self._weight = abi.struct("member").view("weight")
        self._destination = abi.struct("destination").view("address", "port:2s")

    def _map(self, scheduler: int) -> HashMap:
        return self._tables.maglev_tables if scheduler == self._mh else self._tables.sh_tables

    def uses(self, version: dict[str, Any]) -> bool:
        """Return whether a service's version is scheduled by a table."""
        return bool(version["present"] and version["scheduler"] in (self._mh, self._sh))

    def most(self, version: dict[str, Any]) -> int:
        """Return the largest list with which the scheduler of a version can begin."""
        if version["scheduler"] == self._mh:
            return int(abi.constant("MAGLEV_SLOTS"))
        return self._tables.members.max_entries

    def write(
        self,
        slot: int,
        version: dict[str, Any],
        fields: dict[str, Any],
        entries: bytes,
        steps: Sequence[ListStep],
    ) -> None:
        """Fill the table that is not in force, and name it in the fields of the next version.

        `steps` are the changes of the list.
        """
        if fields["scheduler"] == self._sh:
            filled: array[int] | None = self._buckets(entries)
        else:
            filled = self._slots(slot, version, fields, entries, steps)
        fields["table"] = 1 - version["table"]
        self._put(slot, fields, filled)

    def fill_buckets(self, slot: int, version: dict[str, Any]) -> None:
        """Fill the table that a version of sh has in force: other builds do without."""
        if version["scheduler"] == self._sh:
            members = self._tables.members.elements(version["list"], version["count"])
            self._put(slot, version, self._buckets(members))

    def _put(self, slot: int, fields: dict[str, Any], filled: array[int] | None) -> None:
        name = "maglev_table" if fields["scheduler"] == self._mh else "sh_table"
        key, into = self._key(slot, fields["table"]), self._map(fields["scheduler"])
        if filled:
            into.put(key, filled[: abi.struct(name).size // 2].tobytes().ljust(abi.struct(name).size, b"\0"))
        else:
            into.remove(key)

    def _buckets(self, entries: bytes | memoryview) -> array[int]:
        return bucket_positions([weight for (weight,) in self._weight.iter_unpack(entries)])

    def _slots(
        self,
        slot: int,
        version: dict[str, Any],
        fields: dict[str, Any],
        entries: bytes,
        steps: Sequence[ListStep],
    ) -> array[int] | None:
        most = self.most(fields)
        if fields["count"] <= most or not (version["present"] and version["scheduler"] == self._mh):
            return slot_positions(self._destinations(fields["family"], entries))
        old = self._tables.maglev_tables.get(self._key(slot, version["table"]))
        return _shifted(old[: 2 * most], steps) if old else None

    def _destinations(self, version: int, entries: bytes) -> list[tuple[int, int]]:
        table, found = self._tables.destinations.array, []
        for dest_slot, weight in self._member.iter_unpack(entries):
            address, port = self._destination.unpack_from(table.upto(dest_slot), dest_slot * table.stride)
            found.append((fold(address, int.from_bytes(port, "big"), version), weight))
        return found

    @staticmethod
    def _key(slot: int, which: int) -> bytes:
        return struct.pack("<I", slot << 1 | which)

    def forget(self, versions: dict[int, dict[str, Any]]) -> None:
        """Remove the tables that services, by slot, do not use any more, once no packet can read them."""
        maps.grace_period()
        for slot, version in versions.items():
            for scheduler in self._mh, self._sh:
                if not (version["present"] and version["scheduler"] == scheduler):
                    for which in 0, 1:
                        self._map(scheduler).remove(self._key(slot, which))

    def keep_only(self, present: dict[int, dict[str, Any]]) -> None:
        """Remove all tables but those that these services, by slot, have in force."""
        for scheduler in self._mh, self._sh:
            kept = {
                self._key(slot, version["table"])
                for slot, version in present.items()
                if self.uses(version) and version["scheduler"] == scheduler
            }
            for key in list(self._map(scheduler).keys()):
                if key not in kept:
                    self._map(scheduler).remove(key)


class WinnerTrees:
    """The winner trees of all services. The caller holds the lock."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def prepare(self, tree: Tree) -> None:
        """Make the tree of a list that is not in force, and let packets keep it."""
        self._run("INDEX_PREPARE", tree)

    def settle(self, changes: Iterable[tuple[Tree | None, Tree | None]]) -> None:
        """After a commit, let packets keep the second one of each pair alone. Former lists may be reused then."""
        for former, new in changes:
            if new:
                self._run("INDEX_ADOPT", new)
            if former:
                self._run("INDEX_LEAVE", former)

    def rebuild(self) -> None:
        """Make the trees of all lists in force, and let packets keep these alone."""
        versions, kept = Versions(self._tables), set[int]()
        form = abi.struct("member").view("destination")
        for tree in (tree_of(version) for _, version in versions.services(versions.live)):
            if tree:
                self.prepare(tree)
                self.settle([(None, tree)])
                members = self._tables.members.elements(tree.first, tree.length)
                kept.update(dest_slot for (dest_slot,) in form.iter_unpack(members))
        counts, top = self._tables.conn_counts, self._tables.book.get(0, "destination_top")
        leaves = abi.struct("conn_counts").view("leaves").iter_unpack(counts.array.elements(0, top))
        for dest_slot, found in enumerate(leaves):
            if any(found) and dest_slot not in kept:
                counts.set(dest_slot, "leaves", 0, 0)

    def _run(self, step: str, tree: Tree) -> None:
        fields = {"step": abi.constant(step), "list": tree.first, "count": tree.length, "scheduler": tree.scheduler}
        request = abi.struct("index_request").pack(fields)
        self._tables.state.run_program(INDEX, self._tables.directory, bytes(_REQUEST_OFFSET) + request + bytes(32))
