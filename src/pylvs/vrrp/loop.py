"""The event loop of the router process: timers run before I/O, so that a flood of packets does not delay them.

Callbacks must not block; `max_late_s` measures the result. An exception of one callback is reported and ends no other.
asyncio would run I/O callbacks before timers within one iteration.

The process has a real-time priority, CPU affinity, locked memory and no garbage collection, so that advertisements
leave on time. What the machine does not allow is skipped with a warning; none of it is needed for correctness.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import itertools
import os
import resource
import selectors
import time
from collections import Counter
from collections.abc import Callable, Hashable

from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import VrrpSettings
from pylvs.system import syscalls

Call = Callable[[], None]
MILLISECOND = 0.001
MAX_WAIT_S = 3600.0  # epoll counts milliseconds in 31 bits: 24 days
REALTIME = 1  # default priority: above every ordinary process


@dataclass(slots=True, eq=False)
class Timer:
    """A callback at a time."""

    when: float
    call: Call | None

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
        if left > MAX_WAIT_S:
            return MAX_WAIT_S
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


class RateLimiter:
    """Allow one event of each kind in `interval_s`, such as a log line; in this time at most `max_kinds` kinds."""

    def __init__(self, interval_s: float = 60.0, max_kinds: int = 1024) -> None:
        self.surplus = 0  # suppressed events of further kinds
        self._interval_s = interval_s
        self._max_kinds = max_kinds
        self._allowed_at: dict[Hashable, float] = {}
        self._suppressed: Counter[Hashable] = Counter()

    def allow(self, kind: Hashable, now: float) -> int | None:
        """Return how many events were suppressed since the last one of this kind; None: suppress this one, too."""
        if kind in self._allowed_at and now - self._allowed_at[kind] < self._interval_s:
            self._suppressed[kind] += 1
            return None
        if kind not in self._allowed_at and len(self._allowed_at) >= self._max_kinds:
            self._allowed_at = {each: at for each, at in self._allowed_at.items() if now - at < self._interval_s}
            suppressed = {each: count for each, count in self._suppressed.items() if each in self._allowed_at}
            self._suppressed = Counter(suppressed)
            if len(self._allowed_at) >= self._max_kinds:
                self.surplus += 1
                return None
        self._allowed_at[kind] = now
        return self._suppressed.pop(kind, 0)


@dataclass(frozen=True, slots=True)
class RealtimeStatus:
    """What the kernel granted."""

    realtime: int  # priority; 0: ordinary
    locked: bool
    warnings: tuple[str, ...] = ()


def enable_realtime(settings: VrrpSettings) -> RealtimeStatus:
    """Apply the settings. Child processes do not inherit the priority."""
    warnings: list[str] = []
    realtime = set_scheduler(settings, warnings)
    if settings.cpus:
        try:
            os.sched_setaffinity(0, settings.cpus)
        except OSError as error:
            warnings.append(f"vrrp_cpu_affinity {' '.join(map(str, settings.cpus))}: {error.strerror}")
    locked = _lock_memory(warnings)
    return RealtimeStatus(realtime, locked, tuple(warnings))


def freeze_gc() -> None:
    """Disable the collector, whose pauses would delay timers; reference counts free what this process allocates."""
    gc.collect()
    gc.freeze()
    gc.disable()


def set_scheduler(settings: VrrpSettings, warnings: list[str]) -> int:
    """Give this process its real-time priority, and return that; 0: the kernel refuses it, or another one is wanted."""
    wanted = settings.realtime_priority or (0 if settings.nice else REALTIME)
    if wanted:
        try:
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(wanted))
            return wanted
        except OSError as error:
            if settings.realtime_priority:
                warnings.append(f"vrrp_rt_priority {wanted}: {error.strerror}")
    nice = settings.nice or -20
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError as error:
        warnings.append(f"neither a real-time priority nor niceness {nice}: {error.strerror}")
    return 0


def _lock_memory(warnings: list[str]) -> bool:
    most = resource.RLIM_INFINITY
    with contextlib.suppress(OSError, ValueError):  # the present limit may be enough
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
    try:
        syscalls.mlockall(syscalls.MCL_CURRENT | syscalls.MCL_FUTURE)
    except OSError as error:
        warnings.append(f"memory is not locked: {error.strerror}")
        return False
    return True
