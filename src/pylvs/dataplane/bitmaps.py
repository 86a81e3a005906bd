"""The bitmaps that spare packets of no service every lookup: supersets of the addresses that matter, by hash.

`vip_bits`: virtual addresses, to which requests go. `reply_bits`: where replies come from, which are the real addresses
of NAT destinations, virtual addresses (other servers answer with them) and this host's own.
"""

from __future__ import annotations

import struct

from pylvs.dataplane import abi
from pylvs.dataplane.tables import Tables

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

_ALL_ONES = (1 << 64) - 1


def address_bit(address: bytes, family: int) -> int:
    """The place of an address in the bitmaps, as address_hash in bpf/lib/address.h computes it."""
    words = struct.unpack("<4I", address)
    folded: int = words[0] if family == 4 else words[0] ^ words[1] ^ words[2] ^ words[3]
    return (folded * 0x61C88647 & 0xFFFFFFFF) >> (32 - abi.constant("HASH_BITS"))


def set_bit(tables: Tables, name: str, address: bytes, family: int) -> None:
    """Note an address in `vip_bits` or `reply_bits`."""
    bit = address_bit(address, family)
    place = (abi.struct("root").offset(name) >> 3) + (bit >> 6)
    tables.root.array.words[place] |= 1 << (bit & 63)


def set_all_bits(tables: Tables, name: str) -> None:
    """Every address may be one: while there is a service of a firewall mark, any packet is looked at."""
    place = abi.struct("root").offset(name) >> 3
    for index in range(abi.constant("BITMAP_WORDS")):
        tables.root.array.words[place + index] = _ALL_ONES


def write_bitmaps(tables: Tables, present: Any) -> None:
    """The bitmaps anew, from services in force and all destinations, deleted ones too."""
    words = abi.constant("BITMAP_WORDS")
    vips, replies = [0] * words, [0] * words

    def note(bits: list[int], address: bytes, family: int) -> None:
        bit = address_bit(address, family)
        bits[bit >> 6] |= 1 << (bit & 63)

    def note_virtual(address: bytes, family: int) -> None:
        note(vips, address, family)
        note(replies, address, family)

    marked = False
    for fields in present:
        marked |= bool(fields["mark"])
        note_virtual(fields["address"], fields["family"])
    for address in list(tables.locals.keys()):
        note(replies, address, 6 if any(address[4:]) else 4)
    by_nat = abi.constant("DESTINATION_USED_BY_NAT")
    destinations = tables.destinations
    for slot in range(tables.book.get(0, "destination_top")):
        used = destinations.get(slot, "used")
        if not used:
            continue
        marked |= bool(destinations.get(slot, "mark"))
        note_virtual(destinations.get(slot, "virtual_address"), destinations.get(slot, "virtual_family"))
        if used == by_nat:
            note(replies, destinations.get(slot, "address"), destinations.get(slot, "family"))
    if marked:
        vips = replies = [_ALL_ONES] * words
    for name, bits in (("vip_bits", vips), ("reply_bits", replies)):
        place = abi.struct("root").offset(name) >> 3
        for index, word in enumerate(bits):
            tables.root.array.words[place + index] = word
