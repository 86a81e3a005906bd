"""ovf, weighted overflow (IPVS-SEMANTICS 3.8)."""

from __future__ import annotations

from pylvs.reference.schedulers.common import Asking, Scheduler, heaviest
from pylvs.reference.server import Server


class Overflow(Scheduler):
    """The heaviest usable server until its active connections exceed its weight, then the next heaviest."""

    name = "ovf"

    def choose(self, asking: Asking, now: float) -> Server | None:
        """None once all are over: a server takes weight + 1 connections."""
        return heaviest(server for server in self.servers if server.usable and server.active <= server.weight)
