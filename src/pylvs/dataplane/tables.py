"""The pinned maps of one state, opened at first use, and the types of the model as the bytes of their elements.

Facts, services and destinations have two halves each. The generation in force decides which half packets read.
"""

from __future__ import annotations

import os
import struct
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address

from pylvs.bpf import abi, maps
from pylvs.bpf.schedulers import NAMES, NUMBERS
from pylvs.dataplane.state import LOADED, State
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
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
)

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

ADDRESS_BYTES = 16
LONGEST_TICKS = 0x7FFFFFFF  # a timeout beyond would compare as past: ticks wrap at 32 bits
_PLAIN_TUNNEL = Tunnel()
_METHODS = {int(method): method for method in Method}
_KEY4 = struct.Struct("!4sHBx")
_KEY6 = struct.Struct("!16sHBx")
_NAME = struct.Struct("<16s16sIHHBBBx")
ALL_ONES = (1 << 64) - 1
MASK32 = 0xFFFFFFFF


class Records:
    """An array of structures in shared memory. A 64-bit field is written by a single store."""

    def __init__(self, array: maps.MmapArray, structure: str | abi.Codec) -> None:
        self.array = array
        self.codec = abi.struct(structure) if isinstance(structure, str) else structure
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
    return cached_property(lambda tables: tables.open_hash(name))


class Tables:
    """The maps of a state."""

    # generations and settings
    root = _records("roots", "root")  # one element: the generation in force, facts, settings, address bitmaps
    book = _records("books", "book")  # the allocator's lists of free slots

    # services
    services = _records("services", "service")  # by slot, each with two versions
    service_states = _records("service_states", "service_state")  # what packets write about a service, by its slot
    service_bases = _records("service_bases", "counters")  # the counts at which a service's counters are 0
    service_estimates = _records("service_estimates", "estimate")  # its rates
    services4 = _hash("services4")  # slots of services by key
    services6 = _hash("services6")
    client_rules = _hash("client_rules")  # by prefix of clients, each in the set of a service
    members = _array("members")  # the lists of all services, in chunks
    maglev_tables = _hash("maglev_tables")  # of mh, two for each service that uses it
    sh_tables = _hash("sh_tables")  # of sh, two for each service that uses it
    synced_sequences = _hash("synced_sequences")  # sequence data of connections, as announced, by slot
    calls = _hash("calls")  # what the templates of SIP calls stand for, by slot
    cache = _hash("cache")  # the destinations that lblc and lblcr remember, by daddr

    # destinations
    destinations = _records("destinations", "destination")  # by slot, deleted ones included
    destination_bases = _records("destination_bases", "counters")  # the counts at which their counters are 0
    estimates = _records("estimates", "estimate")  # counters as listings show them, and rates, by the same slot
    names = _hash("names")  # slots of destinations by `destination_name`
    nat_servers = _hash("nat_servers")  # the newest NAT destination by address and port
    nat_older = _array("nat_older")  # by slot: the next older one

    # connections
    pool = _records("pools", "pool")  # capacity, use and hash seeds of the connection table
    half_open_ring = _records("half_open_rings", "half_open_ring")
    timer_runs = _records("timer_runs", "timer_runs")  # the cost of each timer: connections ended, runs, CPU time
    connections = _array("connections")  # buckets
    overflow_index = _hash("overflow_index")  # slots of connections of client ports that have very many, by tuple
    conn_counts = _records("conn_counts", "conn_counts")  # connections and thresholds, by slot of the destination
    controls = _records("controls", "control")  # what persistence remembers of connections and templates, by slot

    # firewall marks
    mark_rules = _records("mark_rules", "mark_rule")  # two lists of the rules that set marks
    routed_marks = _hash("routed_marks")  # a snapshot of the marks whose packets policy routing delivers locally

    # this host
    devices = _records("devices", "device")  # those that run XDP
    transmitters = _hash("transmitters")  # devices to which XDP may redirect
    locals = _hash("locals")  # a snapshot of this host's addresses
    local_routes = _hash("local_routes")  # a snapshot of the networks that have a local route
    accept_locals = _hash("accept_locals")  # devices by ifindex (0: all) on which a received saddr may be local
    rp_filters = _records("rp_filters", "rp_filter")  # by ifindex modulo DEVICES: a snapshot of rp_filter
    standby = _hash("standby")  # the addresses of this host's virtual routers, and whether each is standby

    def __init__(self, state: State, load: str = LOADED) -> None:
        self.state = state
        self.directory = load  # of the pins

    def path(self, name: str) -> str:
        """Return the path of a map's pin."""
        return self.state.pin_path(f"{self.directory}/{name}")

    def mark(self) -> int:
        """Return a number that changes when other tables replace these; 0 while there are none."""
        try:
            return os.stat(self.path("pools")).st_ino if self.state.path else 0
        except FileNotFoundError:
            return 0

    def open_array(self, name: str) -> maps.MmapArray:
        """Open a map as shared memory."""
        return maps.MmapArray.open(self.path(name))

    def open_hash(self, name: str) -> maps.HashMap:
        """Open a hash map."""
        return maps.HashMap.open(self.path(name))

    @cached_property
    def statistics(self) -> maps.PerCpuArray:
        """Per-CPU data of destinations by slot; it begins with the counters."""
        percpu = maps.PerCpuArray.open(self.path("percpu_destinations"))
        percpu.records = abi.constant("PERCPU_DESTINATIONS")
        return percpu

    @cached_property
    def device_packets(self) -> maps.PerCpuArray:
        """Packets by ingress device and hook."""
        return maps.PerCpuArray.open(self.path("device_packets"))

    @cached_property
    def reasons(self) -> maps.PerCpuArray:
        """Packet counts by reason."""
        return maps.PerCpuArray.open(self.path("reasons"))

    @cached_property
    def service_reasons(self) -> maps.PerCpuHash:
        """Packet counts by service and reason."""
        return maps.PerCpuHash.open(self.path("service_reasons"))

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


