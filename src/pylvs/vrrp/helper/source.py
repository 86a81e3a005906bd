"""A source of tracked objects in the helper process: a task that is started again when it fails, and its progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from pylvs.system.logs import get_logger
from pylvs.vrrp.loop import RateLimiter

PROGRESS_S = 5.0  # until the results of a source without progress are late; as for a silent helper process
RESTART_S = 1.0  # after a failure


class Source:
    """Run `watch` until `cancel`. It calls `advance` each time that its results are current."""

    def __init__(
        self, name: str, watch: Callable[[], Coroutine[Any, Any, None]], first_within_s: float = PROGRESS_S
    ) -> None:
        self._name, self._watch = name, watch
        self._log = get_logger()
        self._log_limiter = RateLimiter()
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + first_within_s
        self._task = self._loop.create_task(self._run())

    @property
    def late(self) -> bool:
        """Whether it makes no progress: it fails, or its thread is blocked."""
        return self._loop.time() > self._due

    def advance(self, within_s: float = PROGRESS_S) -> bool:
        """Record progress, and when the next is due. Return whether it was late: then report all results again."""
        late, self._due = self.late, self._loop.time() + within_s
        return late

    def cancel(self) -> None:
        self._task.cancel()

    async def finish(self) -> None:
        """Cancel it, and wait for its end."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                await self._watch()
            except Exception as error:
                if self._log_limiter.allow(str(error), self._loop.time()) is not None:
                    if isinstance(error, OSError):
                        self._log.warning(f"{self._name} fails and is tried again", reason=error.strerror)
                    else:
                        self._log.exception(f"{self._name} failed and is started again")
            await asyncio.sleep(RESTART_S)
