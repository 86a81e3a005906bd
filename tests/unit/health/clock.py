"""An event loop with simulated time: an hour of checks takes a moment, and is the same each time."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

START_S = 1000.0  # what the clock shows at first


class _Selector(selectors.DefaultSelector):
    """A selector that advances the time instead of waiting, if no socket is ready."""

    now = START_S

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        assert ready or timeout is not None, "the loop waits for something that never comes"
        return ready


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """asyncio's loop with a simulated clock."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now

    def close(self) -> None:
        """Cancel all tasks and wait for them: a task that outlives its loop would fail a later test."""
        if not self.is_closed():
            left = asyncio.all_tasks(self)
            for task in left:
                task.cancel()
            if left:
                self.run_until_complete(asyncio.wait(left))
            self.run_until_complete(self.shutdown_asyncgens())
        super().close()

    def pass_(self, seconds: float) -> None:
        """Let so many seconds pass, and run everything that is due."""
        self.run_until_complete(asyncio.sleep(seconds))