# Generations.


@dataclass(frozen=True, slots=True)
class Tree:
    """A list that has a winner tree (bpf/lb/winners.h): its first member, its length and its scheduler."""

    first: int
    length: int
    scheduler: int


def tree_of(version: Mapping[str, Any]) -> Tree | None:
    """Return the winner tree of a service's version: only long lists have one, and not with every scheduler."""
    return _tree(version["list"], version["count"], version["scheduler"]) if version["present"] else None


def _tree(first: int, length: int, scheduler: int) -> Tree | None:
    has_one = length > abi.constant("WALKED") and abi.constant("INDEXED_SCHEDULERS") >> scheduler & 1
    return Tree(first, length, scheduler) if has_one else None


class Facts:
    """Facts about the whole table, in the root, of one generation: counts of services, timeouts."""

    def __init__(self, tables: Tables, generation: int) -> None:
        self._root = tables.root
        self._codec = abi.struct("facts")
        self._base = abi.struct("root").offset("facts") + (generation & 1) * self._codec.size

    def get(self, name: str) -> tuple[int, ...]:
        """Return a fact's numbers."""
        field = self._codec.fields[name]
        return struct.unpack_from("<" + field.format, self._root.array.memory, self._base + field.offset)

    def set(self, name: str, *values: int) -> None:
        """Write a fact."""
        field = self._codec.fields[name]
        struct.pack_into("<" + field.format, self._root.array.memory, self._base + field.offset, *values)

    def copy_from(self, other: Facts) -> None:
        """Copy the facts of another generation."""
        memory = self._root.array.memory
        memory[self._base : self._base + self._codec.size] = memory[other._base : other._base + self._codec.size]


def later(one: int, other: int) -> bool:
    """Return whether generation `one` comes after `other`; they wrap at 32 bits."""
    return 0 < (one - other & MASK32) < 1 << 31


def half_in_force(generations: tuple[int, int], live: int) -> int:
    """Return the half that packets read, as version_in_force in bpf/lb/service.h."""
    newer = 1 if later(generations[1], generations[0]) else 0
    return 1 - newer if later(generations[newer], live) else newer


