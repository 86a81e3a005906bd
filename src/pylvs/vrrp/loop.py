"""One thread's time: timers, and descriptors that are ready. Timers come first: nothing that is heard delays them.

Whatever is called must return at once; by how much a timer was late at most is measured. What goes wrong in one call
is told, and the others go on.
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
    """Something that is to be called at a time."""

    __slots__ = ("call", "when")

    def __init__(self, when: float, call: Call | None) -> None:
        self.when = when
        self.call = call

    def cancel(self) -> None:
        """It is not called any more."""
        self.call = None


class Loop:
    """Times are `time.monotonic()`'s. `failed` is told of what a call raised."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._running = False
        self.latest_s = 0.0  # by which a timer was late at most

    @property
    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def at(self, when: float, call: Call) -> Timer:
        """Call once, not before that time."""
        timer = Timer(when, call)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def watch(self, descriptor: int, read: Call | None, write: Call | None = None) -> None:
        """Call whenever there is something to be read, or room to write; replaces what was said before."""
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
        """Before it is closed."""
        self.watch(descriptor, None)

    def run(self) -> None:
        """Until `stop`."""
        self._running = True
        while self._goes_on():
            self._timers_due()
            for key, ready in self._selector.select(self._patience()) if self._goes_on() else ():
                for event, which in ((selectors.EVENT_READ, 0), (selectors.EVENT_WRITE, 1)):
                    known = self._selector.get_map().get(key.fd)  # one that was ready with it may have closed it
                    if ready & event and known is not None and known.data[which]:
                        self._do(known.data[which])
                if self._timers and self._timers[0][0] <= time.monotonic():
                    break

    def stop(self) -> None:
        """Let `run` end."""
        self._running = False

    def _goes_on(self) -> bool:
        return self._running

    def close(self) -> None:
        """Give back what it holds."""
        self._selector.close()

    def _do(self, call: Call) -> None:
        try:
            call()
        except Exception as error:
            self._failed(error)

    def _patience(self) -> float | None:
        while self._timers and self._timers[0][2].call is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        left = self._timers[0][0] - time.monotonic()
        if left > MILLISECOND:  # epoll knows only whole ones, and rounds up
            return int(left / MILLISECOND) * MILLISECOND - MILLISECOND / 1000
        if left > 0:
            time.sleep(left)
        return 0.0

    def _timers_due(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            when, _, timer = heapq.heappop(self._timers)
            call, timer.call = timer.call, None
            if call is not None:
                self.latest_s = max(self.latest_s, now - when)
                self._do(call)
                now = time.monotonic()
