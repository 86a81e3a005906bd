"""Next hops, and what is sent there: TTL, NAT, tunnels (IPVS-SEMANTICS 7.3 to 7.5) and fragments (RFC 791)."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import Tunnel, TunnelFlag, TunnelKind
from pylvs.reference.packet import (
    DONT_FRAGMENT,
    END,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    FRAGMENT,
    GRE,
    ICMP,
    ICMP6,
    IPIP,
    IPSEC,
    IPV4_BYTES,
    IPV6,
    IPV6_BYTES,
    MORE_FRAGMENTS,
    NOP,
    OFFSET,
    SCTP,
    TCP,
    UDP,
    Packet,
    checksum,
    crc32c,
    pseudo_header,
    updated_checksum,
)

CHECKSUM_AT = {TCP: 16, UDP: 6}  # in the transport header
MANGLED = 0xFFFF  # replaces a UDP checksum of 0 (RFC 768)
GRE_BYTES, GUE_BYTES = 4, 12  # GUE: a UDP header and 4 bytes
GRE_CHECKSUM = 0x8000
COPY_FLAG = 0x80  # bit of an option's type: copy the option into every fragment
CONGESTED = 3  # ECN's codepoint CE; one less is ECT(0)
QUOTED4, QUOTED6 = 548, 1232  # bytes: ICMP errors have 576 and 1280
TTL = 64  # of ICMP errors
TOS_MASK, INTERNETWORK_CONTROL = 0x1E, 0xC0  # of the packet's TOS; the precedence (RFC 1812 4.3.2.5)


@dataclass(frozen=True, slots=True)
class NextHop:
    """The result of a FIB lookup: device, link addresses, MTU."""

    device: str
    dmac: bytes
    smac: bytes
    mtu: int = 1500
    saddr4: bytes = b""  # the source address for this route
    saddr6: bytes = b""


@dataclass(slots=True)
class Network:
    """A host's view. `next_hops` has single addresses; the default routes serve all others."""

    macs: frozenset[bytes]  # the host's own link addresses
    local: frozenset[bytes]  # its own addresses
    next_hops: dict[bytes, NextHop] = field(default_factory=dict)
    default4: NextHop | None = None
    default6: NextHop | None = None
    forwards4: bool = True  # ip_forward
    forwards6: bool = True

    def next_hop(self, address: bytes) -> NextHop | None:
        """Return the next hop towards an address that is not the host's own; None: no route."""
        return self.next_hops.get(address) or (self.default4 if len(address) == 4 else self.default6)

    def forwards(self, family: int) -> bool:
        """Return whether the host routes packets of a family."""
        return self.forwards4 if family == 4 else self.forwards6


@dataclass(frozen=True, slots=True)
class Error:
    """Type and code of an error in ICMP and in ICMPv6."""

    v4: tuple[int, int]
    v6: tuple[int, int]


PORT_UNREACHABLE = Error((3, 3), (1, 4))  # the service has no server (2.6)
HOST_UNREACHABLE = Error((3, 1), (1, 3))  # no route to the server
TIME_EXCEEDED = Error((11, 0), (3, 0))
TOO_BIG = Error((3, 4), (2, 0))


def error_about(packet: Packet, error: Error, rest: int = 0, ip: bytes | None = None) -> bytes:
    """Return an error from the virtual address to the client. It quotes `ip`, by default the packet.

    `rest` is the header's second 32 bits: the MTU, if the packet is too big.
    """
    quote = (packet.ip if ip is None else ip)[: QUOTED4 if packet.family == 4 else QUOTED6]
    type_and_code = error.v4 if packet.family == 4 else error.v6
    message = bytes(type_and_code) + b"\0\0" + rest.to_bytes(4, "big") + quote
    saddr, daddr = packet.daddr, packet.saddr
    if packet.family == 4:
        protocol, covered, tos = ICMP, message, packet.tos & TOS_MASK | INTERNETWORK_CONTROL
    else:
        protocol, covered, tos = ICMP6, pseudo_header(saddr, daddr, ICMP6, len(message)) + message, 0
    message = message[:2] + checksum(covered).to_bytes(2, "big") + message[4:]
    return ip_packet(saddr, daddr, protocol, message, ttl=TTL, tos=tos)


def add_link_header(ip: bytes, hop: NextHop) -> bytes:
    return hop.dmac + hop.smac + (ETHERTYPE_IPV4 if ip[0] >> 4 == 4 else ETHERTYPE_IPV6) + ip


