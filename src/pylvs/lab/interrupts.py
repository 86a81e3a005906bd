"""Signals while a lab is made or removed: they are noted, and looked at between steps.

An exception out of the blue, between starting a command and knowing of it, would leave something behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STEP_S = 0.05


class Interrupted(KeyboardInterrupt):
    """One of the signals came, and it is time to clean up."""


class Held:
    """The signals that came since."""

    def __init__(self) -> None:
        self.came: list[int] = []

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        self.came.append(number)

    def check(self) -> None:
        """Raises Interrupted if a signal came; it is then dealt with."""
        if self.came:
            number = self.came[0]
            self.came.clear()
            raise Interrupted(number)

    def sleep(self, seconds: float) -> None:
        """Wait, unless a signal comes. Raises Interrupted."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(STEP_S, left))
        self.check()


@contextlib.contextmanager
def held() -> Iterator[Held]:
    """Hold signals. Those that nobody dealt with arrive at the end, where they would have arrived without this."""
    signals = Held()
    if threading.current_thread() is not threading.main_thread():
        yield signals  # they do not arrive in other threads anyway
        return
    former = {number: signal.signal(number, signals.note) for number in SIGNALS}
    try:
        yield signals
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        for came in dict.fromkeys(signals.came):
            os.kill(os.getpid(), came)
