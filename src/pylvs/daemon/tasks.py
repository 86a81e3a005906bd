"""Tasks of the event loop that log their exceptions, and handlers of signals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any

from pylvs.model.errors import PylvsError, text_of
from pylvs.system.logs import get_logger
from pylvs.system.processes.shortage import end_if_short

RESTART_PAUSE_S = 1.0  # of a background task
STEADY_S = 60.0  # a background task that has run for so long since its last failure works again


class BackgroundTasks:
    """Tasks that log their exceptions, and that are cancelled when the block ends."""

    def __init__(self) -> None:
        self._failures: dict[str, tuple[str, float]] = {}  # of endless tasks: the last error, and when it was
        self._tasks: set[asyncio.Task[object]] = set()
        self._ending: set[asyncio.Task[object]] = set()  # cancelled ones: `cancelling` would count timeouts, too

    async def __aenter__(self) -> BackgroundTasks:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def end(self) -> None:
        """Cancel all tasks, and wait for their end."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine once."""
        self._add(self._once(work, ""))

    def keep_running(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        """Run an endless task, and restart it after an exception."""
        self._add(self._always(work, what))

    def failures(self) -> dict[str, str]:
        """Return the last error of each endless task that has failed a short time ago."""
        now = asyncio.get_running_loop().time()
        return {what: error for what, (error, at) in self._failures.items() if now - at < STEADY_S}

    def cancel(self) -> None:
        """Request that all tasks end; each does so at its next await. A second call does not disturb their cleanup."""
        for task in self._tasks - self._ending:
            task.cancel()
        self._ending |= self._tasks

    def _add(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._ending.discard)

    async def _once(self, work: Awaitable[None], prefix: str) -> str:
        """Return the error, after it is logged; "" without one."""
        try:
            await work
        except (PylvsError, OSError, MemoryError) as error:
            end_if_short(error)
            text = text_of(error)
            get_logger().error(f"{prefix}{text}")
            return text
        except Exception as error:
            get_logger().exception(f"{prefix}this is a bug")
            return f"this is a bug: {error!r}"
        return ""

    async def _always(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        while True:
            if error := await self._once(work(), f"{what} failed and is restarted: "):
                self._failures[what] = error, asyncio.get_running_loop().time()
            await asyncio.sleep(RESTART_PAUSE_S)


@contextlib.contextmanager
def signal_handlers(actions: Mapping[int, Callable[[], object]]) -> Iterator[None]:
    """Within the block, call an action in the event loop for each of these signals. In the main thread only."""
    loop = asyncio.get_running_loop()
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield
    finally:
        for number in actions:
            loop.remove_signal_handler(number)
