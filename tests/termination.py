"""SIGTERM, which `timeout` sends, unwinds like Ctrl-C: what a test has made is removed again."""

from __future__ import annotations

import ctypes
import signal
from types import FrameType

PR_SET_PDEATHSIG = 1


def unwind_on_sigterm() -> None:
    """From now on the first SIGTERM raises KeyboardInterrupt in the main thread; later ones do not disturb the end."""
    signal.signal(signal.SIGTERM, _interrupt)


def unwind_with_parent() -> None:
    """For a worker process: likewise, and it gets SIGTERM when the process that started it dies."""
    unwind_on_sigterm()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, _ignore)
    raise KeyboardInterrupt("SIGTERM")


def _ignore(number: int, frame: FrameType | None) -> None:
    """Not SIG_IGN: the commands that clean up would inherit that."""
