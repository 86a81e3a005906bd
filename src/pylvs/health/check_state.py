"""What is known of one check: its outcomes in a row, and whether it counts as good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pylvs.health.outcome import Outcome
from pylvs.health.timetable import Slot
from pylvs.model.addresses import Address
from pylvs.model.checks import AgentCheck, Check, FileCheck, HttpCheck, LoadCheck, MiscCheck
from pylvs.model.dataclass import dataclass, field

if TYPE_CHECKING:
    from pylvs.health.servers import ServerState

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
    slot: Slot
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
