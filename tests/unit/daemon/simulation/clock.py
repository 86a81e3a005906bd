"""A virtual clock for a whole daemon: its event loop, the threads that it starts, and the functions of `time`.

The loop's time jumps to the next timer. Work for a thread runs in the loop instead, at a time that the seed draws. Its
duration passes on the thread's own clock. Its result reaches the loop at the end of that duration.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from functools import partial
from typing import Any
from unittest.mock import patch

from tests.unit.health.clock import START_S

EPOCH_S = 1.7e9  # the wall clock at the loop's time 0


class Clock:
    """The time of one simulation. `ahead_s` is the time that the work in a thread has taken so far."""

    def __init__(self) -> None:
        self.loop = SimLoop(self)
        self.ahead_s = 0.0
        self.in_thread = False

    def now(self) -> float:
        """The monotonic clock of the running thread."""
        return self.loop.now + self.ahead_s

    def wall(self) -> float:
        """Return seconds since the Unix epoch."""
        return EPOCH_S + self.now()

    def spend(self, seconds: float) -> None:
        """Let work take this time: in a thread nothing waits for it, in the loop everything does."""
        if self.in_thread:
            self.ahead_s += seconds
        else:
            self.loop.now += seconds

    def in_a_thread(self, work: Callable[[], Any]) -> tuple[Any, BaseException | None, float]:
        """Run work as a thread would; return its result, its exception, and the seconds that it took."""
        self.in_thread, self.ahead_s = True, 0.0
        try:
            return work(), None, self.ahead_s
        except BaseException as error:
            return None, error, self.ahead_s
        finally:
            self.in_thread, self.ahead_s = False, 0.0

    @contextlib.contextmanager
    def in_force(self) -> Iterator[None]:
        """Within the block, this is the time of the process."""
        with patch.multiple(time, monotonic=self.now, time=self.wall):
            yield


class Handle(float):
    """A call of the loop. The float is its time: so a heap compares handles without Python code."""

    __slots__ = ("arguments", "callback", "context", "is_cancelled")
    callback: Callable[..., object]
    arguments: tuple[Any, ...]
    context: Context
    is_cancelled: bool

    def cancel(self) -> None:
        """See asyncio.Handle."""
        self.is_cancelled = True


def _handle(when: float, callback: Callable[..., object], arguments: tuple[Any, ...], context: Any) -> Handle:
    made = Handle(when)
    made.callback, made.arguments, made.is_cancelled = callback, arguments, False
    made.context = copy_context() if context is None else context
    return made


class SimTask(asyncio.Task[Any]):
    """A task with its context, which Python 3.11 does not expose."""

    context: Context


class SimLoop(asyncio.BaseEventLoop):
    """An event loop in simulated time, without files, threads and signals of the kernel."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.now = START_S
        self.handlers: dict[int, Callable[[], object]] = {}  # of signals
        self.delay_s: Callable[[], float] = lambda: 0.0  # before a thread does what it is asked
        self.set_exception_handler(lambda _, context: self.errors.append(context))
        self.errors: list[dict[str, Any]] = []
        self._calls: deque[Handle] = deque()  # due now
        self._timers: list[Handle] = []  # a heap
        self._stops = False

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """See AbstractEventLoop."""
        made = _handle(self.now, callback, args, context)
        self._calls.append(made)
        return made

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """See AbstractEventLoop."""
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """See AbstractEventLoop."""
        made = _handle(when, callback, args, context)
        heapq.heappush(self._timers, made)
        return made

    def run_forever(self) -> None:
        """Run until `stop`."""
        self._stops = False
        asyncio._set_running_loop(self)
        try:
            while not self._stops:
                self._run_calls()
        finally:
            asyncio._set_running_loop(None)

    def stop(self) -> None:
        """See AbstractEventLoop."""
        self._stops = True

    def _run_calls(self) -> None:
        """Run the calls that are due; if none is, advance the time to the next timer."""
        calls, timers = self._calls, self._timers
        while timers and timers[0].is_cancelled:
            heapq.heappop(timers)
        if not calls:
            assert timers, "the loop waits for something that never comes"
            self.now = max(self.now, float(timers[0]))
        while timers and timers[0] <= self.now:
            calls.append(heapq.heappop(timers))
        for _ in range(len(calls)):
            handle = calls.popleft()
            if handle.is_cancelled:
                continue
            try:
                handle.context.run(handle.callback, *handle.arguments)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": f"exception in {handle.callback}", "exception": error})

    def create_task(self, coro: Any, *, name: Any = None, context: Context | None = None) -> Any:
        """See AbstractEventLoop."""
        own = copy_context() if context is None else context
        task = SimTask(coro, loop=self, name=name, context=own)
        task.context = own
        return task

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """Call it as `call_soon` does: there are no threads."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        """Run each call in a simulated thread of its own, as in a pool that is large enough."""
        future = self.create_future()

        def begin() -> None:
            if future.cancelled():
                return
            result, error, cost_s = self.clock.in_a_thread(lambda: func(*args))
            self.call_later(cost_s, end, result, error)

        def end(result: Any, error: BaseException | None) -> None:
            _settle(future, result, error)

        self.call_later(self.delay_s(), begin)
        return future

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Set the handler for `signal_`."""
        self.handlers[sig] = partial(copy_context().run, callback, *args)

    def remove_signal_handler(self, sig: int) -> bool:
        """Remove the handler; return False if there is none."""
        return self.handlers.pop(sig, None) is not None

    def signal_(self, number: signal.Signals) -> bool:
        """Send the process a signal; return False if it has no handler now."""
        handler = self.handlers.get(number)
        if handler is not None:
            handler()
        return handler is not None


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class SimPool:
    """Replaces a ThreadPoolExecutor with one thread: one call after another, in simulated time."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._queue: deque[tuple[asyncio.Future[Any], Callable[[], Any]]] = deque()
        self._ending: Callable[[], None] | None = None  # of the work under way
        self._over = False
        self.busy_until = 0.0  # the table's lock is held until then

    def submit(self, work: Callable[..., Any], *args: Any, **named: Any) -> asyncio.Future[Any]:
        """As `Executor.submit`, with a future of the loop, which `asyncio.wrap_future` returns as it is."""
        assert not self._over, "the editor is asked after its end"
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.append((future, lambda: work(*args, **named)))
        if len(self._queue) == 1 and self._ending is None:
            self._loop.call_later(self._loop.delay_s(), self._begin)
        return future

    def _begin(self) -> None:
        while self._queue and self._queue[0][0].cancelled():
            self._queue.popleft()
        if not self._queue:
            return
        future, work = self._queue[0]
        result, error, cost_s = self._loop.clock.in_a_thread(work)
        self.busy_until = self._loop.time() + cost_s

        def end() -> None:
            if self._ending is None:
                return
            self._ending = None
            self._queue.popleft()
            _settle(future, result, error)
            if self._queue and not self._over:
                self._loop.call_later(self._loop.delay_s(), self._begin)

        self._ending = end
        self._loop.call_later(cost_s, end)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `Executor.shutdown`: calls that have begun end."""
        self._over = True
        if self._ending is not None:
            self._ending()
        if cancel_futures:
            for future, _ in self._queue:
                future.cancel()
            self._queue.clear()
