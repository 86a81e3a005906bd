"""What the daemon's process needs besides its work: background tasks, signals and the service manager."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any

from pylvs.model.errors import PylvsError
from pylvs.system.logs import get_logger

RESTART_PAUSE_S = 1.0
SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class BackgroundTasks:
    """Tasks that log their exceptions, and that are cancelled when the block ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> BackgroundTasks:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine once."""
        self._add(self._once(work))

    def keep_running(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        """Run an endless task, and restart it after an exception."""
        self._add(self._always(work, what))

    def cancel(self) -> None:
        """Request that all tasks end; each does so at its next await."""
        for task in self._tasks:
            task.cancel()

    def _add(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _once(self, work: Awaitable[None], prefix: str = "") -> None:
        try:
            await work
        except (PylvsError, OSError) as error:
            get_logger().error(f"{prefix}{error}")
        except Exception:
            get_logger().exception(f"{prefix}this is a bug")

    async def _always(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        while True:
            await self._once(work(), f"{what} failed and is restarted: ")
            await asyncio.sleep(RESTART_PAUSE_S)


@contextlib.contextmanager
def signal_handlers(actions: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Within the block, call an action in the event loop for each of these signals. In the main thread only."""
    loop = asyncio.get_running_loop()
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield
    finally:
        for number in actions:
            loop.remove_signal_handler(number)


class ServiceManager:
    """The service manager that started the daemon, by sd_notify(3). Without one nothing is sent."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        self._address = given.get(SOCKET, "")
        self.watchdog_s = _watchdog_s(given)  # 0: no watchdog

    def ready(self, status: str) -> None:
        """Report that the start or a reload is done."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """Report that a reload begins; `ready` follows. Type=notify-reload asks for the time."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the daemon stops."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Reset the watchdog; due at least every `watchdog_s`."""
        self._send("WATCHDOG=1")

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
