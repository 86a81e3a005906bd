"""A conversation over TCP, plain or TLS, that ends in time and keeps no more than it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from functools import cache
from types import TracebackType
from typing import Self

from pylvs.health.checkers.sockets import Deadline, Endpoint, ready
from pylvs.health.outcome import ProbeFailed, errno_failure

_READ_SIZE = 1 << 16  # bytes read at a time, so that a fast sender leaves others of the event loop their turn
_LEGACY_SERVER_CONNECT = 0x4  # SSL_OP_LEGACY_SERVER_CONNECT; Python names it from 3.12 on
_WAIT_ERRORS = (BlockingIOError, ssl.SSLWantReadError)


@cache
def lenient_tls() -> ssl.SSLContext:
    """TLS for asking whether a server works, not who it is: no certificate is verified and old servers are accepted.

    Every version that this machine's OpenSSL still has, keys of any length, servers without secure renegotiation.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.options |= _LEGACY_SERVER_CONNECT
    return context


def _tls_error_text(error: Exception, what: str = "") -> str:
    """What is wrong, in OpenSSL's own words where it has any."""
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):  # which of them depends on the version of Python
        return "connection closed in the TLS handshake"
    reason = error.reason if isinstance(error, ssl.SSLError) else str(error)
    return f"TLS failed: {what}{(reason or str(error)).replace('_', ' ').lower()}"


class TcpStream:
    """A connection to a target; all of it raises CheckFailed, and after the limit says that it timed out."""

    def __init__(self, sock: socket.socket, limit: Deadline) -> None:
        self._sock = sock
        self._limit = limit
        self._tls: ssl.SSLSocket | None = None
        self._kept = b""  # received, not yet read as lines
        self.close_notify = False  # whether TLS's goodbye is sent at the end, which a plain close leaves out

    @classmethod
    async def open(cls, endpoint: Endpoint, limit: Deadline) -> TcpStream:
        """Connect."""
        return cls(await endpoint.connected(limit), limit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.close_notify and self._tls is not None:
                with contextlib.suppress(OSError, ValueError):  # no answer to it yet, or no connection any more
                    self._tls.unwrap()
        finally:
            self._sock.close()

    async def start_tls(self, server_name: str = "") -> None:
        """Shake hands; a name goes into the SNI extension."""
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
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._wait(where)
            except ssl.SSLWantWriteError:
                await self._wait(where, writing=True)
            except ssl.SSLError as error:
                raise ProbeFailed(_tls_error_text(error)) from None
            except OSError as error:
                raise errno_failure(error.errno or errno.ECONNRESET, where) from None
            else:
                return

    async def send(self, data: bytes) -> None:
        """Send all of it."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                await self._wait("while sending", writing=True)
            except ssl.SSLWantReadError:
                await self._wait("while sending")
            except ssl.SSLError as error:
                raise ProbeFailed(_tls_error_text(error)) from None
            except OSError as error:
                raise errno_failure(error.errno or errno.ECONNRESET, "while sending") from None

    async def receive(self, where: str = "waiting for the answer") -> bytes:
        """The next bytes, at most 64 KiB; none at the end. A TLS peer may end without close_notify, as many do."""
        if self._kept:
            kept, self._kept = self._kept, b""
            return kept
        if self._tls is None:  # there is hardly ever something at once
            await self._wait(where)
        while True:
            try:
                return self._sock.recv(_READ_SIZE)
            except _WAIT_ERRORS:
                await self._wait(where)
            except ssl.SSLWantWriteError:
                await self._wait(where, writing=True)
            except ssl.SSLEOFError:
                return b""
            except ssl.SSLError as error:
                raise ProbeFailed(_tls_error_text(error)) from None
            except OSError as error:
                raise errno_failure(error.errno or errno.ECONNRESET, where) from None

    async def line(self, longest: int, where: str) -> bytes:
        """The next line without its end, CR LF or LF; what came before the end of the connection is a line too.

        None at all, or one that is longer, is a failure.
        """
        while (end := self._kept.find(b"\n")) < 0 and len(self._kept) <= longest:
            before, self._kept = self._kept, b""
            piece = await self.receive(where)
            self._kept = before + piece
            if not piece:
                if not before:
                    raise ProbeFailed(f"connection closed {where}")
                end = len(before)
                break
        if not 0 <= end <= longest:
            raise ProbeFailed(f"a line of more than {longest} bytes {where}")
        found, self._kept = self._kept[:end], self._kept[end + 1 :]
        return found.removesuffix(b"\r")

    def put_back(self, data: bytes) -> None:
        """The next bytes to be read, before those that are still to come."""
        self._kept = data + self._kept

    async def _wait(self, where: str, *, writing: bool = False) -> None:
        # Data that came while this process was held up counts, late as it is. But a server that always has more to say
        # must not hold a check for ever: it ends at twice its time.
        limit = self._limit
        overdue = asyncio.get_running_loop().time() > limit.at + limit.seconds
        if overdue or not await ready(self._sock, limit, writing=writing):
            raise limit.expired(where)
