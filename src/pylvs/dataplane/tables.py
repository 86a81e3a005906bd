"""The pinned maps of one state, opened at first use, and the types of the model as the bytes of their elements."""

from __future__ import annotations

import os
import struct
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address

from pylvs.bpf import abi, maps
from pylvs.dataplane.state import State
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Tunnel,
    TunnelFlag,
    TunnelKind,
    VirtualService,
    scheduler_name,
    scheduler_number,
)

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Any

MAP_DIRECTORY = "maps"
FORMER = "former-"  # of a program array that an older program on a device still uses
ADDRESS_BYTES = 16
LONGEST_TICKS = 0x7FFFFFFF  # a timeout beyond would compare as past: ticks wrap at 32 bits
_PLAIN_TUNNEL = Tunnel()
_METHODS = {int(method): method for method in Method}
_KEY4 = struct.Struct("!4sHBx")
_KEY6 = struct.Struct("!16sHBx")
_NAME = struct.Struct("<16s16sIHHBBBx")
_ADDRESSED = ("address", "family", "used", "virtual_address", "mark", "virtual_family")  # of a destination
_ALL_ONES = (1 << 64) - 1


class Records:
    """An array of structures in shared memory. A 64-bit field is written by a single store."""

    def __init__(self, array: maps.MmapArray, structure: str) -> None:
        self.array = array
        self.codec = abi.struct(structure)
        self.count = array.max_entries
        self._forms: dict[str, tuple[int, struct.Struct, bool]] = {}

    def _form(self, name: str) -> tuple[int, struct.Struct, bool]:
        found = self._forms.get(name)
        if found is None:
            field = self.codec.fields[name]
            single = not field.length or field.format.endswith("s")
            found = self._forms[name] = (field.offset, struct.Struct("<" + field.format), single)
        return found

    def get(self, index: int, name: str) -> Any:
        """Return one field: an integer, a tuple or bytes."""
        offset, form, single = self._form(name)
        values = form.unpack_from(self.array.upto(index), index * self.array.stride + offset)
        return values[0] if single else values

    def set(self, index: int, name: str, *values: Any) -> None:
        """Write one field."""
        offset, form, single = self._form(name)
        at = index * self.array.stride + offset
        if single and form.size == 8 and at % 8 == 0:
            self.array.store(index, offset, values[0])
        elif single and form.size == 4 and at % 4 == 0:
            self.array.store_half(index, offset, values[0])
        else:
            form.pack_into(self.array.upto(index), at, *values)

    def publish(self, index: int, name: str, value: int) -> None:
        """Write the 64-bit field by which packets find what was written before (`MmapArray.publish`)."""
        self.array.publish(index, self._form(name)[0], value)

    def read(self, index: int) -> dict[str, Any]:
        """Return all fields."""
        return self.codec.unpack_from(self.array.upto(index), index * self.array.stride, whole=True)

    def write(self, index: int, values: dict[str, Any]) -> None:
        """Write these fields, and leave the others unchanged."""
        self.codec.pack_into(self.array.upto(index), index * self.array.stride, values)

    def replace(self, index: int, element: bytes) -> None:
        """Write a packed element."""
        start = index * self.array.stride
        self.array.upto(index)[start : start + len(element)] = element

    def clear(self, index: int) -> None:
        """Zero all fields."""
        start = index * self.array.stride
        self.array.upto(index)[start : start + self.array.stride] = bytes(self.array.stride)


def _records(name: str, structure: str) -> cached_property[Records]:
    return cached_property(lambda tables: Records(tables.open_array(name), structure))


def _array(name: str) -> cached_property[maps.MmapArray]:
    return cached_property(lambda tables: tables.open_array(name))


def _hash(name: str) -> cached_property[maps.HashMap]:
    return cached_property(lambda tables: maps.HashMap.open(tables.path(name)))


