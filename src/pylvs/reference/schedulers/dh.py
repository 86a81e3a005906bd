"""dh, destination hashing (IPVS-SEMANTICS 3.12)."""

from __future__ import annotations

from pylvs.reference.hashing import bucket, fold
from pylvs.reference.schedulers.common import Asking, Scheduler
from pylvs.reference.server import Server

BITS = 8


class DestinationHashing(Scheduler):
    """256 buckets filled with the list, one each, cyclically; the packet's target picks one. No weights."""

    name = "dh"

    def choose(self, asking: Asking, now: float) -> Server | None:
        """The bucket's server, if it is usable: there is no second choice."""
        if not self.servers:
            return None
        server = self.servers[bucket(fold(asking.target), BITS) % len(self.servers)]
        return server if server.usable else None
