"""From readings of a server's load to its weight: pure arithmetic."""

from __future__ import annotations

import math

from pylvs.model.checks import LoadCheck
from pylvs.model.dataclass import dataclass

_MOST = 2.0  # times full: what is beyond that counts as this, or the way back would take long


@dataclass(frozen=True, slots=True)
class LoadRule:
    """How a load becomes a weight; the fields are those of `model.checks.LoadCheck`."""

    configured: int
    full: float = 1.0
    floor: float = 0.1
    smoothing: float = 0.5
    hysteresis: float = 0.05
    patience: int = 3

    @classmethod
    def of(cls, check: LoadCheck, configured: int) -> LoadRule:
        """That of a check, for a server of this configured weight."""
        return cls(configured, check.full, check.floor, check.smoothing, check.hysteresis, check.patience)

    @property
    def least(self) -> int:
        """The weight that is always left: the floor, and never nothing of something."""
        return min(max(math.ceil(self.configured * self.floor), 1), self.configured)

    def aim(self, load: float) -> int:
        """The weight for this load, were nothing before."""
        share = 1 - load / self.full
        return min(max(round(self.configured * max(share, 0.0)), self.least), self.configured)

    @property
    def step(self) -> int:
        """The smallest change that is made, but for the last one to either end."""
        return max(math.ceil(self.configured * self.hysteresis), 1)


@dataclass(frozen=True, slots=True)
class LoadState:
    """What is remembered from reading to reading; without a weight the configured one holds."""

    load: float | None = None  # smoothed
    weight: int | None = None
    missed: int = 0  # readings in a row

    def after(self, load: float, rule: LoadRule) -> LoadState:
        """The state after a reading. Both ends are reached exactly, or a server would never be back to full weight."""
        load = min(load, _MOST * rule.full)
        smoothed = load if self.load is None else rule.smoothing * self.load + (1 - rule.smoothing) * load
        aim = rule.aim(smoothed)
        now = rule.configured if self.weight is None else self.weight
        small = abs(aim - now) < rule.step and aim not in (rule.least, rule.configured)
        return LoadState(smoothed, now if small else aim)

    def without(self, rule: LoadRule) -> LoadState:
        """The state after a reading that was none: as before, until patience ends."""
        missed = self.missed + 1
        return LoadState(missed=missed) if missed > rule.patience else LoadState(self.load, self.weight, missed)
