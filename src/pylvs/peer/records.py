"""Copy connections out of the tables, and into them from another director (bpf/conntrack/transfer.h).

Records move in batches of bytes. A million connections must take seconds, so Python handles columns, not connections:
it replaces slots of destinations and templates, and ticks. Both directors find a destination by its key in `names`.
"""

from __future__ import annotations

import hashlib
import os
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from enum import IntEnum
from itertools import compress

from pylvs.bpf import abi, kernel
from pylvs.bpf.maps import MmapArray
from pylvs.dataplane import load
from pylvs.dataplane.reader import table_use
from pylvs.dataplane.state import TRANSFER, State
from pylvs.dataplane.tables import MASK32, Tables, written_name
from pylvs.model.dataclass import dataclass, field
from pylvs.peer.wire import Limits
from pylvs.system.lock import Lock

_WORD = 4
_HEAD = 16  # bytes of the packet before struct transfer_request
_STORED = ("method", "state", "tuple_kind", "word_bits")  # enumerations whose numbers records have
NAME_BYTES = 44  # of a key in `names`


def record_format() -> str:
    """Return a digest of what a record looks like: directors with the same one can exchange records."""
    codec, shipped = abi.shipped().struct("conn_record"), abi.shipped()
    fields = [
        (name, each.offset, each.size) for form in (codec, shipped.struct("call")) for name, each in form.fields.items()
    ]
    numbers = [sorted(shipped.enum(name).items()) for name in _STORED]
    return hashlib.blake2b(repr((codec.size, fields, numbers)).encode(), digest_size=8).hexdigest()


def limits() -> Limits:
    """Return the sizes of what frames have."""
    record, call = abi.struct("conn_record").size, abi.struct("call").size
    return Limits(_WORD + NAME_BYTES, record, record + call, abi.constant("TRANSFER_RECORDS"))


class Part(IntEnum):
    """What a batch has (enum transfer_kind)."""

    CONNECTIONS = 0
    TEMPLATES = 1
    CALLS = 2  # templates of SIP calls: each a record, and what it stands for


class BadRecords(Exception):
    """Records of another director that no director sends; the text says why."""


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of a director's packet path: a moment, and how fast it runs."""

    ticks: int
    per_second: float

    def converted(self, ours: Clock, ticks: Iterable[int]) -> Iterable[int]:
        """Convert ticks of this clock to those of `ours`; both were read at the same moment."""
        if self.per_second == ours.per_second:
            shift = ours.ticks - self.ticks
            return [each + shift & MASK32 for each in ticks]
        base, start, ratio = self.ticks, ours.ticks, ours.per_second / self.per_second
        half = 1 << 31
        return [start + round(((each - base + half & MASK32) - half) * ratio) & MASK32 for each in ticks]


@dataclass(slots=True)
class Taken:
    """What became of records of another director."""

    records: int = 0
    held: int = 0  # there now
    newer: int = 0  # of these: left as they were, because this director has refreshed them later
    full: int = 0  # refused: no space
    unknown: dict[int, int] = field(default_factory=dict)  # refused: their destination is not here, by its slot there

    @property
    def refused(self) -> int:
        """The records that are not there now."""
        return self.records - self.held

    def add(self, other: Taken) -> None:
        """Add the counts of more records."""
        self.records += other.records
        self.held += other.held
        self.newer += other.newer
        self.full += other.full
        for slot, count in other.unknown.items():
            self.unknown[slot] = self.unknown.get(slot, 0) + count


