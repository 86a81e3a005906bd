"""When a service has its quorum: pure arithmetic on the weights that are up."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Quorum:
    """`needed` weight units, give or take `hysteresis` against flapping."""

    needed: int = 1
    hysteresis: int = 0

    @property
    def gained_at(self) -> int:
        """The weight at which a lost quorum is regained."""
        return self.needed + self.hysteresis

    @property
    def lost_below(self) -> int:
        """The weight below which a quorum is lost."""
        return self.needed - self.hysteresis

    def after(self, up: bool, weight: int) -> bool:
        """Whether there is a quorum at `weight`, of the weights of all servers that are up, if there was one or not."""
        return weight >= (self.lost_below if up else self.gained_at)

    def at_start(self, weight: int) -> bool:
        """The same where nothing was before: as keepalived does, a quorum has to be gained first."""
        return self.after(False, weight)
