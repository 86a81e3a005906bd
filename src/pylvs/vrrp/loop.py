"""The event loop of the router process: timers run before I/O, so that a flood of packets does not delay them.

Callbacks must not block; `max_late_s` measures the result. An exception of one callback is reported and ends no other.
asyncio would run I/O callbacks before timers within one iteration.
"""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from collections.abc import Callable

Call = Callable[[], None]
MILLISECOND = 0.001


class Timer:
    """A callback at a time."""

    __slots__ = ("call", "when")

    def __init__(self, when: float, call: Call | None) -> None:
        self.when = when
        self.call = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    """Times are those of `time.monotonic()`. `failed` receives the exceptions of callbacks."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._running = False
        self.max_late_s = 0.0  # of all timers so far

    @property
    def now(self) -> float:
        return time.monotonic()

    def at(self, when: float, call: Call) -> Timer:
        """Call once, not before `when`."""
        timer = Timer(when, call)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def watch(self, descriptor: int, read: Call | None, write: Call | None = None) -> None:
        """Call when the descriptor is readable or writable; replaces its former callbacks."""
        events = (selectors.EVENT_READ if read else 0) | (selectors.EVENT_WRITE if write else 0)
        known = descriptor in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(descriptor)
        elif known:
            self._selector.modify(descriptor, events, (read, write))
        else:
            self._selector.register(descriptor, events, (read, write))

    def forget(self, descriptor: int) -> None:
        """Stop watching; call it before closing the descriptor."""
        self.watch(descriptor, None)

    def run(self) -> None:
        """Run until `stop`."""
        self._running = True
        while self._is_running():
            self._run_timers()
            for key, ready in self._selector.select(self._timeout()) if self._is_running() else ():
                for event, which in ((selectors.EVENT_READ, 0), (selectors.EVENT_WRITE, 1)):
                    known = self._selector.get_map().get(key.fd)  # another callback may have closed it
                    if ready & event and known is not None and known.data[which]:
                        self._call(known.data[which])
                if self._timers and self._timers[0][0] <= time.monotonic():
                    break

    def stop(self) -> None:
        self._running = False

    def _is_running(self) -> bool:
        return self._running  # which a type checker would narrow, though callbacks change it

    def close(self) -> None:
        self._selector.close()

    def _call(self, call: Call) -> None:
        try:
            call()
        except Exception as error:
            self._failed(error)

    def _timeout(self) -> float | None:
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        left = self._timers[0][0] - time.monotonic()
        if left > MILLISECOND:  # epoll rounds up to whole milliseconds: wake before, sleep the rest
            return int(left / MILLISECOND) * MILLISECOND - MILLISECOND / 1000
        if left > 0:
            time.sleep(left)
        return 0.0

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            when, _, timer = heapq.heappop(self._timers)
            call, timer.call = timer.call, None
            if call is not None:
                self.max_late_s = max(self.max_late_s, now - when)
                self._call(call)
                now = time.monotonic()
