"""Schedulers that hash: dh (IPVS-SEMANTICS 3.12), sh (3.13) and mh (3.14), with their hashes (3.11)."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from pylvs.model.service import ServiceFlag
from pylvs.reference.schedulers.weighted import WORD, Flow, Scheduler
from pylvs.reference.server import Server

BITS = 8
BUCKETS = 1 << BITS  # of dh and sh
SLOTS = 4093  # of mh: a prime
KEY_1, KEY_2 = 2654435761, 2654446892  # of mh
TURN_BITS = 6  # mh scales weights to about this many bits
FALLBACK = ServiceFlag.SCHED_1  # sh-fallback, mh-fallback
BY_PORT = ServiceFlag.SCHED_2  # sh-port, mh-port

MULTIPLIER = 0x61C88647  # 2^32 / φ², with φ the golden ratio
LONG = 0xFFFFFFFFFFFFFFFF


def fold(address: bytes) -> int:
    """Return the address as a 32-bit number; for IPv6, the exclusive or of its four words (3.11)."""
    folded = 0
    for at in range(0, len(address), 4):
        folded ^= int.from_bytes(address[at : at + 4], "big")
    return folded


def bucket(number: int, bits: int) -> int:
    """Return the bucket, of 2^bits, of a 32-bit number (3.11)."""
    return ((number * MULTIPLIER) & WORD) >> (32 - bits)


def _rotated(value: int, bits: int) -> int:
    return ((value << bits) & LONG) | (value >> (64 - bits))


def _round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & LONG
    v1 = _rotated(v1, 13) ^ v0
    v0 = _rotated(v0, 32)
    v2 = (v2 + v3) & LONG
    v3 = _rotated(v3, 16) ^ v2
    v0 = (v0 + v3) & LONG
    v3 = _rotated(v3, 21) ^ v0
    v2 = (v2 + v1) & LONG
    v1 = _rotated(v1, 17) ^ v2
    v2 = _rotated(v2, 32)
    return v0, v1, v2, v3


def siphash13(number: int, key: int) -> int:
    """Return H(v, K): the low 32 bits of SipHash-1-3 of four bytes; both 64-bit halves of the key are equal (3.14)."""
    v0, v1 = 0x736F6D6570736575 ^ key, 0x646F72616E646F6D ^ key
    v2, v3 = 0x6C7967656E657261 ^ key, 0x7465646279746573 ^ key
    block = 4 << 56 | number
    v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ block)
    v0 ^= block
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return (v0 ^ v1 ^ v2 ^ v3) & WORD


class DestinationHashing(Scheduler):
    """Fill 256 buckets cyclically with the list, one per server; the destination address picks one.

    Weights do not matter.
    """

    name = "dh"

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Return the server of the bucket if it is usable. There is no fallback."""
        if not self.servers:
            return None
        server = self.servers[bucket(fold(flow.daddr), BITS) % len(self.servers)]
        return server if server.usable else None


class SourceHashing(Scheduler):
    """Fill 256 buckets cyclically: each server gets as many in a row as its weight, at least one.

    The client's address picks the bucket; with `sh-port` the port counts, too.
    """

    name = "sh"
    _buckets: Sequence[Server] = ()  # empty: fill them at the next choice

    def changed(self) -> None:
        """Fill the buckets again at the next connection."""
        self._buckets = ()

    def _filled(self) -> list[Server]:
        once: list[Server] = []
        for server in self.servers:
            once += [server] * min(max(1, server.weight), BUCKETS)
        return [once[number % len(once)] for number in range(BUCKETS)]

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Return the bucket's server; if it is not usable and `sh-fallback` is set, that of the first usable bucket."""
        if not self.servers:
            return None
        if not self._buckets:
            self._buckets = self._filled()
        port = flow.sport if self.options & BY_PORT else 0
        index = bucket((fold(flow.saddr) + port) & WORD, BITS)
        server = self._buckets[index]
        if server.usable:
            return server
        if self.options & FALLBACK:
            for step in range(BUCKETS):
                server = self._buckets[(2 * index + step) % BUCKETS]
                if server.usable:
                    return server
        return None


class MaglevHashing(Scheduler):
    """Distribute 4093 slots by weight; the client's hash picks one. Few slots change with the list."""

    name = "mh"

    def __init__(self, servers: list[Server], options: int = 0) -> None:
        super().__init__(servers, options)
        self._slots: list[Server] = []
        self._stale = True

    def changed(self) -> None:
        """Rebuild the table later, unless there are more servers than slots.

        An edit to weight 0 changes nothing, because the last other weight counts.
        """
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
        """Use the first 32 bits of an IPv6 server of an IPv4 service (a tunnel)."""
        number = (fold(server.address[: self.address_bytes]) + server.port) & WORD
        return siphash13(number, KEY_1) % SLOTS, siphash13(number, KEY_2) % (SLOTS - 1) + 1

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Return the slot's server; if it is not usable and `mh-fallback` is set, hash again until one is."""
        if self._stale:
            self._slots, self._stale = self._built(self.servers), False
        if not self._slots:
            return None
        port = flow.sport if self.options & BY_PORT else 0
        client = (fold(flow.saddr) + port) & WORD
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
