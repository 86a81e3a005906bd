"""What directors send each other, and what they make of it: sender and taker over tables in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import pytest

from pylvs.peer import sending, wire
from pylvs.peer.records import Clock, Part, Taken
from pylvs.peer.sending import Sender
from pylvs.peer.tables import Tables
from pylvs.peer.taking import Alignment, Taker
from pylvs.peer.wire import BadFrame, Begin, End, Kind, Limits
from tests.waiting import PATIENCE_S

NAME = b"n" * 44
RECORD = 4  # bytes: here a record is a number
LIMITS = Limits(len(NAME), RECORD, 2 * RECORD, 3)


@dataclass
class FakeCopies:
    """Tables with numbers for connections: a number has the destination 1."""

    connections: list[int] = field(default_factory=list)
    changes: list[int] = field(default_factory=list)
    templates: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    known: set[bytes] = field(default_factory=lambda: {NAME})
    space: int = 1000
    edits: int = 0
    is_stale: bool = False
    batch: int = 3
    taken: list[int] = field(default_factory=list)

    def close(self) -> None:
        pass

    def clock(self) -> Clock:
        return Clock(5, 8.0)

    def generation(self) -> int:
        return self.edits

    def live(self) -> int:
        return len(self.connections)

    def has_calls(self) -> bool:
        return bool(self.calls)

    def lock(self) -> AbstractContextManager[object]:
        return nullcontext()

    def names(self) -> Iterator[tuple[int, bytes]]:
        yield 1, NAME

    def slots(self, names: Mapping[int, bytes]) -> dict[int, int]:
        return {slot: slot + 10 for slot, name in names.items() if name in self.known}

    def dump(self, part: Part, changes: bool = False) -> Iterator[bytes]:
        numbers = {
            Part.CONNECTIONS: self.changes if changes else self.connections,
            Part.TEMPLATES: self.templates,
            Part.CALLS: self.calls,
        }[part]
        for at in range(0, len(numbers), self.batch):
            yield b"".join(each.to_bytes(RECORD, "little") for each in numbers[at : at + self.batch])

    def has_templates(self, records: bytes) -> bool:
        return bool(records[0] & 0x80)

    def take(
        self,
        part: Part,
        records: bytes,
        destinations: Mapping[int, int],
        templates: dict[int, int],
        theirs: Clock,
        ours: Clock,
    ) -> Taken:
        numbers = [int.from_bytes(records[at : at + RECORD], "little") for at in range(0, len(records), RECORD)]
        if not destinations:
            return Taken(len(numbers), unknown={1: len(numbers)})
        fitting = numbers[: max(self.space - len(self.taken), 0)]
        self.taken += fitting
        return Taken(len(numbers), len(fitting), full=len(numbers) - len(fitting))


class Wire:
    """Frames that a sender or taker has sent."""

    def __init__(self) -> None:
        self.frames: list[tuple[Kind, bytes]] = []

    async def send(self, kind: Kind, content: bytes) -> None:
        self.frames.append((kind, content))

    def kinds(self) -> list[Kind]:
        return [kind for kind, _ in self.frames]


class Clocked:
    """The time that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def taker(copies: FakeCopies | None, clock: Clocked) -> tuple[Taker, Wire, Tables]:
    sent, tables = Wire(), Tables(lambda: copies)
    return Taker(tables, sent.send, clock), sent, tables


async def give(to: Taker, numbers: list[int], everything: bool = True, mark: int = 0) -> None:
    """Give a whole copy to a taker."""
    await to.take(Kind.BEGIN, wire.encode_begin(Begin(5, 8.0, len(numbers), everything)))
    if everything:
        await to.take(Kind.NAMES, (1).to_bytes(4, "little") + NAME)
    await to.take(Kind.CONNECTIONS, b"".join(each.to_bytes(RECORD, "little") for each in numbers))
    await to.take(Kind.END, wire.encode_end(End(0, len(numbers), mark)))


