"""Servers on loopback for the tests of checkers, with replies set by the test, each on a port of its own."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import ssl
import sys
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, TypeVar

from pylvs.health.probes import CheckContext, Outcome, probe_of
from pylvs.model.checks import Check, Pace, Target
from tests.waiting import until_async

PATIENT = Pace(timeout_s=60.0)  # for what must not time out, on a machine however busy
HASTY = Pace(timeout_s=0.4)  # for what must, beside what must not
TIMED_OUT = f"timed out after {PATIENT.timeout_s:g} s"
V4, V6 = "127.0.0.1", "::1"
TURNS = 5  # of the event loop, from an accepted connection to the first step of its handler; three suffice

Result = TypeVar("Result")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Reply = Callable[[bytes], list[bytes]]


def target_of(sock: socket.socket) -> Target:
    """Return the address of a bound socket as a target."""
    host, port = sock.getsockname()[:2]
    return Target(ip_address(host), port)


class Loop(asyncio.SelectorEventLoop):
    """Real time; a server skips the seconds for which a check would wait in vain."""

    def __init__(self) -> None:
        super().__init__()
        self._skipped_s = 0.0

    def time(self) -> float:
        return super().time() + self._skipped_s

    def skip(self, seconds: float) -> None:
        """Advance the clock."""
        self._skipped_s += seconds


def lapse(seconds: float = PATIENT.timeout_s) -> None:
    """Advance the clock of the running event loop, by default by the timeout of a check."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Loop)
    loop.skip(seconds)


async def received(writer: asyncio.StreamWriter) -> None:
    """Wait until the peer has acknowledged everything written."""
    await writer.drain()
    number = writer.get_extra_info("socket").fileno()
    while int.from_bytes(fcntl.ioctl(number, termios.TIOCOUTQ, bytes(4)), sys.byteorder):  # not acknowledged yet
        await asyncio.sleep(0)


async def close(server: asyncio.Server) -> None:
    """Accept no connection any more, and close; Python 3.11 loses one that was accepted before and has no task yet."""
    for listening in server.sockets:
        asyncio.get_running_loop().remove_reader(listening.fileno())
    for _ in range(TURNS):
        await asyncio.sleep(0)
    server.close()


@contextlib.asynccontextmanager
async def tcp(handler: Handler, host: str = V4, tls: ssl.SSLContext | None = None) -> AsyncIterator[Target]:
    """Run a server that passes each connection to the handler, and then closes it."""
    tasks: set[asyncio.Task[None]] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await handler(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()

    server = await asyncio.start_server(one, host, 0, ssl=tls)
    try:
        yield target_of(server.sockets[0])
    finally:
        await close(server)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def replies(*pieces: bytes, hold: bool = False, pause_s: float = 0.0, reset: bool = False) -> Handler:
    """Return a handler that reads a request, sends these pieces, and closes; with `hold`, the peer closes."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)
        if hold:
            await reader.read()
        if reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            writer.transport.abort()

    return handler


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept, and send nothing."""
    await reader.read()


def hangs(*pieces: bytes) -> Handler:
    """Return a handler that reads a request, sends these pieces, and then nothing until the check has timed out."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        for piece in pieces:
            writer.write(piece)
        await received(writer)
        lapse()
        await reader.read()

    return handler


@dataclass
class Datagrams(asyncio.DatagramProtocol):
    """A UDP server, which keeps the datagrams that it received."""

    reply: Reply
    requests: list[bytes] = field(default_factory=list)
    sock: socket.socket | None = None  # transports send no empty datagrams

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        number = transport.get_extra_info("socket").fileno()
        self.sock = socket.socket(fileno=os.dup(number))

    def connection_lost(self, error: Exception | None) -> None:
        assert self.sock is not None
        self.sock.close()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.requests.append(data)
        assert self.sock is not None
        for answer in self.reply(data):
            self.sock.sendto(answer, addr)


@contextlib.asynccontextmanager
async def udp(reply: Reply, host: str = V4) -> AsyncIterator[tuple[Target, Datagrams]]:
    """Run a UDP server that answers each datagram with these."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Datagrams(reply), (host, 0))
    try:
        yield target_of(transport.get_extra_info("socket")), server
    finally:
        transport.close()
        await asyncio.sleep(0)


@contextlib.contextmanager
def closed(host: str = V4, kind: int = socket.SOCK_STREAM) -> Iterator[Target]:
    """Return a port that refuses connections and datagrams. It is bound: no other process can listen there.

    A check may still bind to it, because both sockets have SO_REUSEADDR.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, 0))
        if kind == socket.SOCK_DGRAM:
            sock.connect(sock.getsockname())  # it receives only its own datagrams
        yield target_of(sock)


def open_files() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def undisturbed(main: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run in a new event loop, which must end without open sockets and without errors."""

    async def watched() -> Result:
        errors: list[dict[str, Any]] = []

        def complain(_: object, context: dict[str, Any]) -> None:
            if (
                "for incoming connection" not in context["message"]
            ):  # of the test's server, which asyncio reports only in debug mode
                errors.append(context)

        asyncio.get_running_loop().set_exception_handler(complain)
        before = open_files()
        result = await main()
        await until_async(lambda: open_files() <= before, lambda: sorted(os.listdir("/proc/self/fd")))
        assert not errors, errors
        return result

    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(watched())


def asked(
    check: Callable[[Target], Check],
    handler: Handler,
    *,
    host: str = V4,
    tls: ssl.SSLContext | None = None,
    context: CheckContext | None = None,
) -> Outcome:
    """Return the outcome of one probe of a server with this handler."""

    async def main() -> Outcome:
        async with tcp(handler, host, tls) as target:
            return await probe_of(check(target), context or CheckContext())()

    return undisturbed(main)
