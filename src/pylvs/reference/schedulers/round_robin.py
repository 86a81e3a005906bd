"""Round robin: rr (IPVS-SEMANTICS 3.2) and wrr (3.3)."""

from __future__ import annotations

from math import gcd

from pylvs.reference.schedulers.common import Flow, Scheduler
from pylvs.reference.server import Server


class RoundRobin(Scheduler):
    """Take the next usable server of the list, cyclically. Non-zero weights do not matter."""

    name = "rr"

    def __init__(self, servers: list[Server], options: int = 0) -> None:
        super().__init__(servers, options)
        self.cursor: Server | None = None  # the last choice; None: the list's head

    def deleted(self, server: Server, position: int) -> None:
        """Move the cursor towards the head."""
        if server is self.cursor:
            self.cursor = self.servers[position - 1] if position else None

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Try the server at the cursor last."""
        after = self.servers.index(self.cursor) + 1 if self.cursor is not None else 0
        for server in self.servers[after:] + self.servers[:after]:
            if server.usable:
                self.cursor = server
                return server
        return None


class WeightedRoundRobin(Scheduler):
    """Pass over the list and take the servers whose weight reaches a value that falls with each pass.

    The kernel's names: cw is `current_weight`, di `divisor`, mw `max_weight`, cl `cursor`.
    """

    name = "wrr"

    def __init__(self, servers: list[Server], options: int = 0) -> None:
        super().__init__(servers, options)
        self.cursor: Server | None = None  # None: the list's head
        self._measure()
        self.current_weight = self.max_weight

    def _measure(self) -> None:
        weights = [server.weight for server in self.servers if server.weight > 0]
        self.divisor = gcd(*weights) or 1
        self.max_weight = max(weights) - (self.divisor - 1) if weights else 0

    def changed(self) -> None:
        """Start at the head, with the same current weight if it is still valid."""
        self._measure()
        self.cursor = None
        if self.current_weight > self.max_weight or self.current_weight == 0:
            self.current_weight = self.max_weight
        elif self.divisor > 1:
            self.current_weight = self.current_weight // self.divisor * self.divisor + 1

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Continue after the cursor; lower the current weight at each end of the list.

        Stop when every server was tried at weight 1.
        """
        if not self.max_weight:
            return None
        last = self.cursor
        restarted = last_pass = False
        stop: Server | None = None
        position = self.cursor
        while True:
            start = self.servers.index(position) + 1 if position is not None else 0
            for server in self.servers[start:]:
                if not server.overloaded and server.weight >= self.current_weight:
                    self.cursor = server
                    return server
                if server is stop:
                    self.cursor = server
                    return None
            self.current_weight -= self.divisor
            if self.current_weight <= 0:
                self.current_weight = self.max_weight
                if last_pass or last is None:
                    self.cursor = None
                    return None
                restarted = True
            last_pass = self.current_weight <= self.divisor
            if last_pass and restarted and last is not None:
                stop = last
            position = None
