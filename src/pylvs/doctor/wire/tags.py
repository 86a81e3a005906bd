"""Listen for requests of ARP and neighbour discovery in VLANs, as a card receives them. It sends nothing.

A packet socket on the card sees frames of VLANs for which this host has no device. The kernel keeps the tag beside such
a frame. A card that filters VLANs (rx-vlan-filter) receives only those that have a device.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator
from time import monotonic

from pylvs.doctor.wire import packets
from pylvs.doctor.wire.exchange import (
    ETH_P_ALL,
    ETH_P_ARP,
    ETH_P_IPV6,
    OUTGOING,
    PACKET_TYPE,
    PROTOCOL,
    VLAN_TAGGED,
    unless,
)
from pylvs.doctor.wire.packets import Kind
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.reference.packet import ICMP6
from pylvs.system.sockets import (
    DROP,
    EQUALS,
    LOAD_1,
    LOAD_4,
    NETWORK_HEADER,
    SOL_PACKET,
    TAKE,
    Instruction,
    attach,
    closed_on_error,
)

_AUXDATA = 8  # PACKET_AUXDATA
_AUXILIARY = struct.Struct("=IIIHHHH")  # struct tpacket_auxdata
_VALID = 0x10  # TP_STATUS_VLAN_VALID
_VID = 0x0FFF
_OCTETS = 160
_MOST = 2000  # requests
FILTER: list[Instruction] = [
    *unless(PACKET_TYPE, OUTGOING),
    *unless(VLAN_TAGGED, 0),
    (LOAD_4, 0, 0, PROTOCOL),
    (EQUALS, 0, 1, ETH_P_ARP),
    TAKE,
    (EQUALS, 0, 3, ETH_P_IPV6),
    (LOAD_1, 0, 0, NETWORK_HEADER + 6),
    (EQUALS, 0, 1, ICMP6),
    TAKE,
    DROP,
]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request for the link address of `target`: who asked, and by which device and tag the request came."""

    ifindex: int
    protocol: int  # of the tag: ETH_P_8021Q or ETH_P_8021AD
    vid: int
    sender: Address
    target: Address


def requests(limit_s: float) -> Iterator[Asked]:
    """Yield the requests that come in with a tag within a time. Raises OSError."""
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    opened = socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_ALL))
    with closed_on_error(opened):
        attach(opened, FILTER)
        opened.setsockopt(SOL_PACKET, _AUXDATA, 1)
    with opened:
        deadline = monotonic() + limit_s
        for _ in range(_MOST):
            if not select.select([opened], [], [], max(deadline - monotonic(), 0))[0]:
                return
            data, ancillary, _, (device, *_) = opened.recvmsg(_OCTETS, socket.CMSG_SPACE(_AUXILIARY.size))
            if (found := decoded(data, ancillary, _index(device))) is not None:
                yield found


def decoded(data: bytes, ancillary: list[tuple[int, int, bytes]], ifindex: int) -> Asked | None:
    """Return a request of ARP or neighbour discovery with a tag; None for another packet."""
    reply = packets.decoded(data, 0, frozenset())
    fields = next((each for level, kind, each in ancillary if (level, kind) == (SOL_PACKET, _AUXDATA)), b"")
    if reply is None or reply.kind is not Kind.ASKED or reply.address is None or len(fields) < _AUXILIARY.size:
        return None
    status, *_, tag, protocol = _AUXILIARY.unpack_from(fields)
    if not status & _VALID or not tag & _VID:  # a tag of VLAN 0 is only a priority
        return None
    return Asked(ifindex, protocol, tag & _VID, reply.sender, reply.address)


def _index(device: str) -> int:
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return 0
