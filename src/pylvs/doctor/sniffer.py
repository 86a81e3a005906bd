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
        for _, daddr in self._seen(limit_s):
            if daddr not in own and not daddr.is_multicast:
                return [daddr]
        return []

    def sources(self, address: Address, limit_s: float = _LIMIT_S) -> list[Address]:
        """Return the sender of the first packet to an address; none after a while."""
        return next(([saddr] for saddr, daddr in self._seen(limit_s) if daddr == address), [])

    def _seen(self, limit_s: float) -> Iterator[tuple[Address, Address]]:
        """Yield source and destination of packets to this host."""
        deadline, seen = monotonic() + limit_s, 0
        while seen < _MOST and (left := deadline - monotonic()) > 0:
            ready, _, _ = select.select(self._sockets, [], [], left)
            for packets in ready:
                data, (_, protocol, kind, *_) = packets.recvfrom(64)
                seen += 1
                addresses = _addresses(protocol, data) if kind == _PACKET_HOST else None
                if addresses is not None:
                    yield addresses


def _addresses(protocol: int, data: bytes) -> tuple[Address, Address] | None:
    if protocol == _V4 and len(data) >= 20:
        return ip_address(data[12:16]), ip_address(data[16:20])
    if protocol == _V6 and len(data) >= 40:
        return ip_address(data[8:24]), ip_address(data[24:40])
    return None
