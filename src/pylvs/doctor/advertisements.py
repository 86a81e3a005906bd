"""Listen to advertisements of VRRP on this host's links, those that this host sends as well."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Collection
from contextlib import ExitStack
from ipaddress import ip_address
from time import monotonic

from pylvs.model.dataclass import dataclass
from pylvs.netlink.links import Device
from pylvs.system.sockets import DROP, EQUALS, LOAD_1, TAKE, attach
from pylvs.vrrp.protocol.adverts import AH_PROTOCOL, PROTOCOL, Datagram
from pylvs.vrrp.sockets import vrid_of

_ETH_P_ALL, _PACKET_OUTGOING, _PACKET_LOOPBACK = 3, 4, 5
_LONGEST = 65535
_SHIFT_RIGHT, _IPV6_HEADER = 0x74, 40
# Of the IP header: its version, and the protocol, which IPv6 has elsewhere.
_PROGRAM = (
    (LOAD_1, 0, 0, 0),
    (_SHIFT_RIGHT, 0, 0, 4),
    (EQUALS, 1, 0, 4),
    (EQUALS, 2, 4, 6),
    (LOAD_1, 0, 0, 9),
    (EQUALS, 3, 1, PROTOCOL),
    (LOAD_1, 0, 0, 6),
    (EQUALS, 1, 0, PROTOCOL),
    (EQUALS, 0, 1, AH_PROTOCOL),
    TAKE,
    DROP,
)


@dataclass(frozen=True, slots=True)
class Received:
    """An advertisement on a link; `sent`: this host sends it."""

    device: str
    sent: bool
    datagram: Datagram

    @property
    def vrid(self) -> int:
        return vrid_of(self.datagram)


def listen(
    devices: Collection[Device], seconds: float, is_enough: Callable[[list[Received]], bool] = lambda _: False
) -> list[Received]:
    """Return the advertisements on these devices within so many seconds, or until they are enough. Raises OSError."""
    found, deadline = list[Received](), monotonic() + seconds
    with ExitStack() as stack:
        ends = {}
        for device in devices:
            end = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
            attach(end, _PROGRAM)
            end.bind((device.name, _ETH_P_ALL))
            ends[end] = device.name
        while (left := deadline - monotonic()) > 0 and not is_enough(found):
            for end in select.select(list(ends), (), (), left)[0]:
                packet, sender = end.recvfrom(_LONGEST)
                datagram = parse(packet)
                if datagram is not None and sender[2] != _PACKET_LOOPBACK:
                    found.append(Received(ends[end], sender[2] == _PACKET_OUTGOING, datagram))
    return found


def parse(packet: bytes) -> Datagram | None:
    """Return an IP packet of VRRP; None if it is truncated."""
    if not packet:
        return None
    if packet[0] >> 4 == 6:
        if len(packet) < _IPV6_HEADER:
            return None
        ends = ip_address(packet[8:24]), ip_address(packet[24:40])
        return Datagram(*ends, packet[7], packet[6], b"", packet[_IPV6_HEADER:])
    length = (packet[0] & 0xF) * 4
    total = int.from_bytes(packet[2:4])
    if length < 20 or len(packet) < length or total < length:
        return None
    ends = ip_address(packet[12:16]), ip_address(packet[16:20])
    return Datagram(*ends, packet[8], packet[9], packet[:length], packet[length:total])
