"""Parse packets, and refuse those that the host's stack refuses before IPVS. Checksums (RFC 1071, RFC 1624)."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass

ETHER_BYTES, IPV4_BYTES, IPV6_BYTES = 14, 20, 40
ETHERTYPE_IPV4, ETHERTYPE_IPV6 = b"\x08\x00", b"\x86\xdd"
ICMP, IPIP, TCP, UDP, IPV6, GRE, ESP, AH, ICMP6, SCTP = 1, 4, 6, 17, 41, 47, 50, 51, 58, 132
HOP_OPTIONS, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60
EXTENSIONS = 8  # limit of extension headers that are skipped
# Options of a hop-by-hop header, and limits of the kernel (ip6_parse_tlv): of padding together, of other options.
PAD1, PADN, ROUTER_ALERT, MOST_PADDING, MOST_HOP_OPTIONS = 0, 1, 5, 7, 8
HEADER_BYTES = {TCP: 20, UDP: 8, SCTP: 12}
ICMP_BYTES = 8
FIN, SYN, RST, ACK = 1, 2, 4, 16
# Types of SCTP chunks
INIT, INIT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, ERROR, COOKIE_ECHO, COOKIE_ACK = 1, 2, 6, 7, 8, 9, 10, 11
SHUTDOWN_COMPLETE = 14
CHUNK_BYTES = 4  # of a chunk's header
IPSEC = frozenset((AH, ESP))
PORT_IKE = 500
MORE_FRAGMENTS, DONT_FRAGMENT, OFFSET = 0x2000, 0x4000, 0x1FFF
END, NOP, RECORD_ROUTE, LOOSE_ROUTE, STRICT_ROUTE = 0, 1, 7, 0x83, 0x89


def fold16(number: int) -> int:
    """Return the ones' complement sum of a big-endian number's 16-bit words; 0 only for 0."""
    return (number % 0xFFFF or 0xFFFF) if number else 0


def ones_complement_sum(data: bytes | bytearray) -> int:
    """Return the ones' complement sum of the data's 16-bit words, padded with a zero byte."""
    return fold16(int.from_bytes(data, "big") << (len(data) % 2 * 8))


def checksum(data: bytes | bytearray) -> int:
    """Return the checksum of data whose checksum field is 0; 0 if `data` has a right checksum."""
    return ~ones_complement_sum(data) & 0xFFFF


def crc32c(data: bytes | bytearray) -> int:
    """Return the checksum of SCTP for data whose checksum field is 0 (RFC 9260 6.8)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def updated_checksum(check: int, old: bytes, new: bytes) -> int:
    """Return the checksum after covered bytes changed (RFC 1624, equation 3); a wrong one stays wrong."""
    inverted = int.from_bytes(old, "big") ^ ((1 << (8 * len(old))) - 1)
    return ~fold16((~check & 0xFFFF) + inverted + int.from_bytes(new, "big")) & 0xFFFF


def pseudo_header(saddr: bytes, daddr: bytes, protocol: int, length: int) -> bytes:
    """Return what transport checksums cover besides the segment (RFC 9293, RFC 8200 8.1)."""
    if len(saddr) == 4:
        return saddr + daddr + bytes((0, protocol)) + length.to_bytes(2, "big")
    return saddr + daddr + length.to_bytes(4, "big") + bytes((0, 0, 0, protocol))


@dataclass(slots=True, eq=False)
class Packet:
    """An IP packet and its transport header; ports and flags as far as the packet has them."""

    ip: bytes  # without link padding
    family: int  # 4 or 6
    saddr: bytes
    daddr: bytes
    protocol: int
    ttl: int
    tos: int
    df: bool  # routers must not fragment it; always set for IPv6
    l4: int  # where the transport header begins
    sport: int = 0
    dport: int = 0
    flags: int = 0  # TCP's
    event_flags: int | None = None  # the flags that the state machine uses, if it finds any
    chunk: int | None = None  # SCTP: the type of the first chunk
    event_chunk: int | None = None  # the chunk type that the state machine uses
    whole: bool = True  # the transport header is complete
    headless: bool = False  # the ports or the ICMP header are incomplete
    no_sum: bool = False  # UDP without a checksum
    record_at: int = 0  # offset of a record route option with space; 0: none
    fragment: bool = False
    source_routed: bool = False

    @property
    def opens(self) -> bool:
        """Return whether the packet may reopen a connection: SYN, with or without ACK, or INIT (2.3 step 1)."""
        return self.flags & SYN != 0 or self.chunk == INIT

    @property
    def connection_protocol(self) -> int:
        """Return the protocol for lookups: IPsec packets belong to the connection of their key exchange (4.7)."""
        return UDP if self.protocol in IPSEC else self.protocol

    @property
    def length(self) -> int:
        """Return the bytes of the IP packet, which counters add and the MTU limits."""
        return len(self.ip)


def parse(frame: bytes) -> Packet | None:
    """Return the IP packet of a frame; None for what is no packet, malformed, or handled by the stack alone."""
    ethertype = frame[12:14]
    if ethertype == ETHERTYPE_IPV4:
        return _parse4(frame[ETHER_BYTES:])
    if ethertype == ETHERTYPE_IPV6:
        return _parse6(frame[ETHER_BYTES:])
    return None


