"""What forwarding makes of a packet's bytes (IPVS-SEMANTICS 7.3 to 7.5), and fragments (RFC 791)."""

from __future__ import annotations

from pylvs.model.destination import Tunnel, TunnelFlag, TunnelKind
from pylvs.reference.network import Hop
from pylvs.reference.packet import (
    DONT_FRAGMENT,
    END,
    FRAGMENT,
    GRE,
    IPIP,
    IPSEC,
    IPV4_BYTES,
    IPV6,
    IPV6_BYTES,
    KIND_IPV4,
    KIND_IPV6,
    MORE_FRAGMENTS,
    NOP,
    OFFSET,
    SCTP,
    TCP,
    UDP,
    Packet,
)
from pylvs.reference.sums import changed, checksum, pseudo_header

CHECKSUM_AT = {TCP: 16, UDP: 6}  # in the transport header
MANGLED = 0xFFFF  # a UDP checksum that comes to 0 (RFC 768)
GRE_BYTES, GUE_BYTES = 4, 12  # GUE: a UDP header and 4 bytes
GRE_CHECKSUM = 0x8000
COPIED = 0x80  # of an option's kind: every fragment carries it
CONGESTED, CAPABLE = 3, 2  # ECN's codepoints CE and ECT(0)


def framed(ip: bytes, hop: Hop) -> bytes:
    """The packet with its link header."""
    return hop.target_mac + hop.source_mac + (KIND_IPV4 if ip[0] >> 4 == 4 else KIND_IPV6) + ip


def aged(packet: Packet, own: bytes = b"") -> bytearray:
    """The packet with its time to live less by one, and this host's address where an option wants it (7.1).

    That is the address the packet came to, or for an answer `own`, the one that it leaves from.
    """
    ip = bytearray(packet.ip)
    if packet.family == 6:
        ip[7] -= 1
        return ip
    ip[8] -= 1
    if packet.record_at:
        pointer = ip[packet.record_at + 2]
        place = packet.record_at + pointer - 1
        ip[place : place + 4] = own or packet.target
        ip[packet.record_at + 2] = pointer + 4
    ip[10:12] = b"\0\0"
    ip[10:12] = checksum(ip[: (ip[0] & 15) * 4]).to_bytes(2, "big")
    return ip


def translated(packet: Packet, ip: bytearray, *, address: bytes, port: int, is_reply: bool) -> bytearray:
    """NAT: another target, or for a reply another source (7.3). `ip` is the packet as far as it has come."""
    source_at, target_at = (12, 16) if packet.family == 4 else (8, 24)
    at = source_at if is_reply else target_at
    old, new = bytes(ip[at : at + len(address)]), address
    ip[at : at + len(address)] = address
    if packet.protocol not in IPSEC:
        port_at = packet.l4 + (0 if is_reply else 2)
        old, new = old + bytes(ip[port_at : port_at + 2]), new + port.to_bytes(2, "big")
        ip[port_at : port_at + 2] = new[-2:]
    if packet.family == 4:
        ip[10:12] = b"\0\0"
        ip[10:12] = checksum(ip[: (ip[0] & 15) * 4]).to_bytes(2, "big")
    if packet.protocol in CHECKSUM_AT:
        check_at = packet.l4 + CHECKSUM_AT[packet.protocol]
        ip[check_at : check_at + 2] = _transport_checksum(packet, ip, check_at, old, new).to_bytes(2, "big")
    elif packet.protocol == SCTP and old[-2:] != new[-2:]:
        ip[packet.l4 + 8 : packet.l4 + 12] = _crc32c(ip, packet.l4)
    return ip


def _transport_checksum(packet: Packet, ip: bytearray, at: int, old: bytes, new: bytes) -> int:
    """Incremental, so that a wrong one stays wrong; a UDP packet without one gets one."""
    if packet.protocol == UDP and packet.no_sum:
        segment = bytes(ip[packet.l4 :])
        ends = bytes(ip[12:20] if packet.family == 4 else ip[8:40])
        half = len(ends) // 2
        return checksum(pseudo_header(ends[:half], ends[half:], UDP, len(segment)) + segment) or MANGLED
    check = changed(int.from_bytes(ip[at : at + 2], "big"), old, new)
    return check or MANGLED if packet.protocol == UDP else check


def _crc32c(ip: bytearray, at: int) -> bytes:
    """SCTP's checksum of the segment at `at` (RFC 9260 6.8), its own field taken for zero."""
    crc = 0xFFFFFFFF
    for byte in bytes(ip[at : at + 8]) + bytes(4) + bytes(ip[at + 12 :]):
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return (crc ^ 0xFFFFFFFF).to_bytes(4, "little")


# --- tunnels (7.4) ---


def encapsulation_bytes(tunnel: Tunnel, family: int) -> int:
    """What a tunnel to an address of a family puts in front."""
    outer = IPV4_BYTES if family == 4 else IPV6_BYTES
    if tunnel.kind == TunnelKind.GRE:
        return outer + GRE_BYTES + (4 if tunnel.flags & TunnelFlag.CSUM else 0)
    return outer + (GUE_BYTES if tunnel.kind == TunnelKind.GUE else 0)


