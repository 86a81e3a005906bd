"""sd_notify(3): telling the service manager how things stand, and that they still move."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping

SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"


class Manager:
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
