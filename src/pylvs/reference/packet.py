"""Packets as the director reads them: what parsing finds, and what the host's own stack would refuse before IPVS."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass
from pylvs.reference import sctp
from pylvs.reference.states import SYN
from pylvs.reference.sums import total

ETHER_BYTES, IPV4_BYTES, IPV6_BYTES = 14, 20, 40
KIND_IPV4, KIND_IPV6 = b"\x08\x00", b"\x86\xdd"
ICMP, IPIP, TCP, UDP, IPV6, GRE, ESP, AH, ICMP6, SCTP = 1, 4, 6, 17, 41, 47, 50, 51, 58, 132
HOP_OPTIONS, ROUTING, FRAGMENT, TARGET_OPTIONS = 0, 43, 44, 60
EXTENSIONS = 8  # headers that are skipped at most
HEADER_BYTES = {TCP: 20, UDP: 8, SCTP: 12}
ICMP_BYTES = 8
IPSEC = frozenset((AH, ESP))
PORT_IKE = 500
MORE_FRAGMENTS, DONT_FRAGMENT, OFFSET = 0x2000, 0x4000, 0x1FFF
END, NOP, RECORD_ROUTE, LOOSE_ROUTE, STRICT_ROUTE = 0, 1, 7, 0x83, 0x89


@dataclass(slots=True, eq=False)
class Packet:
    """An IP packet with its transport header found; ports and flags as far as they are there."""

    ip: bytes  # without link padding
    family: int  # 4 or 6
    source: bytes
    target: bytes
    protocol: int
    ttl: int
    tos: int
    df: bool  # whether routers may not cut it: always so for IPv6
    l4: int  # where the transport header begins
    source_port: int = 0
    target_port: int = 0
    flags: int = 0  # TCP's
    event_flags: int | None = None  # those that the state machine goes by, if it finds any
    chunk: int | None = None  # SCTP: the kind of the first chunk
    event_chunk: int | None = None  # the kind that the state machine goes by
    whole: bool = True  # the transport header is complete
    headless: bool = False  # not even its ports are there, or ICMP without a whole header
    no_sum: bool = False  # UDP without a checksum
    record_at: int = 0  # where an IPv4 option wants this host's address noted; 0: nowhere
    fragment: bool = False
    source_routed: bool = False

    @property
    def opens(self) -> bool:
        """What may open a connection anew: SYN, whatever ACK says, or INIT (2.3 step 1)."""
        return self.flags & SYN != 0 or self.chunk == sctp.INIT

    @property
    def connection_protocol(self) -> int:
        """Whose connection it belongs to: IPsec rides on that of its key exchange (4.7)."""
        return UDP if self.protocol in IPSEC else self.protocol

    @property
    def length(self) -> int:
        """Bytes of the IP packet: what counters add and what must fit into the MTU."""
        return len(self.ip)


def parse(frame: bytes) -> Packet | None:
    """The IP packet of a frame; None for what is none, is malformed, or is of no interest here: the stack's."""
    kind = frame[12:14]
    if kind == KIND_IPV4:
        return _parse4(frame[ETHER_BYTES:])
    if kind == KIND_IPV6:
        return _parse6(frame[ETHER_BYTES:])
    return None


def _parse4(ip: bytes) -> Packet | None:
    if len(ip) < IPV4_BYTES or ip[0] >> 4 != 4:
        return None
    size = (ip[0] & 15) * 4
    length = int.from_bytes(ip[2:4], "big")
    if size < IPV4_BYTES or length < size or length > len(ip) or total(ip[:size]) != 0xFFFF:
        return None
    pieces = int.from_bytes(ip[6:8], "big")
    packet = Packet(
        ip=ip[:length],
        family=4,
        source=ip[12:16],
        target=ip[16:20],
        protocol=ip[9],
        ttl=ip[8],
        tos=ip[1],
        df=pieces & DONT_FRAGMENT != 0,
        l4=size,
        fragment=pieces & (MORE_FRAGMENTS | OFFSET) != 0,
    )
    if size > IPV4_BYTES and not _walk_options(packet, ip[:size]):
        return None
    return packet if packet.source_routed else _transport(packet)


def _walk_options(packet: Packet, header: bytes) -> bool:
    """The kernel's input has looked at options before IPVS does (7.1); False: broken, the stack answers."""
    at, size = IPV4_BYTES, len(header)
    while at < size:
        kind = header[at]
        if kind == END:
            break
        if kind == NOP:
            at += 1
            continue
        length = header[at + 1] if at + 1 < size else 0
        if length < 2 or at + length > size:
            return False
        if kind in (LOOSE_ROUTE, STRICT_ROUTE):
            packet.source_routed = True
            return True
        if kind == RECORD_ROUTE:
            if length < 3 or header[at + 2] < 4:
                return False
            if header[at + 2] + 3 <= length:
                packet.record_at = at
        at += length
    return True


def _parse6(ip: bytes) -> Packet | None:
    if len(ip) < IPV6_BYTES or ip[0] >> 4 != 6:
        return None
    length = IPV6_BYTES + int.from_bytes(ip[4:6], "big")
    if length > len(ip):
        return None
    protocol, at = ip[6], IPV6_BYTES
    for _ in range(EXTENSIONS):
        if protocol not in (HOP_OPTIONS, ROUTING, TARGET_OPTIONS, AH):
            break
        if at + 2 > length:
            return None
        protocol, at = ip[at], at + ((ip[at + 1] + 2) * 4 if protocol == AH else (ip[at + 1] + 1) * 8)
    if at > length and protocol not in HEADER_BYTES:
        return None
    return _transport(
        Packet(
            ip=ip[:length],
            family=6,
            source=ip[8:24],
            target=ip[24:40],
            protocol=protocol,
            ttl=ip[7],
            tos=(ip[0] << 4 | ip[1] >> 4) & 0xFF,
            df=True,
            l4=at,
            fragment=protocol == FRAGMENT,
        )
    )


def _transport(packet: Packet) -> Packet | None:
    """Ports, and what the state machines look at; None without ports, for protocols that have them."""
    protocol, ip, at = packet.protocol, packet.ip, packet.l4
    if packet.fragment or protocol not in HEADER_BYTES:
        if protocol in IPSEC:
            packet.source_port = packet.target_port = PORT_IKE
        elif protocol == (ICMP if packet.family == 4 else ICMP6):
            packet.headless = len(ip) - at < ICMP_BYTES
        return packet
    left = len(ip) - at
    packet.whole = left >= HEADER_BYTES[protocol]
    if left < 4:
        packet.headless = True
        return packet if protocol == SCTP or left < 0 else None
    packet.source_port = ip[at] << 8 | ip[at + 1]
    packet.target_port = ip[at + 2] << 8 | ip[at + 3]
    # The kernel's state machines look right behind the IPv6 header, whatever stands there.
    event_at = IPV6_BYTES if packet.family == 6 else at
    if protocol == SCTP:
        packet.chunk = sctp.chunk_at(ip, at + sctp.COMMON_BYTES)
        if packet.chunk is not None:
            packet.event_chunk = sctp.event_at(ip, event_at + sctp.COMMON_BYTES)
    elif protocol == TCP:
        packet.flags = ip[at + 13] if packet.whole else 0
        packet.event_flags = ip[event_at + 13] if event_at + HEADER_BYTES[TCP] <= len(ip) else None
    elif packet.whole:
        packet.no_sum = ip[at + 6 : at + 8] == b"\0\0"
    return packet