def decrement_ttl(packet: Packet, own: bytes = b"") -> bytearray:
    """Return the packet with its TTL less by one, and this host's address in a record route option (7.1).

    That address is the packet's destination; for a reply it is `own`, from which the reply leaves.
    """
    ip = bytearray(packet.ip)
    if packet.family == 6:
        ip[7] -= 1
        return ip
    ip[8] -= 1
    if packet.record_at:
        pointer = ip[packet.record_at + 2]
        at = packet.record_at + pointer - 1
        ip[at : at + 4] = own or packet.daddr
        ip[packet.record_at + 2] = pointer + 4
    _set_header_checksum(ip)
    return ip


def translate(packet: Packet, ip: bytearray, *, address: bytes, port: int, is_reply: bool) -> bytearray:
    """Rewrite the destination, or the source of a reply, with all checksums (7.3).

    `ip` is the packet with the changes so far.
    """
    saddr_at, daddr_at = (12, 16) if packet.family == 4 else (8, 24)
    at = saddr_at if is_reply else daddr_at
    old, new = bytes(ip[at : at + len(address)]), address
    ip[at : at + len(address)] = address
    if packet.protocol not in IPSEC:
        port_at = packet.l4 + (0 if is_reply else 2)
        old, new = old + bytes(ip[port_at : port_at + 2]), new + port.to_bytes(2, "big")
        ip[port_at : port_at + 2] = new[-2:]
    if packet.family == 4:
        _set_header_checksum(ip)
    if packet.protocol in CHECKSUM_AT:
        check_at = packet.l4 + CHECKSUM_AT[packet.protocol]
        ip[check_at : check_at + 2] = _transport_checksum(packet, ip, check_at, old, new).to_bytes(2, "big")
    elif packet.protocol == SCTP and old[-2:] != new[-2:]:
        ip[packet.l4 + 8 : packet.l4 + 12] = _sctp_checksum(ip, packet.l4)
    return ip


def _transport_checksum(packet: Packet, ip: bytearray, at: int, old: bytes, new: bytes) -> int:
    """Update the checksum incrementally, so that a wrong one stays wrong. A UDP packet without one gets one."""
    if packet.protocol == UDP and packet.no_sum:
        segment = bytes(ip[packet.l4 :])
        ends = bytes(ip[12:20] if packet.family == 4 else ip[8:40])
        half = len(ends) // 2
        return checksum(pseudo_header(ends[:half], ends[half:], UDP, len(segment)) + segment) or MANGLED
    check = updated_checksum(int.from_bytes(ip[at : at + 2], "big"), old, new)
    return check or MANGLED if packet.protocol == UDP else check


def _sctp_checksum(ip: bytearray, at: int) -> bytes:
    """Return the checksum of the SCTP segment at `at`."""
    return crc32c(ip[at : at + 8] + bytes(4) + ip[at + 12 :]).to_bytes(4, "little")


def encapsulation_bytes(tunnel: Tunnel, family: int) -> int:
    """Return the length of the headers that a tunnel to an address of a family adds."""
    outer = IPV4_BYTES if family == 4 else IPV6_BYTES
    if tunnel.kind == TunnelKind.GRE:
        return outer + GRE_BYTES + (4 if tunnel.flags & TunnelFlag.CSUM else 0)
    return outer + (GUE_BYTES if tunnel.kind == TunnelKind.GUE else 0)


def encapsulate(packet: Packet, tunnel: Tunnel, saddr: bytes, daddr: bytes, *, pmtu_disc: bool) -> bytes:
    """Decrement the TTL, and add an outer header from this host to the server.

    The kernel draws the outer identification without DF, and the source port of GUE. Here they are 0.
    """
    inner = bytes(decrement_ttl(packet))
    inner_protocol = IPIP if packet.family == 4 else IPV6
    tos = packet.tos - 1 if packet.tos & CONGESTED == CONGESTED else packet.tos
    if tunnel.kind == TunnelKind.IPIP:
        protocol, payload = inner_protocol, inner
    elif tunnel.kind == TunnelKind.GRE:
        protocol, payload = GRE, _gre(inner, packet.family, tunnel)
    else:
        protocol, payload = UDP, _gue(inner, inner_protocol, tunnel, saddr, daddr)
    df = packet.df and packet.family == 4 and pmtu_disc
    return ip_packet(saddr, daddr, protocol, payload, ttl=packet.ttl - 1, tos=tos, df=df)


