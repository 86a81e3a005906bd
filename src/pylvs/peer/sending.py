"""Send copies of this director's connections: everything first, then once a second what has changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.peer import wire
from pylvs.peer.records import Part, pack_names
from pylvs.peer.tables import Copies, Tables
from pylvs.peer.wire import Begin, End, Held, Kind, Limits

PASS_S = 1.0  # from the begin of a copy of changes to the next one, or more:
SHARE = 10  # a search for changes takes at most this part of a processor
TEMPLATES_EVERY = 10  # copies of changes: templates are searched at least so often
_RECORD_BURST_S = 0.05  # the rate is kept over this time

Send = Callable[[Kind, bytes], Awaitable[None]]


@dataclass(slots=True)
class Sent:
    """What was sent by this connection, and what the other director has made of it."""

    records: int = 0  # of the copy that is underway
    live: int = 0  # at its begin
    everything: bool = False
    underway: bool = False
    held: Held | None = None  # of the last copy of everything, and of the changes since


class Sender:
    """Sends copies by one connection; `rate` is in records a second."""

    def __init__(self, tables: Tables, send: Send, rate: int, limits: Limits) -> None:
        self._tables, self._send = tables, send
        self._rate, self._limits = rate, limits
        self._asked = asyncio.Event()
        self._wants_all = False
        self._mark = 0
        self._allowed_at = 0.0  # when the next batch may be sent
        self._passes = 0  # copies of changes since the one of everything
        self._searched_s = 0.0  # processor time of the last copy, without that for sending
        self._named = (-1, -1)  # epoch and generation of the names that the other director has
        self.sent = Sent()

    def ask(self) -> None:
        """Send everything again."""
        self._wants_all = True
        self._asked.set()

    def note(self, held: Held) -> None:
        """Note what the other director has made of a copy."""
        self._mark = held.mark
        self.sent.held = held

    async def run(self) -> None:
        """Send for ever. Raises PylvsError for tables that cannot be read."""
        loop = asyncio.get_running_loop()
        await self._asked.wait()
        epoch = -1
        while True:
            began = loop.time()
            copies = self._tables.opened()
            if copies is not None:
                everything = self._wants_all or epoch != self._tables.epoch
                self._wants_all, epoch = False, self._tables.epoch
                await self._copy(copies, everything)
            else:
                await self._send(Kind.BEGIN, wire.encode_begin(Begin(0, 1.0, 0, everything=True)))
                await self._send(Kind.END, wire.encode_end(End(0, 0, self._mark)))
            self._asked.clear()
            try:
                async with asyncio.timeout(max(began + PASS_S - loop.time(), SHARE * self._searched_s)):
                    await self._asked.wait()
            except TimeoutError:
                pass

    async def _copy(self, copies: Copies, everything: bool) -> None:
        mark, clock = self._mark, copies.clock()
        self.sent.records, self.sent.live, self.sent.everything, self.sent.underway = 0, copies.live(), everything, True
        begin = Begin(clock.ticks, clock.per_second, self.sent.live, everything)
        await self._send(Kind.BEGIN, wire.encode_begin(begin))
        named = self._tables.epoch, copies.generation()
        if named != self._named or everything:
            await self._send(Kind.NAMES, pack_names(copies.names()))
            self._named = named
        self._searched_s, self._passes = 0.0, 0 if everything else self._passes + 1
        templates = connections = 0
        has_searched = everything or self._passes % TEMPLATES_EVERY == 0
        if has_searched:
            templates = await self._send_templates(copies, everything)
        async for records in self._batches(copies, Part.CONNECTIONS, everything):
            if not has_searched and copies.has_templates(records):  # templates come first
                has_searched = True
                templates = await self._send_templates(copies, everything)
            connections += await self._send_batch(Part.CONNECTIONS, records)
        await self._send(Kind.END, wire.encode_end(End(templates, connections, mark)))
        self.sent.underway = False

    async def _send_templates(self, copies: Copies, everything: bool) -> int:
        """Send all templates, or those that have changed; return how many."""
        parts = (Part.CALLS, Part.TEMPLATES) if copies.has_calls() else (Part.TEMPLATES,)
        return sum([await self._send_part(copies, each, everything) for each in parts])

    async def _send_part(self, copies: Copies, part: Part, everything: bool) -> int:
        """Send all batches; return how many records they had."""
        return sum([await self._send_batch(part, each) async for each in self._batches(copies, part, everything)])

    async def _batches(self, copies: Copies, part: Part, everything: bool) -> AsyncIterator[bytes]:
        """Yield the batches that have records. Raises PylvsError if other tables replace these."""
        batches = copies.dump(part, changes=not everything)
        while True:
            began = time.thread_time()
            records = next(batches, None)
            self._searched_s += time.thread_time() - began
            if records is None:
                return
            if records:
                yield records
            await asyncio.sleep(0)
            if copies.is_stale:
                raise PylvsError("other tables replaced these during a copy")

    async def _send_batch(self, part: Part, records: bytes) -> int:
        """Send a batch, no faster than the rate; return how many records it has."""
        size = self._limits.call if part is Part.CALLS else self._limits.record
        now, number = asyncio.get_running_loop().time(), len(records) // size
        await self._send(Kind[part.name], records)
        self.sent.records += number
        self._allowed_at = max(self._allowed_at, now - _RECORD_BURST_S) + number / self._rate
        await asyncio.sleep(max(self._allowed_at - asyncio.get_running_loop().time(), 0))
        return number
