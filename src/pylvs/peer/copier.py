"""The process pylvs-peer: `python -m pylvs.peer.copier FD SETTINGS NAME [NAMESPACE]`. `pylvs run` starts it.

It makes the carrier by fork(2), and then copies connections between the tables and the carrier. It is root: it reads
and writes the tables. NAMESPACE is the file of the network namespace of the tables, if that is another one.

| to it | "summary": what this director is configured for; "ask": true, for everything again |
| from it | "status": what is copied; "summary": of the other director |
"""

from __future__ import annotations

import asyncio
import contextlib
import encodings.idna  # noqa: F401  the carrier cannot load it any more
import json
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from pylvs import __version__
from pylvs.dataplane.tables import address_of
from pylvs.model.errors import PylvsError, Unsupported, text_of
from pylvs.model.plain import from_plain, to_plain
from pylvs.model.wanted import PeerSettings
from pylvs.peer import carrier, key, local, records, wire
from pylvs.peer.sending import Sender
from pylvs.peer.summary import Summary
from pylvs.peer.tables import Tables, open_tables
from pylvs.peer.taking import Taker
from pylvs.peer.wire import BadFrame, Hello, Kind
from pylvs.system import namespaces, syscalls
from pylvs.system.processes.asyncio_loop import AsyncioLoop
from pylvs.system.processes.child import Parent

NAME = b"pylvs-copier"  # shown by ps and top
_NICE = 5  # checks and edits come first
STATUS_S = 0.5
TABLES_S = 1.0  # between attempts to open tables that cannot be opened
MOST_NAMES = 20  # destinations that a status names
_NAME_FORM = "<16s16sIHHBBBx"

Send = Callable[[Kind, bytes], Awaitable[None]]


class Session:
    """One connection to or from the other director; it ends when its task does."""

    def __init__(self, hello: Hello, send: Send) -> None:
        self.send = send
        self._hello = hello
        self.frames: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(maxsize=4)
        self.other: Hello | None = None
        self.problem = ""

    async def greet(self) -> bool:
        """Exchange HELLO; return whether both can exchange connections. Raises BadFrame."""
        await self.send(Kind.HELLO, wire.encode_hello(self._hello))
        kind, content = await self.frames.get()
        if kind != Kind.HELLO:
            raise BadFrame("a frame before HELLO")
        self.other = wire.decode_hello(content)
        self.problem = wire.problem(self._hello, self.other)
        return not self.problem


