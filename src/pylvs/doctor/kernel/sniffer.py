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

ETH_P_ALL = 0x0003
PACKET_HOST, PACKET_OUTGOING = 0, 4
IP_PROTOCOLS = 0x0800, 0x86DD
_LIMIT_S = 1.0
_MOST = 200  # packets
_ENOUGH = 3  # openings
TCP, _SYN, _ACK = 6, 0x02, 0x10
IPIP, UDP, IPV6, GRE = 4, 17, 41, 47
_BEHIND = {IPIP: 0, IPV6: 0, GRE: 4, UDP: 12}  # octets of a tunnel behind its IP header
_LEAST_V4, _LENGTH_V6 = 20, 40  # octets of an IP header
_LEAST_TUNNEL = 44  # octets of a tunnelled packet: two headers of IPv4, and one of GRE
_TO_FLAGS = 14  # octets of a header of TCP up to its flags
OCTETS = 160  # of a packet: the headers of a tunnel, and those inside


class Segment(NamedTuple):
    """The ends of a segment of TCP, and whether it is a SYN."""

    saddr: bytes
    sport: int
    daddr: bytes
    dport: int
    is_syn: bool


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
            packets.bind((device.name, ETH_P_ALL))
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

    def _seen(self, limit_s: float) -> Iterator[bytes]:
        """Yield the beginnings of IP packets to this host, until there were enough packets of both directions."""
        deadline, seen = monotonic() + limit_s, 0
        while seen < _MOST and (left := deadline - monotonic()) > 0:
            ready, _, _ = select.select(self._sockets, [], [], left)
            for packets in ready:
                data, (_, protocol, kind, *_) = packets.recvfrom(OCTETS)
                seen += 1
                if protocol in IP_PROTOCOLS and kind == PACKET_HOST:
                    yield data


def segment(data: bytes) -> Segment | None:
    """Return the segment of TCP in a packet, in a tunnel or not; None for another packet."""
    for _ in range(2):
        header = _header(data)
        if header is None:
            return None
        at = header.length
        if header.protocol == TCP:
            if len(data) < at + _TO_FLAGS:
                return None
            sport, dport = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")
            return Segment(header.saddr, sport, header.daddr, dport, _is_syn(data, at))
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
    if protocol in (IPIP, IPV6):
        return "ipip", at, source
    if protocol == GRE:
        return "gre", at, source
    if protocol == UDP and len(data) >= at + 4:
        return f"gue:{int.from_bytes(data[at + 2 : at + 4], 'big')}", at, source
    return None


def _opened_port(data: bytes) -> int:
    """Return the destination port of a SYN of TCP; 0 for another packet."""
    header = _header(data)
    if header is None or header.protocol != TCP or len(data) < header.length + _TO_FLAGS:
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
