"""The thread of an asynchronous program that reads and edits the tables."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from pylvs.model.errors import PylvsError
from pylvs.system.lease import Lease

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

TICK_S = 1.0  # of `give_up_if_silent`


class ThreadHangs(PylvsError):
    """The thread makes no progress; whether the call that runs has an effect is unknown."""


class TableThread:
    """The one thread that reads and edits the tables. Checks in the event loop need not wait for it.

    It runs calls in the order in which they were submitted.
    """

    def __init__(self, name: str) -> None:
        self.hangs = False  # as `give_up_if_silent` has found
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._done = 0  # calls
        self._calls: set[Future[Any]] = set()  # that wait or run
        self._waiting: set[asyncio.Future[Any]] = set()  # their callers

    async def run(
        self, work: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
    ) -> Result:
        """Return or raise what `work` does. Once begun it runs to its end, even if the caller is cancelled.

        Raises ThreadHangs.
        """
        self._check()
        call = self._pool.submit(work, *arguments, **named)
        self._calls.add(call)
        call.add_done_callback(self._ended)
        result = asyncio.wrap_future(call)
        self._waiting.add(result)
        try:
            return await result
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                self._check()
            raise
        finally:
            self._waiting.discard(result)

    def _ended(self, call: Future[Any]) -> None:
        self._done += 1
        self._calls.discard(call)

    def _check(self) -> None:
        if self.hangs:
            raise ThreadHangs("the thread that edits the tables hangs")

    @property
    def progress(self) -> int | None:
        """The number of calls that ended, also of cancelled ones; None while no call waits or runs."""
        return self._done if self._calls else None

    async def give_up_if_silent(self, silence_s: float) -> None:
        """When no call has ended for so long while one runs, raise ThreadHangs in all callers, and in further ones."""
        lease = Lease(silence_s, TICK_S)
        while not lease.expired:
            await asyncio.sleep(TICK_S)
            lease.follow(self.progress)
        self.hangs = True
        for each in list(self._waiting):
            each.cancel()

    def close(self) -> None:
        """Wait for the call that runs, and drop those that wait."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def end(self, timeout_s: float) -> bool:
        """Drop the calls that wait; return whether the one that runs ends in time."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        calls = [asyncio.wrap_future(each) for each in list(self._calls)]
        if not calls:
            return True
        _, late = await asyncio.wait(calls, timeout=0 if self.hangs else timeout_s)
        for each in late:
            each.cancel()
        return not late