def encapsulated(packet: Packet, tunnel: Tunnel, source: bytes, target: bytes, *, pmtu_disc: bool) -> bytes:
    """The aged packet with an outer header from this host to the server.

    What the kernel draws (the outer identification without DF, GUE's source port) is 0 here.
    """
    inner = bytes(aged(packet))
    carried = IPIP if packet.family == 4 else IPV6
    tos = packet.tos - 1 if packet.tos & CONGESTED == CONGESTED else packet.tos
    if tunnel.kind == TunnelKind.IPIP:
        protocol, payload = carried, inner
    elif tunnel.kind == TunnelKind.GRE:
        protocol, payload = GRE, _gre(inner, packet.family, tunnel)
    else:
        protocol, payload = UDP, _gue(inner, carried, tunnel, source, target)
    ttl = packet.ttl - 1
    if len(target) == 4:
        df = packet.df and packet.family == 4 and pmtu_disc
        return ipv4(source, target, protocol, payload, ttl=ttl, tos=tos, df=df)
    return ipv6(source, target, protocol, payload, hops=ttl, tos=tos)


def _gre(inner: bytes, family: int, tunnel: Tunnel) -> bytes:
    kind = KIND_IPV4 if family == 4 else KIND_IPV6
    if not tunnel.flags & TunnelFlag.CSUM:
        return b"\0\0" + kind + inner
    header = GRE_CHECKSUM.to_bytes(2, "big") + kind
    return header + checksum(header + bytes(4) + inner).to_bytes(2, "big") + b"\0\0" + inner


def _gue(inner: bytes, carried: int, tunnel: Tunnel, source: bytes, target: bytes) -> bytes:
    body = bytes((0, carried, 0, 0)) + inner
    header = b"\0\0" + tunnel.port.to_bytes(2, "big") + (8 + len(body)).to_bytes(2, "big")
    check = 0
    if tunnel.flags:
        whole = header + b"\0\0" + body
        check = checksum(pseudo_header(source, target, UDP, len(whole)) + whole) or MANGLED
    return header + check.to_bytes(2, "big") + body


# --- headers ---


def ipv4(source: bytes, target: bytes, protocol: int, payload: bytes, *, ttl: int, tos: int, df: bool = False) -> bytes:
    """An IPv4 packet without options, its identification 0."""
    head = bytes((0x45, tos)) + (IPV4_BYTES + len(payload)).to_bytes(2, "big") + b"\0\0"
    head += (DONT_FRAGMENT if df else 0).to_bytes(2, "big") + bytes((ttl, protocol))
    check = checksum(head + source + target)
    return head + check.to_bytes(2, "big") + source + target + payload


def ipv6(source: bytes, target: bytes, protocol: int, payload: bytes, *, hops: int, tos: int) -> bytes:
    """An IPv6 packet, its flow label 0."""
    head = (6 << 28 | tos << 20).to_bytes(4, "big") + len(payload).to_bytes(2, "big") + bytes((protocol, hops))
    return head + source + target + payload


def cut(ip: bytes, mtu: int) -> list[bytes]:
    """The packet in fragments that fit into the MTU; later ones keep only the options that are to be copied."""
    if ip[0] >> 4 == 6:
        return _cut6(ip, mtu)
    size = (ip[0] & 15) * 4
    step = (mtu - size) & ~7
    payload = ip[size:]
    pieces = []
    for offset in range(0, len(payload), step):
        more = offset + step < len(payload)
        piece = payload[offset : offset + step]
        head = bytearray(ip[:size])
        if offset:
            _leave_options(head)
        head[2:4] = (size + len(piece)).to_bytes(2, "big")
        kept = int.from_bytes(head[6:8], "big") & ~(MORE_FRAGMENTS | OFFSET)
        head[6:8] = (kept | offset >> 3 | (MORE_FRAGMENTS if more else 0)).to_bytes(2, "big")
        head[10:12] = b"\0\0"
        head[10:12] = checksum(head).to_bytes(2, "big")
        pieces.append(bytes(head) + piece)
    return pieces


def _leave_options(head: bytearray) -> None:
    """Options that belong to the first fragment become padding (RFC 791 3.1)."""
    at = IPV4_BYTES
    while at < len(head) and head[at] != END:
        if head[at] == NOP:
            at += 1
            continue
        length = head[at + 1] if at + 1 < len(head) else 0
        if length < 2 or at + length > len(head):
            return
        if not head[at] & COPIED:
            head[at : at + length] = bytes((NOP,)) * length
        at += length


def _cut6(ip: bytes, mtu: int) -> list[bytes]:
    """Tunnel headers of IPv6 alone are cut: by the host that made them (RFC 8200 4.5)."""
    step = (mtu - IPV6_BYTES - 8) & ~7
    payload = ip[IPV6_BYTES:]
    pieces = []
    for offset in range(0, len(payload), step):
        piece = payload[offset : offset + step]
        more = offset + step < len(payload)
        head = ip[:4] + (8 + len(piece)).to_bytes(2, "big") + bytes((FRAGMENT, ip[7])) + ip[8:40]
        pieces.append(head + bytes((ip[6], 0)) + (offset | more).to_bytes(2, "big") + bytes(4) + piece)
    return pieces
