"""The service manager that started the daemon: sd_notify(3)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Mapping

from pylvs.daemon.parts import Part
from pylvs.daemon.tasks import BackgroundTasks

EXTEND_S = 30.0  # beyond the service manager's limits, at most at once
SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class ServiceManager(Part):
    """The service manager that started the daemon, by sd_notify(3). Without one nothing is sent."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        self._address = given.get(SOCKET, "")
        self.watchdog_s = _watchdog_s(given)  # 0: no watchdog
        self._until = 0.0  # when a phase of the start or the stop must be over, by the clock of the event loop

    def ready(self, status: str) -> None:
        """Report that the start or a reload is done."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Report that a reload begins; `ready` follows. Type=notify-reload asks for the time."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the daemon stops."""
        self._send("STOPPING=1")

    def allow(self, seconds: float) -> None:
        """Let the phase of the start or the stop that begins now take so long, beyond its limit; 0: it is over."""
        self._until = asyncio.get_running_loop().time() + seconds

    async def extend_limits(self) -> None:
        """Until cancelled, request more time for the present phase. One that hangs gets no more."""
        while True:
            left = self._until - asyncio.get_running_loop().time()
            if left > 0:
                self._send(f"EXTEND_TIMEOUT_USEC={round(min(left, EXTEND_S) * 1e6)}")
            await asyncio.sleep(EXTEND_S / 3)

    def alive(self) -> None:
        """Reset the watchdog; due at least every `watchdog_s`."""
        self._send("WATCHDOG=1")

    async def begin(self, tasks: BackgroundTasks) -> None:
        if self.watchdog_s:
            tasks.keep_running(self._feed_watchdog, "feeding the watchdog")

    async def _feed_watchdog(self) -> None:
        while True:
            self.alive()
            await asyncio.sleep(self.watchdog_s / 2)

    def _send(self, text: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            to.sendto(text.encode(), address)


def _watchdog_s(given: Mapping[str, str]) -> float:
    """Return the watchdog's interval; 0 where there is none, or where it watches another process."""
    try:
        if int(given.get(WATCHDOG_PID, os.getpid())) != os.getpid():
            return 0.0
        return int(given.get(WATCHDOG, "0")) / 1e6
    except ValueError:
        return 0.0
