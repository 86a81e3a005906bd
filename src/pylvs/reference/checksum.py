"""Internet checksums (RFC 1071, RFC 1624)."""

from __future__ import annotations


def fold16(number: int) -> int:
    """Return the ones' complement sum of a big-endian number's 16-bit words; 0 only for 0."""
    return (number % 0xFFFF or 0xFFFF) if number else 0


def ones_complement_sum(data: bytes | bytearray) -> int:
    """Return the ones' complement sum of the data's 16-bit words, padded with a zero byte."""
    return fold16(int.from_bytes(data, "big") << (len(data) % 2 * 8))


def checksum(data: bytes | bytearray) -> int:
    """Return the checksum of data whose checksum field is 0; 0 if `data` has a right checksum."""
    return ~ones_complement_sum(data) & 0xFFFF


def updated_checksum(check: int, old: bytes, new: bytes) -> int:
    """Return the checksum after covered bytes changed (RFC 1624, equation 3); a wrong one stays wrong."""
    inverted = int.from_bytes(old, "big") ^ ((1 << (8 * len(old))) - 1)
    return ~fold16((~check & 0xFFFF) + inverted + int.from_bytes(new, "big")) & 0xFFFF


def pseudo_header(saddr: bytes, daddr: bytes, protocol: int, length: int) -> bytes:
    """Return what transport checksums cover besides the segment (RFC 9293, RFC 8200 8.1)."""
    if len(saddr) == 4:
        return saddr + daddr + bytes((0, protocol)) + length.to_bytes(2, "big")
    return saddr + daddr + length.to_bytes(4, "big") + bytes((0, 0, 0, protocol))
