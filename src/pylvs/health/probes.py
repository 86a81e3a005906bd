"""Probes of checks: a checker makes each from its check, the scheduler runs it when it is due, an outcome ends it.

Due times use the loop's monotonic clock, so setting the wall clock changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import heapq
import importlib
import logging
import os
import resource
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, cast

from pylvs.model import checks
from pylvs.model.dataclass import dataclass
from pylvs.system.processes import shortage

if TYPE_CHECKING:
    from pylvs.health.sessions import SessionTable
    from pylvs.system.processes.scripts import Processes

log = logging.getLogger(__name__)

BATCH = 256  # probes started in one run of the event loop
NEVER = float("inf")
AFTER_FAILURE_S = 1.0  # until the next probe if `on_outcome` raised

TLS = "pylvs.health.checkers.tls"
MAX_REASON = 300  # characters of a reason; a longer one is cut
_MAX_QUOTE = 60
_ESCAPES = {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}

_ERRNO_TEXTS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.ECONNABORTED: "connection aborted",
    errno.EPIPE: "connection closed by the server",
    errno.EHOSTUNREACH: "no route to host",
    errno.EHOSTDOWN: "host is down",
    errno.ENETUNREACH: "network unreachable",
    errno.ENETDOWN: "network is down",
    errno.ETIMEDOUT: "timed out",
    errno.EADDRINUSE: "the source port is taken",
    errno.EADDRNOTAVAIL: "the source address is not on this machine",
    errno.EACCES: "refused by this machine's routes or firewall",  # prohibit routes, netfilter's ICMP prohibited
    errno.EPERM: "refused by this machine's firewall, or without the privilege",
    errno.ENODEV: "no such device",
    errno.EMSGSIZE: "message too long",
    errno.EINVAL: "the address cannot be connected to",
}

# This host ran out of a resource: inconclusive.
_LOCAL_ERRNO_TEXTS = {**shortage.TEXTS, errno.EAGAIN: "no resources on this machine"}

# Errors of connect(2) about the network or the peer, as in keepalived. After any other this host cannot make the check.
_PEER_ERRNOS = frozenset(
    {
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.ETIMEDOUT,
    }
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Good or failed, the reason, and a weight if the check sets one.

    `weight` replaces the configured weight until the next outcome; None keeps the configured weight. `ok` with weight 0
    drains the server. `inconclusive`: this host could not make the check (no descriptors, no memory, no such source
    address or device), so the server keeps its state.
    """

    ok: bool
    reason: str
    weight: int | None = None
    inconclusive: bool = False


# Made once from a `model.checks.Check`, called for each probe. It returns within the check's timeout; each of several
# pages or hosts has a timeout of its own. It raises only CancelledError, and leaves no socket or process behind.
Probe = Callable[[], Awaitable[Outcome]]


class RepeatingProbe(Protocol):
    """A probe that another process repeats while its outcome stays the same."""

    async def __call__(self) -> Outcome: ...

    def repeat(
        self,
        every_s: float,
        on_same: Callable[[int, float, str], None],
        on_end: Callable[[Outcome | None, float], None],
    ) -> Callable[[], None] | None:
        """Repeat it after each such time, beginning that long from now; return what cancels that.

        None: it cannot be repeated now. `on_same` gets the number of good outcomes without a weight since the last
        call, the seconds that the last one took, and its reason. `on_end` gets another outcome and its seconds, once;
        None if the process has ended.
        """


class StatefulProbe(Protocol):
    """A probe that remembers something between its calls."""

    async def __call__(self) -> Outcome: ...

    def save(self) -> str:
        """Return what it remembers, as short JSON."""

    def restore(self, saved: str) -> None:
        """Continue from what an earlier probe of the same check remembered. Raises ValueError, TypeError, KeyError."""


def constant_probe(outcome: Outcome) -> Probe:
    """Return a probe for a check that cannot be made."""

    async def ask() -> Outcome:
        return outcome

    return ask


class ProbeFailed(Exception):
    """Ends a probe; `inconclusive` as in `Outcome`."""

    def __init__(self, reason: str, inconclusive: bool = False) -> None:
        super().__init__(reason)
        self.inconclusive = inconclusive


