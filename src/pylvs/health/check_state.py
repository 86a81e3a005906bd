"""What is known of one check: its outcomes in a row, and whether it counts as good."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pylvs.health.outcome import Outcome
from pylvs.health.timetable import Slot
from pylvs.model.checks import AgentCheck, Check, FileCheck, HttpCheck, LoadCheck, MiscCheck

if TYPE_CHECKING:
    from pylvs.health.servers import ServerState


def sets_weight(check: Check) -> bool:
    """Whether outcomes of this check may bring a weight."""
    return isinstance(check, AgentCheck | FileCheck | LoadCheck) or (isinstance(check, MiscCheck) and check.dynamic)


def successes_to_recover(check: Check) -> int:
    """Good probes in a row that bring a failed check back.

    One, except where an HTTP check has several pages: they are asked one a delay_loop, unless fast_recovery is on.
    """
    return len(check.urls) if isinstance(check, HttpCheck) and not check.fast_recovery else 1


@dataclass(slots=True, eq=False)
class CheckState:
    """One check with its place in the timetable, and the servers that it speaks for (several when shared)."""

    check: Check
    slot: Slot
    servers: dict[ServerState, None] = field(default_factory=dict)  # a set that keeps the order
    good: bool | None = None  # None: nothing that counts is known yet
    failures: int = 0  # in a row
    successes: int = 0
    weight: int | None = None
    reason: str = ""
    checked_at: float | None = None
    probes: int = 0
    failed_probes: int = 0

    def delay_after(self, outcome: Outcome, at: float) -> float:
        """Take the outcome in; the seconds until the next probe."""
        pace = self.check.pace
        self.probes += 1
        self.checked_at = at
        self.reason = outcome.reason
        if outcome.ok:
            self.failures = 0
            self.successes += 1
            presumed = self.good is None and not pace.alpha
            if presumed or self.successes >= successes_to_recover(self.check):
                self.good = True
            if self.good:
                self.weight = outcome.weight
            return pace.delay_loop_s
        self.failed_probes += 1
        self.successes = 0
        self.failures += 1
        if self.good is False:
            return pace.delay_loop_s
        if self.failures > pace.retry:
            self.good = False
            self.weight = None  # a weight that a failed check once set must not outlive it
            return pace.delay_loop_s
        return pace.delay_before_retry_s
