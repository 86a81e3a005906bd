"""The frames between carrier and copier: those of `pylvs.peer.wire`, with the number of the connection they belong to.

One socket pair carries the connection to the other director, one that from it. OPENED and CLOSED are the carrier's own.
A frame of an earlier connection, which may be underway when that ends, is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

HEAD = struct.Struct("!IBI")  # length of the content, kind, number of the connection
OPENED, CLOSED = 100, 101  # kinds; the content of CLOSED is the reason
BUFFER = 1 << 20  # bytes of a stream in Python, which moves all of them for each frame
_KERNEL_BUFFER = 4 << 20  # bytes of a socket: on a busy machine a process must not wait for the other end each time
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h
_MAX_REASON = 300  # bytes


async def streams(end: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return both directions of an end of a socket pair."""
    end.setblocking(False)
    return await asyncio.open_unix_connection(sock=end, limit=BUFFER)


def pair() -> tuple[socket.socket, socket.socket]:
    """Return a socket pair whose buffers have several frames. The process is root."""
    ends = socket.socketpair()
    for end in ends:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _KERNEL_BUFFER)
    return ends


async def read(reader: asyncio.StreamReader) -> tuple[int, int, bytes]:
    """Return kind, number and content of the next frame. Raises IncompleteReadError at the end."""
    length, kind, number = HEAD.unpack(await reader.readexactly(HEAD.size))
    return kind, number, await reader.readexactly(length) if length else b""


def frame(kind: int, number: int, content: bytes = b"") -> bytes:
    """Return the bytes that carrier or copier sends for this connection."""
    return HEAD.pack(len(content), kind, number) + content


def closed(number: int, reason: str) -> bytes:
    """Return the frame that ends a connection."""
    return frame(CLOSED, number, reason.encode(errors="replace")[:_MAX_REASON])
