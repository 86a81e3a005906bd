"""A TCP stream, plain or TLS, with a deadline and bounded buffers."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from functools import cache, partial
from typing import Self, TypeVar

from pylvs.health.checkers.sockets import Deadline, Endpoint, ready
from pylvs.health.outcome import ProbeFailed, errno_failure

_READ_SIZE = 1 << 16  # bytes read in one run of the event loop
_LEGACY_SERVER_CONNECT = 0x4  # SSL_OP_LEGACY_SERVER_CONNECT, in Python since 3.12
Result = TypeVar("Result")


@cache
def lenient_tls() -> ssl.SSLContext:
    """Return TLS settings that accept every server: a check proves function, not identity.

    Certificates are not verified. All versions that this host's OpenSSL supports are allowed, keys of any length, and
    servers without secure renegotiation.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.options |= _LEGACY_SERVER_CONNECT
    return context


def _tls_error_text(error: Exception, what: str = "") -> str:
    """Return a short text for an error, from OpenSSL if it has one."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):  # the class depends on Python's version
        return "connection closed in the TLS handshake"
    reason = error.reason if isinstance(error, ssl.SSLError) else str(error)
    return f"TLS failed: {what}{(reason or str(error)).replace('_', ' ').lower()}"


class TcpStream:
    """A connection to a target. All methods raise ProbeFailed, at the deadline with "timed out"."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline
        self._tls: ssl.SSLSocket | None = None
        self._buffer = b""  # received, but not read yet
        self.close_notify = False  # send TLS's close_notify before the end

    @classmethod
    async def open(cls, endpoint: Endpoint, deadline: Deadline) -> TcpStream:
        """Connect."""
        return cls(await endpoint.connected(deadline), deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.close_notify and self._tls is not None:
                with contextlib.suppress(OSError, ValueError):  # the peer has not answered it, or has disconnected
                    self._tls.unwrap()
        finally:
            self._sock.close()

    async def start_tls(self, server_name: str = "") -> None:
        """Run the TLS handshake, with SNI if a name is given."""
        where = "in the TLS handshake"
        try:
            name = server_name.encode("idna").decode("ascii") or None
            self._tls = lenient_tls().wrap_socket(self._sock, server_hostname=name, do_handshake_on_connect=False)
        except (ValueError, ssl.SSLError) as error:
            what = f"server name '{server_name}': " if isinstance(error, ValueError) else ""
            raise ProbeFailed(_tls_error_text(error, what)) from None
        except OSError as error:
            raise errno_failure(error.errno or errno.ECONNRESET, where) from None
        self._sock = self._tls
        await self._repeat(self._tls.do_handshake, where)

    async def send(self, data: bytes) -> None:
        """Send all data."""
        rest = memoryview(data)
        while rest:
            rest = rest[await self._repeat(partial(self._sock.send, rest), "while sending", writing=True) :]

    async def receive(self, where: str = "waiting for the answer") -> bytes:
        """Return the next bytes, at most 64 KiB; none at the end, with or without TLS's close_notify."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        if self._tls is None:  # a first recv(2) would nearly always fail with EAGAIN
            await self._wait(where)
        return await self._repeat(self._received, where)

    def _received(self) -> bytes:
        try:
            return self._sock.recv(_READ_SIZE)
        except ssl.SSLEOFError:
            return b""

    async def _repeat(self, call: Callable[[], Result], where: str, *, writing: bool = False) -> Result:
        """Repeat a call of the socket until it need not wait, and return its result."""
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                await self._wait(where)
            except ssl.SSLWantWriteError:
                await self._wait(where, writing=True)
            except BlockingIOError:
                await self._wait(where, writing=writing)
            except ssl.SSLError as error:
                raise ProbeFailed(_tls_error_text(error)) from None
            except OSError as error:
                raise errno_failure(error.errno or errno.ECONNRESET, where) from None

    async def line(self, longest: int, where: str) -> bytes:
        """Return the next line without CR LF or LF; the last line needs neither.

        A longer line fails, and so does the end of the connection without a line.
        """
        while (end := self._buffer.find(b"\n")) < 0 and len(self._buffer) <= longest:
            before, self._buffer = self._buffer, b""
            piece = await self.receive(where)
            self._buffer = before + piece
            if not piece:
                if not before:
                    raise ProbeFailed(f"connection closed {where}")
                end = len(before)
                break
        if not 0 <= end <= longest:
            raise ProbeFailed(f"a line of more than {longest} bytes {where}")
        found, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return found.removesuffix(b"\r")

    async def _wait(self, where: str, *, writing: bool = False) -> None:
        # Data that arrived while this process could not run counts even after the deadline. But a server that sends
        # without end must not hold a check for ever: it ends at twice its timeout.
        deadline = self._deadline
        overdue = asyncio.get_running_loop().time() > deadline.at + deadline.seconds
        if overdue or not await ready(self._sock, deadline, writing=writing):
            raise deadline.expired(where)
