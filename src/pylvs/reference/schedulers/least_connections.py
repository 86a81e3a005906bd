"""Schedulers that compare load: lc (IPVS-SEMANTICS 3.4), wlc (3.5), sed (3.6) and nq (3.7)."""

from __future__ import annotations

from pylvs.reference.schedulers.common import WORD, Flow, Scheduler, least_loaded, overhead, signed
from pylvs.reference.server import Server


class LeastConnections(Scheduler):
    """Take the usable server with the least load, without regard to weights."""

    name = "lc"

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Compare loads as unsigned 32-bit values."""
        usable = (server for server in self.servers if server.usable)
        return min(usable, key=lambda server: overhead(server) & WORD, default=None)


class WeightedLeastConnections(Scheduler):
    """Take the usable server with the least load for its weight."""

    name = "wlc"

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Compare O(d) over weight."""
        return least_loaded(self.servers, overhead)


def delay(server: Server) -> int:
    """Return the load with one more active connection; inactive ones do not matter."""
    return signed(server.active + 1)


class ShortestExpectedDelay(Scheduler):
    """Take the usable server that would have the least load for its weight with the new connection."""

    name = "sed"

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Compare active + 1 over weight."""
        return least_loaded(self.servers, delay)


class NeverQueue(Scheduler):
    """Take the first usable idle server, even if a heavier idle one follows; without one, do as sed."""

    name = "nq"

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Idle means without active connections."""
        for server in self.servers:
            if server.usable and server.active == 0:
                return server
        return least_loaded(self.servers, delay)