class Versions:
    """Reads and writes the halves of services and destinations."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self._codec = abi.struct("service_version")
        self._generation = self._codec.offset("generation")
        self._pair = struct.Struct(f"<I{self._codec.size - 4}xI")  # the generations of two versions
        self._list = self._codec.view("list", "count", "present", "scheduler")

    @property
    def live(self) -> int:
        """The generation in force."""
        return int(self.tables.root.get(0, "live")) & MASK32

    def _generations(self, slot: int) -> tuple[int, int]:
        array = self.tables.services.array
        one, other = self._pair.unpack_from(array.upto(slot), slot * array.stride + self._generation)
        return one, other

    def _half_offset(self, slot: int, half: int) -> int:
        return slot * self.tables.services.array.stride + half * self._codec.size

    def _store_generation(self, slot: int, half: int, generation: int) -> None:
        """Write a generation by one store: after a torn read a packet could take the wrong half."""
        self.tables.services.array.store_half(slot, half * self._codec.size + self._generation, generation)

    def services(self, live: int) -> list[tuple[int, dict[str, Any]]]:
        """Return slots and versions of all services."""
        found = []
        for family in 4, 6:
            for _, values, count in self.tables.service_keys(family).chunks():
                for (slot,) in struct.iter_unpack("<I", values[: 4 * count]):
                    version = self.version(slot, live)
                    if version["present"] and version["family"] == family:
                        found.append((slot, version))
        return found

    def tree_in_force(self, slot: int) -> Tree | None:
        """Return the winner tree of a service, without reading all fields of its version."""
        start = self._half_offset(slot, half_in_force(self._generations(slot), self.live))
        first, length, present, scheduler = self._list.unpack_from(self.tables.services.array.upto(slot), start)
        return _tree(first, length, scheduler) if present else None

    def version(self, slot: int, live: int | None = None) -> dict[str, Any]:
        """Return the fields of a service's version in force."""
        half = half_in_force(self._generations(slot), self.live if live is None else live)
        return self._codec.unpack_from(self.tables.services.array.upto(slot), self._half_offset(slot, half), whole=True)

    def write_version(self, slot: int, generation: int, fields: dict[str, Any]) -> None:
        """Write the half that is not in force. No packet reads it before `live` has reached its generation."""
        half = 1 - half_in_force(self._generations(slot), self.live)
        memory, start = self.tables.services.array.upto(slot), self._half_offset(slot, half)
        row, size = bytearray(self._codec.size), 4
        self._codec.pack_row_into(row, 0, fields)
        self._store_generation(slot, half, generation)
        before, behind = slice(self._generation), slice(self._generation + size, self._codec.size)
        for part in before, behind:
            memory[start + (part.start or 0) : start + part.stop] = row[part]

    def new_service(self, slot: int, generation: int) -> None:
        """Clear a slot: the service is absent in all generations before this one."""
        self.tables.services.clear(slot)
        self._store_generation(slot, 0, generation - 1)
        self._store_generation(slot, 1, generation - 2)

    def withdraw_version(self, slot: int, live: int) -> None:
        """Make a half that is later than `live` the older one."""
        one, other = self._generations(slot)
        for half, (mine, theirs) in enumerate(((one, other), (other, one))):
            if later(mine, live):
                self._store_generation(slot, half, theirs - 1)

    def _states(self, slot: int) -> tuple[int, int]:
        one, other = self.tables.destinations.get(slot, "states")
        return int(one), int(other)

    def write_flags(self, slot: int, generation: int, flags: int, weight: int | None = None) -> None:
        """Write a destination's other half: its weight (the present one by default), then the state by one store."""
        one, other = self._states(slot)
        half = 1 - half_in_force((one >> 32, other >> 32), self.live)
        destinations = self.tables.destinations
        if weight is None:
            weight = destinations.get(slot, "weights")[1 - half]
        destinations.array.store_half(slot, destinations.codec.offset("weights") + 4 * half, weight)
        self.store_state(slot, half, generation, flags)

    def write_deleted(self, slot: int, generation: int, with_service: bool = False) -> None:
        """Write a destination's other half: not available. Its connections keep the tunnel (IPVS-SEMANTICS 8.3).

        With its service it leaves its connections, whose packets are forwarded until they end.
        """
        states = self._states(slot)
        half = half_in_force((states[0] >> 32, states[1] >> 32), self.live)
        flags = states[half] & MASK32 & ~abi.constant("DESTINATION_AVAILABLE")
        self.write_flags(slot, generation, flags | (abi.constant("DESTINATION_ORPHANED") if with_service else 0))

    def withdraw_flags(self, slot: int, live: int) -> None:
        """Make a half that is later than `live` the older one."""
        states = self._states(slot)
        for half in 0, 1:
            if later(states[half] >> 32, live):
                self.store_state(slot, half, (states[1 - half] >> 32) - 1 & MASK32, 0)

    def store_state(self, slot: int, half: int, generation: int, flags: int) -> None:
        """Write one half of a destination's states by one store."""
        destinations = self.tables.destinations
        destinations.array.store(slot, destinations.codec.offset("states") + 8 * half, generation << 32 | flags)

    def facts(self, generation: int | None = None) -> Facts:
        """Return the facts of a generation, by default of the one in force."""
        return Facts(self.tables, self.live if generation is None else generation)


