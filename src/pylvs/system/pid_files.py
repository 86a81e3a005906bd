"""A file that one process at a time holds, with its number in it; free when that process ends, however it ends."""

from __future__ import annotations

import fcntl
import os


class Held(Exception):
    """Another process holds the file; the text is its number, or "unknown"."""


def claim(path: str | os.PathLike[str]) -> int:
    """The descriptor of the file, locked by flock(2) and with this process's number. Raises Held, OSError.

    To give it back, unlink the file and then close the descriptor: a process that locks the unlinked file looks again.
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
