"""Decode the headers at the start of a frame, as far as its captured bytes reach. Nothing in a frame is an error."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from pylvs.model.dataclass import dataclass

ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ARP = 0x0800, 0x86DD, 0x0806
VLAN_TYPES = (0x8100, 0x88A8)
ICMP, IPIP, TCP, UDP, IPV6, GRE, ESP, AH, ICMP6, SCTP, HOP_OPTIONS, ROUTING, FRAGMENT, DESTINATION_OPTIONS = (
    *(1, 4, 6, 17, 41, 47, 50, 51, 58, 132),
    *(0, 43, 44, 60),
)
PROTOCOLS = {ICMP: "ICMP", IPIP: "IPIP", TCP: "TCP", UDP: "UDP", IPV6: "IPv6", GRE: "GRE", ESP: "ESP", AH: "AH"} | {
    ICMP6: "ICMPv6",
    SCTP: "SCTP",
    89: "OSPF",
    112: "VRRP",
    2: "IGMP",
    59: "nothing",
}
_EXTENSIONS = {HOP_OPTIONS: "hop options", ROUTING: "routing", DESTINATION_OPTIONS: "destination options", AH: "AH"}
_MOST_LAYERS = 24
TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
_SCTP_CHUNKS = {
    0: "DATA",
    1: "INIT",
    2: "INIT ACK",
    3: "SACK",
    4: "HEARTBEAT",
    5: "HEARTBEAT ACK",
    6: "ABORT",
    7: "SHUTDOWN",
} | {8: "SHUTDOWN ACK", 9: "ERROR", 10: "COOKIE ECHO", 11: "COOKIE ACK", 14: "SHUTDOWN COMPLETE"}
_ICMP_TYPES = {0: "echo reply", 3: "unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded"}
_ICMP6_TYPES = {
    1: "unreachable",
    2: "packet too big",
    3: "time exceeded",
    4: "parameter problem",
    128: "echo request",
} | {129: "echo reply", 135: "neighbour solicitation", 136: "neighbour advertisement"}
_QUOTING = {ICMP: (3, 4, 5, 11, 12), ICMP6: (1, 2, 3, 4)}  # errors, which have the start of a packet


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a header; `notable` ones are worth a line although they are the same on both sides."""

    name: str
    text: str
    notable: bool = False


@dataclass(frozen=True, slots=True)
class Layer:
    """One header, with the offset of its first byte and of the byte behind it."""

    name: str
    start: int
    end: int
    fields: tuple[Field, ...]

    def text(self, name: str) -> str:
        """Return a field as text; empty without it."""
        for field in self.fields:
            if field.name == name:
                return field.text
        return ""


def decoded(frame: bytes, *, is_tunnel: bool = False) -> list[Layer]:
    """Return the headers of an Ethernet frame, from the outside in. With `is_tunnel` UDP carries GUE, at any port."""
    found = list[Layer]()
    for layer in _layers(frame):
        if is_tunnel and layer.name == "UDP":
            return [*found, layer, *_gue(frame, layer.end)]
        found.append(layer)
        if len(found) == _MOST_LAYERS:
            break
    return found


def mac(data: bytes) -> str:
    """Return a link address as `ip link` prints it."""
    return data.hex(":")


def _number(data: bytes, start: int, size: int) -> int:
    return int.from_bytes(data[start : start + size], "big")


def _layers(frame: bytes) -> Iterator[Layer]:
    if len(frame) < 14:
        return
    yield Layer(
        *("Ethernet", 0, 14),
        (
            Field("destination MAC", mac(frame[:6]), True),
            Field("source MAC", mac(frame[6:12]), True),
            Field("type", f"0x{_number(frame, 12, 2):04x}"),
        ),
    )
    at, ethertype = 14, _number(frame, 12, 2)
    while ethertype in VLAN_TYPES and len(frame) >= at + 4:
        tag, ethertype = _number(frame, at, 2), _number(frame, at + 2, 2)
        fields = Field("id", str(tag & 0xFFF), True), Field("priority", str(tag >> 13))
        yield Layer("VLAN", at, at + 4, fields)
        at += 4
    if ethertype in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
        yield from _ip(frame, at, ethertype)
    elif ethertype == ETHERTYPE_ARP:
        yield Layer("ARP", at, len(frame), ())


def _ip(frame: bytes, at: int, ethertype: int) -> Iterator[Layer]:
    if ethertype == ETHERTYPE_IPV4:
        yield from _ip4(frame, at)
    elif ethertype == ETHERTYPE_IPV6:
        yield from _ip6(frame, at)


