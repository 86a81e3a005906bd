"""Addresses of UNIX sockets with paths of any length, and the process at the other end."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

LONGEST_SOCKET_PATH = 107  # bytes, sun_path without its zero
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Yield a path that fits into sun_path; it is valid within. Raises OSError if its directory does not exist."""
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def peer_of(end: socket.socket) -> tuple[int, int]:
    """Return process and user at the other end; the process is the one that made its socket."""
    pid, user, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, user
