"""TLS of a check's connection. `TcpStream` imports this module with the first check that needs OpenSSL."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from pylvs.health.probes import ProbeFailed
from pylvs.model.checks import TlsClient
from pylvs.model.errors import Unsupported
from pylvs.system.tls import settings

Result = TypeVar("Result")


def prepare(clients: Iterable[tuple[TlsClient, bool]]) -> None:
    """Read the files that connections need; clients have theirs, and whether they verify servers."""
    for client, verify in (*clients, (TlsClient(), False)):
        with contextlib.suppress(Unsupported):  # a probe reports it
            settings(client, verify).context()
    "a".encode("idna")


class Tls:
    """TLS between two buffers. So the connection decides how many received bytes OpenSSL processes in one call.

    The calls `shake_hands`, `encrypt` and `decrypted` return None while they need more received bytes. All methods
    raise ProbeFailed.
    """

    def __init__(self, server_name: str, client: TlsClient, verify: bool) -> None:
        try:
            context = settings(client, verify).context()
        except Unsupported as error:  # of this machine
            raise ProbeFailed(f"SSL: {error}", inconclusive=True) from None
        self._received, self._unsent = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            name = server_name.encode("idna").decode("ascii") or None
            self._session = context.wrap_bio(self._received, self._unsent, server_hostname=name)
        except (ValueError, ssl.SSLError) as error:
            what = f"server name '{server_name}': " if isinstance(error, ValueError) else ""
            raise ProbeFailed(_error_text(error, what)) from None

    def receive(self, data: bytes) -> None:
        """Take received bytes; none are the end of the connection."""
        self._received.write(data) if data else self._received.write_eof()

    def unsent(self) -> bytes:
        """Return what the connection has to send now."""
        return self._unsent.read()

    def shake_hands(self) -> bool | None:
        """Return True behind the handshake."""
        return _called(self._shake_hands)

    def _shake_hands(self) -> bool:
        self._session.do_handshake()
        return True

    def encrypt(self, data: bytes) -> int | None:
        """Encrypt data; `unsent` has it then."""
        return _called(partial(self._session.write, data))

    def decrypted(self, most: int) -> bytes | None:
        """Return the next bytes; none at the end, with or without close_notify."""
        try:
            return _called(partial(self._session.read, most))
        except _Ended:
            return b""

    def end(self) -> bytes:
        """Return what the connection has to send for close_notify."""
        with contextlib.suppress(OSError, ValueError):  # the peer has not answered it
            self._session.unwrap()
        return self._unsent.read()


class _Ended(ProbeFailed):
    """The peer has ended the connection."""


def _called(call: Callable[[], Result]) -> Result | None:
    """Return the result of a call of OpenSSL; None if it needs more received bytes."""
    try:
        return call()
    except ssl.SSLWantReadError:
        return None
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):  # which one depends on Python's version
        raise _Ended("connection closed in the TLS handshake") from None
    except ssl.SSLError as error:
        raise ProbeFailed(_error_text(error)) from None


def _error_text(error: Exception, what: str = "") -> str:
    """Return a short text for an error, from OpenSSL if it has one."""
    reason = error.reason if isinstance(error, ssl.SSLError) else str(error)
    return f"TLS failed: {what}{(reason or str(error)).replace('_', ' ').lower()}"