def _gre(inner: bytes, family: int, tunnel: Tunnel) -> bytes:
    ethertype = ETHERTYPE_IPV4 if family == 4 else ETHERTYPE_IPV6
    if not tunnel.flags & TunnelFlag.CSUM:
        return b"\0\0" + ethertype + inner
    header = GRE_CHECKSUM.to_bytes(2, "big") + ethertype
    return header + checksum(header + bytes(4) + inner).to_bytes(2, "big") + b"\0\0" + inner


def _gue(inner: bytes, inner_protocol: int, tunnel: Tunnel, saddr: bytes, daddr: bytes) -> bytes:
    body = bytes((0, inner_protocol, 0, 0)) + inner
    header = b"\0\0" + tunnel.port.to_bytes(2, "big") + (8 + len(body)).to_bytes(2, "big")
    check = 0
    if tunnel.flags:
        whole = header + b"\0\0" + body
        check = checksum(pseudo_header(saddr, daddr, UDP, len(whole)) + whole) or MANGLED
    return header + check.to_bytes(2, "big") + body


def ip_packet(
    saddr: bytes, daddr: bytes, protocol: int, payload: bytes, *, ttl: int, tos: int = 0, df: bool = False
) -> bytes:
    """Return a packet of the addresses' family: without options, with identification 0, with flow label 0."""
    length = len(payload)
    if len(daddr) == 16:
        head = (6 << 28 | tos << 20).to_bytes(4, "big") + length.to_bytes(2, "big") + bytes((protocol, ttl))
        return head + saddr + daddr + payload
    head = bytes((0x45, tos)) + (IPV4_BYTES + length).to_bytes(2, "big") + b"\0\0"
    head += (DONT_FRAGMENT if df else 0).to_bytes(2, "big") + bytes((ttl, protocol))
    check = checksum(head + saddr + daddr)
    return head + check.to_bytes(2, "big") + saddr + daddr + payload


def _set_header_checksum(ip: bytearray) -> None:
    """Compute the checksum of an IPv4 header anew."""
    ip[10:12] = b"\0\0"
    ip[10:12] = checksum(ip[: (ip[0] & 15) * 4]).to_bytes(2, "big")


def fragment(ip: bytes, mtu: int) -> list[bytes]:
    """Return the packet as fragments that fit into the MTU; only the first has options that are not to be copied."""
    if ip[0] >> 4 == 6:
        return _fragment6(ip, mtu)
    size = (ip[0] & 15) * 4
    step = (mtu - size) & ~7
    payload = ip[size:]
    fragments = []
    for offset in range(0, len(payload), step):
        more = offset + step < len(payload)
        payload_part = payload[offset : offset + step]
        head = bytearray(ip[:size])
        if offset:
            _blank_uncopied_options(head)
        head[2:4] = (size + len(payload_part)).to_bytes(2, "big")
        kept = int.from_bytes(head[6:8], "big") & ~(MORE_FRAGMENTS | OFFSET)
        head[6:8] = (kept | offset >> 3 | (MORE_FRAGMENTS if more else 0)).to_bytes(2, "big")
        _set_header_checksum(head)
        fragments.append(bytes(head) + payload_part)
    return fragments


def _blank_uncopied_options(head: bytearray) -> None:
    """Overwrite options that belong to the first fragment with padding (RFC 791 3.1)."""
    at = IPV4_BYTES
    while at < len(head) and head[at] != END:
        if head[at] == NOP:
            at += 1
            continue
        length = head[at + 1] if at + 1 < len(head) else 0
        if length < 2 or at + length > len(head):
            return
        if not head[at] & COPY_FLAG:
            head[at : at + length] = bytes((NOP,)) * length
        at += length


def _fragment6(ip: bytes, mtu: int) -> list[bytes]:
    """Fragment at the source (RFC 8200 4.5): the director made the outer IPv6 header."""
    step = (mtu - IPV6_BYTES - 8) & ~7
    payload = ip[IPV6_BYTES:]
    fragments = []
    for offset in range(0, len(payload), step):
        payload_part = payload[offset : offset + step]
        more = offset + step < len(payload)
        head = ip[:4] + (8 + len(payload_part)).to_bytes(2, "big") + bytes((FRAGMENT, ip[7])) + ip[8:40]
        fragments.append(head + bytes((ip[6], 0)) + (offset | more).to_bytes(2, "big") + bytes(4) + payload_part)
    return fragments