def test_a_copy_is_complete_at_its_end_and_current_by_the_mark_that_returns() -> None:
    async def test() -> None:
        copies, clock = FakeCopies(), Clocked()
        taking, sent, _ = taker(copies, clock)
        await give(taking, [1, 2, 3])
        assert (copies.taken, taking.copied.complete, taking.copied.current_at) == ([1, 2, 3], True, 0.0)
        (held,) = [wire.decode_held(content) for kind, content in sent.frames if kind is Kind.HELD]
        assert (held.records, held.held, held.mark) == (3, 3, 1)
        clock.now = 107.0
        await give(taking, [4], everything=False, mark=1)
        assert taking.copied.current_at == 100.0, "what was there when the mark was sent"
        assert taking.copied.everything.records == 4

    asyncio.run(test())


def test_records_before_begin_are_refused() -> None:
    async def test() -> None:
        taking, _, _ = taker(FakeCopies(), Clocked())
        for kind, content in ((Kind.CONNECTIONS, bytes(RECORD)), (Kind.END, wire.encode_end(End(0, 0, 0)))):
            with pytest.raises(BadFrame, match="BEGIN"):
                await taking.take(kind, content)

    asyncio.run(test())


def test_it_asks_again_when_an_edit_may_have_added_the_missing_server() -> None:
    async def test() -> None:
        copies, clock = FakeCopies(known=set()), Clocked()
        taking, sent, _ = taker(copies, clock)
        await give(taking, [1, 2])
        assert taking.copied.everything.unknown == {1: 2}
        assert taking.names_of({1: 2}) == {NAME: 2}
        await give(taking, [], everything=False)
        assert Kind.ASK not in sent.kinds(), "nothing has changed"
        copies.known, copies.edits = {NAME}, 1
        await give(taking, [], everything=False)
        assert sent.kinds().count(Kind.ASK) == 1
        await give(taking, [1, 2])
        assert taking.copied.everything.refused == 0

    asyncio.run(test())


def test_it_asks_again_for_other_tables_which_lack_what_came_before() -> None:
    async def test() -> None:
        first, second, clock = FakeCopies(), FakeCopies(), Clocked()
        found = [first, second]
        sent, tables = Wire(), Tables(lambda: found.pop(0))
        taking = Taker(tables, sent.send, clock)
        await give(taking, [1])
        first.is_stale = True
        await give(taking, [2], everything=False)
        assert (second.taken, sent.kinds().count(Kind.ASK)) == ([], 1), "not in part"
        await give(taking, [1, 2])
        assert second.taken == [1, 2]

    asyncio.run(test())


def test_without_tables_nothing_is_taken_and_everything_is_asked_for_later() -> None:
    async def test() -> None:
        there: list[FakeCopies | None] = [None]
        sent = Wire()
        taking = Taker(Tables(lambda: there[0]), sent.send, Clocked())
        await give(taking, [1])
        assert (taking.copied.complete, sent.kinds().count(Kind.ASK)) == (False, 0)
        there[0] = FakeCopies()
        await give(taking, [1], everything=False)
        assert sent.kinds().count(Kind.ASK) == 1

    asyncio.run(test())


def test_a_frame_that_waited_makes_no_connection_newer() -> None:
    alignment = Alignment()
    for theirs, ours, wanted in (
        (100, 5100, 5100),
        (108, 5124, 5108),  # it came 16 ticks late
        (116, 5115, 5115),  # and this one earlier than the first
        (124, 5130, 5123),
    ):
        assert alignment.aligned(Clock(theirs, 8.0), Clock(ours, 8.0)) == Clock(wanted, 8.0)
    for theirs in range(132, 132 + 8 * 32, 8):  # the clocks drift
        found = alignment.aligned(Clock(theirs, 8.0), Clock(theirs + 5003, 8.0))
    assert found == Clock(theirs + 5003, 8.0)


