"""Read the connection table for listings, while packets change it: some thousand entries at a time."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address

from pylvs.bpf import abi
from pylvs.bpf.maps import LargeArray
from pylvs.dataplane import load
from pylvs.dataplane.tables import ADDRESS_BYTES, Records, Tables, address_of
from pylvs.model.addresses import Address
from pylvs.model.director import SCTP_STATES, TCP_STATES, Connection
from pylvs.model.service import SIP, Protocol

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from pylvs.dataplane.upgrade.former import FormerTables

_BLOCK = 1 << 16  # bytes of the table that are read at once
_AT_ONCE = 1 << 11  # entries of another layout that are compared with one reading of the clock
_PORT = struct.Struct("=H")
_TUPLES = {4: struct.Struct("=4s4sHHBB"), 6: struct.Struct("=16s16sHHBB")}  # struct tuple4 and tuple6, without the end
_FIELDS4 = (
    "connection.word",
    "connection.destination",
    "connection.port",
    "connection.method",
    "connection.flags",
    "tuple.saddr",
    "tuple.daddr",
    "tuple.sport",
    "tuple.dport",
    "tuple.protocol",
    "tuple.kind",
)
_FIELDS6 = (
    "connection.word",
    "connection.destination",
    "connection.port",
    "connection.method",
    "connection.flags",
    "saddr_first:8s",
    "sport",
    "dport",
    "protocol",
    "kind",
    "saddr_last:8s",
    "daddr:16s",
)
_CALL = ("client:16s", "daddr:16s", "family", "length", "id:256s")
_PROTOCOLS = {int(each): each for each in Protocol}
_ANY_SERVER = bytes(ADDRESS_BYTES)
# Slot, word, destination, port, method, flags; version, client, sport, daddr, dport, protocol, kind. Ports are in
# network order.
EntryFields = tuple[int, int, int, int, int, int, int, Address, int, Address, int, int, int]


def state_names(protocol: str, names: Sequence[str]) -> dict[int, str]:
    """Return the names of a protocol's states; unconfirmed connections have that of the state that comes next."""
    first = abi.constant("STATE_SCTP_INIT1") - 1 if protocol == "SCTP" else 0
    found = {first + number: name for number, name in enumerate(names) if number}
    return found | {abi.constant(f"STATE_{protocol}_FIRST"): "ESTABLISHED"}


def states() -> dict[int, dict[int, str]]:
    """Return the names of states by protocol; those of UDP have none."""
    return {Protocol.TCP: state_names("TCP", TCP_STATES), Protocol.SCTP: state_names("SCTP", SCTP_STATES)}


