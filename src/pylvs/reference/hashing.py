"""Hashes that choose servers (IPVS-SEMANTICS 3.11, 3.14)."""

from __future__ import annotations

MULTIPLIER = 0x61C88647  # 2^32 divided by the golden ratio, twice
WORD = 0xFFFFFFFF
LONG = 0xFFFFFFFFFFFFFFFF


def fold(address: bytes) -> int:
    """The address as one 32-bit number: an IPv6 one is the exclusive or of its four words (3.11)."""
    folded = int.from_bytes(address[:4], "big")
    for at in range(4, len(address), 4):
        folded ^= int.from_bytes(address[at : at + 4], "big")
    return folded


def bucket(number: int, bits: int) -> int:
    """Which of 2^bits buckets a 32-bit number belongs to (3.11)."""
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
    """H(v, K): SipHash-1-3 of four bytes, both key words alike, its low 32 bits (3.14)."""
    v0, v1 = 0x736F6D6570736575 ^ key, 0x646F72616E646F6D ^ key
    v2, v3 = 0x6C7967656E657261 ^ key, 0x7465646279746573 ^ key
    block = 4 << 56 | number
    v0, v1, v2, v3 = _round(v0, v1, v2, v3 ^ block)
    v0 ^= block
    v2 ^= 0xFF
    for _ in range(3):
        v0, v1, v2, v3 = _round(v0, v1, v2, v3)
    return (v0 ^ v1 ^ v2 ^ v3) & WORD
