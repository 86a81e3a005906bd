"""rr, round robin (IPVS-SEMANTICS 3.2)."""

from __future__ import annotations

from pylvs.reference.schedulers.common import Asking, Scheduler
from pylvs.reference.server import Server


class RoundRobin(Scheduler):
    """The next usable server of the list, and after its end from the head. Weights beyond "0 or not" do not matter."""

    name = "rr"

    def __init__(self, servers: list[Server], options: int = 0) -> None:
        super().__init__(servers, options)
        self.mark: Server | None = None  # the last choice; None: the list's head

    def deleted(self, server: Server, place: int) -> None:
        """The mark moves towards the head."""
        if server is self.mark:
            self.mark = self.servers[place - 1] if place else None

    def choose(self, asking: Asking, now: float) -> Server | None:
        """The marked server itself is looked at last."""
        after = self.servers.index(self.mark) + 1 if self.mark is not None else 0
        for server in self.servers[after:] + self.servers[:after]:
            if server.usable:
                self.mark = server
                return server
        return None
