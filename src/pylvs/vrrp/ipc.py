"""Messages between pylvs's own processes, over a UNIX socket that only root can open.

A message is a pickled Python object behind its length. Both ends run the same version of pylvs: the client sends its
version first, and a process of another version is replaced. Nothing here blocks: unsent bytes are kept, and a peer
that does not read loses the connection.
"""

from __future__ import annotations

import contextlib
import pickle
import socket
import struct
from typing import Any

SOCKET_NAME = "vrrp"  # in the state directory
PROTOCOL = 1
_LENGTH = struct.Struct("!I")
_CHUNK = 1 << 18
MAX_UNSENT = 64 << 20  # bytes; far more than a configuration takes


class ConnectionClosed(Exception):
    """The peer closed the connection, does not read, or sent something else."""


class MessageSocket:
    """One end of a connection."""

    def __init__(self, end: socket.socket, most_unsent: int = MAX_UNSENT) -> None:
        end.setblocking(False)
        self._most_unsent = most_unsent
        self._end = end
        self._unsent = bytearray()
        self._received = bytearray()

    def fileno(self) -> int:
        """Watch it for reading, and for writing while `unsent`."""
        return self._end.fileno()

    @property
    def unsent(self) -> bool:
        """Whether to call `flush` when the socket is writable."""
        return bool(self._unsent)

    def send(self, message: Any) -> None:
        """Send a message, or keep it for `flush`. Raises ConnectionClosed."""
        data = pickle.dumps(message)
        self._unsent += _LENGTH.pack(len(data)) + data
        if len(self._unsent) > self._most_unsent:
            raise ConnectionClosed("the other end does not read")
        self.flush()

    def flush(self) -> None:
        """Send kept bytes as far as possible. Raises ConnectionClosed."""
        try:
            while self._unsent:
                del self._unsent[: self._end.send(self._unsent[:_CHUNK])]
        except BlockingIOError:
            return
        except OSError as error:
            raise ConnectionClosed(error.strerror) from None

    def receive(self) -> list[Any]:
        """Return the complete messages. Raises ConnectionClosed at the end of the stream, after the last message."""
        closed = ""
        with contextlib.suppress(BlockingIOError):
            try:
                while chunk := self._end.recv(_CHUNK):
                    self._received += chunk
                closed = "the other end has gone"
            except ConnectionError as error:
                closed = str(error.strerror)
        messages = []
        while len(self._received) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._received)
            if length > MAX_UNSENT:
                raise ConnectionClosed("the other end does not speak this language")
            if len(self._received) < _LENGTH.size + length:
                break
            try:
                messages.append(pickle.loads(self._received[_LENGTH.size : _LENGTH.size + length]))
            except Exception:  # pickle raises exceptions of any class
                raise ConnectionClosed("the other end does not speak this language") from None
            del self._received[: _LENGTH.size + length]
        if closed and not messages:
            raise ConnectionClosed(closed)
        return messages

    def close(self) -> None:
        self._end.close()
