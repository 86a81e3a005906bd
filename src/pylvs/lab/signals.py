"""Defer signals while a lab is made or removed, and handle them between steps.

An exception between the start of a command and the record of it would leave a process or a namespace behind.
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
    """A signal came; clean up."""


class DeferredSignals:
    """Signals that came and are not handled yet."""

    def __init__(self) -> None:
        self.received: list[int] = []

    def record(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal by recording it."""
        self.received.append(signum)

    def check(self) -> None:
        """Raise Interrupted if a signal came, and count it as handled."""
        if self.received:
            signum = self.received[0]
            self.received.clear()
            raise Interrupted(signum)

    def sleep(self, seconds: float) -> None:
        """Wait, unless a signal comes. Raises Interrupted."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(STEP_S, left))
        self.check()


@contextlib.contextmanager
def defer_signals() -> Iterator[DeferredSignals]:
    """Defer signals. Those that are still unhandled are sent again at the end."""
    signals = DeferredSignals()
    if threading.current_thread() is not threading.main_thread():
        yield signals  # Python runs signal handlers in the main thread alone
        return
    former = {signum: signal.signal(signum, signals.record) for signum in SIGNALS}
    try:
        yield signals
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
        for received in dict.fromkeys(signals.received):
            os.kill(os.getpid(), received)
