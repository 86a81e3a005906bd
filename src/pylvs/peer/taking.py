"""Take copies of the other director's connections into the tables of this one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable

from pylvs.dataplane.tables import MASK32
from pylvs.model.dataclass import dataclass, field
from pylvs.peer import wire
from pylvs.peer.records import BadRecords, Clock, Part, Taken, unpack_names
from pylvs.peer.tables import Tables
from pylvs.peer.wire import BadFrame, Begin, Held, Kind

_COPIES = 32  # a copy each second
AGAIN_S = 5.0  # between requests for everything because an edit may have added what was missing

Send = Callable[[Kind, bytes], Awaitable[None]]


@dataclass(slots=True)
class Copied:
    """What came of the other director's connections by one connection."""

    everything: Taken = field(default_factory=Taken)  # of the last complete copy of everything, and changes since
    underway: Taken = field(default_factory=Taken)  # of the copy that is underway
    complete: bool = False  # a copy of everything
    live: int = 0  # connections of the other director at the begin of the last copy
    copies_all: bool = False  # the copy that is underway has everything
    seconds: float = 0.0  # that the last copy of everything took
    current_at: float = 0.0  # CLOCK_MONOTONIC: all that was there at this time has come; 0: never


class Alignment:
    """Finds out what this director's clock was when the other one read its own.

    A frame that waits on its way makes connections appear to be refreshed later than they were. Of the last copies, the
    one that came soonest counts. Their number is limited, because the clocks of two machines drift apart.
    """

    def __init__(self) -> None:
        self._first: int | None = None  # difference of both clocks
        self._later: deque[int] = deque(maxlen=_COPIES)  # by how much it was greater than the first one

    def aligned(self, theirs: Clock, ours: Clock) -> Clock:
        """Return our clock at the moment of theirs; `ours` is when it came. Clocks of two speeds are not compared."""
        if theirs.per_second != ours.per_second:
            return ours
        difference = ours.ticks - theirs.ticks & MASK32
        if self._first is None:
            self._first = difference
        half = 1 << 31
        self._later.append((difference - self._first + half & MASK32) - half)
        return Clock(theirs.ticks + self._first + min(self._later) & MASK32, ours.per_second)


class Taker:
    """Takes copies by one connection."""

    def __init__(self, tables: Tables, send: Send, clock: Callable[[], float] = time.monotonic) -> None:
        self._tables, self._send, self._clock = tables, send, clock
        self._names: dict[int, bytes] = {}
        self._slots: dict[int, int] = {}
        self._slots_of = (-1, -1)  # epoch and generation in which they are true
        self._templates: dict[int, int] = {}
        self._begin: Begin | None = None
        self._clocks: tuple[Clock, Clock] | None = None  # theirs, ours
        self._alignment = Alignment()
        self._began = 0.0
        self._epoch = -1
        self._marks: dict[int, float] = {}  # when they were sent
        self._mark = 0
        self._asked = 0.0
        self._missing_in = -1  # the generation in which records were refused
        self.copied = Copied()

    async def ask(self) -> None:
        """Ask for everything."""
        self._asked = self._clock()
        await self._send(Kind.ASK, b"")

    async def take(self, kind: int, content: bytes) -> None:
        """Take a frame. Raises BadFrame, and PylvsError for tables that cannot be changed."""
        match kind:
            case Kind.BEGIN:
                self._start(wire.decode_begin(content))
            case Kind.NAMES:
                try:
                    self._names = unpack_names(content)
                except BadRecords as error:
                    raise BadFrame(str(error)) from None
                self._slots_of = -1, -1
            case Kind.TEMPLATES | Kind.CALLS | Kind.CONNECTIONS:
                self._insert(Part[Kind(kind).name], content)
            case Kind.END:
                await self._finish(wire.decode_end(content))

    def names_of(self, unknown: dict[int, int]) -> dict[bytes, int]:
        """Return how many records were refused by the name of their destination."""
        found: dict[bytes, int] = {}
        for slot, count in unknown.items():
            name = self._names.get(slot, b"")
            found[name] = found.get(name, 0) + count
        return found

    def _start(self, begin: Begin) -> None:
        self._begin, self._began = begin, self._clock()
        self.copied.live, self.copied.copies_all = begin.live, begin.everything
        self.copied.underway = Taken()
        copies = self._tables.opened()
        theirs = Clock(begin.ticks, begin.per_second)
        self._clocks = None if copies is None else (theirs, self._alignment.aligned(theirs, copies.clock()))
        if begin.everything:
            self._templates.clear()
            self._epoch = self._tables.epoch

    def _insert(self, part: Part, records: bytes) -> None:
        if self._begin is None:
            raise BadFrame("records before BEGIN")
        copies = self._tables.opened()
        if copies is None or self._clocks is None or self._tables.epoch != self._epoch:
            self._epoch = -1  # these tables lack what came before: `_finish` asks for everything again
            return
        with copies.lock():
            now = self._tables.epoch, copies.generation()
            if now != self._slots_of:  # an edit may have moved destinations
                self._slots, self._slots_of = copies.slots(self._names), now
            try:
                self.copied.underway.add(copies.take(part, records, self._slots, self._templates, *self._clocks))
            except BadRecords as error:
                raise BadFrame(str(error)) from None

    async def _finish(self, end: wire.End) -> None:
        if self._begin is None:
            raise BadFrame("END before BEGIN")
        copied, begin = self.copied, self._begin
        whole = self._epoch == self._tables.epoch or not end.templates + end.connections
        if begin.everything and whole:
            copied.everything, copied.complete = copied.underway, True
            copied.seconds = self._clock() - self._began
            self._missing_in = -1
        elif whole and copied.complete:
            copied.everything.add(copied.underway)
        copied.underway, self._begin = Taken(), None
        if whole and copied.complete and end.mark in self._marks:
            copied.current_at = self._marks.pop(end.mark)
            self._marks = {mark: at for mark, at in self._marks.items() if mark > end.mark}
        await self._report()
        await self._ask_again(whole)

    async def _report(self) -> None:
        self._mark += 1
        self._marks[self._mark] = self._clock()
        taken = self.copied.everything
        unknown = sum(taken.unknown.values())
        held = Held(*map(_limited, (taken.records, taken.held, taken.newer, taken.full, unknown, self._mark)))
        await self._send(Kind.HELD, wire.encode_held(held))

    async def _ask_again(self, whole: bool) -> None:
        """Ask for everything if other tables are here now, or if an edit may have added missing servers or space."""
        copies = self._tables.opened()
        if copies is None:
            return
        generation = copies.generation()
        refused = self.copied.everything.refused
        if refused and self._missing_in < 0:
            self._missing_in = generation
        edited = refused > 0 and self._missing_in != generation
        if (not whole or edited) and self._clock() >= self._asked + AGAIN_S:
            self._missing_in = generation
            await self.ask()


def _limited(count: int) -> int:
    return min(count, 0xFFFFFFFF)
