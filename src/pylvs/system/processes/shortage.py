"""End a process that lacks descriptors or memory: a leak ends with it. systemd starts `pylvs run` again (Restart=)."""

from __future__ import annotations

import errno
import os
import time

from pylvs.system import logs

STATUS = os.EX_TEMPFAIL  # 75
STEADY_S = 60.0  # a process that has run shorter tries again instead: others may have caused the shortage, and it lasts
TEXTS = {  # what is missing, by the numbers of `syscalls.SHORTAGES`
    errno.EMFILE: "this process has too many open files",
    errno.ENFILE: "this machine has too many open files",
    errno.ENOMEM: "no memory on this machine",
    errno.ENOBUFS: "no buffer space on this machine",
}
_began = time.monotonic()


def missing(error: BaseException) -> str:
    """Return which resource an exception lacked, "" for another exception."""
    if isinstance(error, MemoryError):
        return TEXTS[errno.ENOMEM]
    return TEXTS.get(error.errno or 0, "") if isinstance(error, OSError) else ""


def end_if_short(error: BaseException) -> None:
    """End this process, as SIGKILL would, if the exception is a shortage and the process has run for STEADY_S.

    What it has changed stays for the next one, as after any crash.
    """
    text = missing(error)
    if not text or time.monotonic() - _began < STEADY_S:
        return
    logs.get_logger().error(f"{text}: pylvs ends, and is started again", status=STATUS)
    logs.flush()
    os._exit(STATUS)
