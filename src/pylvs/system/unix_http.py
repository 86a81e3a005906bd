"""HTTP over a UNIX socket."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

from pylvs.system.sockets import address_of


class UnixConnection(http.client.HTTPConnection):
    """A connection to the server at a path."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("pylvs", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        with address_of(self._path) as address:
            self.sock.connect(address)
