"""The filter in front of those who claim addresses (`pylvs.system.socket_filter`).

It lets through ARP and neighbour advertisements that name a watched address and come from nobody of ours; of an IPv6
address it compares the last 32 bits. More addresses or MACs than have room are not compared: who reads compares again.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator

from pylvs.model.addresses import Address
from pylvs.system.socket_filter import ANCILLARY, DROP, EQUALS, LOAD_1, LOAD_2, LOAD_4, TAKE, Instruction
from pylvs.vrrp.frames import ETH_P_ARP, ETH_P_IPV6, HOP_LIMIT, ICMPV6, NEIGHBOUR_ADVERTISEMENT

PACKET_TYPE, VLAN_TAGGED = ANCILLARY + 4, ANCILLARY + 48
OUTGOING = 4
MOST_ADDRESSES, MOST_MACS = 1800, 60  # a program has 4096 instructions at most

SOURCE_MAC, KIND = 6, 12  # offsets in a frame
ARP_SENDER_MAC, ARP_SENDER = 22, 28
NEXT_HEADER, LIMIT, ICMP_TYPE, TARGET_END = 20, 21, 54, 74


def program(version: int, addresses: Collection[Address], own_macs: Collection[bytes]) -> list[Instruction]:
    """For ARP (version 4) or neighbour advertisements (6); without addresses it drops everything."""
    watched = sorted({int(address) & 0xFFFFFFFF for address in addresses if address.version == version})
    if not watched:
        return [DROP]
    made = [*_unless(LOAD_4, PACKET_TYPE, OUTGOING), *_only(LOAD_4, VLAN_TAGGED, 0)]
    if version == 4:
        made += _only(LOAD_2, KIND, ETH_P_ARP)
        made += _only(LOAD_4, 14, 0x00010800)  # Ethernet, IPv4
        made += _only(LOAD_2, 18, 0x0604)  # and the bytes of an address of each
    else:
        made += _only(LOAD_2, KIND, ETH_P_IPV6)
        made += _only(LOAD_1, NEXT_HEADER, ICMPV6)
        made += _only(LOAD_1, LIMIT, HOP_LIMIT)
        made += _only(LOAD_1, ICMP_TYPE, NEIGHBOUR_ADVERTISEMENT)
    if len(own_macs) <= MOST_MACS:
        for mac in sorted(own_macs):
            made += _not_from(mac, ARP_SENDER_MAC if version == 4 else SOURCE_MAC)
    if len(watched) > MOST_ADDRESSES:
        return [*made, TAKE]
    made.append((LOAD_4, 0, 0, ARP_SENDER if version == 4 else TARGET_END))
    for word in watched:
        made += [(EQUALS, 0, 1, word), TAKE]
    return [*made, DROP]


def _only(load: int, at: int, value: int) -> Iterator[Instruction]:
    yield from ((load, 0, 0, at), (EQUALS, 1, 0, value), DROP)


def _unless(load: int, at: int, value: int) -> Iterator[Instruction]:
    yield from ((load, 0, 0, at), (EQUALS, 0, 1, value), DROP)


def _not_from(mac: bytes, at: int) -> Iterator[Instruction]:
    first, last = struct.unpack("!IH", mac)
    yield from ((LOAD_4, 0, 0, at), (EQUALS, 0, 3, first), (LOAD_2, 0, 0, at + 4), (EQUALS, 0, 1, last), DROP)
