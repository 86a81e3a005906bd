"""Messages between pylvs's own processes, over a UNIX socket that only root can open.

Python objects, pickled, each behind its length. Both ends are the same version of pylvs: whoever connects says its own
first, and a process of another version is replaced, not spoken to. Nothing here ever waits: what cannot be sent at
once is kept, and a reader that does not read loses the pipe.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")
_CHUNK = 1 << 18
MAX_UNSENT = 64 << 20  # bytes; a configuration is far below


class ConnectionClosed(Exception):
    """The other end has gone, or does not read."""


class MessageSocket:
    """One end."""

    def __init__(self, end: socket.socket, most_unsent: int = MAX_UNSENT) -> None:
        end.setblocking(False)
        self._most_unsent = most_unsent
        self._end = end
        self._unsent = bytearray()
        self._heard = bytearray()

    def fileno(self) -> int:
        """To be watched for reading, and for writing while `unsent`."""
        return self._end.fileno()

    @property
    def unsent(self) -> bool:
        """Whether `flush` should be called once the socket can be written to."""
        return bool(self._unsent)

    def send(self, message: Any) -> None:
        """Send it, now or later. Raises Closed."""
        said = pickle.dumps(message)
        self._unsent += _LENGTH.pack(len(said)) + said
        if len(self._unsent) > self._most_unsent:
            raise ConnectionClosed("the other end does not read")
        self.flush()

    def flush(self) -> None:
        """Send what can be sent. Raises Closed."""
        try:
            while self._unsent:
                del self._unsent[: self._end.send(self._unsent[:_CHUNK])]
        except BlockingIOError:
            return
        except OSError as error:
            raise ConnectionClosed(error.strerror) from None

    def receive(self) -> list[Any]:
        """The messages that have come whole. Raises Closed once there are no more and never will be."""
        closed = ""
        with contextlib.suppress(BlockingIOError):
            try:
                while chunk := self._end.recv(_CHUNK):
                    self._heard += chunk
                closed = "the other end has gone"
            except ConnectionError as error:
                closed = str(error.strerror)
        found = []
        while len(self._heard) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._heard)
            if length > MAX_UNSENT:
                raise ConnectionClosed("the other end does not speak this language")
            if len(self._heard) < _LENGTH.size + length:
                break
            try:
                found.append(pickle.loads(self._heard[_LENGTH.size : _LENGTH.size + length]))
            except Exception:  # pickle raises all kinds
                raise ConnectionClosed("the other end does not speak this language") from None
            del self._heard[: _LENGTH.size + length]
        if closed and not found:
            raise ConnectionClosed(closed)
        return found

    def close(self) -> None:
        """This end."""
        self._end.close()
