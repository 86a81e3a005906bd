"""How bytes of one connection come and go: as they are, or by TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from http import HTTPStatus
from typing import Protocol

PIECE = 1 << 16  # bytes that are received or sent at a time
_TLS_HANDSHAKE = 0x16  # the type of the first record, RFC 8446, 5.1


class Wire(Protocol):
    """One connection."""

    async def receive(self) -> bytes:
        """Return what comes next; b"" at the end. Raises OSError."""
        ...

    async def send(self, data: bytes | memoryview) -> None:
        """Send all of it. Raises OSError."""
        ...

    async def close(self) -> None:
        """Say that nothing more is sent. Raises OSError."""
        ...


class Plain:
    """The bytes as they are."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    async def receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._end, PIECE)

    async def send(self, data: bytes | memoryview) -> None:
        await asyncio.get_running_loop().sock_sendall(self._end, data)

    async def close(self) -> None:
        """The socket's end says it."""


class Tls:
    """TLS over a non-blocking socket; `opened` makes the handshake."""

    def __init__(self, end: socket.socket, context: ssl.SSLContext) -> None:
        self._plain = Plain(end)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)

    async def receive(self) -> bytes:
        while True:
            try:
                return self._tls.read(PIECE)
            except ssl.SSLWantReadError:
                await self._more()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    async def send(self, data: bytes | memoryview) -> None:
        self._tls.write(data)  # a memory BIO takes all of it
        await self._flush()

    async def close(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # it would wait for the other end's, too
            self._tls.unwrap()
        await self._flush()

    async def handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._more()
            else:
                await self._flush()
                return

    async def _more(self) -> None:
        data = await self._plain.receive()
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()

    async def _flush(self) -> None:
        while self._out.pending:
            await self._plain.send(self._out.read(PIECE))


async def opened(end: socket.socket, context: ssl.SSLContext) -> Wire:
    """Return the connection after the handshake. Raises OSError; it answers a client that speaks HTTP without TLS."""
    loop = asyncio.get_running_loop()
    ready = loop.create_future()
    loop.add_reader(end, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(end)
    first = end.recv(1, socket.MSG_PEEK)
    if first and first[0] != _TLS_HANDSHAKE:
        end.recv(PIECE)  # bytes that nothing has read would reset the connection at its end
        text = b'{"error": "this port speaks TLS: use https://"}\n'
        head = f"HTTP/1.1 {HTTPStatus.BAD_REQUEST:d} Bad Request\r\nContent-Type: application/json\r\n"
        await Plain(end).send(f"{head}Content-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode() + text)
        raise ConnectionResetError("HTTP without TLS")
    wire = Tls(end, context)
    await wire.handshake()
    return wire
