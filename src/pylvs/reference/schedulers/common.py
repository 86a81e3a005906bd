"""What schedulers share (IPVS-SEMANTICS 3.1).

Lists run newest server first; of equals the earlier in the list wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from pylvs.reference.server import Server

WORD = 0xFFFFFFFF


class Asking(NamedTuple):
    """What a scheduler may know of a new connection: its client, and the address it wants."""

    source: bytes
    source_port: int
    target: bytes


class Scheduler:
    """One service's scheduler.

    `servers` is the service's own list, which changes under it; each change is told. `options` are the service's
    flags for the scheduler.
    """

    name = ""
    address_bytes = 4  # of the service's addresses: 16 for IPv6

    def __init__(self, servers: list[Server], options: int = 0) -> None:
        self.servers = servers
        self.options = options

    def added(self, server: Server) -> None:
        """`server` was put at the list's head."""

    def deleted(self, server: Server, place: int) -> None:
        """`server` was taken out of the list, where it stood at `place`."""

    def edited(self, server: Server) -> None:
        """Weight or thresholds of `server` may have changed."""

    def choose(self, asking: Asking, now: float) -> Server | None:
        """The server of a new connection, or None if there is none to be had."""
        raise NotImplementedError

    def advance(self, now: float) -> None:
        """Do what is done by the clock, not by packets."""

    def close(self) -> None:
        """The service takes another scheduler, or goes."""


def signed(number: int) -> int:
    """The number as 32 bits hold it."""
    number &= WORD
    return number - (1 << 32) if number >> 31 else number


def overhead(server: Server) -> int:
    """O(d): how busy a server is; 32 bits, signed."""
    return signed((server.active << 8) + server.inactive)


def least_loaded(servers: Iterable[Server], load: Callable[[Server], int]) -> Server | None:
    """The usable server with the least load in proportion to its weight.

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


def heaviest(servers: Iterable[Server]) -> Server | None:
    """The greatest weight, the first of equals."""
    return max(servers, key=lambda server: server.weight, default=None)
