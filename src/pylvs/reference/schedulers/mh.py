"""mh, Maglev hashing (IPVS-SEMANTICS 3.14)."""

from __future__ import annotations

from math import gcd

from pylvs.model.service import ServiceFlag
from pylvs.reference.hashing import WORD, fold, siphash13
from pylvs.reference.schedulers.common import Asking, Scheduler
from pylvs.reference.server import Server

SLOTS = 4093  # a prime
KEY_1, KEY_2 = 2654435761, 2654446892
TURN_BITS = 6  # weights are scaled to about as many bits
FALLBACK = ServiceFlag.SCHED_1
BY_PORT = ServiceFlag.SCHED_2


class MaglevHashing(Scheduler):
    """4093 slots, shared by weight so that few move when a server comes or goes; the client's hash picks one."""

    name = "mh"

    def __init__(self, servers: list[Server], options: int = 0) -> None:
        super().__init__(servers, options)
        self._slots: list[Server] = []
        self._stale = True

    def added(self, server: Server) -> None:
        """The table is built anew, unless there are more servers than slots."""
        self._changed()

    def deleted(self, server: Server, place: int) -> None:
        """The table is built anew."""
        self._changed()

    def edited(self, server: Server) -> None:
        """The table is built anew; a weight of 0 leaves it as it was, for the last other weight counts."""
        self._changed()

    def _changed(self) -> None:
        if self._stale and len(self.servers) == SLOTS + 1:
            self._slots, self._stale = self._built(self.servers[1:]), False
        self._stale = self._stale or len(self.servers) <= SLOTS

    def _built(self, servers: list[Server]) -> list[Server]:
        weights = [server.last_weight for server in servers if server.last_weight > 0]
        if not weights:
            return []
        divisor = gcd(*weights)
        shift = max(0, (max(weights) // divisor).bit_length() - TURN_BITS)
        turns = [_turns(server.last_weight // divisor, shift) for server in servers]
        hashed = [self._position_and_skip(server) for server in servers]
        positions = [position for position, _ in hashed]
        slots: list[Server | None] = [None] * SLOTS
        left = SLOTS
        while True:
            for number, server in enumerate(servers):
                position, skip = positions[number], hashed[number][1]
                for _ in range(turns[number]):
                    while slots[position] is not None:
                        position = (position + skip) % SLOTS
                    slots[position] = server
                    left -= 1
                    if not left:
                        return [taken for taken in slots if taken is not None]
                positions[number] = position

    def _position_and_skip(self, server: Server) -> tuple[int, int]:
        """Of an IPv6 server of an IPv4 service (a tunnel) only the first 32 bits count."""
        number = (fold(server.address[: self.address_bytes]) + server.port) & WORD
        return siphash13(number, KEY_1) % SLOTS, siphash13(number, KEY_2) % (SLOTS - 1) + 1

    def choose(self, asking: Asking, now: float) -> Server | None:
        """The slot's server; if it is not usable, and `mh-fallback` is set, others by hashing again and again."""
        if self._stale:
            self._slots, self._stale = self._built(self.servers), False
        if not self._slots:
            return None
        port = asking.source_port if self.options & BY_PORT else 0
        client = (fold(asking.source) + port) & WORD
        slot = siphash13(client, KEY_1) % SLOTS
        server = self._slots[slot]
        if server.usable:
            return server
        if self.options & FALLBACK:
            for step in range(SLOTS):
                again = ((step + slot) % SLOTS + client) & WORD
                server = self._slots[siphash13(again, KEY_1) % SLOTS]
                if server.usable:
                    return server
        return None


def _turns(share: int, shift: int) -> int:
    return (share >> shift or 1) if share else 0
