"""Servers on loopback for the tests of checkers: told what to say, on ports of their own, gone without a trace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, TypeVar

from pylvs.health.checkers.context import Context
from pylvs.health.checkers.registry import probe_of
from pylvs.health.outcome import Outcome
from pylvs.model.checks import Check, Pace, Target

PATIENT = Pace(timeout_s=60.0)  # for what must not time out, on a machine however busy
HASTY = Pace(timeout_s=0.4)  # for what must
V4, V6 = "127.0.0.1", "::1"
_DEADLINE_S = 30.0

Result = TypeVar("Result")
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Reply = Callable[[bytes], list[bytes]]


def target_of(sock: socket.socket) -> Target:
    """Where a bound socket can be reached."""
    host, port = sock.getsockname()[:2]
    return Target(ip_address(host), port)


@contextlib.asynccontextmanager
async def tcp(handler: Handler, host: str = V4, tls: ssl.SSLContext | None = None) -> AsyncIterator[Target]:
    """A server that does this with each connection, and then closes it."""
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
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def says(*pieces: bytes, hold: bool = False, pause_s: float = 0.0, reset: bool = False) -> Handler:
    """Reads a request, says these pieces, and closes; or holds the connection until the other side closes it."""

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
    """Accepts, and says nothing."""
    await reader.read()


@dataclass
class Datagrams(asyncio.DatagramProtocol):
    """A UDP server; what it heard is kept."""

    reply: Reply
    heard: list[bytes] = field(default_factory=list)
    sock: socket.socket | None = None  # transports send no empty datagrams

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        number = transport.get_extra_info("socket").fileno()
        self.sock = socket.socket(fileno=os.dup(number))

    def connection_lost(self, error: Exception | None) -> None:
        assert self.sock is not None
        self.sock.close()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.heard.append(data)
        assert self.sock is not None
        for answer in self.reply(data):
            self.sock.sendto(answer, addr)


@contextlib.asynccontextmanager
async def udp(reply: Reply, host: str = V4) -> AsyncIterator[tuple[Target, Datagrams]]:
    """A UDP server that answers each datagram with these."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Datagrams(reply), (host, 0))
    try:
        yield target_of(transport.get_extra_info("socket")), server
    finally:
        transport.close()
        await asyncio.sleep(0)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A port where nobody listens."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind((V4, 0))
        return int(sock.getsockname()[1])


def open_files() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def undisturbed(main: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run this in an event loop of its own; no socket may be left, and the loop may have nothing to complain of."""

    async def watched() -> Result:
        complaints: list[dict[str, Any]] = []

        def complain(_: object, context: dict[str, Any]) -> None:
            if "for incoming connection" not in context["message"]:  # of the test's server, told in debug mode alone
                complaints.append(context)

        asyncio.get_running_loop().set_exception_handler(complain)
        before = open_files()
        result = await main()
        deadline = time.monotonic() + _DEADLINE_S
        while open_files() > before and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert open_files() <= before, sorted(os.listdir("/proc/self/fd"))
        assert not complaints, complaints
        return result

    return asyncio.run(watched())


def asked(
    check: Callable[[Target], Check],
    handler: Handler,
    *,
    host: str = V4,
    tls: ssl.SSLContext | None = None,
    context: Context | None = None,
) -> Outcome:
    """What one probe of a check says about a server that does this."""

    async def main() -> Outcome:
        async with tcp(handler, host, tls) as target:
            return await probe_of(check(target), context or Context())()

    return undisturbed(main)
