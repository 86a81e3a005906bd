"""Signals of test runs: they remove what they made, and the programs that they start can be interrupted."""

from __future__ import annotations

import ctypes
import signal
from types import FrameType

PR_SET_PDEATHSIG = 1


def unwind_on_sigterm() -> None:
    """Raise KeyboardInterrupt at the first SIGTERM, which `timeout` sends, as at Ctrl-C; ignore later ones."""
    signal.signal(signal.SIGTERM, _interrupt)


def allow_interrupts() -> None:
    """Let SIGINT end the programs that this process starts; jobs in a shell's background ignore it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def unwind_with_parent() -> None:
    """Do so in a worker process, which also gets SIGTERM when its parent dies."""
    unwind_on_sigterm()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, _ignore)
    raise KeyboardInterrupt("SIGTERM")


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing. SIG_IGN would be inherited by the commands that clean up."""
