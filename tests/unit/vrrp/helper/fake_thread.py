"""A thread of the helper process without a thread, which a test can block."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class FakeThread(Executor):
    """Run each call at once; while `blocked`, keep it for `release`."""

    def __init__(self, name: str = "") -> None:
        self.blocked = False
        self._kept: list[Callable[[], None]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        call: Future[Any] = Future()

        def run() -> None:
            try:
                call.set_result(fn(*args, **kwargs))
            except BaseException as error:
                call.set_exception(error)

        if self.blocked:
            self._kept.append(run)
        else:
            run()
        return call

    def release(self) -> None:
        """End the block."""
        self.blocked = False
        kept, self._kept = self._kept, []
        for run in kept:
            run()