class Copier:
    """Both directions of the copies."""

    def __init__(self, settings: PeerSettings, name: str, tables: Tables) -> None:
        self._settings = settings
        self._hello = Hello(wire.PROTOCOL, __version__, records.record_format(), name)
        self._tables = tables
        self._summary = Summary()
        self._refused: dict[str, int] = {}  # connections, by the carrier
        self._asking: Session | None = None
        self._answering: Session | None = None
        self._taker: Taker | None = None
        self._sender: Sender | None = None
        self._last_taker: Taker | None = None  # of the connection before, for a status between two
        self._problem = "not connected yet"
        self._tables_problem = ""
        self._since = time.monotonic()
        self._report: Callable[[dict[str, Any]], None] = lambda message: None

    async def run(self, asking: socket.socket, answering: socket.socket, parent: socket.socket) -> None:
        """Serve until the daemon or the carrier ends."""
        over = asyncio.Event()
        link = Parent(AsyncioLoop(), parent, lambda message, _: self._receive(message), over.set, equal=True)
        self._report = link.send
        ask = asyncio.ensure_future(self._serve(asking, self._ask))
        answer = asyncio.ensure_future(self._serve(answering, self._answer))
        tell = asyncio.ensure_future(self._tell())
        end = asyncio.ensure_future(over.wait())
        await asyncio.wait([ask, answer, tell, end], return_when=asyncio.FIRST_COMPLETED)
        for task in (ask, answer, tell):
            if task.done() and (error := task.exception()):
                raise error

    async def refuse(self, parent: socket.socket, problem: str) -> None:
        """Report why nothing can be copied, until the daemon ends this process."""
        self._problem = problem
        over = asyncio.Event()
        link = Parent(AsyncioLoop(), parent, lambda message, _: None, over.set, equal=True)
        link.send({"status": self.status()})
        await over.wait()

    def _receive(self, message: dict[str, Any]) -> None:
        if "summary" in message:
            self._summary = from_plain(Summary, message["summary"])
            for session in (self._asking, self._answering):
                if session is not None and session.other is not None:
                    _spawn(self._send_summary(session))
        if message.get("ask") and self._taker is not None:
            _spawn(self._taker.ask())

    async def _send_summary(self, session: Session) -> None:
        with contextlib.suppress(OSError):
            await session.send(Kind.SUMMARY, wire.encode_summary(self._summary))

    async def _serve(self, end: socket.socket, run: Callable[[Session], Awaitable[None]]) -> None:
        """Run a session for each connection that the carrier opens at this end."""
        reader, writer = await local.streams(end)
        session: Session | None = None
        task: asyncio.Task[None] | None = None
        number = 0
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            while True:
                kind, of, content = await local.read(reader)
                if kind == local.REFUSED:
                    self._refused = local.decode_refused(content)
                    continue
                if kind in (local.OPENED, local.CLOSED):
                    if task is not None:
                        task.cancel()
                        await asyncio.gather(task, return_exceptions=True)
                        task = session = None
                    if kind == local.CLOSED:
                        self._closed(run == self._ask, content.decode(errors="replace"))
                        continue
                    number = of
                    session = Session(self._hello, partial(_send, writer, of))
                    task = asyncio.ensure_future(self._run(session, run, writer, of))
                elif session is not None and of == number and task is not None and not task.done():
                    put = asyncio.ensure_future(session.frames.put((kind, content)))
                    await asyncio.wait([put, task], return_when=asyncio.FIRST_COMPLETED)
                    put.cancel()

    async def _run(
        self, session: Session, run: Callable[[Session], Awaitable[None]], writer: asyncio.StreamWriter, number: int
    ) -> None:
        """Run a session, and end its connection when it ends."""
        try:
            await run(session)
        except BadFrame as error:
            session.problem = f"it sent what no director sends: {error}"
        except PylvsError as error:
            session.problem = text_of(error)
        if run == self._ask and session.problem:
            self._problem = session.problem
        writer.write(local.closed(number, session.problem))
        await writer.drain()

    def _closed(self, asking: bool, reason: str) -> None:
        if asking:
            if self._taker is not None:
                self._last_taker = self._taker
                self._since = time.monotonic()
            incompatible = self._asking.problem if self._asking is not None else ""
            self._problem = incompatible or reason or self._problem
            self._asking = self._taker = None
        else:
            self._answering = self._sender = None

    async def _ask(self, session: Session) -> None:
        """Ask the other director for copies, and take them."""
        self._asking = session
        if not await session.greet():
            return
        await self._send_summary(session)
        self._taker = taker = Taker(self._tables, session.send)
        self._problem, self._since = "", time.monotonic()
        await taker.ask()
        while True:
            kind, content = await session.frames.get()
            if kind == Kind.SUMMARY:
                self._compare(content)
            else:
                await taker.take(kind, content)

    async def _answer(self, session: Session) -> None:
        """Send copies to the other director."""
        self._answering = session
        if not await session.greet():
            return
        await self._send_summary(session)
        sender = Sender(self._tables, session.send, self._settings.rate, records.limits())
        self._sender = sender
        sending = asyncio.ensure_future(sender.run())
        try:
            while not sending.done():
                get = asyncio.ensure_future(session.frames.get())
                await asyncio.wait([get, sending], return_when=asyncio.FIRST_COMPLETED)
                if not get.done():
                    get.cancel()
                    await asyncio.gather(get, return_exceptions=True)
                    break
                kind, content = get.result()
                if kind == Kind.SUMMARY:
                    self._compare(content)
                elif kind == Kind.ASK:
                    sender.ask()
                elif kind == Kind.HELD:
                    sender.note(wire.decode_held(content))
            sending.result()
        finally:
            sending.cancel()

    def _compare(self, content: bytes) -> None:
        self._report({"summary": to_plain(wire.decode_summary(content))})

    async def _tell(self) -> None:
        while True:
            self._report({"status": self.status()})
            await asyncio.sleep(STATUS_S)

    def status(self) -> dict[str, Any]:
        """Return what is copied, in plain values; times are of CLOCK_MONOTONIC."""
        other = next((each.other for each in (self._asking, self._answering) if each and each.other), None)
        return {
            "name": other.name if other else "",
            "version": other.version if other else "",
            "problem": self._problem,
            "since": self._since,
            "taken": None if (taker := self._taker or self._last_taker) is None else _taken(taker),
            "connected": self._taker is not None,
            "refused": self._refused,
            "sent": None if self._sender is None else _sent(self._sender),
        }


