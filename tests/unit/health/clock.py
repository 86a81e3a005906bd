"""An event loop whose time passes only when nothing is left to do: an hour of checks in a moment, always alike."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

START_S = 1000.0  # what the clock shows at first


class _Selector(selectors.DefaultSelector):
    """Waiting for nothing is the passing of time; what is ready on a socket comes first."""

    now = START_S

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is not None and timeout > 0:
            self.now += timeout
        assert ready or timeout is not None, "the loop waits for something that never comes"
        return ready


class FakeTimeLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop with a clock of its own."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now

    def close(self) -> None:
        """Cancel what still runs and wait for it: a task that outlives its loop fails whichever test runs later."""
        if not self.is_closed():
            left = asyncio.all_tasks(self)
            for task in left:
                task.cancel()
            if left:
                self.run_until_complete(asyncio.wait(left))
            self.run_until_complete(self.shutdown_asyncgens())
        super().close()

    def pass_(self, seconds: float) -> None:
        """Run everything that is due in the next so many seconds."""
        self.run_until_complete(asyncio.sleep(seconds))
