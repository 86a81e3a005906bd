"""Look at packets that arrive, for a short time, by a packet socket. It sends nothing."""

from __future__ import annotations

import select
import socket
from collections.abc import Collection, Iterable, Iterator
from ipaddress import ip_address
from time import monotonic
from typing import NamedTuple

from pylvs.model.addresses import Address
from pylvs.netlink.links import Device

_ETH_P_ALL = 0x0003
_PACKET_HOST, _PACKET_OUTGOING = 0, 4
_LIMIT_S = 1.0
_V4, _V6 = 0x0800, 0x86DD
_MOST, _MOST_OF_BOTH = 200, 20_000  # packets; of both directions
_REPLY_S = 0.4  # the kernel replies to a SYN at once
_ENOUGH = 3  # openings
_TCP, _SYN, _ACK = 6, 0x02, 0x10
_IPIP, _UDP, _IPV6, _GRE = 4, 17, 41, 47
_BEHIND = {_IPIP: 0, _IPV6: 0, _GRE: 4, _UDP: 12}  # octets of a tunnel behind its IP header
_LEAST_V4, _LENGTH_V6 = 20, 40  # octets of an IP header
_LEAST_TUNNEL = 44  # octets of a tunnelled packet: two headers of IPv4, and one of GRE
_TO_FLAGS = 14  # octets of a header of TCP up to its flags
_OCTETS = 160  # of a packet: the headers of a tunnel, and those inside


class Opening(NamedTuple):
    """A SYN: its ends."""

    client: Address
    client_port: int
    address: Address
    port: int


class _Header(NamedTuple):
    """An IP header: its addresses, the protocol of what follows, and its length."""

    saddr: bytes
    daddr: bytes
    protocol: int
    length: int


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

    def openings(self, own: Collection[Address], limit_s: float = _LIMIT_S) -> list[tuple[Address, int]]:
        """Return the own addresses and ports to which SYNs come; none after a while."""
        found = list[tuple[Address, int]]()
        for data in self._seen(limit_s):
            daddr = _daddr(data)
            if daddr is not None and daddr in own and (port := _opened_port(data)):
                found.append((daddr, port))
                if len(found) >= _ENOUGH:
                    break
        return found

    def tunnels(self, vips: Collection[Address], limit_s: float = _LIMIT_S) -> list[tuple[str, Address]]:
        """Return kind and source of the first tunnelled packet to one of these addresses; none after a while."""
        return next(([found] for data in self._seen(limit_s) if (found := client_tunnel(data, vips))), [])

    def unanswered(self, own: Collection[Address], limit_s: float) -> list[Opening]:
        """Return the SYNs to own addresses to which this host sent nothing; tunnels are looked into."""
        waiting = dict[Opening, float]()
        for data, kind in self._both(limit_s, _MOST_OF_BOTH):
            found = ends(data)
            if found is None:
                continue
            client, client_port, address, port, is_syn = found
            if kind == _PACKET_HOST and is_syn and address in own:
                waiting.setdefault(Opening(client, client_port, address, port), monotonic())
            elif kind == _PACKET_OUTGOING:
                waiting.pop(Opening(address, port, client, client_port), None)
        now = monotonic()
        return [each for each, since in waiting.items() if now - since >= _REPLY_S]

    def _seen(self, limit_s: float) -> Iterator[bytes]:
        """Yield the beginnings of IP packets to this host."""
        return (data for data, kind in self._both(limit_s, _MOST) if kind == _PACKET_HOST)

    def _both(self, limit_s: float, most: int) -> Iterator[tuple[bytes, int]]:
        """Yield the beginnings of IP packets, at most so many, and how the kernel classifies them."""
        deadline, seen = monotonic() + limit_s, 0
        while seen < most and (left := deadline - monotonic()) > 0:
            ready, _, _ = select.select(self._sockets, [], [], left)
            for packets in ready:
                data, (_, protocol, kind, *_) = packets.recvfrom(_OCTETS)
                seen += 1
                if protocol in (_V4, _V6):
                    yield data, kind


def ends(data: bytes) -> tuple[Address, int, Address, int, bool] | None:
    """Return source, its port, destination, its port, and whether it is a SYN, of TCP, in a tunnel or not."""
    for _ in range(2):
        header = _header(data)
        if header is None:
            return None
        at = header.length
        if header.protocol == _TCP:
            if len(data) < at + _TO_FLAGS:
                return None
            sport, dport = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")
            return ip_address(header.saddr), sport, ip_address(header.daddr), dport, _is_syn(data, at)
        if header.protocol not in _BEHIND:
            return None
        data = data[at + _BEHIND[header.protocol] :]
    return None


def client_tunnel(data: bytes, vips: Collection[Address]) -> tuple[str, Address] | None:
    """Return kind and source of a client's tunnelled packet to one of these addresses, else None.

    A director that asks in a tunnel is its own client: its doctor tries all kinds.
    """
    outer = _outer(data)
    if outer is None or all(sender(data[outer[1] :], vip) in (None, outer[2]) for vip in vips):
        return None
    return outer[0], outer[2]


def _outer(data: bytes) -> tuple[str, int, Address] | None:
    """Return the kind of a tunnel, as "gue:6080", the length of its IP header, and its source; None for others."""
    header = _header(data)
    if header is None or len(data) < _LEAST_TUNNEL:
        return None
    at, protocol, source = header.length, header.protocol, ip_address(header.saddr)
    if protocol in (_IPIP, _IPV6):
        return "ipip", at, source
    if protocol == _GRE:
        return "gre", at, source
    if protocol == _UDP and len(data) >= at + 4:
        return f"gue:{int.from_bytes(data[at + 2 : at + 4], 'big')}", at, source
    return None


def _opened_port(data: bytes) -> int:
    """Return the destination port of a SYN of TCP; 0 for another packet."""
    header = _header(data)
    if header is None or header.protocol != _TCP or len(data) < header.length + _TO_FLAGS:
        return 0
    at = header.length
    return int.from_bytes(data[at + 2 : at + 4], "big") if _is_syn(data, at) else 0


def _is_syn(data: bytes, at: int) -> bool:
    """Return whether the header of TCP at this offset opens a connection."""
    return data[at + _TO_FLAGS - 1] & (_SYN | _ACK) == _SYN


def _daddr(data: bytes) -> Address | None:
    header = _header(data)
    return None if header is None else ip_address(header.daddr)


def _header(data: bytes) -> _Header | None:
    """Return the IP header; None if it is cut off or malformed, as any host of the link may send it.

    Octets behind a header of UDP are a tunnelled packet only perhaps, so they may be anything as well.
    """
    version = data[0] >> 4 if data else 0
    if version == 4 and len(data) >= _LEAST_V4 and (length := (data[0] & 15) * 4) >= _LEAST_V4:
        return _Header(data[12:16], data[16:20], data[9], length)
    if version == 6 and len(data) >= _LENGTH_V6:
        return _Header(data[8:24], data[24:40], data[6], _LENGTH_V6)
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
