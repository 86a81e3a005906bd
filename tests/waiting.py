"""Waiting in tests: for what must come, and for as long as a busy machine may need."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

PATIENCE_S = 60.0
_LOOK_EVERY_S = 0.01


def until(holds: Callable[[], object], what: object = "", patience_s: float = PATIENCE_S) -> None:
    """Wait until `holds` says so. Raises AssertionError with `what`, which is asked only then if it is a function."""
    for pause_s in _looks(holds, what, patience_s):
        time.sleep(pause_s)


async def until_async(holds: Callable[[], object], what: object = "", patience_s: float = PATIENCE_S) -> None:
    """The same, while the event loop goes on."""
    for pause_s in _looks(holds, what, patience_s):
        await asyncio.sleep(pause_s)


def _looks(holds: Callable[[], object], what: object, patience_s: float) -> Iterator[float]:
    end = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"not within {patience_s:g} s: {what() if callable(what) else what or holds}")
        yield _LOOK_EVERY_S