def test_clocks_are_aligned_around_their_end() -> None:
    alignment, end = Alignment(), 1 << 32
    assert alignment.aligned(Clock(end - 3, 8.0), Clock(2, 8.0)) == Clock(2, 8.0)
    assert alignment.aligned(Clock(5, 8.0), Clock(20, 8.0)) == Clock(10, 8.0)
    assert alignment.aligned(Clock(7, 9.0), Clock(20, 8.0)) == Clock(20, 8.0), "another speed"


async def sent_by(copies: FakeCopies | None, passes: int, then: list[int] | None = None, rate: int = 10**9) -> Wire:
    """Run a sender for some copies; return what it sent."""
    sent = Wire()
    sender = Sender(Tables(lambda: copies), sent.send, rate, LIMITS)
    sender.ask()
    task = asyncio.ensure_future(sender.run())
    async with asyncio.timeout(PATIENCE_S):
        while sent.kinds().count(Kind.END) < passes:
            await asyncio.sleep(0)
            if then is not None and copies is not None and sent.kinds().count(Kind.END) == 1:
                copies.changes = then
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return sent


def test_a_sender_sends_everything_and_then_what_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PASS_S", 0.001)
    sent = asyncio.run(sent_by(FakeCopies([1, 2, 3, 4]), 2, then=[5]))
    wanted = [Kind.BEGIN, Kind.NAMES, Kind.CONNECTIONS, Kind.CONNECTIONS, Kind.END]
    wanted += [Kind.BEGIN, Kind.CONNECTIONS, Kind.END]
    assert sent.kinds()[: len(wanted)] == wanted
    begins = [wire.decode_begin(content) for kind, content in sent.frames if kind is Kind.BEGIN]
    assert [(each.everything, each.live) for each in begins[:2]] == [(True, 4), (False, 4)]
    ends = [wire.decode_end(content) for kind, content in sent.frames if kind is Kind.END]
    assert [each.connections for each in ends[:2]] == [4, 1]


def test_templates_of_changed_connections_come_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "PASS_S", 0.001)
    sent = asyncio.run(sent_by(FakeCopies([1], templates=[9]), 2, then=[0x85]))
    wanted = [Kind.BEGIN, Kind.NAMES, Kind.TEMPLATES, Kind.CONNECTIONS, Kind.END]
    wanted += [Kind.BEGIN, Kind.TEMPLATES, Kind.CONNECTIONS, Kind.END]
    assert sent.kinds()[: len(wanted)] == wanted


def test_templates_of_sip_calls_come_before_connections() -> None:
    sent = asyncio.run(sent_by(FakeCopies([1], templates=[9], calls=[7, 8, 7, 8], batch=2), 1))
    wanted = [Kind.BEGIN, Kind.NAMES, Kind.CALLS, Kind.CALLS, Kind.TEMPLATES, Kind.CONNECTIONS, Kind.END]
    assert sent.kinds()[: len(wanted)] == wanted
    (end,) = (wire.decode_end(content) for kind, content in sent.frames[: len(wanted)] if kind is Kind.END)
    assert (end.templates, end.connections) == (3, 1), "each call has two numbers"


def test_a_director_without_tables_has_nothing_to_copy() -> None:
    sent = asyncio.run(sent_by(None, 1))
    assert sent.kinds()[:2] == [Kind.BEGIN, Kind.END]


def test_a_sender_keeps_to_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float, result: object = None) -> None:
        pauses.append(seconds)
        await sleep(0)

    async def test() -> None:
        sender = Sender(Tables(lambda: None), Wire().send, 10, LIMITS)
        await sender._send_part(FakeCopies(list(range(60))), Part.CONNECTIONS, everything=True)

    monkeypatch.setattr(asyncio, "sleep", noted)
    asyncio.run(test())
    assert max(pauses) == pytest.approx(60 / 10, abs=0.5), "no sleep was real, so the last one has all the delay"
