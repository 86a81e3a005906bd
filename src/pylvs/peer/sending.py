"""Send copies of this director's connections: everything first, then once a second what has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.peer import wire
from pylvs.peer.records import pack_names
from pylvs.peer.tables import Copies, Tables
from pylvs.peer.wire import Begin, End, Held, Kind

PASS_S = 1.0  # from the begin of a copy of changes to the next one
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

    def __init__(self, tables: Tables, send: Send, rate: int, record_bytes: int) -> None:
        self._tables, self._send = tables, send
        self._rate, self._record_bytes = rate, record_bytes
        self._asked = asyncio.Event()
        self._wants_all = False
        self._mark = 0
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
                await self._send(Kind.END, wire.encode_end(End(0, 0, 0, self._mark)))
            self._asked.clear()
            try:
                async with asyncio.timeout(max(began + PASS_S - loop.time(), 0)):
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
        templates = await self._records(copies, Kind.TEMPLATES, everything)
        connections = await self._records(copies, Kind.CONNECTIONS, everything)
        await self._send(Kind.END, wire.encode_end(End(templates, connections, copies.calls(), mark)))
        self.sent.underway = False

    async def _records(self, copies: Copies, kind: Kind, everything: bool) -> int:
        """Send all batches, no faster than the rate; return how many records they had."""
        loop = asyncio.get_running_loop()
        count, allowed_at = 0, loop.time()
        for records in copies.dump(templates=kind is Kind.TEMPLATES, changes=not everything):
            number = len(records) // self._record_bytes
            if number:
                await self._send(kind, records)
                count += number
                self.sent.records += number
                allowed_at = max(allowed_at, loop.time() - _RECORD_BURST_S) + number / self._rate
            await asyncio.sleep(max(allowed_at - loop.time(), 0))
            if copies.is_stale:
                raise PylvsError("other tables replaced these during a copy")
        return count
