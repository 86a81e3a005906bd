"""Watch what may change without the daemon: the host's devices and addresses, and whether services are forwarded."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable

from pylvs.dataplane.devices.watch import GATHER_S, RETRY_S, SHARE, drain, listen
from pylvs.system.logs import get_logger

POLL_S = 0.5
FAULT_AFTER_S = 3.0  # a shorter interruption comes from another program's edit, and loses nothing


async def monitor_forwarding(error: Callable[[], str | None], report: Callable[[bool, str], Awaitable[None]]) -> None:
    """Until cancelled, report to virtual routers whether services are forwarded here. They may change to fault.

    `error` returns why services may not be forwarded: "" while they are, None while that is unknown. A fault is
    reported after `FAULT_AFTER_S`, its end at once.
    """
    clock = asyncio.get_running_loop().time
    reported: bool | None = None
    since: float | None = None
    while True:
        text = error()
        now = clock()
        since = (since or now) if text else None
        if text == "" and reported is not True:
            reported = True
            await report(True, "")
        elif text and reported is not False and since is not None and now - since >= FAULT_AFTER_S:
            reported = False
            await report(False, text)
        await asyncio.sleep(POLL_S)


class HostMonitor:
    """Calls `update` at the start, and whenever rtnetlink(7) reports a change of devices, addresses or routes.

    `update` returns the seconds until it is called without a report.
    """

    def __init__(self, update: Callable[[], Awaitable[float]]) -> None:
        self._update = update
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Watch the network namespace of the calling thread until cancelled."""
        loop = asyncio.get_running_loop()
        with listen() as kernel:
            loop.add_reader(kernel, self._receive, kernel)
            try:
                await self._follow()
            finally:
                loop.remove_reader(kernel)

    def _receive(self, kernel: socket.socket) -> None:
        if drain(kernel):
            self._changed.set()

    async def _follow(self) -> None:
        next_s = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), next_s)
            await asyncio.sleep(GATHER_S)
            self._changed.clear()
            begin, next_s = time.monotonic(), RETRY_S
            try:
                next_s = await self._update()
            except Exception as error:
                get_logger().error("could not follow addresses and devices", reason=str(error))
            await asyncio.sleep(SHARE * (time.monotonic() - begin))
