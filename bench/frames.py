"""The frames of the measurements: as short as those of TCP, with correct checksums."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address
from typing import NamedTuple

from bench import site
from pylvs.bpf import abi
from pylvs.model.addresses import Address
from pylvs.model.service import Protocol
from pylvs.reference.forwarding import NextHop, add_link_header, ip_packet
from pylvs.reference.packet import ETHER_BYTES, ETHERTYPE_IPV4, checksum, pseudo_header

_ETHERTYPE_ARP, _TTL = b"\x08\x06", 64
_SEGMENT = 20  # bytes behind the IP header: TCP's, or UDP's header and 12 of data
ACK, SYN, FIN = 0x10, 0x02, 0x01
PORT_BITS = 15  # of the flows that share a client's address, as most do
# A walk through all flows in an order in which nothing lies side by side (Numerical Recipes' generator); and in order.
SCATTERED, IN_ORDER = (1664525, 1013904223), (1, 1)


def link_address(text: str) -> bytes:
    """Return the bytes of a link address."""
    return bytes.fromhex(text.replace(":", ""))


class Flows(NamedTuple):
    """Which flows a varied frame belongs to, one after the other.

    A flow's number is its client's, above the first, in the higher bits; in the lower `port_bits`, the client's port.
    """

    number: int  # a power of two
    first: int  # where the walk begins
    walk: tuple[int, int]
    services: int = 1  # taken in turn, at ports side by side; a power of two
    port_bits: int = PORT_BITS
    replies: bool = False  # the client is the target of the frame

    def client(self, first: Address, flow: int) -> tuple[Address, int]:
        """Return the address and the port of a flow's client."""
        port = abi.constant("BENCH_FIRST_PORT") + (flow & ((1 << self.port_bits) - 1))
        return first + (flow >> self.port_bits), port


def after(flows: Flows, steps: int) -> Flows:
    """Return the same walk, from where it is after so many flows."""
    multiplier, increment = flows.walk
    flow = flows.first
    while steps:
        if steps & 1:
            flow = (flow * multiplier + increment) % flows.number
        multiplier, increment = multiplier * multiplier % flows.number, (multiplier + 1) * increment % flows.number
        steps >>= 1
    return flows._replace(first=flow)


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
    def sender(self) -> Address:
        """Return the IP address of the sender."""
        return ip_address(self.source)

    def _segment(self, check: int = 0) -> bytes:
        ports = struct.pack("!HH", self.source_port, self.target_port)
        if self.protocol == Protocol.UDP:
            return ports + struct.pack("!HH12x", _SEGMENT, check)
        return ports + struct.pack("!IIBBHHH", 1, 1, 5 << 4, self.flags, 0xFFFF, check, 0)

    def packed(self) -> bytes:
        """The frame, 54 bytes, of IPv6 74."""
        saddr, daddr = self.sender.packed, ip_address(self.target).packed
        covered = pseudo_header(saddr, daddr, self.protocol, _SEGMENT) + self._segment()
        segment = self._segment(checksum(covered))
        ip = ip_packet(saddr, daddr, self.protocol, segment, ttl=_TTL, df=True)
        return add_link_header(ip, NextHop(site.DEVICE, link_address(site.MAC), link_address(self.source_mac)))

    def plan(self, flows: Flows | None) -> dict[str, object]:
        """Return the fields of `struct bench_plan` for the harness."""
        frame = self.packed()
        values: dict[str, object] = {"frame": frame}
        if flows:
            # The harness adds the client's address to the sum of the other words of an IPv4 header.
            words = struct.unpack_from("<10H", frame, ETHER_BYTES)
            client = ip_address(self.target) if flows.replies else self.sender
            values |= {
                "address": int(client) & 0xFFFFFFFF,  # of IPv6 the last word
                "port_bits": flows.port_bits,
                "sum": sum(words[:5] + (words[6:8] if flows.replies else words[8:])),
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
        head = struct.pack("!H2sBBH", 1, ETHERTYPE_IPV4, 6, 4, 1)  # Ethernet, IPv4, request
        sender = link_address(self.source_mac) + self.sender.packed
        link = b"\xff" * 6 + link_address(self.source_mac) + _ETHERTYPE_ARP
        return (link + head + sender + bytes(6) + ip_address(self.target).packed).ljust(54, b"\0")
