"""Calls in threads, so that the event loop continues, on a machine that may have no thread left."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


async def to_thread(call: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
    """Run a call in a thread, as asyncio.to_thread does. Raises OSError as `start` does."""
    return await start(lambda: call(*args, **kwargs))


def start(call: Callable[[], Result]) -> asyncio.Future[Result]:
    """Let a thread run a call. Raises OSError if this machine has no thread left; then the call never runs.

    The executor raises RuntimeError, but keeps the call for a thread that is busy now.
    """
    submitting, refused = threading.Lock(), False

    def run() -> Result:
        with submitting:
            if refused:
                raise asyncio.CancelledError
        return call()

    with submitting:
        try:
            return asyncio.get_running_loop().run_in_executor(None, run)
        except RuntimeError as error:
            refused = True
            raise OSError(errno.EAGAIN, str(error)) from None


class DaemonThread(Executor):
    """An executor with one thread, for calls that may block for ever: of the user database, of a driver, of /proc.

    The first call starts the thread. Unlike a ThreadPoolExecutor, it does not delay the end of the process while a call
    blocks. It also queues no call for which this machine has no thread: such calls would all run later.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Run a call after the earlier ones. Raises OSError if this machine has no thread left."""
        if self._thread is None:
            thread = threading.Thread(target=_serve, args=(self._calls,), name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
            self._thread = thread
        call: Future[Result] = Future()
        self._calls.put(partial(_run, call, partial(fn, *args, **kwargs)))
        return call

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """End the thread after the calls so far, without waiting for them; a later call starts another."""
        if self._thread is not None:
            self._thread = None
            self._calls.put(None)
            self._calls = SimpleQueue()


def _serve(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()


def _run(call: Future[Result], work: Callable[[], Result]) -> None:
    if call.set_running_or_notify_cancel():  # not if its caller has given up
        try:
            call.set_result(work())
        except BaseException as error:
            call.set_exception(error)
