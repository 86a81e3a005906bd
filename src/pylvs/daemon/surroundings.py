"""What changes around the tables: addresses, devices and routes of this host, as the kernel tells of them."""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Awaitable, Callable

import structlog

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE
_GATHER_S = 0.05  # what comes together is looked at together
_SHARE = 4  # at most every fifth part of the time is spent on looking
_READ_BYTES = 1 << 16
_MESSAGES = 1000  # read at a time


class Surroundings:
    """Calls `look` once at the start, and whenever something may have changed."""

    def __init__(self, look: Callable[[], Awaitable[None]]) -> None:
        self._look = look
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Without an end; in the network namespace of the thread that calls."""
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as kernel:
            kernel.setblocking(False)
            kernel.bind((0, _GROUPS))
            loop.add_reader(kernel, self._heard, kernel)
            try:
                await self._follow()
            finally:
                loop.remove_reader(kernel)

    def _heard(self, kernel: socket.socket) -> None:
        for _ in range(_MESSAGES):
            try:
                kernel.recv(_READ_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # there was more than there is room for
                    raise
            self._changed.set()

    async def _follow(self) -> None:
        self._changed.set()
        while True:
            await self._changed.wait()
            await asyncio.sleep(_GATHER_S)
            self._changed.clear()
            begin = time.monotonic()
            try:
                await self._look()
            except Exception as error:
                structlog.get_logger().error("addresses and devices could not be followed", reason=str(error))
            await asyncio.sleep(_SHARE * (time.monotonic() - begin))
