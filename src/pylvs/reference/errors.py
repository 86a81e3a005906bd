"""ICMP errors that the director sends to clients (IPVS-SEMANTICS 2.6, 7.1; RFC 792, RFC 4443)."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass
from pylvs.reference.forwarding import ipv4, ipv6
from pylvs.reference.packet import ICMP, ICMP6, Packet
from pylvs.reference.sums import checksum, pseudo_header

QUOTED4, QUOTED6 = 548, 1232  # bytes: 576 and 1280 in all
HOPS = 64
TOS_KEPT, INTERNETWORK_CONTROL = 0x1E, 0xC0  # of the packet's type of service; and the precedence (RFC 1812 4.3.2.5)


@dataclass(frozen=True, slots=True)
class Error:
    """An error's type and code in ICMP, and in ICMPv6."""

    v4: tuple[int, int]
    v6: tuple[int, int]


PORT_UNREACHABLE = Error((3, 3), (1, 4))  # no server for it (2.6)
HOST_UNREACHABLE = Error((3, 1), (1, 3))  # no route to the server
TIME_EXCEEDED = Error((11, 0), (3, 0))
TOO_BIG = Error((3, 4), (2, 0))


def error_about(packet: Packet, error: Error, rest: int = 0, ip: bytes | None = None) -> bytes:
    """The error, from the virtual address to the client, quoting the packet as it stands in `ip`.

    `rest` is the header's second word: the MTU, if the packet is too big.
    """
    quote = (packet.ip if ip is None else ip)[: QUOTED4 if packet.family == 4 else QUOTED6]
    kind = error.v4 if packet.family == 4 else error.v6
    message = bytearray(bytes(kind) + b"\0\0" + rest.to_bytes(4, "big") + quote)
    if packet.family == 4:
        message[2:4] = checksum(bytes(message)).to_bytes(2, "big")
        tos = packet.tos & TOS_KEPT | INTERNETWORK_CONTROL
        return ipv4(packet.target, packet.source, ICMP, bytes(message), ttl=HOPS, tos=tos)
    covered = pseudo_header(packet.target, packet.source, ICMP6, len(message)) + bytes(message)
    message[2:4] = checksum(covered).to_bytes(2, "big")
    return ipv6(packet.target, packet.source, ICMP6, bytes(message), hops=HOPS, tos=0)