class Tables:
    """The maps of a state."""

    # generations and settings
    root = _records("roots", "root")  # one element: the generation in force, facts, settings, address bitmaps
    book = _records("books", "book")  # the allocator's lists of free slots

    # services
    services = _records("services", "service")  # by slot, each with two versions
    service_states = _records("service_states", "service_state")  # what packets write about a service, by its slot
    service_bases = _records("service_bases", "counters")  # the counts at which a service's counters are 0
    services4 = _hash("services4")  # slots of services by key
    services6 = _hash("services6")
    members = _array("members")  # the lists of all services, in chunks
    maglev_tables = _hash("maglev_tables")  # of mh, two for each service that uses it
    cache = _hash("cache")  # the destinations that lblc and lblcr remember, by daddr

    # destinations
    destinations = _records("destinations", "destination")  # by slot, deleted ones included
    destination_bases = _records("destination_bases", "counters")  # the counts at which their counters are 0
    estimates = _records("estimates", "estimate")  # averages of the rates, by slot of the destination
    names = _hash("names")  # slots of destinations by `destination_name`

    # connections
    pool = _records("pools", "pool")  # capacity, use and hash seeds of the connection table
    pace = _records("paces", "pace")  # the cost of the expiry timer: connections ended, runs, CPU time
    connections4 = _array("connections4")  # by slot
    connections6 = _hash("connections6")  # by tuple
    words6 = _array("words6")  # state and timeout of IPv6 connections by NAT, by slot
    controls = _records("controls", "control")  # what persistence remembers of connections and templates, by slot

    # firewall marks
    mark_rules = _records("mark_rules", "mark_rule")  # two lists of the rules that set marks
    routed_marks = _hash("routed_marks")  # a snapshot of the marks whose packets policy routing delivers locally

    # this host
    devices = _records("devices", "device")  # those that run XDP
    transmitters = _hash("transmitters")  # devices to which XDP may redirect
    locals = _hash("locals")  # a snapshot of this host's addresses
    accept_locals = _hash("accept_locals")  # devices by ifindex (0: all) on which a received saddr may be local
    standby = _hash("standby")  # the addresses of this host's virtual routers, and whether each is standby

    def __init__(self, state: State) -> None:
        self.state = state

    def path(self, name: str) -> str:
        """Return the path of a map's pin."""
        return self.state.pin_path(os.path.join(MAP_DIRECTORY, name))

    def mark(self) -> int:
        """Return a number that changes when other tables replace these; 0 while there are none."""
        try:
            return os.stat(self.path("pools")).st_ino if self.state.path else 0
        except FileNotFoundError:
            return 0

    def open_array(self, name: str) -> maps.MmapArray:
        """Open a map as shared memory."""
        return maps.MmapArray.open(self.path(name))

    @cached_property
    def statistics(self) -> maps.PerCpuArray:
        """Per-CPU data of destinations by slot; it begins with the counters."""
        lanes = maps.PerCpuArray.open(self.path("lanes"))
        lanes.records = abi.constant("LANES")
        return lanes

    @cached_property
    def reasons(self) -> maps.PerCpuArray:
        """Packet counts by drop reason."""
        return maps.PerCpuArray.open(self.path("reasons"))

    def service_keys(self, version: int) -> maps.HashMap:
        """Return the slots of services by key, of IPv4 (4) or IPv6 (6)."""
        return self.services4 if version == 4 else self.services6


def replace_keys(of: maps.HashMap, wanted: set[bytes], value: bytes | None = b"\1") -> None:
    """Make these the keys of a map, the new ones with this value; None stores each key as its own value."""
    there = set(of.keys())
    for key in wanted - there:
        of.put(key, value or key)
    for key in there - wanted:
        of.remove(key)


# Bitmaps of address hashes, in the root. A packet whose bits are 0 belongs to no service and needs no lookup.
# `vip_bits`: the VIPs. `reply_bits`: the source addresses of replies. These are the RIPs of NAT destinations, the VIPs
# (other servers answer with them) and this host's own addresses.


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


def bitmap(addresses: Iterable[tuple[bytes, int]]) -> list[int]:
    """Return the words of a bitmap with the bits of these addresses, each with its family."""
    words = [0] * abi.constant("BITMAP_WORDS")
    for address, family in addresses:
        bit = address_bit(address, family)
        words[bit >> 6] |= 1 << (bit & 63)
    return words


def write_bitmaps(tables: Tables, present: Collection[dict[str, Any]]) -> None:
    """Rebuild the bitmaps from the services in force and all destinations, deleted ones too."""
    by_nat, form = abi.constant("DESTINATION_USED_BY_NAT"), abi.struct("destination").view(*_ADDRESSED)
    virtual = {(fields["address"], fields["family"]) for fields in present}
    replies = {(address, 6 if any(address[4:]) else 4) for address in list(tables.locals.keys())}
    marked = any(fields["mark"] for fields in present)
    top = tables.book.get(0, "destination_top")
    for address, family, used, vip, mark, vip_family in form.iter_unpack(tables.destinations.array.elements(0, top)):
        if used:
            marked |= bool(mark)
            virtual.add((vip, vip_family))
            if used == by_nat:
                replies.add((address, family))
    everything = [_ALL_ONES] * abi.constant("BITMAP_WORDS")
    for name, addresses in (("vip_bits", virtual), ("reply_bits", virtual | replies)):
        at = abi.struct("root").offset(name) >> 3
        for index, word in enumerate(everything if marked else bitmap(addresses)):
            tables.root.array.words[at + index] = word


# The types of the model as bytes.


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
