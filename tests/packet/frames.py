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

from tests.packet.host import MAC, ROUTER_MAC, VIP4

SCTP_PROTOCOL = 132
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
    return build(ether() / network(source, target, ttl=ttl) / TCP(sport=sport, dport=dport, flags=flags) / payload)


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
    return build(ether() / network(source, target, ttl=ttl) / UDP(sport=sport, dport=dport) / payload)


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
