"""One server of one service: whether it is up, with which weight, and what the operator says about that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from pylvs.health.events import (
    NO_OVERRIDE,
    CheckFailed,
    CheckInconclusive,
    CheckRecovered,
    Event,
    Override,
    ServerDown,
    ServerUp,
    Standing,
    WeightChanged,
)
from pylvs.health.outcome import Outcome
from pylvs.health.probe_scheduler import ScheduledProbe
from pylvs.model.addresses import Address
from pylvs.model.checks import AgentCheck, Check, FileCheck, HttpCheck, LoadCheck, MiscCheck
from pylvs.model.dataclass import dataclass, field
from pylvs.model.destination import MAX_WEIGHT, Destination, DestinationKey
from pylvs.model.wanted import WantedServer

# --- check state -----------------------------------------------------------------------------------------------------
# What is known of one check: its outcomes in a row, and whether it counts as good.


if TYPE_CHECKING:
    pass

SharedKey = tuple[Address, Check, int]  # server, check, and the server's weight where the check's outcome depends on it


def sets_weight(check: Check) -> bool:
    """Whether outcomes of this check may bring a weight."""
    return isinstance(check, AgentCheck | FileCheck | LoadCheck) or (isinstance(check, MiscCheck) and check.dynamic)


def successes_to_recover(check: Check, failed: bool) -> int:
    """Good probes in a row that make a check good that has not begun so; `failed`: it was good, or unknown, before.

    One, except for HTTP: keepalived 2.2.7 asks one page a delay_loop until it has seen all of them, and after a failure
    the first it asks comes again. With fast_recovery it asks them all at once.
    """
    return len(check.urls) + failed if isinstance(check, HttpCheck) and not check.fast_recovery else 1


@dataclass(slots=True, eq=False)
class CheckState:
    """One check with its place in the timetable, and the servers that it speaks for (several when shared)."""

    check: Check
    slot: ScheduledProbe
    shared_key: SharedKey | None = None
    servers: dict[ServerState, None] = field(default_factory=dict)  # a set that keeps the order
    first_counts: bool = True  # the first probe of all needs no retries to be believed, as in keepalived
    good: bool | None = None  # None: nothing that counts is known yet
    failures: int = 0  # in a row
    successes: int = 0
    weight: int | None = None
    reason: str = ""
    checked_at: float | None = None
    inconclusive: bool = False  # the last outcome says nothing
    probes: int = 0
    failed_probes: int = 0

    def delay_after(self, outcome: Outcome, at: float) -> float:
        """Take the outcome in; the seconds until the next probe."""
        pace = self.check.pace
        self.probes += 1
        self.checked_at = at
        self.reason = outcome.reason
        self.inconclusive = outcome.inconclusive
        if outcome.inconclusive:
            return pace.delay_loop_s
        if outcome.ok:
            self.failures = 0
            self.successes += 1
            presumed = self.good is None and not pace.alpha
            if presumed or self.successes >= successes_to_recover(self.check, self.good is False):
                self.good = True
            if self.good:
                self.weight = outcome.weight
            return pace.delay_loop_s
        self.failed_probes += 1
        self.successes = 0
        self.failures += 1
        if self.good is False:
            return pace.delay_loop_s
        if self.failures > pace.retry or (self.good is None and self.first_counts):
            self.good = False
            self.weight = None  # a weight that a failed check once set must not outlive it
            return pace.delay_loop_s
        return pace.delay_before_retry_s


# --- servers ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class CheckLink:
    """A check as this server sees it: until its first outcome counts, what the server `presumed` holds."""

    state: CheckState
    presumed: bool

    @property
    def good(self) -> bool:
        """Whether the check speaks for the server."""
        return self.presumed if self.state.good is None else self.state.good


class ServerState:
    """A server's state; everything that follows from it is a function of it."""

    __slots__ = (
        "announced",
        "counted_weight",
        "held_weight",
        "links",
        "override",
        "reason",
        "service",
        "shown",
        "since",
        "told_weight",
        "up",
        "wanted",
    )

    def __init__(self, service: str, wanted: WantedServer, at: float) -> None:
        self.service = service
        self.wanted = wanted
        self.links: list[CheckLink] = []
        self.override: Override = NO_OVERRIDE
        self.up = True
        self.announced = False  # whether somebody was told of its first state, or need not be
        self.since = at
        self.reason = "not checked yet"
        self.told_weight = wanted.destination.weight  # by the last event that named it
        self.counted_weight = 0  # in the service's sum
        self.shown: Destination | None = None  # its place in the service's rows
        self.held_weight: int | None = None  # a dynamic weight from before, until the checks that set one have spoken

    @property
    def key(self) -> DestinationKey:
        """What names it within the service."""
        return self.wanted.destination.key

    @property
    def name(self) -> tuple[str, DestinationKey]:
        """What names it in the whole configuration."""
        return self.service, self.key

    @property
    def checked(self) -> bool:
        """Whether every check has had an outcome that counts."""
        return all(link.state.good is not None for link in self.links)

    def judge(self) -> bool:
        """What the checks come to: up when none speaks against it."""
        return all(link.good for link in self.links)

    def health_weight(self) -> int:
        """The weight by configuration and checks.

        Each check that sets one moves it by its difference to the configured one: of a single check that is what it
        says.
        """
        configured = self.wanted.destination.weight
        if self.held_weight is not None and self._weights_unknown():
            return self.held_weight
        moved = sum(link.state.weight - configured for link in self.links if link.state.weight is not None)
        return min(max(configured + moved, 0), MAX_WEIGHT)

    def weight(self) -> int:
        """The effective weight: the operator's word, else `health_weight`; 0 while drained or disabled."""
        if self.override.standing is not Standing.ENABLED:
            return 0
        return self.health_weight() if self.override.weight is None else self.override.weight

    def weight_up(self) -> int:
        """What it adds to the quorum."""
        return self.weight() if self.up else 0

    def destination(self, sorry: bool) -> Destination | None:
        """Its row in the table, or None; `sorry`: the sorry server serves instead of the real ones.

        A drained server that is up keeps its place then, so that its connections may end in peace.
        """
        standing = self.override.standing
        if standing is Standing.DISABLED:
            return None
        if self.up and (not sorry or standing is Standing.DRAINED):
            return self._weighing(self.weight())
        return self._weighing(0) if self.wanted.inhibit_on_failure else None

    def told(self, state: CheckState, before: bool | None, outcome: Outcome, at: float) -> Iterator[Event]:
        """A check of it had an outcome that may matter; `before`: what the check counted as. What happened."""
        check = state.check
        if outcome.inconclusive:
            yield CheckInconclusive(
                at=at, service=self.service, server=self.key, reason=outcome.reason, check=check.word
            )
            return
        if not outcome.ok:
            yield CheckFailed(
                at=at,
                service=self.service,
                server=self.key,
                reason=outcome.reason,
                check=check.word,
                attempt=state.failures,
                attempts=state.failures if state.good is False else check.pace.retry + 1,
                counted=state.good is False,
                log_all=check.pace.log_all_failures,
            )
        elif state.good and before is False:
            yield CheckRecovered(at=at, service=self.service, server=self.key, reason=outcome.reason, check=check.word)
        yield from self.moved(f"{check.word}: {outcome.reason}", at)

    def moved(self, reason: str, at: float) -> Iterator[Event]:
        """Judge anew after anything that the state follows from changed; what happened."""
        before, self.up = self.up, self.judge()
        known_down = any(link.state.good is False for link in self.links)
        weight = self.weight()
        if self.up and not before:
            self._since(at, reason)
            self.told_weight = weight
            yield ServerUp(at=at, service=self.service, server=self.key, reason=reason, weight=weight)
        elif not self.up and (before or (known_down and not self.announced)):
            self._since(at, reason)
            yield ServerDown(at=at, service=self.service, server=self.key, reason=reason, initial=not before)
        elif self.up and self.checked and not self.announced:
            self._since(self.since, reason)  # up from the start, as presumed: no news
        if self.up and weight != self.told_weight:
            was, self.told_weight = self.told_weight, weight
            yield WeightChanged(at=at, service=self.service, server=self.key, reason=reason, before=was, weight=weight)

    def _since(self, at: float, reason: str) -> None:
        self.since, self.reason, self.announced = at, reason, True

    def _weighing(self, weight: int) -> Destination:
        configured = self.wanted.destination
        return configured if weight == configured.weight else replace(configured, weight=weight)

    def _weights_unknown(self) -> bool:
        return any(link.state.good is None and sets_weight(link.state.check) for link in self.links)