class ConnectionReader:
    """Reads entry by entry. Each entry is consistent; two entries may be of different moments."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._second = load.ticks_per_second()
        self._plain, self._of_ipv6 = abi.constant("TUPLE_CONNECTION"), abi.constant("TUPLE_IPV6")
        self._no_tuple = abi.constant("TUPLE_CLAIMED"), abi.constant("TUPLE_SECOND")
        self._masq = abi.constant("METHOD_MASQ")
        self._bypass = abi.constant("METHOD_BYPASS")
        self._state = abi.constant("WORD_STATE")
        self._is_call = abi.constant("CONN_CALL")
        self._assured = abi.constant("ASSURED")
        self._names = states()
        self._now = 0  # in ticks
        self._servers: dict[int, Address] = {}  # by slot, while a block is read

    def connections(self) -> Iterator[Connection]:
        """Yield every entry, in no particular order."""
        ntohs, plain = socket.ntohs, self._plain
        for entry in self._entries():
            slot, word, server, port, method, flags, version, client, sport, address, dport, protocol, kind = entry
            assured = 0 if kind == plain else self._assurance(slot)
            engine = data = ""
            if flags & self._is_call:
                call = self._call(slot)
                if call is None:
                    continue  # it has just ended
                (client, address, version, data), engine = call, SIP
            yield Connection(
                _PROTOCOLS.get(protocol, protocol),
                self._state_name(protocol, kind, word, assured),
                self._left_s(word),
                client,
                ntohs(sport),
                address,
                ntohs(dport),
                self._server(server, method, version),
                ntohs(port),
                engine,
                data,
            )

    def _entries(self) -> Iterator[EntryFields]:
        """Yield every entry."""
        entry4, entry6 = abi.struct("conn_entry4"), abi.struct("conn_entry6")
        form4, form6, stride = entry4.view(*_FIELDS4), entry6.view(*_FIELDS6), entry4.size
        port_at, kind_at = entry4.offset("tuple.sport"), entry4.offset("tuple.kind") - entry4.offset("tuple.sport")
        ntohl, addresses = socket.ntohl, dict[int | bytes, Address]()
        tuple_bits = (1 << 8 * (kind_at + 1)) - 1
        for first_slot, block in self._blocks(stride):
            self._begin_block()
            addresses.clear()
            for index, rest in enumerate(memoryview(block).cast("Q")[port_at // 8 :: stride // 8].tolist()):
                if not rest & tuple_bits:
                    continue  # a free entry
                kind, version = rest >> 8 * kind_at & 0xFF, 4
                if kind in self._no_tuple:
                    continue
                if kind & self._of_ipv6:
                    version, kind = 6, kind & ~self._of_ipv6
                    word, server, port, method, flags, first, source_port, target_port, protocol, _, last, target = (
                        form6.unpack_from(block, index * stride)
                    )
                    client: Address = IPv6Address(first + last)
                else:
                    word, server, port, method, flags, source, target, source_port, target_port, protocol, _ = (
                        form4.unpack_from(block, index * stride)
                    )
                    client = IPv4Address(ntohl(source))
                address = addresses.get(target)
                if address is None:
                    address = addresses[target] = IPv6Address(target) if version == 6 else IPv4Address(ntohl(target))
                slot = first_slot + index
                connection = slot, word, server, port, method, flags
                yield *connection, version, client, source_port, address, target_port, protocol, kind

    def _blocks(self, stride: int) -> Iterator[tuple[int, bytes]]:
        """Yield parts of the table that are in use, each with its first slot. An entry has `stride` bytes."""
        unused, slots_in_block = bytes(_BLOCK), _BLOCK // stride
        for number, block in enumerate(LargeArray.open(self._tables.path("connections")).blocks(_BLOCK)):
            if block != unused:
                yield number * slots_in_block, block

    def _call(self, slot: int) -> tuple[Address, Address, int, str] | None:
        """Return client, virtual address, family and Call-ID of a SIP call's template.

        A Call-ID has letters of Latin-1 at most (IPVS-SEMANTICS 5.6).
        """
        raw = self._raw_call(slot.to_bytes(4, "little"))
        if raw is None:
            return None
        client, virtual, family, length, text = abi.struct("call").view(*_CALL).unpack(raw)
        return address_of(client, family), address_of(virtual, family), family, text[:length].decode("latin-1")

    def _begin_block(self) -> None:
        self._now = self._clock()
        self._servers.clear()

    # What the reader of another layout finds elsewhere.

    def _clock(self) -> int:
        return load.clock(self._tables.state)

    def _assurance(self, slot: int) -> int:
        found: int = self._tables.controls.get(slot, "assured")
        return found

    def _raw_call(self, key: bytes) -> bytes | None:
        return self._tables.calls.get(key)

    @property
    def _destinations(self) -> Records:
        return self._tables.destinations

    def _left_s(self, word: int) -> int:
        left = (word & 0xFFFFFFFF) - self._now & 0xFFFFFFFF
        return int(left / self._second) if left < 1 << 31 else 0  # expired, not removed yet

    def _state_name(self, protocol: int, kind: int, word: int, assured: int) -> str:
        if kind != self._plain:
            return "ASSURED" if assured == self._assured else "NONE"
        if protocol == Protocol.UDP:
            return "UDP"
        return self._names[protocol].get(word >> self._state & 0xFF, "NONE")

    def _server(self, slot: int, method: int, version: int) -> Address:
        """Return the address of the destination in a slot."""
        if method == self._bypass:  # a bypass connection has no destination
            return address_of(_ANY_SERVER, version)
        found = self._servers.get(slot)
        if found is None:
            table = self._destinations
            family = table.get(slot, "family") or version
            found = self._servers[slot] = address_of(table.get(slot, "address"), family)
        return found


class FormerConnectionReader(ConnectionReader):
    """Reads its connections as a migration does, and converts none but the present one."""

    def __init__(self, tables: FormerTables) -> None:
        """Open all maps now: an edit may replace their pins later. Raises Unsupported."""
        from pylvs.dataplane.upgrade.restore import Source  # late: most listings find their own layout

        super().__init__(tables)
        self._former = tables.former
        self._source = Source(tables.former)
        self._servers_there = tables.former.records("destinations")  # a copy would lack later ones

    def _entries(self) -> Iterator[EntryFields]:
        for number, (slot, entry) in enumerate(self._source.connections()):
            if number % _AT_ONCE == 0:
                self._begin_block()
            client, address, sport, dport, protocol, kind = _TUPLES[entry.family].unpack_from(entry.raw_tuple)
            of = IPv4Address if entry.family == 4 else IPv6Address
            (port,) = _PORT.unpack(entry.port)
            connection = slot, entry.word, entry.destination, port, entry.method, entry.flags
            yield *connection, entry.family, of(client), sport, of(address), dport, protocol, kind

    def _clock(self) -> int:
        return self._former.clock()

    def _assurance(self, slot: int) -> int:
        assured: int = self._source.control(slot, "assured")
        return assured

    def _raw_call(self, key: bytes) -> bytes | None:
        return self._source.calls.get(key)

    @property
    def _destinations(self) -> Records:
        return self._servers_there
