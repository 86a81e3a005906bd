"""Encode packets that ask, and decode what comes back: ARP, neighbour discovery, echo, TCP, UDP, tunnels around them.

Each packet has the number of its question in the IPv4 identification or IPv6 flow label, and in the sequence number or
source port. So replies, ICMP errors and packets that come back all name their question.
"""

from __future__ import annotations

import struct
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address

from pylvs.model.addresses import ANY_V4, ANY_V6, Address
from pylvs.model.dataclass import dataclass
from pylvs.model.service import Tunnel, TunnelFlag, TunnelKind
from pylvs.reference.packet import (
    ACK,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    GRE,
    ICMP,
    ICMP6,
    IPIP,
    IPV6,
    RST,
    SYN,
    TCP,
    UDP,
    checksum,
    pseudo_header,
)

ETHERTYPE_ARP = b"\x08\x06"
BROADCAST = b"\xff" * 6
FIRST_PORT = 61000  # source ports of questions: behind the kernel's own ephemeral ports (ip_local_port_range)
QUESTIONS = 4000  # the most of one exchange
TTL = 64
_DONT_FRAGMENT = 0x4000
_SOLICITATION, _ADVERTISEMENT, _ECHO_6, _ECHO_REPLY_6 = 135, 136, 128, 129
_ECHO, _ECHO_REPLY, _UNREACHABLE, _TOO_BIG = 8, 0, 3, 4
PORT_UNREACHABLE, PROTOCOL_UNREACHABLE = {(3, 3), (1, 4)}, {(3, 2), (4, 1)}  # type and code, ICMP and ICMPv6
_ERRORS = {ICMP: (3, 11, 12), ICMP6: (1, 2, 3, 4)}
_ARP = struct.Struct("!HHBBH6s4s6s4s")


