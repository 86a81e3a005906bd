"""Timeouts of probes, and how probes share one event loop.

A timeout counts the time in which this process ran. After SIGSTOP, or on a suspended or starved machine, each probe
gets the lost time back. A probe that works for longer than `SLICE_S` without waiting lets others continue.
Long work runs in a thread. It ends soon after its probe, because threads are few.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

from pylvs.health.probes import ProbeFailed, errno_failure
from pylvs.system import threads

SLICE_S = 0.002  # of work, then other probes continue
TICK_S = 0.25  # interval of the clock that notices lost time
LATE_S = 0.25  # a tick that is later lost this time

Result = TypeVar("Result")


class LoopShare:
    """How the probes of one event loop share it."""

    def __init__(self) -> None:
        self._lost_s = 0.0
        self._next_tick: float | None = None
        self._busy: deque[asyncio.Future[None]] = deque()

    def watch(self) -> None:
        """Measure the time in which the running event loop does not run, from now on."""
        if self._next_tick is None:
            self._next_tick = asyncio.get_running_loop().time()
            self._tick()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self.lost_s(loop.time())
        self._next_tick = loop.time() + TICK_S
        loop.call_at(self._next_tick, self._tick)

    def lost_s(self, now: float) -> float:
        """Return the seconds in which the loop did not run, since `watch`; 0 without it."""
        if self._next_tick is not None and now > self._next_tick + LATE_S:
            self._lost_s += now - self._next_tick
            self._next_tick = now + TICK_S
        return self._lost_s

    async def turn(self) -> None:
        """Let everything else that is ready run, and then one busy probe after the other, each in a run of its own."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._busy.append(future)
        if len(self._busy) == 1:
            loop.call_soon(self._next, loop)
        await future

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._busy and self._busy[0].done():  # its probe was cancelled
            self._busy.popleft()
        if self._busy:
            self._busy.popleft().set_result(None)
        if self._busy:
            loop.call_soon(self._next, loop)


_shares: WeakKeyDictionary[asyncio.AbstractEventLoop, LoopShare] = WeakKeyDictionary()


def loop_share() -> LoopShare:
    """Return that of the running event loop."""
    loop = asyncio.get_running_loop()
    share = _shares.get(loop)
    if share is None:
        share = _shares[loop] = LoopShare()
    return share


class Deadline:
    """The end of a probe's timeout, by the event loop's clock."""

    __slots__ = ("_lost_s", "_share", "at", "seconds")

    def __init__(self, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        self._share = loop_share()
        self._lost_s = self._share.lost_s(now)
        self.seconds = seconds
        self.at = now + seconds

    def passed(self, now: float) -> bool:
        """Return whether the timeout is over; time in which the process did not run moves its end."""
        if now < self.at:
            return False
        lost_s = self._share.lost_s(now)
        self.at += lost_s - self._lost_s
        self._lost_s = lost_s
        return now >= self.at

    def expired(self, where: str = "") -> ProbeFailed:
        """Return the failure of a probe that timed out; `where` describes what it waited for."""
        return ProbeFailed(f"timed out after {self.seconds:g} s {where}".rstrip())


async def in_thread(deadline: Deadline, work: Callable[[Callable[[], bool]], Result], where: str) -> Result:
    """Run `work` in a thread. Raises ProbeFailed at the deadline, and if no thread can be made.

    The failure is inconclusive if the work had no thread. `work` gets a function that returns whether its probe has
    ended. It calls this between its steps.
    """
    loop = asyncio.get_running_loop()
    if deadline.passed(loop.time()):
        raise deadline.expired(where)
    began, over = threading.Event(), threading.Event()

    def run() -> Result:
        began.set()
        return work(over.is_set)

    try:
        future = threads.start(run)
    except OSError:
        raise errno_failure(errno.EAGAIN, "for a thread") from None
    try:
        while not future.done():
            if deadline.passed(loop.time()):
                if began.is_set():
                    raise deadline.expired(where)
                raise ProbeFailed(
                    f"timed out after {deadline.seconds:g} s waiting for a free thread", inconclusive=True
                )
            await asyncio.wait([future], timeout=deadline.at - loop.time())
        return future.result()
    finally:
        over.set()
        future.cancel()  # a thread may not have begun