class NoSocket(ProbeFailed):
    """A socket could not be made; `code` is the errno."""

    def __init__(self, code: int) -> None:
        super().__init__(errno_text(code), inconclusive=True)
        self.code = code


def is_shortage(code: int) -> bool:
    """Return whether an errno means that this host ran out of a resource."""
    return code in _LOCAL_ERRNO_TEXTS


def is_local(code: int) -> bool:
    """Return whether an errno of connect(2) means that this host cannot make the check."""
    return code not in _PEER_ERRNOS


def errno_text(code: int) -> str:
    """Return a short text for an errno."""
    text = _ERRNO_TEXTS.get(code) or _LOCAL_ERRNO_TEXTS.get(code) or os.strerror(code)
    return text[:1].lower() + text[1:]


def errno_failure(code: int, where: str = "") -> ProbeFailed:
    """Return the failure for an errno; `where` is appended ("while sending")."""
    return ProbeFailed(f"{errno_text(code)} {where}".rstrip(), is_shortage(code))


def local_failure(code: int, where: str = "") -> ProbeFailed:
    """Return the failure for an errno of a call that this host refused before it sent anything: inconclusive."""
    return ProbeFailed(f"{errno_text(code)} {where}".rstrip(), inconclusive=True)


def quoted(data: bytes) -> str:
    """Quote received bytes for one log line: short, printable ASCII, without terminal escapes."""
    signs = (chr(each) if 32 <= each < 127 else _ESCAPES.get(each, f"\\x{each:02x}") for each in data[:_MAX_QUOTE])
    text = "".join(signs)
    return f"'{text}…'" if len(data) > _MAX_QUOTE else f"'{text}'"


@dataclass(frozen=True, slots=True)
class CheckContext:
    """The settings of the server and service for a checker, the script runner, and the BFD sessions."""

    weight: int = 1  # the real server's; the base of relative weights ("75%", "5 more")
    virtualhost: str = ""  # the real server's, else the service's; the check's own takes precedence
    processes: Processes | None = None  # None: scripts are not run
    sessions: SessionTable | None = None


def probe_of(check: checks.Check, context: CheckContext) -> Probe:
    """Return the probe of a check, made by `probe` of its checker's module. ProbeFailed becomes a failed outcome."""
    return guarded(checker_of(check, context))


def checker_of(check: checks.Check, context: CheckContext) -> Probe:
    """Return the checker's own probe, which also raises ProbeFailed."""
    return cast("Callable[[checks.Check, CheckContext], Probe]", _module(type(check)).probe)(check, context)


def _module(kind: type[checks.Check]) -> Any:
    """Import the module of a kind of checks; most processes need few."""
    return importlib.import_module(f"pylvs.health.checkers.{kind.words[0].partition('_')[0].lower()}")


def libraries_of(check: checks.Check) -> set[str]:
    """Return the large modules that the probe of a check needs. It imports them late, from files."""
    found = set(check.libraries)
    if isinstance(check, checks.HttpCheck | checks.LoadCheck) and check.tls:
        found.add(TLS)
    if isinstance(check, checks.HttpCheck) and any(url.digest for url in check.urls):
        found.add("hashlib")
    return found


def import_checkers(libraries: Collection[str]) -> None:
    """Import these, and all checkers that need no other ones.

    Later the process may not be able to, or another version may be installed.
    """
    for name in libraries:
        with contextlib.suppress(Exception):  # another program's may be broken: the probe reports it
            importlib.import_module(name)
    for kind in checks.KINDS.values():
        if set(kind.libraries) <= set(libraries):
            _module(kind)


def guarded(ask: Probe) -> Probe:
    """Return a probe that raises no ProbeFailed, and whose reason is short: servers and programs choose its text."""

    async def probe() -> Outcome:
        try:
            outcome = await ask()
        except ProbeFailed as error:
            outcome = Outcome(False, str(error), inconclusive=error.inconclusive)
        if len(outcome.reason) > MAX_REASON:
            return Outcome(outcome.ok, f"{outcome.reason[: MAX_REASON - 1]}…", outcome.weight, outcome.inconclusive)
        return outcome

    return probe