class Kind(Enum):
    """What came back."""

    MAC = "answers ARP or ND"
    ECHO = "echo reply"
    OPEN = "SYN+ACK"
    CLOSED = "RST"
    REFUSED = "ICMP error"
    DATAGRAM = "datagram"
    RETURNED = "the packet itself came back"
    ASTRAY = "a reply whose link address is not this host's"
    ASKED = "another host asks for an address by ARP or ND"
    REPLY = "a segment of an own address to another host, which is no question"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back to a question: `number`, or -1 for what names an address instead (MAC, ASKED, REPLY).

    `sender` is its IP address, `mac` its link address, `ifindex` the device it came in by. `code` are type and code of
    an ICMP error, and `mtu` what it reports.
    """

    kind: Kind
    number: int
    sender: Address
    address: Address | None = None
    mac: bytes = b""
    ifindex: int = 0
    code: tuple[int, int] = (0, 0)
    mtu: int = 0


def echo(number: int, ident: int, size: int = 0) -> tuple[int, bytes]:
    """Return an echo request of IPv4 with so many octets of data; `packet` converts it for IPv6."""
    return ICMP, struct.pack("!BBHHH", _ECHO, 0, 0, ident, number) + bytes(size)


def syn(number: int, port: int, size: int = 0) -> tuple[int, bytes]:
    """Return a SYN to a port, with so many octets of data."""
    return TCP, _segment(number, port, number << 16, SYN) + bytes(size)


def reset(number: int, port: int) -> tuple[int, bytes]:
    """Return the RST that ends the handshake of a SYN."""
    return TCP, _segment(number, port, (number << 16) + 1, RST)


def _segment(number: int, port: int, sequence: int, flags: int) -> bytes:
    return struct.pack("!HHIIBBHHH", FIRST_PORT + number, port, sequence, 0, 0x50, flags, 64240, 0, 0)


def datagram(number: int, port: int) -> tuple[int, bytes]:
    """Return an empty datagram of UDP."""
    return UDP, struct.pack("!HHHH", FIRST_PORT + number, port, 8, 0)


def packet(number: int, source: Address, target: Address, payload: tuple[int, bytes], hop_limit: int = TTL) -> bytes:
    """Return an IP packet that must not be fragmented."""
    protocol, body = payload
    if source.version == 6 and protocol == ICMP:
        protocol, body = ICMP6, bytes([_ECHO_6]) + body[1:]
    body = _with_checksum(protocol, body, source, target)
    return _framed(number, source, target, protocol, body, hop_limit)


def _framed(
    number: int, source: Address, target: Address, protocol: int, body: bytes, hop_limit: int, options: bytes = b""
) -> bytes:
    """Return a packet with this body behind its IP header; `options` are of IPv4."""
    addresses = source.packed + target.packed
    if source.version == 6:
        return struct.pack("!IHBB", 0x60000000 | number, len(body), protocol, hop_limit) + addresses + body
    words, length = 5 + len(options) // 4, 20 + len(options) + len(body)
    fixed = struct.pack("!BBHHHBBH", 0x40 | words, 0, length, number, _DONT_FRAGMENT, hop_limit, protocol, 0)
    rest = addresses + options
    return fixed[:10] + checksum(fixed + rest).to_bytes(2, "big") + rest + body


_BAD_RECORD_ROUTE = b"\x07\x07\x03\x00\x00\x00\x00\x00"  # its pointer leads into the option's head (RFC 791, 3.1)
_BAD_HOP_BY_HOP = bytes([ICMP6, 0, 0x9E, 4, 0, 0, 0, 0])  # an unknown option, which has to be reported (RFC 8200, 4.2)


def malformed(number: int, source: Address, target: Address) -> bytes:
    """Return a packet with a wrong option: a host reports it before its packet filter at input sees it."""
    if source.version == 6:
        return _framed(number, source, target, 0, _BAD_HOP_BY_HOP + bytes([_ECHO_6]) + bytes(7), TTL)
    echo = _with_checksum(ICMP, bytes([_ECHO]) + bytes(7), source, target)
    return _framed(number, source, target, ICMP, echo, TTL, _BAD_RECORD_ROUTE)


_CHECKSUM_AT = {ICMP: 2, ICMP6: 2, TCP: 16, UDP: 6}


def _with_checksum(protocol: int, body: bytes, source: Address, target: Address) -> bytes:
    at = _CHECKSUM_AT.get(protocol)
    if at is None:
        return body
    pseudo = b"" if protocol == ICMP else pseudo_header(source.packed, target.packed, protocol, len(body))
    return body[:at] + (checksum(pseudo + body) or 0xFFFF).to_bytes(2, "big") + body[at + 2 :]


def encapsulated(number: int, source: Address, target: Address, tunnel: Tunnel, inner: bytes) -> bytes:
    """Return a packet in a tunnel to a real server, as the packet path encapsulates it; checksums if it has them."""
    version = inner[0] >> 4
    ethertype = ETHERTYPE_IPV4 if version == 4 else ETHERTYPE_IPV6
    protocol = IPIP if version == 4 else IPV6
    if tunnel.kind == TunnelKind.GRE:
        has_checksum = bool(tunnel.flags & TunnelFlag.CSUM)
        body = (b"\x80\x00" + ethertype + bytes(4) if has_checksum else bytes(2) + ethertype) + inner
        if has_checksum:
            body = body[:4] + checksum(body).to_bytes(2, "big") + body[6:]
        return packet(number, source, target, (GRE, body))
    if tunnel.kind == TunnelKind.GUE:
        gue = bytes([0, protocol, 0, 0]) + inner
        return packet(
            number, source, target, (UDP, struct.pack("!HHHH", FIRST_PORT, tunnel.port, 8 + len(gue), 0) + gue)
        )
    return packet(number, source, target, (protocol, inner))


def overhead(version: int, tunnel: Tunnel) -> int:
    """Return the octets that a tunnel adds to a packet."""
    of_kind = {TunnelKind.IPIP: 0, TunnelKind.GRE: 8 if tunnel.flags & TunnelFlag.CSUM else 4, TunnelKind.GUE: 12}
    return (20 if version == 4 else 40) + of_kind[tunnel.kind]


def frame(target: bytes, source: bytes, body: bytes) -> bytes:
    """Return a frame of Ethernet with a packet of IP, or of ARP."""
    kind = {4: ETHERTYPE_IPV4, 6: ETHERTYPE_IPV6}.get(body[0] >> 4, ETHERTYPE_ARP)
    return target + source + kind + body


def broadcast_probe(address: IPv4Address, mac: bytes) -> bytes:
    """Return a probe of RFC 5227 whose reply is a broadcast: it arrives from a host with this link address, too."""
    body = _ARP.pack(1, 0x800, 6, 4, 1, BROADCAST, ANY_V4.packed, bytes(6), address.packed)
    return frame(BROADCAST, mac, body)


def who_has(address: Address, mac: bytes, source: Address | None) -> bytes:
    """Return a frame that asks who has an address. Without a source it is the probe of RFC 5227, which no host learns.

    IPv6 needs a source: without one, a host that configures the address at this moment would refuse it.
    """
    if isinstance(address, IPv4Address):
        sender = (source or ANY_V4).packed
        return frame(BROADCAST, mac, _ARP.pack(1, 0x800, 6, 4, 1, mac, sender, bytes(6), address.packed))
    assert source is not None
    group = IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + address.packed[13:])
    body = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + address.packed + b"\x01\x01" + mac
    return frame(b"\x33\x33" + group.packed[12:], mac, packet(0, source, group, (ICMP6, body), hop_limit=255))


def decoded(data: bytes, ident: int, own: frozenset[Address]) -> Reply | None:
    """Decode what came in, from its network header on; None if no question belongs to it. `own`: their sources."""
    try:
        version = data[0] >> 4
        if version == 4:
            return _decoded_v4(data, ident, own)
        return _decoded_v6(data, ident, own) if version == 6 else _decoded_arp(data)
    except (IndexError, struct.error, ValueError):  # too short
        return None


def _decoded_arp(data: bytes) -> Reply | None:
    kind, protocol, _, _, operation, mac, sender, _, target = _ARP.unpack_from(data)
    if (kind, protocol) != (1, 0x800):
        return None
    if operation == 2:
        return Reply(Kind.MAC, -1, ip_address(sender), ip_address(sender), mac)
    return Reply(Kind.ASKED, -1, ip_address(sender), ip_address(target), mac)


def _decoded_v4(data: bytes, ident: int, own: frozenset[Address]) -> Reply | None:
    source, at, protocol = ip_address(data[12:16]), (data[0] & 15) * 4, data[9]
    if source in own and ip_address(data[16:20]) not in own:
        if _is_confirming(protocol, data, at):
            return Reply(Kind.REPLY, -1, ip_address(data[16:20]), source)
        return Reply(Kind.RETURNED, int.from_bytes(data[4:6], "big"), source)
    if protocol == ICMP and data[at] in _ERRORS[ICMP]:
        inner = data[at + 8 :]
        if len(inner) < 20 or ip_address(inner[12:16]) not in own:
            return None
        mtu = (
            int.from_bytes(data[at + 6 : at + 8], "big") if (data[at], data[at + 1]) == (_UNREACHABLE, _TOO_BIG) else 0
        )
        number = int.from_bytes(inner[4:6], "big")
        return Reply(Kind.REFUSED, number, source, code=(data[at], data[at + 1]), mtu=mtu)
    if protocol == ICMP and data[at] == _ECHO_REPLY:
        return _echo_reply(data, at, source, ident)
    return _transport(data, at, protocol, source)


def _decoded_v6(data: bytes, ident: int, own: frozenset[Address]) -> Reply | None:
    source, target, protocol, at = ip_address(data[8:24]), ip_address(data[24:40]), data[6], 40
    if source in own and target not in own and not target.is_multicast:
        if _is_confirming(protocol, data, at):
            return Reply(Kind.REPLY, -1, target, source)
        return Reply(Kind.RETURNED, int.from_bytes(data[:4], "big") & 0xFFFFF, source)
    if protocol != ICMP6:
        return _transport(data, at, protocol, source)
    kind, code = data[at], data[at + 1]
    if kind in _ERRORS[ICMP6]:
        inner = data[at + 8 :]
        if len(inner) < 40 or ip_address(inner[8:24]) not in own:
            return None
        mtu = int.from_bytes(data[at + 4 : at + 8], "big") if kind == 2 else 0
        return Reply(Kind.REFUSED, int.from_bytes(inner[:4], "big") & 0xFFFFF, source, code=(kind, code), mtu=mtu)
    if kind == _ECHO_REPLY_6:
        return _echo_reply(data, at, source, ident)
    if kind == _ADVERTISEMENT:
        mac = data[at + 26 : at + 32] if data[at + 24 : at + 26] == b"\x02\x01" else b""
        return Reply(Kind.MAC, -1, source, ip_address(data[at + 8 : at + 24]), mac)
    if kind == _SOLICITATION and source != ANY_V6:
        return Reply(Kind.ASKED, -1, source, ip_address(data[at + 8 : at + 24]))
    return None


def _is_confirming(protocol: int, data: bytes, at: int) -> bool:
    """Return whether a packet is a segment with ACK, which no question has."""
    return protocol == TCP and bool(data[at + 13] & ACK)


def _echo_reply(data: bytes, at: int, source: Address, ident: int) -> Reply | None:
    found, number = struct.unpack_from("!HH", data, at + 4)
    return Reply(Kind.ECHO, number, source) if found == ident else None


def _transport(data: bytes, at: int, protocol: int, source: Address) -> Reply | None:
    number = int.from_bytes(data[at + 2 : at + 4], "big") - FIRST_PORT
    if protocol not in (TCP, UDP) or not 0 <= number < QUESTIONS:
        return None
    if protocol == UDP:
        return Reply(Kind.DATAGRAM, number, source)
    (acknowledged,) = struct.unpack_from("!I", data, at + 8)
    flags = data[at + 13]
    if (acknowledged - 1 & 0xFFFFFFFF) >> 16 != number:
        return None
    if flags & RST:
        return Reply(Kind.CLOSED, number, source)
    return Reply(Kind.OPEN, number, source) if flags & (SYN | ACK) == SYN | ACK else None
