"""lc, least connections (IPVS-SEMANTICS 3.4)."""

from __future__ import annotations

from pylvs.reference.schedulers.common import WORD, Asking, Scheduler, overhead
from pylvs.reference.server import Server


class LeastConnections(Scheduler):
    """The least busy of the usable servers, whatever their weights."""

    name = "lc"

    def choose(self, asking: Asking, now: float) -> Server | None:
        """Compared without sign, in 32 bits."""
        usable = (server for server in self.servers if server.usable)
        return min(usable, key=lambda server: overhead(server) & WORD, default=None)
