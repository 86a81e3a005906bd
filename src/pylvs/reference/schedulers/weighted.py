"""Schedulers that choose by turn, load or weight: rr, wrr, lc, wlc, sed, nq, fo, ovf (IPVS-SEMANTICS 3).

Lists have the newest server first; on a tie the first in the list wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import gcd
from typing import NamedTuple

from pylvs.reference.server import Server

WORD = 0xFFFFFFFF
SCHEDULERS: dict[str, type[Scheduler]] = {}  # by name; a class below Scheduler enters itself


class Flow(NamedTuple):
    """The addresses of a new connection that a scheduler may use."""

    saddr: bytes
    sport: int
    daddr: bytes


class Scheduler:
    """The scheduler of one service; this one is `none`.

    `servers` is the service's own list, and the methods report its changes. `options` are the service's flags.
    """

    name = ""
    address_bytes = 4  # length of the service's addresses: 16 for IPv6

    def __init_subclass__(cls) -> None:
        SCHEDULERS[cls.name] = cls

    def __init__(self, servers: list[Server], options: int = 0) -> None:
        self.servers = servers
        self.options = options

    def changed(self) -> None:
        """Handle that a server was inserted at the list's head, or that a server's weight or thresholds were edited."""

    def deleted(self, server: Server, position: int) -> None:
        """Handle that `server` was removed from the list, where it had this position."""
        self.changed()

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Return the server of a new connection; None: no server is available."""
        return None

    def advance(self, now: float) -> None:
        """Run the timers."""

    def close(self) -> None:
        """Release servers: the service is deleted, or gets another scheduler."""


class RoundRobin(Scheduler):
    """Take the next usable server of the list, cyclically. Non-zero weights do not matter."""

    name = "rr"
    cursor: Server | None = None  # the last choice; None: the list's head

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
    cursor: Server | None = None  # None: the list's head

    def __init__(self, servers: list[Server], options: int = 0) -> None:
        super().__init__(servers, options)
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


def signed(number: int) -> int:
    """Return the number as a signed 32-bit value."""
    number &= WORD
    return number - (1 << 32) if number >> 31 else number


def overhead(server: Server) -> int:
    """Return O(d), the load of a server, as a signed 32-bit value."""
    return signed((server.active << 8) + server.inactive)


def least_loaded(servers: Iterable[Server], load: Callable[[Server], int]) -> Server | None:
    """Return the usable server with the least load in proportion to its weight.

    "d beats b" is load(b)·weight(d) > load(d)·weight(b), strictly.
    """
    best: Server | None = None
    best_load = 0
    for server in servers:
        if best is None:
            if server.usable:
                best, best_load = server, load(server)
        elif not server.overloaded:
            its_load = load(server)
            if best_load * server.weight > its_load * best.weight:
                best, best_load = server, its_load
    return best


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
