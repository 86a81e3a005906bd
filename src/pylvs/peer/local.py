"""The frames between carrier and copier: those of `pylvs.peer.wire`, with the number of the connection they belong to.

One socket pair carries the connection to the other director, one that from it. OPENED, CLOSED and REFUSED are the
carrier's own. A frame of an earlier connection, which may be underway when that ends, is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Mapping

HEAD = struct.Struct("!IBI")  # length of the content, kind, number of the connection
OPENED, CLOSED, REFUSED = 100, 101, 102  # kinds. Content: none, the reason, the counts
BUFFER = 1 << 20  # bytes of a stream in Python, which moves all of them for each frame
_KERNEL_BUFFER = 4 << 20  # bytes of a socket: on a busy machine a process must not wait for the other end each time
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h
_MAX_REASON = 300  # bytes
# What the carrier counts, with its meaning. Nothing of it reaches the tables.
COUNTERS = {
    "another address": "connections from another host than the other director",
    "too many at once": "connections while four others made their handshake",
    "no handshake": "connections that ended before their handshake did",
    "another key": "connections of a host without the key, or without TLS 1.3",
    "bad record": "connections whose bytes were forged, repeated or changed on the way",
    "truncated": "connections that ended within a frame",
    "bad frame": "connections with what no director sends",
}
_COUNTS = struct.Struct(f"!{len(COUNTERS)}Q")


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


def refused(counts: Mapping[str, int]) -> bytes:
    """Return the frame with all counts."""
    return frame(REFUSED, 0, _COUNTS.pack(*(counts.get(name, 0) for name in COUNTERS)))


def decode_refused(content: bytes) -> dict[str, int]:
    """Return the counts that are not 0. Raises struct.error."""
    counted = zip(COUNTERS, _COUNTS.unpack(content), strict=True)
    return {name: count for name, count in counted if count}
