"""fo, weighted failover (IPVS-SEMANTICS 3.8)."""

from __future__ import annotations

from pylvs.reference.schedulers.common import Asking, Scheduler, heaviest
from pylvs.reference.server import Server


class Failover(Scheduler):
    """All to the heaviest of the usable servers."""

    name = "fo"

    def choose(self, asking: Asking, now: float) -> Server | None:
        """Of equals the newest."""
        return heaviest(server for server in self.servers if server.usable)
