"""Locks of files and directories by flock(2); the kernel releases a lock when its holder ends.

`Lock` waits for a directory, `claim` takes a PID file or fails.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

from pylvs.model.errors import Busy

TIMEOUT_S = 10.0
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.02

StrPath = str | os.PathLike[str]


class Held(Exception):
    """Another process has locked a PID file; the text is its PID, or "unknown"."""


def locked(path: StrPath, flags: int) -> int:
    """Open a file or directory, lock it and return the descriptor. Raises BlockingIOError, FileNotFoundError, OSError.

    The lock is that of the path: another process may remove or replace it between open(2) and flock(2).
    """
    while True:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                kept, descriptor = descriptor, -1
                return kept
        except FileNotFoundError:
            continue
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def claim(path: StrPath) -> int:
    """Lock a PID file, write this process's PID and return the descriptor. Raises Held, OSError, also for a link.

    A full disk may refuse the PID. The lock holds all the same, and the kernel names its holder (/proc/locks). To
    release it, unlink the file and then close the descriptor.
    """
    try:
        descriptor = locked(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW)
    except BlockingIOError:
        raise Held(str(_noted(path) or "unknown")) from None
    with contextlib.suppress(OSError):
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def holder(path: StrPath) -> int:
    """Return the PID in a PID file that is locked, 0 if it is not."""
    try:
        os.close(locked(path, os.O_RDWR | os.O_NOFOLLOW))
    except BlockingIOError:
        return _noted(path)
    except OSError:
        return 0
    return 0


def _noted(path: StrPath) -> int:
    """Return the PID in a locked PID file, else what the kernel knows of the lock, 0 if that is nothing."""
    found = _content(path)
    return int(found) if found.isdecimal() else owner(path)


class Lock:
    """The lock of a directory. The same object may be entered again while it holds the lock."""

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S, what: str = "the tables") -> None:
        self.path = path
        self.timeout_s = timeout_s
        self._what = what
        self._descriptor = -1
        self._depth = 0

    @property
    def held(self) -> bool:
        """Return whether this object holds the lock."""
        return self._depth > 0

    def __enter__(self) -> Lock:
        """Wait for the lock. Raises Busy naming the holder after `timeout_s`; FileNotFoundError without directory."""
        if not self._depth:
            self._descriptor = self._acquired()
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            os.close(self._descriptor)
            self._descriptor = -1

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Let other processes hold the lock during the block; then wait for it, however long that takes."""
        depth = self._depth
        os.close(self._descriptor)
        self._descriptor, self._depth = -1, 0
        try:
            yield
        finally:
            while not self._depth:
                with contextlib.suppress(Busy):
                    self.__enter__()
            self._depth = depth

    def _acquired(self) -> int:
        end = time.monotonic() + self.timeout_s
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return locked(self.path, os.O_RDONLY | os.O_DIRECTORY)
            except BlockingIOError:
                if time.monotonic() >= end:
                    process = owner(self.path)
                    raise Busy(
                        f"{self._what} are locked by {f'process {process}' if process else 'another process'}"
                        f" for more than {self.timeout_s:g} s; try again later",
                        process,
                    ) from None
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)


def owner(path: StrPath) -> int:
    """Return the process that has locked a file or directory, 0 if the kernel names none. It takes no lock itself."""
    try:
        status = os.stat(path)
    except OSError:
        return 0
    inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for line in _content("/proc/locks").splitlines():
        # number: FLOCK ADVISORY WRITE process device:inode start end
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5] == inode:
            return int(words[4])
    return 0


def _content(path: StrPath) -> str:
    """Return a file's text, or nothing if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