def _ip4(frame: bytes, at: int) -> Iterator[Layer]:
    if len(frame) < at + 20 or frame[at] >> 4 != 4:
        return
    end = at + max(20, (frame[at] & 15) * 4)
    pieces = _number(frame, at + 6, 2)
    fields = [
        Field("source", str(IPv4Address(frame[at + 12 : at + 16])), True),
        Field("destination", str(IPv4Address(frame[at + 16 : at + 20])), True),
        Field("TTL", str(frame[at + 8]), True),
        Field("protocol", _protocol(frame[at + 9])),
        Field("total length", str(_number(frame, at + 2, 2))),
        Field("TOS", f"0x{frame[at + 1]:02x}"),
        Field("identification", str(_number(frame, at + 4, 2))),
        Field("fragment flags", f"0x{pieces >> 13:x}"),
        Field("fragment offset", str((pieces & 0x1FFF) * 8)),
        Field("header length", str((frame[at] & 15) * 4)),
        Field("header checksum", f"0x{_number(frame, at + 10, 2):04x}"),
    ]
    if end > at + 20:
        fields.append(Field("options", frame[at + 20 : end].hex()))
    yield Layer("IPv4", at, end, tuple(fields))
    if not pieces & 0x1FFF:
        yield from _transport(frame, end, frame[at + 9])


def _ip6(frame: bytes, at: int) -> Iterator[Layer]:
    if len(frame) < at + 40 or frame[at] >> 4 != 6:
        return
    protocol, end = frame[at + 6], at + 40
    word = _number(frame, at, 4)
    yield Layer(
        *("IPv6", at, end),
        (
            Field("source", str(IPv6Address(frame[at + 8 : at + 24])), True),
            Field("destination", str(IPv6Address(frame[at + 24 : at + 40])), True),
            Field("hop limit", str(frame[at + 7]), True),
            Field("next header", _protocol(protocol)),
            Field("payload length", str(_number(frame, at + 4, 2))),
            Field("traffic class", f"0x{word >> 20 & 0xFF:02x}"),
            Field("flow label", f"0x{word & 0xFFFFF:05x}"),
        ),
    )
    while protocol in _EXTENSIONS and len(frame) >= end + 8:
        start, size = end, (frame[end + 1] + 2) * 4 if protocol == AH else (frame[end + 1] + 1) * 8
        name, protocol, end = _EXTENSIONS[protocol], frame[start], start + size
        yield Layer(name, start, end, (Field("bytes", frame[start:end].hex()),))
    if protocol == FRAGMENT and len(frame) >= end + 8:
        offset = _number(frame, end + 2, 2)
        fields = Field("offset", str(offset & 0xFFF8)), Field("more", str(offset & 1))
        yield Layer("fragment", end, end + 8, (*fields, Field("identification", str(_number(frame, end + 4, 4)))))
        if not offset & 0xFFF8:
            yield from _transport(frame, end + 8, frame[end])
        return
    yield from _transport(frame, end, protocol)


def _protocol(number: int) -> str:
    return PROTOCOLS.get(number, str(number))


def _transport(frame: bytes, at: int, protocol: int) -> Iterator[Layer]:
    if protocol == IPIP:
        yield from _ip4(frame, at)
    elif protocol == IPV6:
        yield from _ip6(frame, at)
    elif protocol == TCP and len(frame) >= at + 20:
        yield _tcp(frame, at)
    elif protocol == UDP and len(frame) >= at + 8:
        yield from _udp(frame, at)
    elif protocol == SCTP and len(frame) >= at + 12:
        yield _sctp(frame, at)
    elif protocol == GRE and len(frame) >= at + 4:
        yield from _gre(frame, at)
    elif protocol in _QUOTING and len(frame) >= at + 8:
        yield from _icmp(frame, at, protocol)
    elif protocol in (ESP, AH) and len(frame) >= at + 8:
        spi = _number(frame, at + 4 if protocol == AH else at, 4)
        yield Layer(_protocol(protocol), at, at + 8, (Field("SPI", f"0x{spi:08x}", True),))


def _ports(frame: bytes, at: int) -> tuple[Field, Field]:
    return (
        Field("source port", str(_number(frame, at, 2)), True),
        Field("destination port", str(_number(frame, at + 2, 2)), True),
    )


def _tcp(frame: bytes, at: int) -> Layer:
    end = at + max(20, (frame[at + 12] >> 4) * 4)
    fields = [
        *_ports(frame, at),
        Field("flags", flags_text(frame[at + 13]), True),
        Field("sequence", str(_number(frame, at + 4, 4))),
        Field("acknowledgment", str(_number(frame, at + 8, 4))),
        Field("window", str(_number(frame, at + 14, 2))),
        Field("urgent", str(_number(frame, at + 18, 2))),
        Field("checksum", f"0x{_number(frame, at + 16, 2):04x}"),
    ]
    if end > at + 20:
        fields.append(Field("options", frame[at + 20 : end].hex()))
    return Layer("TCP", at, end, tuple(fields))


def flags_text(flags: int) -> str:
    """Return the names of TCP flags: "SYN ACK"."""
    return " ".join(name for bit, name in enumerate(TCP_FLAGS) if flags >> bit & 1) or "none"


