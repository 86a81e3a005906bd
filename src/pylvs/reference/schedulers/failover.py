"""Schedulers that prefer the greatest weight: fo and ovf (IPVS-SEMANTICS 3.8)."""

from __future__ import annotations

from collections.abc import Iterable

from pylvs.reference.schedulers.common import Flow, Scheduler
from pylvs.reference.server import Server


class Failover(Scheduler):
    """Take the heaviest usable server."""

    name = "fo"

    def choose(self, flow: Flow, now: float) -> Server | None:
        """On a tie, take the newest."""
        return heaviest(server for server in self.servers if server.usable)


class Overflow(Scheduler):
    """Take the heaviest usable server until its active connections exceed its weight, then the next heaviest."""

    name = "ovf"

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Return None when all are full: a server takes weight + 1 connections."""
        return heaviest(server for server in self.servers if server.usable and server.active <= server.weight)


def heaviest(servers: Iterable[Server]) -> Server | None:
    """Return the server with the greatest weight, the first of equals."""
    return max(servers, key=lambda server: server.weight, default=None)
