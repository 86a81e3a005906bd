"""nq, never queue (IPVS-SEMANTICS 3.7)."""

from __future__ import annotations

from pylvs.reference.schedulers.common import Asking, Scheduler, least_loaded
from pylvs.reference.schedulers.sed import delay
from pylvs.reference.server import Server


class NeverQueue(Scheduler):
    """The first usable server that is idle, even if a heavier idle one follows; without one, as sed."""

    name = "nq"

    def choose(self, asking: Asking, now: float) -> Server | None:
        """Idle means no active connection."""
        for server in self.servers:
            if server.usable and server.active == 0:
                return server
        return least_loaded(self.servers, delay)
