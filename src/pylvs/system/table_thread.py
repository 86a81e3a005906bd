"""The thread of an asynchronous program that reads and edits the tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class TableThread:
    """The one thread that reads and edits the tables. Checks in the event loop need not wait for it.

    It runs calls in the order in which they were submitted.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._done = self._pending = 0  # calls

    async def run(
        self, work: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        """Return or raise what `work` does. Once begun it runs to its end, even if the caller is cancelled."""
        call = self._pool.submit(work, *arguments, **named)
        self._pending += 1
        call.add_done_callback(self._count)
        return await asyncio.wrap_future(call)

    def _count(self, _: object) -> None:
        self._done += 1

    @property
    def progress(self) -> int | None:
        """The number of calls that ended, also of cancelled ones; None while no call waits or runs."""
        return self._done if self._done < self._pending else None

    def close(self) -> None:
        """Wait for the call that runs, and drop those that wait."""
        self._pool.shutdown(wait=True, cancel_futures=True)
