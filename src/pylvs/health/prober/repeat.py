"""Repeat probes in the prober process while their outcome stays good: almost all probes are such repetitions.

The daemon gets a count of them each second. Probes begin on a grid of 1/128 s, so that one run of the event loop begins
several. A probe that only connects needs no task, timer and registration of asyncio: connections share a descriptor of
epoll(7), and a queue of deadlines.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import math
import select
import socket
from collections import deque
from collections.abc import Callable
from itertools import count

from pylvs.health.checkers.deadline import loop_share
from pylvs.health.checkers.sockets import Endpoint
from pylvs.health.probes import Outcome, Probe, ProbeFailed
from pylvs.model.dataclass import dataclass
from pylvs.system.processes.channel import Message

PlainConnection = tuple[Endpoint, float]  # and its timeout
CONNECTED = Outcome(True, "connected")
REPORT_S = 1.0
_GRID = 128  # a second; a power of two, so that times are exact
_MOST_AT_ONCE = 256  # probes begun, connections finished in one run of the event loop
_MOST_IN_PACKET = 50  # reports; each has less than 2 KB


@dataclass(slots=True, eq=False)
class Repeated:
    """One repeated probe."""

    run: int
    probe: Probe
    plain: PlainConnection | None  # if it only connects
    every_s: float
    good: int = 0  # outcomes since the last report
    took_s: float = 0.0
    reason: str = ""
    reported_reason: str = ""
    cancelled: bool = False
    task: asyncio.Task[None] | None = None


@dataclass(slots=True, eq=False)
class Connecting:
    """One connection that is being made."""

    repeated: Repeated
    sock: socket.socket
    begun: float
    lost_s: float  # of the event loop, when it began
    open: bool = True


class Repeater:
    """All repeated probes. `on_end` gets each run that ended with another outcome, or with an exception."""

    def __init__(
        self, on_end: Callable[[int, Outcome | Exception, float], None], send: Callable[[Message], bool]
    ) -> None:
        self._on_end = on_end
        self._send = send
        self._runs: dict[int, Repeated] = {}
        self._heap: list[tuple[float, int, Repeated]] = []
        self._order = count()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._same: dict[Repeated, None] = {}  # to be reported
        self._epoll = select.epoll()
        self._connecting: dict[int, Connecting] = {}  # by descriptor
        self._deadlines: dict[float, deque[Connecting]] = {}  # by timeout: each in the order of its deadlines

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run in this event loop."""
        self._loop = loop
        self._clock = loop.time
        self._share = loop_share()
        loop.add_reader(self._epoll.fileno(), self._connected)
        loop.call_later(REPORT_S, self._report)

    def add(self, run: int, probe: Probe, plain: PlainConnection | None, every_s: float) -> None:
        """Repeat a probe, the first time after `every_s`."""
        repeated = self._runs[run] = Repeated(run, probe, plain, every_s)
        self._schedule(repeated)

    def cancel(self, run: int) -> None:
        """Repeat it no more; one that runs ends."""
        repeated = self._runs.pop(run, None)
        if repeated is not None:
            repeated.cancelled = True
            self._same.pop(repeated, None)
            if repeated.task is not None:
                repeated.task.cancel()

    def _schedule(self, repeated: Repeated) -> None:
        due = math.ceil((self._clock() + repeated.every_s) * _GRID) / _GRID
        heapq.heappush(self._heap, (due, next(self._order), repeated))
        if due < self._timer_at:
            self._set_timer(due)

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at, self._timer = due, self._loop.call_at(due, self._begin_due)

    def _begin_due(self) -> None:
        self._timer, self._timer_at = None, math.inf
        now = self._clock()
        heap, begun = self._heap, 0
        while heap and heap[0][0] <= now and begun < _MOST_AT_ONCE:
            repeated = heapq.heappop(heap)[2]
            if repeated.cancelled:
                continue
            begun += 1
            if repeated.plain is None:
                repeated.task = self._loop.create_task(self._ask(repeated))
                continue
            try:
                self._connect(repeated, repeated.plain)
            except Exception as error:  # the others go on
                self._ended(repeated, error, 0.0)
        self._expire(now)
        if heap:
            self._set_timer(heap[0][0])

    async def _ask(self, repeated: Repeated) -> None:
        begin = self._clock()
        outcome: Outcome | Exception
        try:
            outcome = await repeated.probe()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            outcome = error
        repeated.task = None
        self._ended(repeated, outcome, self._clock() - begin)

    def _ended(self, repeated: Repeated, outcome: Outcome | Exception, took_s: float) -> None:
        if repeated.cancelled:
            return
        if isinstance(outcome, Outcome) and outcome.ok and not outcome.inconclusive and outcome.weight is None:
            repeated.good += 1
            repeated.took_s, repeated.reason = took_s, outcome.reason
            self._same[repeated] = None
            self._schedule(repeated)
            return
        self.cancel(repeated.run)
        self._on_end(repeated.run, outcome, took_s)

    def _connect(self, repeated: Repeated, plain: PlainConnection) -> None:
        endpoint, timeout_s = plain
        begun = self._clock()
        try:
            sock = endpoint.unconnected(socket.SOCK_STREAM)
        except ProbeFailed as error:
            self._ended(repeated, Outcome(False, str(error), inconclusive=error.inconclusive), 0.0)
            return
        connecting = Connecting(repeated, sock, begun, self._share.lost_s(begun))
        try:
            if endpoint.begin(sock):
                self._finish(connecting, CONNECTED)
                return
            number = sock.fileno()
            self._epoll.register(number, select.EPOLLOUT | select.EPOLLONESHOT)
        except ProbeFailed as error:
            self._finish(connecting, Outcome(False, str(error), inconclusive=error.inconclusive))
            return
        self._connecting[number] = connecting
        waiting = self._deadlines.get(timeout_s)
        if waiting is None:
            waiting = self._deadlines[timeout_s] = deque()
            self._loop.call_later(timeout_s, self._watch, timeout_s)
        waiting.append(connecting)

    def _connected(self) -> None:
        for number, _ in self._epoll.poll(0, _MOST_AT_ONCE):
            connecting = self._connecting.pop(number, None)
            if connecting is not None:
                assert connecting.repeated.plain is not None
                try:
                    connecting.repeated.plain[0].finish(connecting.sock)
                except ProbeFailed as error:
                    self._finish(connecting, Outcome(False, str(error), inconclusive=error.inconclusive))
                except Exception as error:  # the others go on
                    self._finish(connecting, error)
                else:
                    self._finish(connecting, CONNECTED)

    def _finish(self, connecting: Connecting, outcome: Outcome | Exception) -> None:
        connecting.open = False
        connecting.sock.close()  # this also ends its registration
        self._ended(connecting.repeated, outcome, self._clock() - connecting.begun)

    def _watch(self, timeout_s: float) -> None:
        """Look for connections of this timeout that are too late, until none is being made."""
        now = self._clock()
        self._expire(now)
        waiting = self._deadlines[timeout_s]
        if waiting:
            first = waiting[0]
            due = first.begun + timeout_s + self._share.lost_s(now) - first.lost_s
            self._loop.call_at(max(due, now + 1 / _GRID), self._watch, timeout_s)
        else:
            del self._deadlines[timeout_s]

    def _expire(self, now: float) -> None:
        """End connections at their timeout; time in which the process did not run does not count."""
        lost_s = self._share.lost_s(now)
        for timeout_s, waiting in self._deadlines.items():
            while waiting and (not waiting[0].open or waiting[0].begun + timeout_s + lost_s - waiting[0].lost_s <= now):
                connecting = waiting.popleft()
                if connecting.open and not self._has_connected(connecting):
                    self._finish(connecting, Outcome(False, f"timed out after {timeout_s:g} s"))

    def _has_connected(self, connecting: Connecting) -> bool:
        """Look at the socket once more: the event loop may have been late."""
        poll = select.poll()
        number = connecting.sock.fileno()
        poll.register(number, select.POLLOUT)
        if not poll.poll(0):
            self._connecting.pop(number, None)
            return False
        return True  # `_connected` comes to it

    def _report(self) -> None:
        """Send the counts of the last second."""
        waiting, self._same = list(self._same), {}
        for first in range(0, len(waiting), _MOST_IN_PACKET):
            entries = []
            for result in waiting[first : first + _MOST_IN_PACKET]:
                reason = None if result.reason == result.reported_reason else result.reason
                entries.append([result.run, result.good, int(result.took_s * 1e6), reason])
            if not self._send({"same": entries}):  # the daemon is late
                self._same |= dict.fromkeys(waiting[first:])
                break
            for each in waiting[first : first + _MOST_IN_PACKET]:
                each.good, each.reported_reason = 0, each.reason
        with contextlib.suppress(RuntimeError):  # the loop is being closed
            self._loop.call_later(REPORT_S, self._report)