def _taken(taker: Taker) -> dict[str, Any]:
    copied = taker.copied
    taken = copied.everything
    unknown = sorted(taker.names_of(taken.unknown).items(), key=lambda each: -each[1])
    return {
        "complete": copied.complete,
        "underway": copied.underway.records if copied.copies_all else 0,
        "copies_all": copied.copies_all and copied.underway.records > 0,
        "live": copied.live,
        "records": taken.records,
        "held": taken.held,
        "newer": taken.newer,
        "full": taken.full,
        "unknown": [[destination_name(name), count] for name, count in unknown[:MOST_NAMES]],
        "unknown_count": sum(taken.unknown.values()),
        "seconds": round(copied.seconds, 3),
        "current_at": copied.current_at,
    }


def _sent(sender: Sender) -> dict[str, Any]:
    sent, held = sender.sent, sender.sent.held
    return {
        "underway": sent.records if sent.underway and sent.everything else 0,
        "live": sent.live,
        "records": held.records if held else None,
        "held": held.held if held else None,
    }


def destination_name(name: bytes) -> str:
    """Return `server of service` for a key in `names`."""
    if len(name) != struct.calcsize(_NAME_FORM):
        return "a destination without a name"
    virtual, server, mark, virtual_port, port, protocol, family, server_family = struct.unpack(_NAME_FORM, name)
    address = address_of(server, server_family or 4)
    text = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    if mark:
        return f"{text} of mark {mark}"
    vip = address_of(virtual, family or 4)
    of = f"[{vip}]:{virtual_port}" if vip.version == 6 else f"{vip}:{virtual_port}"
    return f"{text} of {({6: 'TCP', 17: 'UDP', 132: 'SCTP'}).get(protocol, str(protocol))} {of}"


_SPAWNED: set[asyncio.Future[None]] = set()


def _spawn(work: Awaitable[None]) -> None:
    task = asyncio.ensure_future(work)
    _SPAWNED.add(task)
    task.add_done_callback(_SPAWNED.discard)


async def _send(writer: asyncio.StreamWriter, number: int, kind: Kind, content: bytes) -> None:
    writer.write(local.frame(kind, number, content))
    await writer.drain()


def fork_carrier(settings: PeerSettings, ends: list[socket.socket]) -> tuple[socket.socket, socket.socket]:
    """Start the carrier; return our ends of its socket pairs. Raises Unsupported for a key that cannot be used."""
    assert settings.address is not None
    connecting, accepting = key.contexts(settings.key_file)
    endpoint = carrier.Endpoint(
        settings.address, settings.port, key.certificate(settings.key_file), connecting, accepting
    )
    (asking, its_asking), (answering, its_answering) = local.pair(), local.pair()
    if not os.fork():
        try:
            for each in (asking, answering, *ends):
                each.close()
            carrier.main(endpoint, records.limits(), its_asking, its_answering)
        finally:
            os._exit(1)
    its_asking.close()
    its_answering.close()
    return asking, answering


def main() -> None:
    """Be the process."""
    end, settings = socket.socket(fileno=int(sys.argv[1])), from_plain(PeerSettings, json.loads(sys.argv[2]))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # for the parent; this process ends with it
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    syscalls.prctl(syscalls.PR_SET_NAME, NAME)
    os.nice(_NICE)
    copier = Copier(settings, sys.argv[3], Tables(open_tables))
    try:
        asking, answering = fork_carrier(settings, [end])
    except Unsupported as error:  # until a reload, which finds another file
        asyncio.run(copier.refuse(end, str(error)))
        return
    for path in sys.argv[4:]:
        namespaces.join(path, namespaces.Kind.NETWORK)
    asyncio.run(copier.run(asking, answering, end))


if __name__ == "__main__":
    try:
        main()
    except (PylvsError, OSError) as error:
        print(text_of(error), file=sys.stderr)
        sys.exit(1)
    os._exit(0)
