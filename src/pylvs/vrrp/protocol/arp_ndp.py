"""Frames that say who has an address: gratuitous ARP (RFC 5227, 3) and neighbour advertisements (RFC 4861, 7.2.6).

Both are written byte for byte as keepalived writes them, and read from whoever sent them.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.vrrp.protocol.packet import checksum

ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD
BROADCAST_MAC = bytes.fromhex("ffffffffffff")
ALL_NODES = IPv6Address("ff02::1")
ALL_NODES_MAC = bytes.fromhex("333300000001")
ARP_ETHERNET_IPV4 = bytes.fromhex("000108000604")  # Ethernet, IPv4, and the bytes of an address of each
REQUEST, REPLY = 1, 2
ICMPV6, NEIGHBOUR_ADVERTISEMENT, HOP_LIMIT = 58, 136, 255
ROUTER, OVERRIDE = 0x80, 0x20
TARGET_LINK_ADDRESS = 2

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!6sH6s4s6s4s")  # kind, operation, sender's MAC and address, target's
_IPV6 = struct.Struct("!IHBB16s16s")
_ADVERTISEMENT = struct.Struct("!BBHB3x16s")  # type, code, checksum, flags, target
_PSEUDO = struct.Struct("!16s16sI3xB")


@dataclass(frozen=True, slots=True)
class AddressBinding:
    """Somebody says that an address is his."""

    address: Address
    mac: bytes
    device: str = ""  # on whose link


def encode_announcement(address: Address, mac: bytes, *, router: bool = False) -> bytes:
    """The frame that tells everybody on a link where the address is now; `router` is for IPv6 only."""
    if isinstance(address, IPv4Address):
        return gratuitous_arp(address, mac)
    return neighbour_advertisement(address, mac, router=router)


def gratuitous_arp(address: IPv4Address, mac: bytes) -> bytes:
    """A request for one's own address, to everybody."""
    arp = _ARP.pack(ARP_ETHERNET_IPV4, REQUEST, mac, address.packed, BROADCAST_MAC, address.packed)
    return _ETHERNET.pack(BROADCAST_MAC, mac, ETH_P_ARP) + arp


def neighbour_advertisement(address: IPv6Address, mac: bytes, *, router: bool) -> bytes:
    """Unsolicited, to all nodes, overriding what they know; `router` where this host forwards IPv6."""
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
    """Whose address a frame says it is; None of a frame that says nothing of the kind, or that hosts ignore.

    An ARP of either operation claims its sender's address, unless that is zero (a probe).
    """
    if len(frame) < _ETHERNET.size:
        return None
    _, source, kind = _ETHERNET.unpack_from(frame)
    body = frame[_ETHERNET.size :]
    if kind == ETH_P_ARP:
        return _claim_of_arp(body, device)
    if kind == ETH_P_IPV6:
        return _claim_of_advertisement(body, source, device)
    return None


def _claim_of_arp(body: bytes, device: str) -> AddressBinding | None:
    if len(body) < _ARP.size:
        return None
    kind, operation, mac, address, _, _ = _ARP.unpack_from(body)
    if kind != ARP_ETHERNET_IPV4 or operation not in (REQUEST, REPLY) or not any(address):
        return None
    return AddressBinding(IPv4Address(address), mac, device)


def _claim_of_advertisement(body: bytes, sender: bytes, device: str) -> AddressBinding | None:
    if len(body) < _IPV6.size + _ADVERTISEMENT.size:
        return None
    first, length, following, limit, source, destination = _IPV6.unpack_from(body)
    said = body[_IPV6.size : _IPV6.size + length]
    if first >> 28 != 6 or following != ICMPV6 or limit != HOP_LIMIT or not _ADVERTISEMENT.size <= length == len(said):
        return None
    kind, code, _, _, target = _ADVERTISEMENT.unpack_from(said)
    if kind != NEIGHBOUR_ADVERTISEMENT or code or checksum(_PSEUDO.pack(source, destination, length, ICMPV6) + said):
        return None
    address = IPv6Address(target)
    if address.is_multicast or address.is_unspecified:
        return None
    options = said[_ADVERTISEMENT.size :]
    while options:
        size = options[1] * 8 if len(options) > 1 else 0
        if not 0 < size <= len(options):
            return None
        if options[0] == TARGET_LINK_ADDRESS:
            return AddressBinding(address, options[2:8], device)
        options = options[size:]
    return AddressBinding(address, sender, device)
