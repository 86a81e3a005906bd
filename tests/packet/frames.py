"""Frames built by scapy, which also judges the frames that come out."""

from __future__ import annotations

import struct
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from pylvs.reference.packet import ETHER_BYTES
from tests.packet.host import MAC, ROUTER_MAC, VIP4

SCTP_PROTOCOL = 132
IP4_BYTES, IP6_BYTES = 20, 40
TCP_CHECK, UDP_CHECK = 16, 6  # where the checksum is in a header
CLIENT4, CLIENT6 = "198.18.0.7", "2001:db8:7::7"


def build(packet: Any) -> bytes:
    """Return the bytes of a packet with computed checksums."""
    return bytes(packet)


def ether(target: str = MAC, source: str = ROUTER_MAC) -> Any:
    """Return a link header to the host under test."""
    return Ether(dst=target, src=source)


def network(source: str, target: str, **fields: Any) -> Any:
    """Return an IP header of the addresses' family; `ttl` and `tos` work for both."""
    if ip_address(target).version == 4:
        return IP(src=source, dst=target, **fields)
    for name, of_six in (("ttl", "hlim"), ("tos", "tc")):
        if name in fields:
            fields[of_six] = fields.pop(name)
    fields.pop("id", None)
    return IPv6(src=source, dst=target, **fields)


@lru_cache(maxsize=4096)
def tcp(
    flags: str = "S",
    sport: int = 4000,
    dport: int = 80,
    source: str = CLIENT4,
    target: str = VIP4,
    payload: bytes = b"",
    ttl: int = 64,
) -> bytes:
    """Return a frame with a TCP segment."""
    return _with_ports(_tcp(flags, source, target, payload, ttl), sport, dport, TCP_CHECK)


@lru_cache(maxsize=4096)
def udp(
    sport: int = 4000,
    dport: int = 53,
    source: str = CLIENT4,
    target: str = VIP4,
    payload: bytes = b"?",
    ttl: int = 64,
) -> bytes:
    """Return a frame with a UDP datagram."""
    return _with_ports(_udp(source, target, payload, ttl), sport, dport, UDP_CHECK)


@lru_cache(maxsize=4096)
def _tcp(flags: str, source: str, target: str, payload: bytes, ttl: int) -> bytes:
    return build(ether() / network(source, target, ttl=ttl) / TCP(sport=0, dport=0, flags=flags) / payload)


@lru_cache(maxsize=4096)
def _udp(source: str, target: str, payload: bytes, ttl: int) -> bytes:
    return build(ether() / network(source, target, ttl=ttl) / UDP(sport=0, dport=0) / payload)


def _with_ports(frame: bytes, sport: int, dport: int, check: int) -> bytes:
    """Return a frame of scapy's, whose ports are 0, with these ports. Many tests need thousands, and scapy is slow."""
    made = bytearray(frame)
    at = ETHER_BYTES + (IP4_BYTES if frame[12:14] == b"\x08\x00" else IP6_BYTES)
    total = (~struct.unpack_from("!H", made, at + check)[0] & 0xFFFF) + sport + dport  # RFC 1624
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    struct.pack_into("!HH", made, at, sport, dport)
    struct.pack_into("!H", made, at + check, checksum or (0xFFFF if check == UDP_CHECK else 0))
    return bytes(made)


def carrying(
    protocol: int,
    body: bytes,
    source: str = CLIENT4,
    target: str = VIP4,
    ttl: int = 64,
) -> bytes:
    """Return a frame with an IP packet of any protocol and this body."""
    field = "proto" if ip_address(target).version == 4 else "nh"
    return build(ether() / network(source, target, ttl=ttl, **{field: protocol}) / Raw(body))


def sctp(
    chunks: bytes,
    sport: int = 4000,
    dport: int = 3868,
    source: str = CLIENT4,
    target: str = VIP4,
    check: int | None = None,
) -> bytes:
    """Return a frame with an SCTP packet of these chunks; `check` replaces the right CRC32c."""
    return carrying(SCTP_PROTOCOL, build(SCTP(sport=sport, dport=dport, tag=9, chksum=check) / chunks), source, target)


def chunk(kind: int, body: bytes = b"", length: int | None = None) -> bytes:
    """Return an SCTP chunk, padded to four bytes; `length` replaces the true length."""
    size = 4 + len(body) if length is None else length
    return struct.pack("!BBH", kind, 0, size) + body + bytes(-len(body) % 4)


def parsed(frame: bytes) -> Any:
    return Ether(frame)


def summed_anew(frame: bytes) -> bytes:
    """Return the frame with every checksum computed again: the same bytes if they were right."""
    packet = Ether(frame)
    layer: Packet | None = packet
    while layer is not None and not isinstance(layer, Raw):
        if "chksum" in layer.fields:
            del layer.fields["chksum"]
        layer = layer.payload or None
    packet.clear_cache()
    return bytes(packet)
