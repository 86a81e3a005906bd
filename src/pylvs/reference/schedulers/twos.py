"""A scheduler that chooses at random: twos (IPVS-SEMANTICS 3.15)."""

from __future__ import annotations

from random import Random

from pylvs.reference.schedulers.weighted import Flow, Scheduler, overhead, signed
from pylvs.reference.server import Server


class PowerOfTwo(Scheduler):
    """Draw two usable servers at random by weight, and take the one with the lower load for its weight.

    A draw is uniform from 0 to the sum of the weights, both included: the head of the list has one more chance.
    """

    name = "twos"

    def __init__(self, servers: list[Server], options: int = 0) -> None:
        super().__init__(servers, options)
        self.random = Random(1)  # the same choices in every run

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Prefer the first draw unless the second has less load. Products have 32 bits, as in the kernel."""
        usable = [server for server in self.servers if server.usable]
        if not usable:
            return None
        first, second = self._draw(usable), self._draw(usable)
        if signed(second.weight * overhead(first)) > signed(first.weight * overhead(second)):
            return second
        return first

    def _draw(self, usable: list[Server]) -> Server:
        left = self.random.randint(0, sum(server.weight for server in usable))
        for server in usable:
            left -= server.weight
            if left <= 0:
                return server
        raise AssertionError("the weights changed")
