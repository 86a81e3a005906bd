"""wlc, weighted least connections (IPVS-SEMANTICS 3.5)."""

from __future__ import annotations

from pylvs.reference.schedulers.common import Asking, Scheduler, least_loaded, overhead
from pylvs.reference.server import Server


class WeightedLeastConnections(Scheduler):
    """The usable server that is least busy for its weight."""

    name = "wlc"

    def choose(self, asking: Asking, now: float) -> Server | None:
        """By O(d) over weight."""
        return least_loaded(self.servers, overhead)
