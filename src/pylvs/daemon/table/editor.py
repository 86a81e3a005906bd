"""The thread in which the tables are read and edited, so that the checks in the event loop need not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


class Editor:
    """One thread: what is asked of it is done one after the other, in the order in which it was asked."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def do(
        self, work: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        """What `work` answers, or raises. Once begun it is done to its end, also if the one who asks is cancelled."""
        return await asyncio.wrap_future(self._pool.submit(work, *arguments, **named))

    def close(self) -> None:
        """Wait until all that was begun is done."""
        self._pool.shutdown(wait=True, cancel_futures=True)
