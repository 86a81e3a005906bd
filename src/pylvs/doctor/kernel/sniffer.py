"""Look at packets that arrive, for a short time, by a packet socket. It sends nothing."""

from __future__ import annotations

import select
import socket
from collections.abc import Collection, Iterable, Iterator
from ipaddress import ip_address
from time import monotonic

from pylvs.model.addresses import Address
from pylvs.netlink.links import Device

_ETH_P_ALL = 0x0003
_PACKET_HOST = 0
_LIMIT_S = 1.0
_V4, _V6 = 0x0800, 0x86DD
_MOST = 200  # packets
_OCTETS = 160  # of a packet: the headers of a tunnel, and those inside


class Arrivals:
    """The packets to this host that come in by some devices from now on."""

    def __init__(self, devices: Iterable[Device]) -> None:
        self._sockets = list[socket.socket]()
        for device in devices:
            packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            packets.bind((device.name, _ETH_P_ALL))
            self._sockets.append(packets)

    def __enter__(self) -> Arrivals:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()

    def foreign(self, own: Collection[Address], limit_s: float = _LIMIT_S) -> list[Address]:
        """Return the first address to which a unicast packet comes that this host does not have; none after a while."""
        for data in self._seen(limit_s):
            daddr = _daddr(data)
            if daddr is not None and daddr not in own and not daddr.is_multicast:
                return [daddr]
        return []

    def sources(self, address: Address, limit_s: float = _LIMIT_S) -> list[Address]:
        """Return the sender of the first packet to an address, in a tunnel or not; none after a while."""
        return next(([found] for data in self._seen(limit_s) if (found := sender(data, address)) is not None), [])

    def _seen(self, limit_s: float) -> Iterator[bytes]:
        """Yield the beginnings of IP packets to this host."""
        deadline, seen = monotonic() + limit_s, 0
        while seen < _MOST and (left := deadline - monotonic()) > 0:
            ready, _, _ = select.select(self._sockets, [], [], left)
            for packets in ready:
                data, (_, protocol, kind, *_) = packets.recvfrom(_OCTETS)
                seen += 1
                if kind == _PACKET_HOST and protocol in (_V4, _V6):
                    yield data


def _daddr(data: bytes) -> Address | None:
    if data[:1] and data[0] >> 4 == 4 and len(data) >= 20:
        return ip_address(data[16:20])
    if data[:1] and data[0] >> 4 == 6 and len(data) >= 40:
        return ip_address(data[24:40])
    return None


def sender(data: bytes, address: Address) -> Address | None:
    """Return the source of the header that has this destination, behind headers of tunnels or not."""
    width = len(address.packed)
    before = 16 if address.version == 4 else 24  # octets of a header before its destination
    at = data.find(address.packed, before)
    while at >= 0:
        if data[at - before] >> 4 == address.version:
            return ip_address(data[at - width : at])
        at = data.find(address.packed, at + 1)
    return None
