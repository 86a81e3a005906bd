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
from typing import NamedTuple

from pylvs.bpf import abi, kernel
from pylvs.bpf.abi import Codec
from pylvs.bpf.maps import HashMap, LargeArray
from pylvs.dataplane.tables import MASK32, Records, Tables
from pylvs.model.errors import NoSpace

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

    from pylvs.dataplane.upgrade.former import Former

_BLOCK = 2048  # elements of the table that are read at once; so many take whole pages
_SLOT = struct.Struct("<I")
# States of connections that give way, or may (gives_way of bpf/conntrack/state.h).
_HALF_OPEN = (
    "SYN_RECV SYN_SENT SYNACK SCTP_INIT1 SCTP_INIT UDP_FIRST TCP_FIRST SCTP_FIRST CLOSE SCTP_CLOSED SCTP_REJECTED"
)
_FIELDS = (
    "connection.word",
    "connection.destination",
    "connection.port:2s",
    "connection.method",
    "connection.flags",
)
_TUPLE6 = ("saddr_first:8s", "saddr_last:8s", "daddr:16s", "sport:2s", "dport:2s", "protocol", "kind")
RECORD = (
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
    "kept",
    "assured",
    "is_call",
    "has_ended",
    "synced",
)


def _always() -> bool:
    return True


class _Fields:
    """Reads some fields of a structure, in the order in which they are named."""

    def __init__(self, codec: Codec, *names: str) -> None:
        """Take names as for `Codec.view`. Raises KeyError."""
        there = sorted(names, key=lambda each: codec.offset(each.partition(":")[0]))
        self._form = codec.view(*there)
        self._ordered = itemgetter(*map(there.index, names))

    def unpack(self, element: bytes) -> tuple[Any, ...]:
        """Return the values of the fields."""
        values: tuple[Any, ...] = self._ordered(self._form.unpack(element))
        return values


class Entry(NamedTuple):
    """A connection in an element of the former table."""

    family: int
    raw_tuple: bytes
    word: int
    destination: int
    port: bytes
    method: int
    flags: int


class Seen(NamedTuple):
    """A connection of the former table as a pass has read it."""

    slot: int
    entry: Entry
    was: int  # its word in the pass before; 0: it was not there
    has_ended: bool = False  # since the pass before


