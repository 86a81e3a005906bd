"""sed, shortest expected delay (IPVS-SEMANTICS 3.6)."""

from __future__ import annotations

from pylvs.reference.schedulers.common import Asking, Scheduler, least_loaded, signed
from pylvs.reference.server import Server


def delay(server: Server) -> int:
    """What its load would be with one more active connection; inactive ones do not matter."""
    return signed(server.active + 1)


class ShortestExpectedDelay(Scheduler):
    """The usable server that would be least loaded with the new connection, for its weight."""

    name = "sed"

    def choose(self, asking: Asking, now: float) -> Server | None:
        """By active + 1 over weight."""
        return least_loaded(self.servers, delay)