# Bitmaps of address hashes, in the root. A packet whose bits are 0 belongs to no service and needs no lookup.
# `vip_bits`: the VIPs. `reply_bits`: the source addresses of replies. These are the RIPs of NAT destinations, the VIPs
# (other servers answer with them) and this host's own addresses.


def address_bit(address: bytes, family: int, keys: Sequence[int]) -> int:
    """Return the bit of an address in the bitmaps, as address_hash in bpf/lib/address.h computes it.

    `keys` is the field `address_keys` of the root.
    """
    words = struct.unpack("<4I", address)
    mixed: int = words[0]
    if family == 6:
        halves = [(key & MASK32, key >> 32) for key in keys[1:]]
        terms = zip(words[::2], words[1::2], halves, strict=True)
        mixed = sum((low + a & MASK32) * (high + b & MASK32) for low, high, (a, b) in terms)
    return (mixed * keys[0] & ALL_ONES) >> (64 - abi.constant("HASH_BITS"))


def set_bit(tables: Tables, name: str, address: bytes, family: int) -> None:
    """Set the bit of an address in `vip_bits` or `reply_bits`."""
    bit = address_bit(address, family, tables.root.get(0, "address_keys"))
    at = (abi.struct("root").offset(name) >> 3) + (bit >> 6)
    tables.root.array.words[at] |= 1 << (bit & 63)


def bitmap(addresses: Iterable[tuple[bytes, int]], keys: Sequence[int]) -> list[int]:
    """Return the words of a bitmap with the bits of these addresses, each with its family, by `address_keys`."""
    words = [0] * abi.constant("BITMAP_WORDS")
    for address, family in addresses:
        bit = address_bit(address, family, keys)
        words[bit >> 6] |= 1 << (bit & 63)
    return words


def write_bitmap(tables: Tables, name: str, bits: list[int]) -> None:
    """Replace a bitmap in the root, one store for each word that differs."""
    words, at = tables.root.array.words, abi.struct("root").offset(name) >> 3
    for index, word in enumerate(bits, at):
        if words[index] != word:
            words[index] = word


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


def written_name(fields: dict[str, Any]) -> bytes:
    """Return the key in `names` of the destination that has these fields."""
    return _NAME.pack(
        fields["virtual_address"],
        fields["address"],
        fields["mark"],
        fields["virtual_port"],
        socket.ntohs(fields["port"]),
        fields["protocol"],
        fields["virtual_family"],
        fields["family"],
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
        "scheduler": NUMBERS[service.scheduler],
        "protocol": key.protocol,
        "family": key.address.version,
        "engine": service.engine.encode(),
        "mss_clamp": service.mss_clamp,
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
        NAMES[version["scheduler"]],
        ServiceFlag(version["flags"]),
        version["timeout_s"],
        version["netmask"],
        version["engine"].rstrip(b"\0").decode(),
        version["mss_clamp"],
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


@dataclass(frozen=True, slots=True)
class ListStep:
    """A change of a list: its kind, the position, and the weights in the list after it, as a version has them."""

    change: str
    position: int = 0
    gcd: int = 1
    max_weight: int = 0
