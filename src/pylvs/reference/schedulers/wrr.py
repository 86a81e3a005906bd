"""wrr, weighted round robin (IPVS-SEMANTICS 3.3)."""

from __future__ import annotations

from math import gcd

from pylvs.reference.schedulers.common import Asking, Scheduler
from pylvs.reference.server import Server


class WeightedRoundRobin(Scheduler):
    """Passes over the list take the servers whose weight reaches a level, which falls from pass to pass.

    `level` is the kernel's cw, `step` its di, `top` its mw, `mark` its cl.
    """

    name = "wrr"

    def __init__(self, servers: list[Server], options: int = 0) -> None:
        super().__init__(servers, options)
        self.mark: Server | None = None  # None: the list's head
        self._measure()
        self.level = self.top

    def _measure(self) -> None:
        weights = [server.weight for server in self.servers if server.weight > 0]
        self.step = gcd(*weights) or 1
        self.top = max(weights) - (self.step - 1) if weights else 0

    def _changed(self) -> None:
        self._measure()
        self.mark = None
        if self.level > self.top or self.level == 0:
            self.level = self.top
        elif self.step > 1:
            self.level = self.level // self.step * self.step + 1

    def added(self, server: Server) -> None:
        """Begin at the head, at the same level if it is still one."""
        self._changed()

    def deleted(self, server: Server, place: int) -> None:
        """As after an addition."""
        self._changed()

    def edited(self, server: Server) -> None:
        """As after an addition."""
        self._changed()

    def choose(self, asking: Asking, now: float) -> Server | None:
        """Walk on from the mark, lowering the level at each end of the list, until each server was tried at level 1."""
        if not self.top:
            return None
        last = self.mark
        restarted = last_pass = False
        stop: Server | None = None
        position = self.mark
        while True:
            start = self.servers.index(position) + 1 if position is not None else 0
            for server in self.servers[start:]:
                if not server.overloaded and server.weight >= self.level:
                    self.mark = server
                    return server
                if server is stop:
                    self.mark = server
                    return None
            self.level -= self.step
            if self.level <= 0:
                self.level = self.top
                if last_pass or last is None:
                    self.mark = None
                    return None
                restarted = True
            last_pass = self.level <= self.step
            if last_pass and restarted and last is not None:
                stop = last
            position = None
