"""Convert between the types of the model and the bytes of the maps."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from pylvs.bpf import abi
from pylvs.dataplane.tables import Tables
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.destination import Destination, DestinationKey, Method, Tunnel, TunnelFlag, TunnelKind
from pylvs.model.service import Protocol, ServiceFlag, ServiceKey, VirtualService, scheduler_name, scheduler_number

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

# --- bitmaps ---------------------------------------------------------------------------------------------------------
# Bitmaps of address hashes. A packet whose bits are 0 belongs to no service and needs no lookup.
#
# `vip_bits`: the VIPs. `reply_bits`: the source addresses of replies. These are the RIPs of NAT destinations, the VIPs
# (other servers answer with them) and this host's own addresses.


_ALL_ONES = (1 << 64) - 1


def address_bit(address: bytes, family: int) -> int:
    """Return the bit of an address in the bitmaps, as address_hash in bpf/lib/address.h computes it."""
    words = struct.unpack("<4I", address)
    folded: int = words[0] if family == 4 else words[0] ^ words[1] ^ words[2] ^ words[3]
    return (folded * 0x61C88647 & 0xFFFFFFFF) >> (32 - abi.constant("HASH_BITS"))


def set_bit(tables: Tables, name: str, address: bytes, family: int) -> None:
    """Set the bit of an address in `vip_bits` or `reply_bits`."""
    bit = address_bit(address, family)
    at = (abi.struct("root").offset(name) >> 3) + (bit >> 6)
    tables.root.array.words[at] |= 1 << (bit & 63)


def set_all_bits(tables: Tables, name: str) -> None:
    """Set all bits of a bitmap: a packet to any address may belong to a service of a firewall mark."""
    at = abi.struct("root").offset(name) >> 3
    for index in range(abi.constant("BITMAP_WORDS")):
        tables.root.array.words[at + index] = _ALL_ONES


def write_bitmaps(tables: Tables, present: Any) -> None:
    """Rebuild the bitmaps from the services in force and all destinations, deleted ones too."""
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
        at = abi.struct("root").offset(name) >> 3
        for index, word in enumerate(bits):
            tables.root.array.words[at + index] = word


# --- encode ----------------------------------------------------------------------------------------------------------

ADDRESS_BYTES = 16
LONGEST_TICKS = 0x7FFFFFFF  # a timeout beyond would compare as past: ticks wrap at 32 bits
_PLAIN_TUNNEL = Tunnel()
_METHODS = {int(method): method for method in Method}
_KEY4 = struct.Struct("!4sHBx")
_KEY6 = struct.Struct("!16sHBx")
_NAME = struct.Struct("<16s16sIHHBBBx")


def address_bytes(address: Address) -> bytes:
    """Return 16 bytes; an IPv4 address is in the first four."""
    return address.packed.ljust(ADDRESS_BYTES, b"\0")


def address_of(raw: bytes, version: int) -> Address:
    """Invert `address_bytes`."""
    return IPv4Address(raw[:4]) if version == 4 else IPv6Address(raw)


def service_key(key: ServiceKey) -> bytes:
    """Return a key of services4 or services6; of a mark, it holds the mark as address and protocol 0."""
    form = _KEY4 if key.address.version == 4 else _KEY6
    if key.mark:
        return form.pack(struct.pack("<I", key.mark), 0, 0)
    return form.pack(key.address.packed, key.port, key.protocol)


def destination_name(key: ServiceKey, destination: DestinationKey) -> bytes:
    """Return a destination's key in `names`."""
    return _NAME.pack(
        address_bytes(key.address),
        address_bytes(destination.address),
        key.mark,
        key.port,
        destination.port,
        key.protocol,
        key.address.version,
        destination.address.version,
    )


def version_fields(service: VirtualService, ticks_per_second: float) -> dict[str, Any]:
    """Return the fields of struct service_version that describe a service, without its list."""
    key = service.key
    return {
        "flags": int(service.flags),
        "timeout_s": service.timeout_s,
        "timeout": min(round(service.timeout_s * ticks_per_second) or 1, LONGEST_TICKS),
        "netmask": service.mask,
        "mark": key.mark,
        "address": address_bytes(key.address),
        "port": key.port,
        "present": 1,
        "scheduler": scheduler_number(service.scheduler),
        "protocol": key.protocol,
        "family": key.address.version,
        "engine": service.engine.encode(),
    }


def key_of(version: dict[str, Any]) -> ServiceKey:
    """Return the key of a service from its version's fields."""
    family = socket.AF_INET if version["family"] == 4 else socket.AF_INET6
    if version["mark"]:
        return ServiceKey.of_mark(version["mark"], family)
    return ServiceKey(Protocol(version["protocol"]), address_of(version["address"], version["family"]), version["port"])


def service_of(version: dict[str, Any]) -> VirtualService:
    """Return a service from its version's fields."""
    return VirtualService(
        key_of(version),
        scheduler_name(version["scheduler"]),
        ServiceFlag(version["flags"]),
        version["timeout_s"],
        version["netmask"],
        version["engine"].rstrip(b"\0").decode(),
    )


def tunnel_word(tunnel: Tunnel) -> int:
    """Return the `tunnel` field of a member."""
    return int(tunnel.kind) | int(tunnel.flags) << 8 | tunnel.port << 16


def tunnel_state(destination: Destination) -> int:
    """Return the tunnel bits of a destination's state, from bit DESTINATION_TUNNEL on; 0 but for GRE and GUE."""
    tunnel = destination.tunnel
    if destination.method != Method.TUNNEL or tunnel.kind == TunnelKind.IPIP:
        return 0
    flags = tunnel.flags if tunnel.kind == TunnelKind.GUE else tunnel.flags & TunnelFlag.CSUM
    return int(tunnel.kind) | int(flags) << 2 | tunnel.port << 4


def tunnel_of(word: int) -> Tunnel:
    """Invert `tunnel_word`."""
    if not word:
        return _PLAIN_TUNNEL
    return Tunnel(TunnelKind(word & 0xFF), word >> 16, TunnelFlag(word >> 8 & 0xFF))


def destination_of(
    address: bytes, family: int, port: int, weight: int, upper: int, lower: int, method: int, tunnel: int
) -> Destination:
    """Return a destination from address and port (network order) of its slot and the fields of its member."""
    key = DestinationKey(address_of(address, family), socket.ntohs(port))
    return Destination(key, _METHODS[method], weight, upper, lower, tunnel_of(tunnel))