def _parse4(ip: bytes) -> Packet | None:
    if len(ip) < IPV4_BYTES or ip[0] >> 4 != 4:
        return None
    size = (ip[0] & 15) * 4
    length = int.from_bytes(ip[2:4], "big")
    if size < IPV4_BYTES or length < size or length > len(ip) or ones_complement_sum(ip[:size]) != 0xFFFF:
        return None
    pieces = int.from_bytes(ip[6:8], "big")
    packet = Packet(
        ip=ip[:length],
        family=4,
        saddr=ip[12:16],
        daddr=ip[16:20],
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
    """Read IPv4 options as the kernel does before IPVS (7.1); return False if the stack answers with an error."""
    at, size = IPV4_BYTES, len(header)
    while at < size:
        option = header[at]
        if option == END:
            break
        if option == NOP:
            at += 1
            continue
        length = header[at + 1] if at + 1 < size else 0
        if length < 2 or at + length > size:
            return False
        if option in (LOOSE_ROUTE, STRICT_ROUTE):
            packet.source_routed = True
            return True
        if option == RECORD_ROUTE:
            if length < 3 or header[at + 2] < 4:
                return False
            if header[at + 2] + 3 <= length:
                packet.record_at = at
        at += length
    return True


def _has_good_hop_options(options: bytes) -> bool:
    """Whether the kernel passes a packet with these options to IPVS; it drops others, or answers with an error."""
    at = padding = others = 0
    while at < len(options):
        option = options[at]
        size = 1 if option == PAD1 else options[at + 1] + 2 if at + 1 < len(options) else 0
        if not size or at + size > len(options):
            return False
        if option in (PAD1, PADN):
            padding += size
            if padding > MOST_PADDING or any(options[at + 2 : at + size]):
                return False
        else:
            padding, others = 0, others + 1
            if others > MOST_HOP_OPTIONS or option & 0xC0 or (option == ROUTER_ALERT and size != 4):
                return False
        at += size
    return True


def _parse6(ip: bytes) -> Packet | None:
    if len(ip) < IPV6_BYTES or ip[0] >> 4 != 6:
        return None
    length = IPV6_BYTES + int.from_bytes(ip[4:6], "big")
    if length > len(ip):
        return None
    protocol, at = ip[6], IPV6_BYTES
    if protocol == HOP_OPTIONS:
        end = IPV6_BYTES + (ip[at + 1] + 1) * 8 if at + 1 < length else length + 1
        if end > length or not _has_good_hop_options(ip[at + 2 : end]):
            return None
    for _ in range(EXTENSIONS):
        if protocol not in (HOP_OPTIONS, ROUTING, DESTINATION_OPTIONS, AH):
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
            saddr=ip[8:24],
            daddr=ip[24:40],
            protocol=protocol,
            ttl=ip[7],
            tos=(ip[0] << 4 | ip[1] >> 4) & 0xFF,
            df=True,
            l4=at,
            fragment=protocol == FRAGMENT,
        )
    )


def _transport(packet: Packet) -> Packet | None:
    """Read ports and what the state machines need; None without ports, if the protocol has ports."""
    protocol, ip, at = packet.protocol, packet.ip, packet.l4
    if packet.fragment or protocol not in HEADER_BYTES:
        if protocol in IPSEC:
            packet.sport = packet.dport = PORT_IKE
        elif protocol == (ICMP if packet.family == 4 else ICMP6):
            packet.headless = len(ip) - at < ICMP_BYTES
        return packet
    left = len(ip) - at
    packet.whole = left >= HEADER_BYTES[protocol]
    if left < 4:
        packet.headless = True
        return packet if protocol == SCTP or left < 0 else None
    packet.sport = ip[at] << 8 | ip[at + 1]
    packet.dport = ip[at + 2] << 8 | ip[at + 3]
    # The kernel's state machines read at the end of the fixed IPv6 header, even if extension headers follow.
    event_at = IPV6_BYTES if packet.family == 6 else at
    if protocol == SCTP:
        packet.chunk = _chunk_at(ip, at + HEADER_BYTES[SCTP])
        if packet.chunk is not None:
            packet.event_chunk = _event_chunk_at(ip, event_at + HEADER_BYTES[SCTP])
    elif protocol == TCP:
        packet.flags = ip[at + 13] if packet.whole else 0
        packet.event_flags = ip[event_at + 13] if event_at + HEADER_BYTES[TCP] <= len(ip) else None
    elif packet.whole:
        packet.no_sum = ip[at + 6 : at + 8] == b"\0\0"
    return packet


def _chunk_at(packet: bytes, at: int) -> int | None:
    """Return the type of the chunk at an offset, if its header is complete."""
    return packet[at] if at + CHUNK_BYTES <= len(packet) else None


def _event_chunk_at(packet: bytes, at: int) -> int | None:
    """Return the chunk type that decides the state: an ABORT behind a COOKIE ECHO or COOKIE ACK, else the first."""
    chunk_type = _chunk_at(packet, at)
    if chunk_type in (COOKIE_ECHO, COOKIE_ACK):
        length = int.from_bytes(packet[at + 2 : at + 4], "big")
        if length >= CHUNK_BYTES and _chunk_at(packet, at + (length + 3 & ~3)) == ABORT:
            return ABORT
    return chunk_type
