"""The state of a check, and of one server of one service: up or down, its weight, the operator's override."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from pylvs.health.events import (
    NO_OVERRIDE,
    CheckFailed,
    CheckInconclusive,
    CheckRecovered,
    Event,
    Override,
    ServerDown,
    ServerEvent,
    ServerName,
    ServerUp,
    Standing,
    WeightChanged,
)
from pylvs.health.outcome import Outcome
from pylvs.health.probe_scheduler import ScheduledProbe
from pylvs.model.addresses import Address
from pylvs.model.checks import AgentCheck, Check, FileCheck, HttpCheck, LoadCheck, MiscCheck
from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import MAX_WEIGHT, Destination, DestinationKey
from pylvs.model.wanted import WantedServer

SharedKey = tuple[Address, Check, int]  # server, check, and the server's weight if the outcome depends on it


def sets_weight(check: Check) -> bool:
    """Return whether outcomes of this check may set a weight."""
    return isinstance(check, AgentCheck | FileCheck | LoadCheck) or (isinstance(check, MiscCheck) and check.dynamic)


def successes_to_recover(check: Check, failed: bool) -> int:
    """Return how many good probes in a row make a check good; `failed`: it counted as failed before.

    This is 1, except for HTTP without fast_recovery: keepalived 2.2.7 then gets one page in each delay_loop. After a
    failure it begins with the first page again.
    """
    return len(check.urls) + failed if isinstance(check, HttpCheck) and not check.fast_recovery else 1


@dataclass(slots=True, eq=False)
class CheckState:
    """One check, and the servers that have it; several if it is shared."""

    check: Check
    scheduled: ScheduledProbe
    shared_key: SharedKey | None = None
    servers: dict[ServerState, None] = field(default_factory=dict)  # a set that keeps its order
    first_counts: bool = True  # the first probe counts without retries, as in keepalived
    good: bool | None = None  # None until an outcome counts
    failures: int = 0  # in a row
    successes: int = 0
    weight: int | None = None
    reason: str = ""
    checked_at: float | None = None
    inconclusive: bool = False  # the last outcome
    probes: int = 0
    failed_probes: int = 0

    def delay_after(self, outcome: Outcome, at: float) -> float:
        """Apply an outcome, and return the seconds until the next probe."""
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
            self.weight = None  # a failed check no longer sets a weight
            return pace.delay_loop_s
        return pace.delay_before_retry_s


@dataclass(slots=True, eq=False)
class CheckLink:
    """A check of one server. Until an outcome counts, the server's `presumed` state does."""

    state: CheckState
    presumed: bool

    @property
    def good(self) -> bool:
        return self.presumed if self.state.good is None else self.state.good