class Source:
    """The connections of a load. All its maps are opened now: their pins may be replaced later.

    The elements of its table are buckets, each with connections of IPv4 or with one of IPv6.
    """

    def __init__(self, former: Former) -> None:
        """Raise Unsupported for maps that cannot be read."""
        with former.naming("connections"):
            bucket = former.codec("connections")
            entries, entry6 = bucket.fields["entry"], bucket.fields["entry6"]
            entry, six = (former.layout.struct(each.type) for each in (entries, entry6))
            self.size = bucket.size
            self.starts = [entries.offset + number * entry.size for number in range(entries.length)]
            self._size4 = entry.size
            self._fields4 = _Fields(entry, *_FIELDS, "tuple:16s")
            self._tuple_at = entry.offset("tuple")
            plan = former.plan("connections", entry.fields["tuple"].type, "tuple4")
            self._ours4: Callable[[bytes], bytes] = bytes if plan.is_identity else plan.convert
            self._six_at, self._size6 = entry6.offset, six.size
            self._fields6 = _Fields(six, *_FIELDS, *_TUPLE6)
            self._kind6_at = self._six_at + six.offset("kind")
            self._only_in6 = [(self._six_at + six.offset(name)) // 8 for name in ("saddr_last", "daddr")]
        ours = abi.struct("tuple4")
        self._kind_at = ours.offset("kind")
        self._daddr4 = slice(ours.offset("daddr"), ours.offset("daddr") + 4)
        self._used4 = slice(ours.offset("protocol"), self._kind_at + 1)
        self._no_tuple = abi.constant("TUPLE_CLAIMED"), abi.constant("TUPLE_SECOND")
        self._of_ipv6 = abi.constant("TUPLE_IPV6")
        self.control = former.records("controls").get
        self.calls = HashMap.open(former.path("calls"))
        sequences = former.path("synced_sequences")
        self.sequences = HashMap.open(sequences) if os.path.exists(sequences) else None  # an older build has none
        self.table = LargeArray.open(former.path("connections"))

    def connections(self) -> Iterator[tuple[int, Entry]]:
        """Yield all connections with their slots."""
        size, free, unused = self.size, bytes(self.size), bytes(_BLOCK * self.size)
        for number, block in enumerate(self.table.blocks(len(unused))):
            for at in range(0, len(block) - size + 1 if block != unused else 0, size):
                element = block[at : at + size]
                if element != free:
                    first = (number * _BLOCK + at // size) * len(self.starts)
                    for index, entry in self.entries(element).items():
                        yield first + index, entry

    def tuples(self, block: bytes) -> list[list[int]]:
        """Return the tuples of the entries in a block, as columns of words."""
        words, width = memoryview(block).cast("Q"), self.size // 8
        columns = [(start + self._tuple_at) // 8 + number for start in self.starts for number in (0, 1)]
        if max(block[self._kind6_at :: self.size]) >= self._of_ipv6:
            columns += self._only_in6
        return [words[column::width].tolist() for column in columns]

    def entries(self, element: bytes) -> dict[int, Entry]:
        """Return the connections of an element, by their number in it."""
        if element[self._kind6_at] & self._of_ipv6:
            *fields, first, last, daddr, sport, dport, protocol, kind = self._fields6.unpack(
                element[self._six_at : self._six_at + self._size6]
            )
            raw_tuple = first + last + daddr + sport + dport + bytes((protocol, kind & ~self._of_ipv6))
            return {0: Entry(6, raw_tuple, *fields)}
        found = {}
        for number, start in enumerate(self.starts):
            *fields, raw_tuple = self._fields4.unpack(element[start : start + self._size4])
            our_tuple = self._ours4(raw_tuple)[: self._kind_at + 1]  # without the marks of its bucket
            is_used = any(our_tuple[self._daddr4]) and any(our_tuple[self._used4])
            if is_used and our_tuple[self._kind_at] not in self._no_tuple:
                found[number] = Entry(4, our_tuple, *fields)
        return found


class ConnectionCopy:
    """One copy of a former table into a fresh one."""

    def __init__(self, former: Former, fresh: Tables, restore: int) -> None:
        """Take over the descriptor of the loaded `restore_conns`."""
        self._restore = restore
        self._source = Source(former)
        self._records = Records(fresh.open_array("conn_records"), "conn_record")
        self._form = abi.struct("conn_record").view(*RECORD)
        self._slot_at = abi.struct("conn_record").offset("slot")
        self._state, self._kept = abi.constant("WORD_STATE"), abi.constant("WORD_SEEN_REPLY")
        self._dying, self._template = 1 << abi.constant("WORD_DYING"), abi.constant("STATE_TEMPLATE")
        self._states = abi.constant("STATES") - 1
        self._half_open = {abi.constant(f"STATE_{name}") for name in _HALF_OPEN.split()}
        self._controlled, self._call = abi.constant("CONN_CONTROLLED"), abi.constant("CONN_CALL")
        self._sequenced = abi.constant("CONN_SEQUENCED")
        self._synced = self._sequenced | abi.constant("CONN_SYNCED")
        self._calls, self._sequences = fresh.calls, fresh.synced_sequences
        self._blocks: list[bytes] = []  # of the table, as the last pass of everything read them
        self._templates: dict[int, int] = {}  # slots of the templates in the fresh table, by those in the former one
        self._early: list[Seen] = []  # connections that the last pass read after it had passed their templates
        self._has_everything = False
        self._batch: list[Seen] = []
        self._memory = bytearray()
        self.restored = self.refused = 0  # records of the last pass: taken, and refused by a full table

    def __enter__(self) -> ConnectionCopy:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._restore)

    def clear(self, fresh: Source) -> None:
        """End all connections of the fresh table, which no packet uses yet. Another process has copied them.

        They may have changed or ended in the former table since.
        """
        for templates in (False, True):  # at last: a template stays while connections refer to it
            for _, entry in fresh.connections():
                if self._is_template(entry) == templates:
                    self._put(Seen(0, entry, entry.word, has_ended=True))
            self._flush()

    def run(
        self,
        only_new: bool = False,
        half_open: bool | None = None,
        may_continue: Callable[[], bool] = _always,
        is_last: bool = False,
    ) -> int:
        """Make one pass; return how many connections and templates were new or different.

        A pass for those that no pass has seen yet is quick, even if packets changed all others. During a flood it is
        quick without the half-open ones (False), which a pass of their own takes (True). `may_continue` is called at
        each block. A pass that it ends leaves the rest to the next one. A pass that is not the last one leaves
        connections whose template it has not met to the next one.
        """
        self.restored = self.refused = 0
        later, ended, born = [*self._early], [], {}
        for seen in self._changes(only_new, may_continue):
            if half_open is not None and self._is_half_open(seen.entry) != half_open:
                continue
            if seen.has_ended:
                ended.append(seen)
                continue
            if not seen.was and self._has_everything and not only_new:
                born[seen.entry.raw_tuple] = seen
            if seen.entry.flags & self._controlled:  # its template first
                later.append(seen)
            else:
                self._put(seen)
        self._flush()
        before, self._early = self._early, []
        for number, seen in enumerate(later):
            if number >= len(before) and not is_last and not self._has_template(seen):
                self._early.append(seen)
            else:
                self._put(seen)
        self._flush()
        self._end(ended, born)
        self._has_everything |= not only_new
        return self.restored + self.refused

    def _has_template(self, seen: Seen) -> bool:
        """Return whether a pass has met a connection's template."""
        return self._source.control(seen.slot, "template") in self._templates

    def _end(self, ended: list[Seen], born: dict[bytes, Seen]) -> None:
        """End connections that are no longer in the former table, then their templates.

        Of a tuple that has another connection there by now, that is put again instead: the fresh table had the former
        one until now.
        """
        ended.sort(key=lambda seen: self._is_template(seen.entry))
        for seen in ended:
            again = born.get(seen.entry.raw_tuple)
            self._put(again._replace(was=seen.was) if again else seen)
        self._flush()

    def _is_template(self, entry: Entry) -> bool:
        return bool(entry.word >> self._state & self._states == self._template)

    def _is_half_open(self, entry: Entry) -> bool:
        return (entry.word >> self._state & self._states) in self._half_open

    def _changes(self, only_new: bool, may_continue: Callable[[], bool] = _always) -> Iterator[Seen]:
        """Yield the connections that differ from the last pass, or those with another tuple."""
        source, size = self._source, self._source.size
        unused = bytes(_BLOCK * size)
        for number, block in enumerate(source.table.blocks(len(unused))):
            if not may_continue():
                return
            former = self._blocks[number] if number < len(self._blocks) else unused
            if number >= len(self._blocks):
                self._blocks.append(unused if only_new or block == unused else block)
            if block == former or (only_new and source.tuples(block) == source.tuples(former)):
                continue
            if not only_new:
                self._blocks[number] = block
            for at in range(0, len(block) - size + 1, size):
                element, before = block[at : at + size], former[at : at + size]
                if element != before:
                    first = (number * _BLOCK + at // size) * len(source.starts)
                    yield from self._changes_of(first, element, before, only_new)

    def _changes_of(self, first: int, element: bytes, before: bytes, only_new: bool) -> Iterator[Seen]:
        """Yield the changed entries of one element of the map; `first` is its first slot."""
        entries, former = self._source.entries(element), self._source.entries(before)
        for number, entry in () if only_new else former.items():
            now = entries.get(number)
            is_there = now and now.raw_tuple == entry.raw_tuple and not now.word & self._dying
            if not is_there and not entry.word & self._dying:
                yield Seen(first + number, entry, entry.word, has_ended=True)
        for number, connection in entries.items():
            was = former.get(number)
            if was == connection or connection.word & self._dying:
                continue
            known = was is not None and was.raw_tuple == connection.raw_tuple
            if not (known and only_new):
                yield Seen(first + number, connection, was.word if was and known else 0)

    def _put(self, seen: Seen) -> None:
        state = seen.entry.word >> self._state & self._states
        timeout = assured = template = 0
        if seen.has_ended:
            pass  # the fresh table knows the rest
        elif state == self._template:
            timeout, assured = self._source.control(seen.slot, "timeout"), self._source.control(seen.slot, "assured")
        elif seen.entry.flags & self._controlled:
            former = self._source.control(seen.slot, "template")
            template, assured = self._templates.get(former, 0), self._source.control(former, "assured")
        self._memory += self._form.pack(
            seen.entry.raw_tuple,
            seen.entry.destination,
            seen.entry.word & MASK32,
            seen.was & MASK32,
            template,
            timeout,
            0,
            seen.entry.port,
            seen.entry.method,
            state,
            seen.was >> self._state & self._states,
            seen.entry.family,
            seen.entry.word >> self._kept & abi.constant("WORD_KEPT"),
            assured,
            bool(seen.entry.flags & self._call),
            seen.has_ended,
            seen.entry.flags & self._synced,
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
        taken = [slot for (slot,) in slots.iter_unpack(array.memory[: size * len(self._batch)])]
        batch = self._batch
        self._batch, self._memory = [], bytearray()
        for seen, slot in zip(batch, taken, strict=True):
            if seen.has_ended:
                self.restored += 1
            elif not slot or not self._copy_rest(seen, slot):
                self.refused += 1
            else:
                self.restored += 1
                if self._is_template(seen.entry):
                    self._templates[seen.slot] = slot
        self._flush()

    def _copy_rest(self, seen: Seen, slot: int) -> bool:
        """Copy what the template of a SIP call stands for, and sequence data, unless it has just ended.

        End it if there is no space.
        """
        source = self._source
        for flag, former, fresh in (
            (self._call, source.calls, self._calls),
            (self._sequenced, source.sequences, self._sequences),
        ):
            if not seen.entry.flags & flag or former is None:
                continue
            value = former.get(_SLOT.pack(seen.slot))
            try:
                if value:
                    fresh.put(_SLOT.pack(slot), value)
            except NoSpace:
                self._put(seen._replace(was=seen.entry.word, has_ended=True))
                return False
        return True
