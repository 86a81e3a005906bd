"""Base class and load measures of schedulers (IPVS-SEMANTICS 3.1).

Lists have the newest server first; on a tie the first in the list wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from pylvs.reference.server import Server

WORD = 0xFFFFFFFF


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
