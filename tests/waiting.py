"""Wait in tests for an event, as long as a busy machine may need."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PATIENCE_S = 120.0  # the machine may be busy; a test that waits longer fails
_POLL_S = 0.01


def until(holds: Callable[[], object], what: object = "", patience_s: float = PATIENCE_S) -> None:
    """Wait until the predicate holds. Raises AssertionError with `what`, which may be a function."""
    for pause_s in _polls(holds, what, patience_s):
        time.sleep(pause_s)


async def until_async(holds: Callable[[], object], what: object = "", patience_s: float = PATIENCE_S) -> None:
    """Wait likewise, while the event loop runs."""
    for pause_s in _polls(holds, what, patience_s):
        await asyncio.sleep(pause_s)


def until_reaped(process: int | str) -> None:
    """Wait until a process that has ended is gone: its parent, which may be process 1, reaps it a moment later."""
    until(lambda: not Path(f"/proc/{process}").exists(), f"process {process} is gone")


def until_listening(path: Path) -> None:
    """Wait until a program listens at a UNIX socket: its path exists a moment before."""

    def accepts() -> bool:
        with socket.socket(socket.AF_UNIX) as end:
            return not end.connect_ex(str(path))

    until(accepts, f"{path}: a program listens")


def _polls(holds: Callable[[], object], what: object, patience_s: float) -> Iterator[float]:
    end = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience_s:g} s: {what() if callable(what) else what or holds}")
        yield _POLL_S
