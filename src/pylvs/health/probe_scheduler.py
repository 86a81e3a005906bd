"""Schedule probes: one heap of due times, one timer of the event loop, one task for each probe that runs.

Due times use the loop's monotonic clock, so setting the wall clock changes nothing.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import resource
from collections import deque
from collections.abc import Callable
from itertools import count

from pylvs.health.outcome import Outcome, Probe
from pylvs.model.dataclass import dataclass

BATCH = 256  # probes started in one run of the event loop
NEVER = float("inf")
AFTER_FAILURE_S = 1.0  # until the next probe if `on_outcome` raised

log = logging.getLogger(__name__)


def descriptor_limit() -> int:
    """Return how many probes may run if a quarter of this process's descriptors must stay free; 0 for no limit.

    If many checks hang, further ones wait. Without a descriptor a check could not be made at all.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if most == resource.RLIM_INFINITY else max(most * 3 // 4, 1)


@dataclass(slots=True, eq=False)
class ScheduledProbe:
    """A probe in the schedule. `on_outcome` gets each outcome and returns the seconds until the next probe."""

    probe: Probe
    on_outcome: Callable[[Outcome], float] = lambda outcome: NEVER
    due: float = NEVER
    paused: bool = False
    queued: bool = False  # due, but too many others run
    started: float = 0.0
    took_s: float | None = None
    task: asyncio.Task[None] | None = None


class ProbeScheduler:
    """Runs probes when they are due: none twice at a time, and at most `at_once` of all (0: no limit)."""

    def __init__(self, at_once: int = 0) -> None:
        self._at_once = at_once
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heap: list[tuple[float, int, ScheduledProbe]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._queue: deque[ScheduledProbe] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._before_start: list[tuple[ScheduledProbe, float]] = []

    @property
    def now(self) -> float:
        """The loop's clock."""
        return self._loop.time() if self._loop else 0.0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run probes from now on."""
        self._loop = loop
        for scheduled, delay in self._before_start:
            self.schedule(scheduled, delay)
        self._before_start.clear()

    def schedule(self, scheduled: ScheduledProbe, delay_s: float) -> None:
        """Set the next probe, replacing an earlier setting. A probe that runs or is queued is left alone."""
        if self._loop is None:
            self._before_start.append((scheduled, delay_s))
            return
        if scheduled.paused or scheduled.queued or scheduled.task is not None or delay_s == NEVER:
            return
        scheduled.due = self._loop.time() + delay_s
        heapq.heappush(self._heap, (scheduled.due, next(self._order), scheduled))
        self._set_timer()

    def remove(self, scheduled: ScheduledProbe) -> None:
        """Cancel a probe that runs, and start no more."""
        self.pause(scheduled)
        if scheduled.task is not None:
            scheduled.task.cancel()
            scheduled.task = None

    def pause(self, scheduled: ScheduledProbe) -> None:
        """Start no probes until `resume`. The outcome of one that runs counts."""
        scheduled.paused = True
        scheduled.due = NEVER

    def resume(self, scheduled: ScheduledProbe, delay_s: float) -> None:
        """Start probes again, the first after `delay_s`."""
        scheduled.paused = False
        self.schedule(scheduled, delay_s)

    def stop(self) -> None:
        """Cancel all probes, and start no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at, self._loop = None, NEVER, None
        self._heap.clear()
        self._queue.clear()
        for task in self._running:
            task.cancel()

    async def close(self) -> None:
        """Stop, and wait until the cancelled probes have closed their sockets and processes."""
        self.stop()
        if self._running:
            await asyncio.wait(set(self._running))

    def _set_timer(self) -> None:
        due = self._heap[0][0] if self._heap else NEVER
        if due >= self._timer_at or self._loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due, self._start_due)

    def _start_due(self) -> None:
        assert self._loop is not None
        self._timer, self._timer_at = None, NEVER
        now = self._loop.time()
        started = 0
        while self._heap and self._heap[0][0] <= now and started < BATCH:
            due, _, scheduled = heapq.heappop(self._heap)
            if scheduled.due != due:
                continue  # rescheduled, paused or removed since
            scheduled.due = NEVER
            if self._at_once and len(self._running) >= self._at_once:
                scheduled.queued = True
                self._queue.append(scheduled)
            else:
                self._launch(scheduled)
                started += 1
        self._set_timer()

    def _launch(self, scheduled: ScheduledProbe) -> None:
        assert self._loop is not None
        scheduled.started = self._loop.time()
        scheduled.task = self._loop.create_task(self._run(scheduled))
        self._running.add(scheduled.task)
        scheduled.task.add_done_callback(self._ended)

    async def _run(self, scheduled: ScheduledProbe) -> None:
        task = scheduled.task
        assert task is not None
        outcome = await _outcome_of(scheduled.probe, task)
        if scheduled.task is not task or self._loop is None:
            return  # removed
        scheduled.task = None
        scheduled.took_s = self._loop.time() - scheduled.started
        try:
            delay_s = scheduled.on_outcome(outcome)
        except Exception:  # losing an outcome is better than a check that ends: nothing would notice that
            log.exception("an outcome could not be applied; the check continues")
            delay_s = AFTER_FAILURE_S
        self.schedule(scheduled, delay_s)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Start queued probes. As a callback this also runs for a task that was cancelled before it began."""
        self._running.discard(task)
        while self._queue and self._loop is not None and len(self._running) < self._at_once:
            scheduled = self._queue.popleft()
            scheduled.queued = False
            if not scheduled.paused:
                self._launch(scheduled)


async def _outcome_of(probe: Probe, task: asyncio.Task[None]) -> Outcome:
    """Run a probe. What it raises is inconclusive, except the cancellation of its task."""
    try:
        return await probe()
    except asyncio.CancelledError:
        if task.cancelling():
            raise
        return Outcome(False, "the check was cancelled on this machine", inconclusive=True)
    except Exception as error:
        log.exception("a checker raised an exception instead of returning an outcome")
        return Outcome(False, f"the checker failed: {type(error).__name__}: {error}", inconclusive=True)
