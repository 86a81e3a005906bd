"""When each probe runs: one heap of due times, one timer of the event loop, one task a probe while it runs.

Only the loop's clock counts, which is monotonic: setting the machine's clock changes nothing here.
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

BATCH = 256  # probes started before others of the loop have their turn
NEVER = float("inf")
AFTER_FAILURE_S = 1.0  # until the next probe, where the last outcome could not be applied

log = logging.getLogger(__name__)


def descriptor_limit() -> int:
    """How many probes may run at a time so that a quarter of this process's file descriptors is left for the rest.

    A wave of checks that hang waits for its turn then; without descriptors no check could be made. 0: any number.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if most == resource.RLIM_INFINITY else max(most * 3 // 4, 1)


class ScheduledProbe:
    """A probe's place in the timetable; `done` is told each outcome and answers with the seconds until the next."""

    __slots__ = ("done", "due", "paused", "probe", "started", "task", "took_s", "waiting")

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.done: Callable[[Outcome], float] = lambda outcome: NEVER
        self.due = NEVER  # by the loop's clock
        self.paused = False
        self.waiting = False  # due, but too many others run
        self.started = 0.0
        self.took_s: float | None = None
        self.task: asyncio.Task[None] | None = None


class ProbeScheduler:
    """Runs probes when they are due: of one slot never two at once, of all at most `at_once` (0: any number)."""

    def __init__(self, at_once: int = 0) -> None:
        self._at_once = at_once
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heap: list[tuple[float, int, ScheduledProbe]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = NEVER
        self._waiting: deque[ScheduledProbe] = deque()  # due, but too many run
        self._running: set[asyncio.Task[None]] = set()
        self._before_start: list[tuple[ScheduledProbe, float]] = []

    @property
    def now(self) -> float:
        """The loop's clock."""
        return self._loop.time() if self._loop else 0.0

    @property
    def running(self) -> int:
        """Probes that run now."""
        return len(self._running)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """From here on probes run."""
        self._loop = loop
        for slot, delay in self._before_start:
            self.put(slot, delay)
        self._before_start.clear()

    def put(self, slot: ScheduledProbe, delay_s: float) -> None:
        """The slot's next probe is in so many seconds, whatever was said before; one that runs, or is due, goes on."""
        if self._loop is None:
            self._before_start.append((slot, delay_s))
            return
        if slot.paused or slot.waiting or slot.task is not None or delay_s == NEVER:
            return
        slot.due = self._loop.time() + delay_s
        heapq.heappush(self._heap, (slot.due, next(self._order), slot))
        self._arm()

    def remove(self, slot: ScheduledProbe) -> None:
        """No more probes; one that runs is cancelled and its outcome is nobody's."""
        self.pause(slot)
        if slot.task is not None:
            slot.task.cancel()
            slot.task = None

    def pause(self, slot: ScheduledProbe) -> None:
        """No more probes until `resume`; one that runs goes on, and its outcome counts."""
        slot.paused = True
        slot.due = NEVER

    def resume(self, slot: ScheduledProbe, delay_s: float) -> None:
        """Probes again, the first in so many seconds."""
        slot.paused = False
        self.put(slot, delay_s)

    def stop(self) -> None:
        """Nothing runs any more; tasks that ran are cancelled."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at, self._loop = None, NEVER, None
        self._heap.clear()
        self._waiting.clear()
        for task in self._running:
            task.cancel()

    async def close(self) -> None:
        """`stop`, and wait until the cancelled probes have put away what they held."""
        self.stop()
        if self._running:
            await asyncio.wait(set(self._running))

    def _arm(self) -> None:
        """One timer, for the earliest."""
        due = self._heap[0][0] if self._heap else NEVER
        if due >= self._timer_at or self._loop is None:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due, self._tick)

    def _tick(self) -> None:
        """Start what is due."""
        assert self._loop is not None
        self._timer, self._timer_at = None, NEVER
        now = self._loop.time()
        started = 0
        while self._heap and self._heap[0][0] <= now and started < BATCH:
            due, _, slot = heapq.heappop(self._heap)
            if slot.due != due:
                continue  # moved, paused or removed since
            slot.due = NEVER
            if self._at_once and len(self._running) >= self._at_once:
                slot.waiting = True
                self._waiting.append(slot)
            else:
                self._launch(slot)
                started += 1
        self._arm()

    def _launch(self, slot: ScheduledProbe) -> None:
        assert self._loop is not None
        slot.started = self._loop.time()
        slot.task = self._loop.create_task(self._run(slot))
        self._running.add(slot.task)
        slot.task.add_done_callback(self._ended)

    async def _run(self, slot: ScheduledProbe) -> None:
        task = slot.task
        assert task is not None
        try:
            outcome = await slot.probe()
        except asyncio.CancelledError:
            if task.cancelling():
                raise
            outcome = Outcome(False, "the check was broken off on this machine", inconclusive=True)
        except Exception as error:
            log.exception("a checker raised what it should have answered")
            outcome = Outcome(False, f"the checker failed: {type(error).__name__}: {error}", inconclusive=True)
        if slot.task is not task or self._loop is None:
            return  # removed meanwhile
        slot.task = None
        slot.took_s = self._loop.time() - slot.started
        try:
            delay_s = slot.done(outcome)
        except Exception:  # a check that ends is worse than an outcome that is lost: nothing would notice
            log.exception("an outcome could not be applied; the check goes on")
            delay_s = AFTER_FAILURE_S
        self.put(slot, delay_s)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A place is free; this is told of tasks that were cancelled before they began, too."""
        self._running.discard(task)
        while self._waiting and self._loop is not None and len(self._running) < self._at_once:
            slot = self._waiting.popleft()
            slot.waiting = False
            if not slot.paused:
                self._launch(slot)
