"""What changes around the tables: addresses, devices, their programs and routes, as the kernel tells of them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable

from pylvs.dataplane.devices.watch import GATHER_S, RETRY_S, SHARE, drain, listen
from pylvs.system.logs import get_logger


class Surroundings:
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
