"""The frames of the measurements: as short as those of TCP, with correct checksums."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, ip_address
from typing import NamedTuple

from bench import site
from pylvs.model.addresses import Address
from pylvs.model.service import Protocol

_ETHER_IPV4, _ETHER_ARP, _ETHER_IPV6, _DONT_FRAGMENT = 0x0800, 0x0806, 0x86DD, 0x4000
_TTL = 64
_SEGMENT = 20  # bytes behind the IP header: TCP's, or UDP's header and 12 of data
ACK, SYN, FIN = 0x10, 0x02, 0x01
# A walk through all flows in an order in which nothing lies side by side (Numerical Recipes' generator); and in order.
SCATTERED, IN_ORDER = (1664525, 1013904223), (1, 1)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _sum(header: bytes) -> int:
    return sum(struct.unpack(f"!{len(header) // 2}H", header))


def _check(total: int) -> int:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


class Flows(NamedTuple):
    """Which flows a varied frame belongs to, one after the other."""

    number: int  # a power of two
    first: int  # where the walk begins
    walk: tuple[int, int]
    services: int = 1  # taken in turn, at ports side by side; a power of two


@dataclass(frozen=True)
class Frame:
    """A packet that comes in by the site's device: a TCP segment without data, or a UDP datagram of the same length."""

    source: str
    target: str
    source_port: int
    target_port: int
    flags: int = ACK  # of TCP
    source_mac: str = site.ROUTER_MAC
    protocol: Protocol = Protocol.TCP

    @cached_property
    def client(self) -> Address:
        """Return the IP address of the sender."""
        return ip_address(self.source)

    def header(self, check: int = 0) -> bytes:
        """The IP header: 20 bytes, of IPv6 40."""
        source, target = self.client, ip_address(self.target)
        if not isinstance(source, IPv4Address):
            return struct.pack("!IHBB", 6 << 28, _SEGMENT, self.protocol, _TTL) + source.packed + target.packed
        first = struct.pack("!BBHHHBBH", 0x45, 0, 20 + _SEGMENT, 0, _DONT_FRAGMENT, _TTL, self.protocol, check)
        return first + source.packed + target.packed

    def _segment(self, check: int = 0) -> bytes:
        ports = struct.pack("!HH", self.source_port, self.target_port)
        if self.protocol == Protocol.UDP:
            return ports + struct.pack("!HH12x", _SEGMENT, check)
        return ports + struct.pack("!IIBBHHH", 1, 1, 5 << 4, self.flags, 0xFFFF, check, 0)

    def packed(self) -> bytes:
        """The frame, 54 bytes, of IPv6 74."""
        header = self.header()
        addresses = header[12:] if self.client.version == 4 else header[8:]
        check = _check(_sum(addresses) + self.protocol + _SEGMENT + _sum(self._segment()))
        kind = _ETHER_IPV4 if self.client.version == 4 else _ETHER_IPV6
        link = _mac(site.MAC) + _mac(self.source_mac) + struct.pack("!H", kind)
        return link + self.header(_check(_sum(header))) + self._segment(check)

    def plan(self, flows: Flows | None) -> dict[str, object]:
        """Return the fields of `struct bench_plan` for the harness."""
        values: dict[str, object] = {"frame": self.packed()}
        if flows:
            header = self.header()
            swapped = sum(struct.unpack("<10H", header[:20])) - sum(struct.unpack_from("<2H", header, 12))
            values |= {
                "address": int(self.client) & 0xFFFFFFFF,  # of IPv6 the last word
                "sum": swapped,
                "flow": flows.first,
                "multiplier": flows.walk[0],
                "increment": flows.walk[1],
                "mask": flows.number - 1,
                "port": self.target_port,
                "services": flows.services - 1,
            }
        return values


@dataclass(frozen=True)
class Question(Frame):
    """Its sender asks by ARP for the link address of its target."""

    def packed(self) -> bytes:
        """The frame, padded to 54 bytes."""
        head = struct.pack("!HHBBH", 1, _ETHER_IPV4, 6, 4, 1)  # Ethernet, IPv4, request
        sender = _mac(self.source_mac) + self.client.packed
        link = b"\xff" * 6 + _mac(self.source_mac) + struct.pack("!H", _ETHER_ARP)
        return (link + head + sender + bytes(6) + ip_address(self.target).packed).ljust(54, b"\0")
