"""Work that goes on beside the main one, and ends with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from pylvs.model.errors import PylvsError
from pylvs.system.logs import get_logger

PAUSE_S = 1.0  # before what failed is begun again


class Background:
    """Tasks whose faults are logged, and that are gone when the block ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Background:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something once."""
        self._add(self._once(work))

    def keep(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        """Do something that has no end, and begin again where it fails."""
        self._add(self._always(work, what))

    def cancel(self) -> None:
        """End everything."""
        for task in self._tasks:
            task.cancel()

    def _add(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _once(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (PylvsError, OSError) as error:
            get_logger().error(str(error))
        except Exception:
            get_logger().exception("this is a bug")

    async def _always(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        while True:
            try:
                await work()
            except (PylvsError, OSError) as error:
                get_logger().error(f"{what} failed and begins again: {error}")
            except Exception:
                get_logger().exception(f"{what} failed and begins again: this is a bug")
            await asyncio.sleep(PAUSE_S)
