"""Garbage collection and memory in a process that has many objects for a long time."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
from collections.abc import Callable

from pylvs.system.threads import to_thread

FIRST_GENERATION = 10_000  # new objects before a garbage collection; checks exceed the default, 700, often each second
POLL_S = 10.0
GROWTH = 1.05  # beyond this many times the size after the last time, memory is returned again
_SLACK = 2 << 20  # bytes, for small processes
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # malloc.h
_LARGE = 1 << 18  # bytes of a block that is mapped for itself, and unmapped when it is freed


def settle_garbage() -> None:
    """Collect garbage, then exempt all present objects from later collections.

    Otherwise each full collection visits the whole configuration. With ten thousand servers that stops all checks for
    a third of a second. Call it again after a reload.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(FIRST_GENERATION, *gc.get_threshold()[1:])


def limit_arenas() -> None:
    """Let all threads of this process share one heap, and map large blocks apart. Call it before the first thread.

    Otherwise each thread that has made a large page keeps the space for it. glibc would also raise the size of blocks
    that it maps apart. Another C library may have no such function.
    """
    with contextlib.suppress(AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_M_ARENA_MAX, 1)
        set_option(_M_MMAP_THRESHOLD, _LARGE)


def return_memory() -> None:
    """Collect what is garbage now, and return free memory to the kernel. A heap of 100 MB takes some milliseconds."""
    gc.collect()
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident() -> int:
    """Return the resident memory of this process, in bytes; 0 if the kernel does not name it."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


class MemoryReturn:
    """Returns memory after a burst of events or requests: Python and the C library keep what they have freed."""

    def __init__(
        self, size: Callable[[], int] = resident, give_back: Callable[[], None] = return_memory, poll_s: float = POLL_S
    ) -> None:
        self._size, self._give_back, self._poll_s = size, give_back, poll_s
        self._least = 0  # the size when it looked last
        self.looks = 0  # how often it has looked

    async def run(self) -> None:
        """Look at the size until cancelled."""
        while True:
            await asyncio.sleep(self._poll_s)
            size = self._size()
            if size > GROWTH * self._least + _SLACK:
                await to_thread(self._give_back)
                size = self._size()
            self._least = size
            self.looks += 1
