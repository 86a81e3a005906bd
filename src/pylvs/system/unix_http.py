"""HTTP over a UNIX socket, and the tables of this network namespace as a daemon reads them for a group."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pylvs.model.errors import NotReadable, PylvsError
from pylvs.system.namespaces import network_cookie
from pylvs.system.sockets import MONITOR_GROUP, MONITORS, address_of

NEEDS = f"needs root, or the group {MONITOR_GROUP} and a running pylvs run"
TIMEOUT_S = 30.0  # without a byte: a large table takes seconds, and others may ask as well


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


@contextlib.contextmanager
def response(path: Path, target: str) -> Iterator[http.client.HTTPResponse]:
    """Yield the response to a GET at a socket. Raises OSError, HTTPException."""
    with contextlib.closing(UnixConnection(path, TIMEOUT_S)) as connection:
        connection.request("GET", target)
        with contextlib.closing(connection.getresponse()) as found:  # it has the socket now
            yield found


@contextlib.contextmanager
def reading(target: str) -> Iterator[http.client.HTTPResponse]:
    """Yield the response of the daemon whose tables are in this network namespace.

    Raises NotReadable if there is none that this user may read, PylvsError with the daemon's error.
    """
    namespace = f"{target}?namespace={network_cookie()}"
    for path in sorted(MONITORS.glob("*")):
        try:
            with response(path, namespace) as found:
                if found.status == http.client.NOT_FOUND:  # its tables are in another namespace
                    continue
                if found.status != http.client.OK:
                    raise PylvsError(str(json.load(found).get("error", found.reason)))
                yield found
                return
        except (PermissionError, FileNotFoundError, ConnectionRefusedError):
            continue
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise PylvsError(f"{path}: pylvs run does not answer: {str(error) or type(error).__name__}") from None
    raise NotReadable(NEEDS)


def read(target: str) -> Any:
    """Return the JSON of a response. Raises as `reading`."""
    with reading(target) as found:
        return json.load(found)