@dataclass(slots=True, eq=False)
class ServerState:
    """The state of a server. Its weight, quorum share and destination are functions of it."""

    service: str
    wanted: WantedServer
    since: float
    links: list[CheckLink] = field(default_factory=list)
    override: Override = NO_OVERRIDE
    up: bool = True
    announced: bool = False  # an event reported its first state, or none is needed
    reason: str = "not checked yet"
    reported_weight: int = field(init=False)  # by the last event with a weight
    counted_weight: int = 0  # its part of the service's `weight_up`
    row_destination: Destination | None = None  # in the service's rows
    held_weight: int | None = None  # an earlier dynamic weight, until the checks that set it have outcomes

    def __post_init__(self) -> None:
        self.reported_weight = self.wanted.destination.weight

    @property
    def key(self) -> DestinationKey:
        return self.wanted.destination.key

    @property
    def name(self) -> ServerName:
        return self.service, self.key

    @property
    def checked(self) -> bool:
        """Whether every check has had an outcome that counts."""
        return all(link.state.good is not None for link in self.links)

    def checks_good(self) -> bool:
        return all(link.good for link in self.links)

    def health_weight(self) -> int:
        """Return the weight by configuration and checks.

        Each check that sets a weight adds its difference to the configured one. So a single check sets the weight
        itself.
        """
        configured = self.wanted.destination.weight
        unknown = (link.state.good is None and sets_weight(link.state.check) for link in self.links)
        if self.held_weight is not None and any(unknown):
            return self.held_weight
        change = sum(link.state.weight - configured for link in self.links if link.state.weight is not None)
        return min(max(configured + change, 0), MAX_WEIGHT)

    def weight(self) -> int:
        """Return the effective weight: the operator's, else `health_weight`; 0 if drained or disabled."""
        if self.override.standing is not Standing.ENABLED:
            return 0
        return self.health_weight() if self.override.weight is None else self.override.weight

    def destination(self, sorry: bool) -> Destination | None:
        """Return its destination in the table, or None; `sorry`: the sorry server replaces the real ones.

        A drained server that is up stays even then, for its connections to end.
        """
        standing = self.override.standing
        if standing is Standing.DISABLED:
            return None
        if self.up and (not sorry or standing is Standing.DRAINED):
            return self._with_weight(self.weight())
        return self._with_weight(0) if self.wanted.inhibit_on_failure else None

    def on_outcome(self, state: CheckState, before: bool | None, outcome: Outcome, at: float) -> Iterator[Event]:
        """Update after an outcome of a check, and yield events; `before` is what the check counted as."""
        check = state.check
        if outcome.inconclusive:
            yield self.event(CheckInconclusive, outcome.reason, at, check=check.word)
            return
        if not outcome.ok:
            yield self.event(
                CheckFailed,
                outcome.reason,
                at,
                check=check.word,
                attempt=state.failures,
                attempts=state.failures if state.good is False else check.pace.retry + 1,
                counted=state.good is False,
                log_all=check.pace.log_all_failures,
            )
        elif state.good and before is False:
            yield self.event(CheckRecovered, outcome.reason, at, check=check.word)
        yield from self.update(f"{check.word}: {outcome.reason}", at)

    def update(self, reason: str, at: float) -> Iterator[Event]:
        """Update `up` after a change of checks, override or configuration, and yield events."""
        before, self.up = self.up, self.checks_good()
        known_down = any(link.state.good is False for link in self.links)
        weight = self.weight()
        if self.up and not before:
            self._announce(at, reason)
            self.reported_weight = weight
            yield self.event(ServerUp, reason, at, weight=weight)
        elif not self.up and (before or (known_down and not self.announced)):
            self._announce(at, reason)
            yield self.event(ServerDown, reason, at, initial=not before)
        elif self.up and self.checked and not self.announced:
            self._announce(self.since, reason)  # up from the start, as presumed: no event
        if self.up and weight != self.reported_weight:
            was, self.reported_weight = self.reported_weight, weight
            yield self.event(WeightChanged, reason, at, before=was, weight=weight)

    def adopt(self, found: Destination | None) -> None:
        """Presume that the server is up if the table has it.

        With inhibit_on_failure weight 0 means down, unless the server has weight 0 when it is up, too.
        """
        inhibited = self.wanted.inhibit_on_failure and self.weight() > 0
        up = found is not None and (found.weight > 0 or not inhibited)
        for link in self.links:
            link.presumed = up
            link.state.first_counts &= not up
        self.up, self.announced, self.reason = up, True, "as the table was found"
        dynamic = any(sets_weight(link.state.check) for link in self.links)
        if found is not None and up and not self.override and dynamic:
            self.held_weight = self.reported_weight = found.weight

    def event(self, kind: Callable[..., ServerEvent], reason: str, at: float, **fields: Any) -> ServerEvent:
        """Make an event of this server."""
        return kind(at=at, service=self.service, server=self.key, reason=reason, **fields)

    def _announce(self, since: float, reason: str) -> None:
        self.since, self.reason, self.announced = since, reason, True

    def _with_weight(self, weight: int) -> Destination:
        configured = self.wanted.destination
        return configured if weight == configured.weight else replace(configured, weight=weight)
