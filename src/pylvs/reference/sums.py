"""Internet checksums (RFC 1071, RFC 1624)."""

from __future__ import annotations


def folded(number: int) -> int:
    """The ones' complement sum of a big-endian number's 16-bit words; 0 only of 0."""
    return (number % 0xFFFF or 0xFFFF) if number else 0


def total(data: bytes | bytearray) -> int:
    """The ones' complement sum of the data's 16-bit words, padded with a zero byte."""
    return folded(int.from_bytes(data, "big") << (len(data) % 2 * 8))


def checksum(data: bytes | bytearray) -> int:
    """What belongs into the checksum field, which is 0 in `data`; 0 if `data` already holds a right one."""
    return ~total(data) & 0xFFFF


def changed(check: int, old: bytes, new: bytes) -> int:
    """The checksum after some of what it covers changed (RFC 1624, equation 3); a wrong one stays wrong."""
    inverted = int.from_bytes(old, "big") ^ ((1 << (8 * len(old))) - 1)
    return ~folded((~check & 0xFFFF) + inverted + int.from_bytes(new, "big")) & 0xFFFF


def pseudo_header(source: bytes, target: bytes, protocol: int, length: int) -> bytes:
    """What transport checksums cover beside the segment (RFC 9293, RFC 8200 8.1)."""
    if len(source) == 4:
        return source + target + bytes((0, protocol)) + length.to_bytes(2, "big")
    return source + target + length.to_bytes(4, "big") + bytes((0, 0, 0, protocol))
