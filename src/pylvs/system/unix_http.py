"""HTTP over a UNIX socket."""

from __future__ import annotations

import http.client
import socket
import struct
from pathlib import Path

from pylvs.system.sockets import address_of


class UnixConnection(http.client.HTTPConnection):
    """A connection to the server at a path."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("pylvs", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        """Connect. Raises OSError; TimeoutError also if the server's queue of connections stays full."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        if self.timeout is not None:
            # `settimeout` makes the socket non-blocking: connect(2) would not wait for space in the queue, but fail.
            seconds, rest = divmod(self.timeout, 1)
            limit = struct.pack("ll", int(seconds), max(1, int(rest * 1e6)))  # a struct timeval; 0 would be no limit
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        try:
            with address_of(self._path) as address:
                self.sock.connect(address)
        except BlockingIOError:
            raise TimeoutError("the queue of connections is full") from None
        self.sock.settimeout(self.timeout)
