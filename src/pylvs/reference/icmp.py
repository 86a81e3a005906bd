"""ICMP errors that the director sends to clients (IPVS-SEMANTICS 2.6, 7.1; RFC 792, RFC 4443)."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass
from pylvs.reference.checksum import checksum, pseudo_header
from pylvs.reference.forwarding import ipv4, ipv6
from pylvs.reference.packet import ICMP, ICMP6, Packet

QUOTED4, QUOTED6 = 548, 1232  # bytes: the errors have 576 and 1280
TTL = 64
TOS_MASK, INTERNETWORK_CONTROL = 0x1E, 0xC0  # of the packet's TOS; the precedence (RFC 1812 4.3.2.5)


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
    """Return an error from the virtual address to the client, which quotes `ip`, or else the packet.

    `rest` is the header's second 32 bits: the MTU, if the packet is too big.
    """
    quote = (packet.ip if ip is None else ip)[: QUOTED4 if packet.family == 4 else QUOTED6]
    type_and_code = error.v4 if packet.family == 4 else error.v6
    message = bytearray(bytes(type_and_code) + b"\0\0" + rest.to_bytes(4, "big") + quote)
    if packet.family == 4:
        message[2:4] = checksum(bytes(message)).to_bytes(2, "big")
        tos = packet.tos & TOS_MASK | INTERNETWORK_CONTROL
        return ipv4(packet.daddr, packet.saddr, ICMP, bytes(message), ttl=TTL, tos=tos)
    covered = pseudo_header(packet.daddr, packet.saddr, ICMP6, len(message)) + bytes(message)
    message[2:4] = checksum(covered).to_bytes(2, "big")
    return ipv6(packet.daddr, packet.saddr, ICMP6, bytes(message), hop_limit=TTL, tos=0)
