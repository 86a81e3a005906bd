"""Work that goes on beside the main one, and ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any

from pylvs.host.logs import get_logger
from pylvs.model.errors import PylvsError

RESTART_PAUSE_S = 1.0  # before what failed is begun again


class BackgroundTasks:
    """Tasks whose faults are logged, and that are gone when the block ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> BackgroundTasks:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something once."""
        self._add(self._once(work))

    def keep(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        """Do something that has no end, and begin again where it fails."""
        self._add(self._always(work, what))

    def cancel(self) -> None:
        """End everything."""
        for task in self._tasks:
            task.cancel()

    def _add(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _once(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (PylvsError, OSError) as error:
            get_logger().error(str(error))
        except Exception:
            get_logger().exception("this is a bug")

    async def _always(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        while True:
            try:
                await work()
            except (PylvsError, OSError) as error:
                get_logger().error(f"{what} failed and begins again: {error}")
            except Exception:
                get_logger().exception(f"{what} failed and begins again: this is a bug")
            await asyncio.sleep(RESTART_PAUSE_S)


# --- signals ---------------------------------------------------------------------------------------------------------
# Signals as calls in the event loop.


@contextlib.contextmanager
def signal_handlers(actions: Mapping[signal.Signals, Callable[[], object]]) -> Iterator[None]:
    """Within, each of these signals calls something instead of ending the process. In the main thread alone."""
    loop = asyncio.get_running_loop()
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield
    finally:
        for number in actions:
            loop.remove_signal_handler(number)


# --- systemd ---------------------------------------------------------------------------------------------------------
# sd_notify(3): telling the service manager how things stand, and that they still move.


SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class ServiceManager:
    """Who started the daemon, if it wants to be told; silent otherwise."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        given = os.environ if environment is None else environment
        self._address = given.get(SOCKET, "")
        self.watchdog_s = _watchdog_s(given)  # 0: it does not watch

    def ready(self, status: str) -> None:
        """The daemon does its work; also after a reload."""
        self._tell(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """`ready` follows. The time is what Type=notify-reload asks for."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The daemon ends."""
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._tell(f"STATUS={text}")

    def alive(self) -> None:
        """To be called at least every `watchdog_s`."""
        self._tell("WATCHDOG=1")

    def _tell(self, words: str) -> None:
        if not self._address.startswith(("/", "@")):
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.setblocking(False)
            to.sendto(words.encode(), address)


def _watchdog_s(given: Mapping[str, str]) -> float:
    """How long the manager waits; 0 where it is not this process that it watches."""
    try:
        if int(given.get(WATCHDOG_PID, os.getpid())) != os.getpid():
            return 0.0
        return int(given.get(WATCHDOG, "0")) / 1e6
    except ValueError:
        return 0.0