class _Columns:
    """The offsets of fields of a record, in words or in bytes."""

    def __init__(self) -> None:
        codec = abi.struct("conn_record")
        self.size, self.call = codec.size, abi.struct("call").size
        self.words = codec.size // _WORD
        for name in ("destination", "expiry", "was_expiry", "template", "timeout", "slot"):
            setattr(self, name, codec.offset(name) // _WORD)
        for name in ("method", "state", "family", "was_state", "is_call", "has_ended", "synced"):
            setattr(self, name, codec.offset(name))
        self.kind4, self.kind6 = abi.struct("tuple4").offset("kind"), abi.struct("tuple6").offset("kind")

    destination: int
    expiry: int
    was_expiry: int
    template: int
    timeout: int
    slot: int
    method: int
    state: int
    family: int
    was_state: int
    is_call: int
    has_ended: int
    synced: int


class ConnectionTransfer:
    """The programs that copy connections of the tables in force. Close it; another load of the tables needs another.

    A run of a program takes milliseconds, and a batch that is taken holds the lock of edits for so long.
    """

    def __init__(self, state: State) -> None:
        """Load the programs. Raises NotPermitted, Unsupported for the tables of another pylvs."""
        state.check_build()
        self.state = state
        self.tables = Tables(state)
        self._mark = self.tables.mark()
        self._columns = _Columns()
        self._opened = ExitStack()
        with load.open_object(*load.pool_shape(self.tables), TRANSFER) as opened:
            load.reuse_maps(opened, self.tables)
            opened.load()
            self._dump, self._take = (self._kept(opened.program_fd(name)) for name in TRANSFER)
            self._records, self._calls = (
                self._opened.enter_context(MmapArray.duplicate(opened.map_fd(name)))
                for name in ("transfer_records", "transfer_calls")
            )
        self._request = abi.struct("transfer_request")

    def _kept(self, descriptor: int) -> int:
        duplicate = os.dup(descriptor)
        self._opened.callback(os.close, duplicate)
        return duplicate

    def __enter__(self) -> ConnectionTransfer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the programs go."""
        self._opened.close()

    @property
    def is_stale(self) -> bool:
        """Whether other tables have replaced these, by a resize, an upgrade, or `pylvs down`."""
        return self.tables.mark() != self._mark

    def clock(self) -> Clock:
        """Return the clock of these tables, now."""
        return Clock(load.clock(self.state), load.ticks_per_second())

    def live(self) -> int:
        """Return how many connections and templates there are."""
        return table_use(self.tables).used

    def has_calls(self) -> bool:
        """Return whether there are templates of SIP calls."""
        return next(iter(self.tables.calls.keys()), None) is not None

    def lock(self) -> Lock:
        """Return the lock of edits."""
        return self.state.lock()

    def generation(self) -> int:
        """Return a number that changes with each edit of the tables."""
        live: int = self.tables.root.get(0, "live")
        return live

    def names(self) -> Iterator[tuple[int, bytes]]:
        """Yield slot and name of each destination, deleted ones that still have connections too."""
        for slot in range(self.tables.book.get(0, "destination_top")):
            fields = self.tables.destinations.read(slot)
            if fields["used"]:
                yield slot, written_name(fields)

    def slots(self, names: Mapping[int, bytes]) -> dict[int, int]:
        """Return the slots here of another director's destinations, by their slots there."""
        found = {}
        for slot, name in names.items():
            raw = self.tables.names.get(name)
            if raw is not None:
                found[slot] = int.from_bytes(raw, "little")
        return found

    def dump(self, part: Part, changes: bool = False) -> Iterator[bytes]:
        """Yield batches of records: of all connections or templates, or of those that have changed since the last dump.

        Behind each record of a SIP call is what it stands for. A batch may be empty. Packets change the table while it
        is read.
        """
        slot, size = 0, self._columns.size
        while True:
            wanted = self._request.pack(slot=slot, all=not changes, kind=part)
            run = kernel.run_program(self._dump, bytes(_HEAD) + wanted + bytes(32))
            records = bytes(self._records.memory[: self._filled() * size])
            yield self._with_calls(records) if part is Part.CALLS else records
            slot = run.verdict & MASK32
            if not slot:
                return

    def _with_calls(self, records: bytes) -> bytes:
        size, call = self._columns.size, self._columns.call
        count = len(records) // size
        calls = bytes(self._calls.memory[: count * call])
        return b"".join(records[number * size :][:size] + calls[number * call :][:call] for number in range(count))

    def has_templates(self, records: bytes) -> bool:
        """Return whether a connection of a batch was made under a template."""
        words = array("I")
        words.frombytes(records)
        return any(words[self._columns.template :: self._columns.words])

    def _filled(self) -> int:
        families = bytes(self._records.memory[self._columns.family :: self._columns.size])
        end = families.find(0)
        return len(families) if end < 0 else end

    def take(
        self,
        part: Part,
        records: bytes,
        destinations: Mapping[int, int],
        templates: dict[int, int],
        theirs: Clock,
        ours: Clock,
    ) -> Taken:
        """Insert records of another director, at most a batch; return what became of them.

        `destinations` are the slots here by those there, and so are `templates`, to which templates among the records
        are added. The clocks were read at the same moment. The caller holds the lock of edits. Raises BadRecords; then
        nothing has changed.
        """
        at = self._columns
        calls = b""
        if part is Part.CALLS:
            records, calls = self._without_calls(records)
        self._check(part, records)
        self._check_calls(calls)
        words = array("I")
        words.frombytes(records)
        count = len(words) // at.words
        nothing = abi.constant("NOTHING")
        before = words[at.destination :: at.words]
        words[at.destination :: at.words] = array("I", [destinations.get(each, nothing) for each in before])
        words[at.expiry :: at.words] = array("I", theirs.converted(ours, words[at.expiry :: at.words]))
        words[at.template :: at.words] = array("I", [templates.get(each, 0) for each in words[at.template :: at.words]])
        if theirs.per_second != ours.per_second:
            ratio = ours.per_second / theirs.per_second
            timeouts = words[at.timeout :: at.words]
            words[at.timeout :: at.words] = array("I", [min(round(each * ratio), MASK32) for each in timeouts])
        slots_there = words[at.slot :: at.words]
        words[at.slot :: at.words] = words[at.was_expiry :: at.words] = array("I", bytes(_WORD * count))
        self._calls.memory[: len(calls)] = calls
        memory, end = self._records.memory, count * at.size
        memory[:end] = memoryview(words).cast("B")
        if count < self._records.max_entries:
            memory[end + at.family] = 0
        kernel.run_program(self._take, bytes(64))
        result = bytes(memory[:end])
        states, newer = result[at.state :: at.size], result[at.has_ended :: at.size].count(1)
        after = array("I")
        after.frombytes(result)
        slots, mapped = after[at.slot :: at.words], after[at.destination :: at.words]
        template = abi.constant("STATE_TEMPLATE")
        templates.update(
            (there, here) for there, here, state in zip(slots_there, slots, states, strict=True) if state == template
        )
        taken = Taken(count, count - slots.count(0), newer)
        if taken.refused:
            self._count_refused(taken, before, mapped, slots, result[at.method :: at.size])
        return taken

    def _count_refused(
        self, taken: Taken, before: Sequence[int], mapped: Sequence[int], slots: Sequence[int], methods: bytes
    ) -> None:
        nothing, bypass = abi.constant("NOTHING"), abi.constant("METHOD_BYPASS")
        for there, here, slot, method in zip(before, mapped, slots, methods, strict=True):
            if slot:
                continue
            if here == nothing and method != bypass:
                taken.unknown[there] = taken.unknown.get(there, 0) + 1
            else:
                taken.full += 1

    def _without_calls(self, elements: bytes) -> tuple[bytes, bytes]:
        """Return records and calls of elements that have both. Raises BadRecords."""
        size = self._columns.size
        both = size + self._columns.call
        if len(elements) % both:
            raise BadRecords(f"{len(elements)} bytes are no batch of calls")
        starts = range(0, len(elements), both)
        records = b"".join(elements[start : start + size] for start in starts)
        return records, b"".join(elements[start + size : start + both] for start in starts)

    def _check_calls(self, calls: bytes) -> None:
        """Raise BadRecords for what stands for no call."""
        form, size = abi.struct("call"), self._columns.call
        for start in range(0, len(calls), size):
            call = form.unpack_from(calls, start)
            length = call["length"]
            if call["family"] not in (4, 6) or not 0 < length < len(call["id"]) or any(call["id"][length:]):
                raise BadRecords("a call that no director has")

    def _check(self, part: Part, records: bytes) -> None:
        """Raise BadRecords for what dump_conns never makes."""
        at = self._columns
        is_call = part is Part.CALLS
        if len(records) % at.size or len(records) > at.size * self._records.max_entries:
            raise BadRecords(f"{len(records)} bytes are no batch of records")
        families, states = records[at.family :: at.size], records[at.state :: at.size]
        if not set(families) <= {4, 6}:
            raise BadRecords("a family that is neither 4 nor 6")
        if records and max(states) >= abi.constant("STATES"):
            raise BadRecords("a state that no connection has")
        if not set(records[at.method :: at.size]) <= set(abi.shipped().enum("method").values()):
            raise BadRecords("a forwarding method that does not exist")
        if any(any(records[flag :: at.size]) for flag in (at.has_ended, at.synced)):
            raise BadRecords("a flag that no record has")
        if set(records[at.is_call :: at.size]) - {is_call}:
            raise BadRecords("a flag that all calls have, and nothing else")
        template = abi.constant("STATE_TEMPLATE")
        allowed = {(abi.constant("TUPLE_TEMPLATE"), True), (abi.constant("TUPLE_CONNECTION"), False)}
        if is_call:
            allowed = {(abi.constant("TUPLE_CALL"), True)}
        is_template = [each == template for each in states]
        if is_call and set(families) - {6}:
            raise BadRecords("a call without a tuple of IPv6")
        for family, kinds in ((4, records[at.kind4 :: at.size]), (6, records[at.kind6 :: at.size])):
            chosen = [each == family for each in families]
            if not set(compress(zip(kinds, is_template, strict=True), chosen)) <= allowed:
                raise BadRecords("a tuple of another kind than its state")


def unpack_names(content: bytes) -> dict[int, bytes]:
    """Return names by slot, from what `pack_names` made. Raises BadRecords."""
    form = struct.Struct(f"<I{NAME_BYTES}s")
    if len(content) % form.size:
        raise BadRecords(f"{len(content)} bytes are no list of destinations")
    return dict(form.iter_unpack(content))


def pack_names(names: Iterable[tuple[int, bytes]]) -> bytes:
    """Return slots and names of destinations as bytes."""
    return b"".join(slot.to_bytes(4, "little") + name for slot, name in names)