def descriptor_limit() -> int:
    """Return how many probes may run if a quarter of this process's descriptors must stay free; 0 for no limit.

    If many checks hang, further ones wait. Without a descriptor a check could not be made at all.
    """
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if most == resource.RLIM_INFINITY else max(most * 3 // 4, 1)


@dataclass(slots=True, eq=False)
class ScheduledProbe:
    """A probe in the schedule. `on_outcome` gets each outcome and returns the seconds until the next probe.

    These count from the end of the probe; with `from_start` from its start.
    """

    probe: Probe
    on_outcome: Callable[[Outcome], float] = lambda outcome: NEVER
    # Whether further outcomes like this one change nothing; `on_same` counts them, and gets the last one's reason.
    is_steady: Callable[[Outcome], bool] = lambda outcome: False
    on_same: Callable[[int, str], None] = lambda count, reason: None
    from_start: bool = False
    due: float = NEVER
    paused: bool = False
    queued: bool = False  # due, but too many others run
    started: float = 0.0
    took_s: float | None = None
    task: asyncio.Task[None] | None = None
    end_repetition: Callable[[], None] | None = None  # while another process repeats it


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
        self._repeating: set[ScheduledProbe] = set()

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
        """Set the next probe, replacing an earlier setting. A probe that runs or is queued stays."""
        if self._loop is None:
            self._before_start.append((scheduled, delay_s))
            return
        if scheduled.paused or scheduled.queued or scheduled.task is not None or delay_s == NEVER:
            return
        self._end_repetition(scheduled)
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
        """Start no probes until `resume`. The outcome of one that runs counts, unless another process repeats it."""
        self._end_repetition(scheduled)
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
        for scheduled in list(self._repeating):
            self._end_repetition(scheduled)
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
        self._apply(scheduled, outcome, self._loop.time() - scheduled.started)

    def _apply(self, scheduled: ScheduledProbe, outcome: Outcome, took_s: float) -> None:
        scheduled.took_s = took_s
        try:
            delay_s = scheduled.on_outcome(outcome)
            if scheduled.from_start:
                delay_s = max(delay_s - took_s, 0.0)
        except Exception:  # losing an outcome is better than a check that ends: nothing would notice that
            log.exception("an outcome could not be applied; the check continues")
            delay_s = AFTER_FAILURE_S
        if not self._repeat(scheduled, outcome, delay_s):
            self.schedule(scheduled, delay_s)

    def _repeat(self, scheduled: ScheduledProbe, outcome: Outcome, delay_s: float) -> bool:
        """Let another process repeat a probe whose further outcomes change nothing; return whether it does."""
        repeat = getattr(scheduled.probe, "repeat", None)
        if repeat is None or self._loop is None or scheduled.paused or not scheduled.is_steady(outcome):
            return False
        probe = cast("RepeatingProbe", scheduled.probe)
        on_same, on_end = partial(self._repeated, scheduled, delay_s), partial(self._repetition_ended, scheduled)
        scheduled.end_repetition = probe.repeat(delay_s, on_same, on_end)
        if scheduled.end_repetition is None:
            return False
        self._repeating.add(scheduled)
        scheduled.due = self._loop.time() + delay_s
        return True

    def _repeated(self, scheduled: ScheduledProbe, delay_s: float, count: int, took_s: float, reason: str) -> None:
        if self._loop is not None:
            scheduled.took_s, scheduled.due = took_s, self._loop.time() + delay_s
            scheduled.on_same(count, reason)

    def _repetition_ended(self, scheduled: ScheduledProbe, outcome: Outcome | None, took_s: float) -> None:
        self._repeating.discard(scheduled)
        scheduled.end_repetition = None
        if self._loop is None:
            return
        if outcome is not None:
            self._apply(scheduled, outcome, took_s)
        else:
            self.schedule(scheduled, max(scheduled.due - self._loop.time(), 0.0))

    def _end_repetition(self, scheduled: ScheduledProbe) -> None:
        end, scheduled.end_repetition = scheduled.end_repetition, None
        if end is not None:
            self._repeating.discard(scheduled)
            end()

    def probe_replaced(self, scheduled: ScheduledProbe) -> None:
        """Repeat the former probe no more; its time stays."""
        if scheduled.end_repetition is not None and self._loop is not None:
            self.schedule(scheduled, max(scheduled.due - self._loop.time(), 0.0))

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
