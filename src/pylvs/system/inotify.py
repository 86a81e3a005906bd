"""Notifications of changed files: inotify(7)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress

from pylvs.system import syscalls

MODIFY, CLOSE_WRITE, MOVED_FROM, MOVED_TO = 0x2, 0x8, 0x40, 0x80
CREATE, DELETE, DELETE_SELF, MOVE_SELF, IGNORED, OVERFLOW = 0x100, 0x200, 0x400, 0x800, 0x8000, 0x4000
ENTRIES = MODIFY | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name
_CHUNK = 1 << 16


class Inotify:
    """Watches folders; readable (`fileno`) when there is something to `read`."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._descriptor = syscalls.call("inotify", "inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Return the descriptor, for an event loop."""
        return self._descriptor

    def watch(self, folder: str) -> int:
        """Start watching a folder; return its number in the events of `read`. Raises OSError."""
        return syscalls.call(folder, "inotify_add_watch", self._descriptor, os.fsencode(folder), ENTRIES)

    def forget(self, number: int) -> None:
        """Stop watching a folder; harmless if it no longer exists."""
        with suppress(OSError):
            syscalls.call(f"watch {number}", "inotify_rm_watch", self._descriptor, number)

    def read(self) -> Iterator[tuple[int, int, str]]:
        """Yield folder's number (-1: events were lost), mask and name of each event that is ready; never wait."""
        try:
            received = os.read(self._descriptor, _CHUNK)
        except BlockingIOError:
            return
        at = 0
        while at < len(received):
            number, mask, _, length = _EVENT.unpack_from(received, at)
            at += _EVENT.size
            yield number, mask, os.fsdecode(received[at : at + length].rstrip(b"\0"))
            at += length

    def close(self) -> None:
        os.close(self._descriptor)
