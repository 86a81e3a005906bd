"""PID files that one process at a time locks; the kernel releases the lock when that process ends."""

from __future__ import annotations

import fcntl
import os


class Held(Exception):
    """Another process has locked the file; the text is its PID, or "unknown"."""


def claim(path: str | os.PathLike[str]) -> int:
    """Lock the file by flock(2), write this process's PID and return the descriptor. Raises Held, OSError.

    To release it, unlink the file and then close the descriptor. A process that locks an unlinked file opens it again.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                os.truncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                claimed, descriptor = descriptor, -1
                return claimed
        except BlockingIOError:
            raise Held(os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown") from None
        except FileNotFoundError:
            pass  # its holder has just removed it
        finally:
            if descriptor >= 0:
                os.close(descriptor)


__all__ = ["Held", "claim"]