def _udp(frame: bytes, at: int) -> Iterator[Layer]:
    length, check = Field("length", str(_number(frame, at + 4, 2))), f"0x{_number(frame, at + 6, 2):04x}"
    yield Layer("UDP", at, at + 8, (*_ports(frame, at), length, Field("checksum", check)))


def _sctp(frame: bytes, at: int) -> Layer:
    chunk: tuple[Field, ...] = ()
    if len(frame) > at + 12:
        chunk = (Field("chunk", _SCTP_CHUNKS.get(frame[at + 12], str(frame[at + 12])), True),)
    tag, check = f"0x{_number(frame, at + 4, 4):08x}", f"0x{_number(frame, at + 8, 4):08x}"
    return Layer("SCTP", at, at + 12, (*_ports(frame, at), *chunk, Field("tag", tag), Field("checksum", check)))


def _gre(frame: bytes, at: int) -> Iterator[Layer]:
    flags, ethertype = _number(frame, at, 2), _number(frame, at + 2, 2)
    end = at + 4 + 4 * sum(bool(flags & bit) for bit in (0x8000, 0x2000, 0x1000))  # checksum, key, sequence
    fields = [Field("protocol", f"0x{ethertype:04x}", True), Field("flags", f"0x{flags:04x}")]
    if flags & 0x8000:
        fields.append(Field("checksum", f"0x{_number(frame, at + 4, 2):04x}"))
    yield Layer("GRE", at, end, tuple(fields))
    yield from _ip(frame, end, ethertype)


def _gue(frame: bytes, at: int) -> Iterator[Layer]:
    """Decode version 0 of GUE (draft-ietf-intarea-gue), as the kernel's fou module has it."""
    if len(frame) < at + 4 or frame[at] & 0xE0:
        return
    end = at + 4 + 4 * (frame[at] & 0x1F)
    protocol, flags = Field("protocol", _protocol(frame[at + 1]), True), f"0x{_number(frame, at + 2, 2):04x}"
    options = (Field("options", frame[at + 4 : end].hex()),) if end > at + 4 else ()
    yield Layer("GUE", at, end, (protocol, Field("flags", flags), *options))
    yield from _transport(frame, end, frame[at + 1])


def _icmp(frame: bytes, at: int, protocol: int) -> Iterator[Layer]:
    kind = frame[at]
    name = (_ICMP_TYPES if protocol == ICMP else _ICMP6_TYPES).get(kind, str(kind))
    fields = (
        Field("type", name, True),
        Field("code", str(frame[at + 1]), True),
        Field("checksum", f"0x{_number(frame, at + 2, 2):04x}"),
        Field("rest of header", frame[at + 4 : at + 8].hex()),
    )
    yield Layer(_protocol(protocol), at, at + 8, fields)
    if kind in _QUOTING[protocol]:
        quoted = _ip4(frame, at + 8) if protocol == ICMP else _ip6(frame, at + 8)
        for layer in quoted:
            yield Layer(f"quoted {layer.name}", layer.start, layer.end, layer.fields)


# --- what a frame is, in one line ---


def endpoints(layers: list[Layer]) -> tuple[str, str]:
    """Return source and destination of the innermost packet; empty texts without an IP header."""
    packet = [layer for layer in layers if not layer.name.startswith("quoted")]
    ip = next((layer for layer in reversed(packet) if layer.name in ("IPv4", "IPv6")), None)
    if ip is None:
        return "", ""
    ports = next((layer for layer in packet if layer.start >= ip.end and layer.text("source port")), None)
    return _end(ip, ports, "source"), _end(ip, ports, "destination")


def _end(ip: Layer, ports: Layer | None, side: str) -> str:
    address = ip.text(side)
    if ports is None:
        return address
    port = ports.text(f"{side} port")
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def kind(layers: list[Layer]) -> str:
    """Return what a frame is: "TCP SYN", "UDP", "ICMP unreachable", "ARP"."""
    if not layers:
        return "a frame without headers"
    packet = [layer for layer in layers if not layer.name.startswith("quoted")]
    last = packet[-1]
    details = last.text("flags") if last.name == "TCP" else last.text("chunk")
    if last.name.startswith("ICMP"):
        details = last.text("type")
    if last.name in ("Ethernet", "VLAN"):
        return f"type {packet[0].text('type')}"
    if last.name in ("IPv4", "IPv6"):
        details = last.text("protocol") or last.text("next header")
    if last.name == "fragment":
        return "IPv6 fragment"
    if last.text("fragment offset") not in ("", "0"):
        details = f"{details} fragment"
    return f"{last.name} {details}".rstrip()


def tunnel(layers: list[Layer]) -> list[Layer]:
    """Return the headers around the innermost packet, from the outer IP header on; empty without a tunnel."""
    at = [index for index, layer in enumerate(layers) if layer.name in ("IPv4", "IPv6")]
    return layers[at[0] : at[-1]] if len(at) > 1 else []
