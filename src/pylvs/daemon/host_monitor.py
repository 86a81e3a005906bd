"""Whether services can be forwarded here, for those who must know: virtual routers may be at fault without it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable

from pylvs.dataplane.watch import GATHER_S, RETRY_S, SHARE, drain, listen
from pylvs.host.logs import get_logger

POLL_S = 0.5
FAULT_AFTER_S = 3.0  # what is over sooner was somebody's edit, and no loss


class ForwardingMonitor:
    """Tells of a loss when it has lasted a while, and of its end at once.

    `trouble` says why services may not be forwarded; it is empty while they are, and None while nobody knows.
    """

    def __init__(self, trouble: Callable[[], str | None], tell: Callable[[bool, str], Awaitable[None]]) -> None:
        self._trouble = trouble
        self._tell = tell

    async def run(self) -> None:
        """Without an end."""
        clock = asyncio.get_running_loop().time
        told: bool | None = None
        since: float | None = None
        while True:
            trouble = self._trouble()
            now = clock()
            since = (since or now) if trouble else None
            if trouble == "" and told is not True:
                told = True
                await self._tell(True, "")
            elif trouble and told is not False and since is not None and now - since >= FAULT_AFTER_S:
                told = False
                await self._tell(False, trouble)
            await asyncio.sleep(POLL_S)


# --- surroundings ----------------------------------------------------------------------------------------------------
# What changes around the tables: addresses, devices, their programs and routes, as the kernel tells of them.


class HostMonitor:
    """Calls `look` once at the start, and whenever something may have changed.

    It answers with the seconds until it wants to look again all the same.
    """

    def __init__(self, look: Callable[[], Awaitable[float]]) -> None:
        self._look = look
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Without an end; in the network namespace of the thread that calls."""
        loop = asyncio.get_running_loop()
        with listen() as kernel:
            loop.add_reader(kernel, self._heard, kernel)
            try:
                await self._follow()
            finally:
                loop.remove_reader(kernel)

    def _heard(self, kernel: socket.socket) -> None:
        if drain(kernel):
            self._changed.set()

    async def _follow(self) -> None:
        again_s = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), again_s)
            await asyncio.sleep(GATHER_S)
            self._changed.clear()
            begin, again_s = time.monotonic(), RETRY_S
            try:
                again_s = await self._look()
            except Exception as error:
                get_logger().error("addresses and devices could not be followed", reason=str(error))
            await asyncio.sleep(SHARE * (time.monotonic() - begin))
