"""Judge real servers by the handshakes of clients: a server that is up, but does not answer them.

The packet path counts handshakes of each destination (bpf/conntrack/handshake.h). A server is compared with the others
of its service. If all fail alike, the service is named, and no server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from math import exp, lgamma, log
from typing import Generic, TypeVar

from pylvs.model.dataclass import dataclass
from pylvs.model.rows import Handshakes

MINUTE_S = 60.0
RECENT_S = 8.0  # shows a change sooner, where there are enough handshakes
GRACE_S = 3.0  # a handshake counts as failed only then: a slow server may still answer
STEP_S = 5.0  # between the older counts that a history keeps
FORGOTTEN_S = 3600.0  # so long the counts of a server that is gone are known: it may come back, and continue
FEWEST = 5  # handshakes begun, of a server that is named
MOST_SHARE = 0.25  # of what the others complete: a server that completes more is not named
RECOVERED_SHARE = 0.5  # of what the others complete: then it is named no more
FAILED_SHARE = 0.5  # a service that completes more is not named
# The probability that a server which completes as much as the others is named.
SIGNIFICANCE = 5e-4

Name = TypeVar("Name", bound=Hashable)


NONE = Handshakes()


@dataclass(frozen=True, slots=True)
class Verdicts(Generic[Name]):
    """The servers of a service that complete far less than the others; `all_fail`: the service does as a whole."""

    low: Mapping[Name, str]  # with a text
    all_fail: str = ""


def verdicts(
    servers: Mapping[Name, Handshakes], most_share: float = MOST_SHARE, fewest: int = FEWEST
) -> Verdicts[Name]:
    """Compare the servers of one service by what they did in the same time.

    A server is low if it completes less than `most_share` of what the others do, and chance is no explanation. The
    others are all of them together, or the best one, which counts where most servers fail.
    """
    low = {}
    for name, own in servers.items():
        if own.begun < fewest or own.share >= most_share:
            continue
        others = [each for other, each in servers.items() if other != name and each.begun]
        if not others:
            continue
        total = sum(others, NONE)
        best = max(others, key=lambda each: (each.share, each.begun))
        for beside, limit in ((total, SIGNIFICANCE), (best, SIGNIFICANCE / len(others))):
            if own.share < most_share * beside.share and chance(own, beside) < limit:
                low[name] = f"completes {own}, others {beside.share:.0%}"
                break
    total = sum(servers.values(), NONE)
    fails = total.begun >= fewest and total.share < FAILED_SHARE
    if fails and not low and at_most(total, FAILED_SHARE) < SIGNIFICANCE:
        return Verdicts({}, f"completes {total}, all real servers alike")
    return Verdicts(low)


def has_recovered(name: Name, servers: Mapping[Name, Handshakes]) -> bool:
    """Return whether a server that was named completes enough, beside all others together."""
    own = servers.get(name, NONE)
    others = sum((each for other, each in servers.items() if other != name), NONE)
    return own.begun >= FEWEST and own.share >= RECOVERED_SHARE * others.share


def chance(own: Handshakes, others: Handshakes) -> float:
    """Return the probability that a server completes so few or fewer, if it is like the others.

    This is Fisher's exact test with one side: a hypergeometric distribution.
    """
    completed, begun = own.completed + others.completed, own.begun + others.begun
    certain = _log_choose(begun, own.begun)
    total = 0.0
    for count in range(own.completed, max(0, own.begun - (begun - completed)) - 1, -1):
        term = exp(_log_choose(completed, count) + _log_choose(begun - completed, own.begun - count) - certain)
        total += term
        if term <= total * 1e-6:  # the terms fall ever faster
            break
    return min(total, 1.0)


def at_most(found: Handshakes, share: float) -> float:
    """Return the probability that so few or fewer are completed, if the probability of each is `share`."""
    total = 0.0
    for count in range(found.completed, -1, -1):
        missing = found.begun - count
        term = exp(_log_choose(found.begun, count) + count * log(share) + missing * log(1 - share))
        total += term
        if term <= total * 1e-6 and count < share * found.begun:
            break
    return min(total, 1.0)


def _log_choose(of: int, count: int) -> float:
    return lgamma(of + 1) - lgamma(count + 1) - lgamma(of - count + 1)


@dataclass(slots=True, eq=False)
class _Minute:
    """The totals of one server over the last minute, oldest first; older ones in steps of STEP_S."""

    old: deque[tuple[float, Handshakes]]
    recent: deque[tuple[float, Handshakes]]  # from the last one before RECENT_S on

    def advance(self, now: float) -> None:
        recent, old = self.recent, self.old
        while len(recent) > 1 and recent[1][0] <= now - RECENT_S - GRACE_S:
            dropped = recent.popleft()
            if dropped[0] >= old[-1][0] + STEP_S:
                old.append(dropped)
        while len(old) > 1 and old[1][0] <= now - MINUTE_S - GRACE_S:
            old.popleft()

    def is_over(self, now: float) -> bool:
        return self.recent[-1][0] <= now - MINUTE_S - GRACE_S

    def within(self, now: float, window_s: float) -> Handshakes:
        """Return the handshakes begun up to GRACE_S ago. As completed count all since the first of these."""
        since, until = now - window_s - GRACE_S, now - GRACE_S
        first = self.old[0][1]
        if window_s <= RECENT_S:
            first = self.recent[0][1] if self.recent[0][0] <= since else self.old[-1][1]
        settled = next((total for at, total in reversed(self.recent) if at <= until), first)
        begun = settled.begun - first.begun
        return Handshakes(begun, min(self.recent[-1][1].completed - first.completed, begun))


@dataclass(frozen=True, slots=True)
class Shaken(Generic[Name]):
    """What servers did: in the last minute, in the last seconds, and since the start. Others did nothing."""

    minute: Mapping[Name, Handshakes]
    recent: Mapping[Name, Handshakes]
    totals: Mapping[Name, Handshakes]

    def suspects(self) -> Iterator[tuple[Name, Handshakes]]:
        """Yield what was not completed, by minute and by seconds; most servers are not there."""
        for window in (self.minute, self.recent):
            for name, handshakes in window.items():
                if handshakes.completed != handshakes.begun:
                    yield name, handshakes


class HandshakeHistory(Generic[Name]):
    """The counts of servers over the last minute. Servers without handshakes in it take no memory.

    The packet path's counts only grow, except when its tables are made again. Then a server begins anew.
    """

    def __init__(self) -> None:
        self.totals: dict[Name, Handshakes] = {}  # since the first update, over tables that were made again
        self._last: dict[Name, Handshakes] = {}  # as the packet path counted them
        self._gone: dict[Name, float] = {}  # since when servers of `_last` are not there
        self._minutes: dict[Name, _Minute] = {}
        self._at: float | None = None  # of the last update

    def update(self, counted: Mapping[Name, Handshakes], now: float) -> None:
        """Take the counts of all servers that have any; `now` is in seconds, and never falls."""
        for name, found in counted.items():
            last = self._last.get(name)
            if found == last or self._at is None:
                continue  # when the handshakes before the first update were, is not known
            before = last or NONE
            if found.begun < before.begun or found.completed < before.completed:
                before = NONE
            total = self.totals.get(name, NONE)
            minute = self._minutes.get(name)
            if minute is None:
                minute = self._minutes[name] = _Minute(deque([(self._at, total)]), deque())
            total += Handshakes(found.begun - before.begun, found.completed - before.completed)
            self.totals[name] = total
            minute.recent.append((now, total))
        self._keep(counted, now)
        self._at = now
        for name in self.totals.keys() - counted.keys():  # gone from the table
            del self.totals[name]
            self._minutes.pop(name, None)
        for minute in self._minutes.values():
            minute.advance(now)
        for name in [name for name, minute in self._minutes.items() if minute.is_over(now)]:
            del self._minutes[name]

    def _keep(self, counted: Mapping[Name, Handshakes], now: float) -> None:
        """Note the counts of servers, and forget those that were gone for long."""
        self._last |= counted
        for name in self._gone.keys() & counted.keys():
            del self._gone[name]
        for name in self._last.keys() - counted.keys():
            if now - self._gone.setdefault(name, now) >= FORGOTTEN_S:
                del self._last[name], self._gone[name]

    def forget(self, names: Iterable[Name]) -> None:
        """Let the last minute of these servers begin now."""
        for name in names:
            self._minutes.pop(name, None)

    def shaken(self, now: float) -> Shaken[Name]:
        """Return what the servers did that had handshakes in the last minute, as of the latest update.

        Those begun in the last seconds are left out, unless they are completed.
        """
        minute = {name: each.within(now, MINUTE_S) for name, each in self._minutes.items()}
        recent = {name: each.within(now, RECENT_S) for name, each in self._minutes.items()}
        return Shaken(minute, {name: each for name, each in recent.items() if each.begun}, self.totals)
