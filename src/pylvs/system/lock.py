"""A lock on a directory for one writer at a time; the kernel releases it when its holder ends."""

from __future__ import annotations

import fcntl
import os
import time
from types import TracebackType

from pylvs.model.errors import Busy

TIMEOUT_S = 10.0
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.02


class Lock:
    """flock(2) on a directory. The same object may be entered again while it holds the lock."""

    def __init__(self, path: str, timeout_s: float = TIMEOUT_S, what: str = "the tables") -> None:
        self.path = path
        self.timeout_s = timeout_s
        self._what = what
        self._descriptor = -1
        self._depth = 0

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._depth > 0

    def __enter__(self) -> Lock:
        """Wait for the lock. Raises Busy naming the holder after `timeout_s`; FileNotFoundError without directory."""
        if not self._depth:
            self._acquire()
        self._depth += 1
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _b: TracebackType | None) -> None:
        self._depth -= 1
        if not self._depth:
            os.close(self._descriptor)
            self._descriptor = -1

    def _acquire(self) -> None:
        end = time.monotonic() + self.timeout_s
        pause = _FIRST_PAUSE_S
        while True:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._still_there(descriptor):
                    self._descriptor, descriptor = descriptor, -1
                    return
                continue  # removed or replaced between open(2) and flock(2)
            except BlockingIOError:
                if time.monotonic() >= end:
                    holder = self._holder(descriptor)
                    raise Busy(
                        f"{self._what} are locked by {holder} for more than {self.timeout_s:g} s; try again later"
                    ) from None
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    def _still_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    @staticmethod
    def _holder(descriptor: int) -> str:
        status = os.fstat(descriptor)
        inode = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        try:
            with open("/proc/locks", encoding="utf-8") as locks:
                for line in locks:
                    # number: FLOCK ADVISORY WRITE process device:inode start end
                    words = line.split()
                    if len(words) > 5 and words[1] == "FLOCK" and words[5] == inode:
                        return f"process {words[4]}"
        except OSError:
            pass
        return "another process"
