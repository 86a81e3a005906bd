"""Frames that bind an IP address to a link address.

Gratuitous ARP (RFC 5227, 3) and unsolicited neighbour advertisements (RFC 4861, 7.2.6) equal keepalived's byte for
byte. The parser accepts frames of any sender.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.vrrp.protocol.packet import checksum

ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD
BROADCAST_MAC = bytes.fromhex("ffffffffffff")
ALL_NODES = IPv6Address("ff02::1")
ALL_NODES_MAC = bytes.fromhex("333300000001")
ARP_ETHERNET_IPV4 = bytes.fromhex("000108000604")  # types and lengths of both addresses
REQUEST, REPLY = 1, 2
ICMPV6, NEIGHBOUR_ADVERTISEMENT, HOP_LIMIT = 58, 136, 255
ROUTER, OVERRIDE = 0x80, 0x20
TARGET_LINK_ADDRESS = 2

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!6sH6s4s6s4s")  # types and lengths, operation, sender's MAC and address, target's
_IPV6 = struct.Struct("!IHBB16s16s")
_ADVERTISEMENT = struct.Struct("!BBHB3x16s")  # type, code, checksum, flags, target
_PSEUDO = struct.Struct("!16s16sI3xB")


@dataclass(frozen=True, slots=True)
class AddressBinding:
    """An address and the link address that a received frame binds it to."""

    address: Address
    mac: bytes
    device: str = ""


@lru_cache(maxsize=1024)  # each address is announced several times
def gratuitous_arp(address: IPv4Address, mac: bytes) -> bytes:
    """Return a broadcast ARP request for the sender's own address."""
    arp = _ARP.pack(ARP_ETHERNET_IPV4, REQUEST, mac, address.packed, BROADCAST_MAC, address.packed)
    return _ETHERNET.pack(BROADCAST_MAC, mac, ETH_P_ARP) + arp


@lru_cache(maxsize=1024)
def neighbour_advertisement(address: IPv6Address, mac: bytes, *, router: bool) -> bytes:
    """Return an unsolicited advertisement to all nodes that overrides their caches; `router`: this host forwards."""
    option = bytes((TARGET_LINK_ADDRESS, 1)) + mac
    fields = (OVERRIDE | (ROUTER if router else 0), address.packed)
    length = _ADVERTISEMENT.size + len(option)
    pseudo = _PSEUDO.pack(address.packed, ALL_NODES.packed, length, ICMPV6)
    total = checksum(pseudo + _ADVERTISEMENT.pack(NEIGHBOUR_ADVERTISEMENT, 0, 0, *fields) + option)
    return (
        _ETHERNET.pack(ALL_NODES_MAC, mac, ETH_P_IPV6)
        + _IPV6.pack(6 << 28, length, ICMPV6, HOP_LIMIT, address.packed, ALL_NODES.packed)
        + _ADVERTISEMENT.pack(NEIGHBOUR_ADVERTISEMENT, 0, total, *fields)
        + option
    )


def parse_binding(frame: bytes, device: str = "") -> AddressBinding | None:
    """Return the binding in a frame; None for other frames, and for those that a host must ignore.

    ARP of either operation binds its sender's address, unless that is zero (a probe).
    """
    if len(frame) < _ETHERNET.size:
        return None
    _, sender, ethertype = _ETHERNET.unpack_from(frame)
    body = frame[_ETHERNET.size :]
    if ethertype == ETH_P_ARP:
        return _parse_arp(body, device)
    if ethertype == ETH_P_IPV6:
        return _parse_advertisement(body, sender, device)
    return None


def _parse_arp(body: bytes, device: str) -> AddressBinding | None:
    if len(body) < _ARP.size:
        return None
    types, operation, mac, address, _, _ = _ARP.unpack_from(body)
    if types != ARP_ETHERNET_IPV4 or operation not in (REQUEST, REPLY) or not any(address):
        return None
    return AddressBinding(IPv4Address(address), mac, device)


def _parse_advertisement(body: bytes, sender: bytes, device: str) -> AddressBinding | None:
    """Check what RFC 4861, 7.1.2 demands, and take the link address from the option, else from the frame."""
    if len(body) < _IPV6.size + _ADVERTISEMENT.size:
        return None
    version, length, next_header, hop_limit, saddr, daddr = _IPV6.unpack_from(body)
    if version >> 28 != 6 or next_header != ICMPV6 or hop_limit != HOP_LIMIT:
        return None
    icmp = body[_IPV6.size : _IPV6.size + length]
    if not _ADVERTISEMENT.size <= length == len(icmp):
        return None
    icmp_type, code, _, _, target = _ADVERTISEMENT.unpack_from(icmp)
    if icmp_type != NEIGHBOUR_ADVERTISEMENT or code or checksum(_PSEUDO.pack(saddr, daddr, length, ICMPV6) + icmp):
        return None
    address = IPv6Address(target)
    if address.is_multicast or address.is_unspecified:
        return None
    options = icmp[_ADVERTISEMENT.size :]
    while options:
        size = options[1] * 8 if len(options) > 1 else 0
        if not 0 < size <= len(options):
            return None
        if options[0] == TARGET_LINK_ADDRESS:
            return AddressBinding(address, options[2:8], device)
        options = options[size:]
    return AddressBinding(address, sender, device)
