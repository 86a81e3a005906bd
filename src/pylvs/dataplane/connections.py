"""Read the connection table for listings, while packets change it: some thousand entries at a time."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address

from pylvs.bpf import abi
from pylvs.bpf.maps import LargeArray
from pylvs.dataplane import load
from pylvs.dataplane.tables import ADDRESS_BYTES, Tables, address_of
from pylvs.model.addresses import Address
from pylvs.model.director import SCTP_STATES, TCP_STATES, Connection
from pylvs.model.service import Protocol

_BLOCK = 1 << 16  # bytes of the table of IPv4 connections that are read at once
_KEY6 = struct.Struct("!16s16sHHBB2x")  # tuple6
_FIELDS4 = (
    "connection.word",
    "connection.destination",
    "connection.port",
    "connection.method",
    "tuple.saddr",
    "tuple.daddr",
    "tuple.sport",
    "tuple.dport",
    "tuple.protocol",
    "tuple.kind",
)
_ANY_SERVER = bytes(ADDRESS_BYTES)


def _state_names(protocol: str, names: Sequence[str]) -> dict[int, str]:
    """Return the names of a protocol's states; unconfirmed connections have that of the state that comes next."""
    first = abi.constant("STATE_SCTP_INIT1") - 1 if protocol == "SCTP" else 0
    found = {first + number: name for number, name in enumerate(names) if number}
    return found | {abi.constant(f"STATE_{protocol}_FIRST"): "ESTABLISHED"}


class ConnectionReader:
    """Reads entry by entry. Each entry is consistent; two entries may be of different moments."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._second = load.ticks_per_second()
        self._plain, self._claimed = abi.constant("TUPLE_CONNECTION"), abi.constant("TUPLE_CLAIMED")
        self._masq = abi.constant("METHOD_MASQ")
        self._bypass = abi.constant("METHOD_BYPASS")
        self._state = abi.constant("WORD_STATE")
        self._assured = abi.constant("ASSURED")
        self._names: dict[int, dict[int, str]] = {
            Protocol.TCP: _state_names("TCP", TCP_STATES),
            Protocol.SCTP: _state_names("SCTP", SCTP_STATES),
        }
        self._now = 0
        self._servers: dict[int, Address] = {}  # by slot, while a block is read

    def connections(self) -> Iterator[Connection]:
        """Yield every entry, in no particular order."""
        yield from self._connections4()
        yield from self._connections6()

    def _begin_block(self) -> None:
        self._now = load.clock(self._tables.state)  # in ticks
        self._servers.clear()

    def _connections4(self) -> Iterator[Connection]:
        """Yield the IPv4 connections; an entry without a destination address is free."""
        codec, ntohs, ntohl = abi.struct("conn_entry4"), socket.ntohs, socket.ntohl
        form, stride, target_at = codec.view(*_FIELDS4), codec.size, codec.offset("tuple.daddr")
        unused, virtual = bytes(_BLOCK), dict[int, IPv4Address]()
        each = _BLOCK // stride  # slots in a block
        for number, block in enumerate(LargeArray.open(self._tables.path("connections4")).blocks(_BLOCK)):
            if block == unused:
                continue
            self._begin_block()
            virtual.clear()
            targets = memoryview(block).cast("I")[target_at // 4 :: stride // 4].tolist()
            for index, target in enumerate(targets):
                if not target:
                    continue
                word, server, port, method, source, _, source_port, target_port, protocol, kind = form.unpack_from(
                    block, index * stride
                )
                if kind == self._claimed:
                    continue
                assured = 0 if kind == self._plain else self._tables.controls.get(number * each + index, "assured")
                address = virtual.get(target)
                if address is None:
                    address = virtual[target] = IPv4Address(ntohl(target))
                yield Connection(
                    protocol,
                    self._state_name(protocol, kind, word, assured),
                    self._left_s(word),
                    IPv4Address(ntohl(source)),
                    ntohs(source_port),
                    address,
                    ntohs(target_port),
                    self._server(server, method, 4),
                    ntohs(port),
                )

    def _connections6(self) -> Iterator[Connection]:
        """Yield the IPv6 connections. `words6` has state and timeout of those by NAT."""
        tables = self._tables
        form = abi.struct("connection6").view(
            "connection.word", "connection.destination", "connection.port", "connection.method", "slot"
        )
        first = load.first_slot6(tables.pool.get(0, "capacity"))
        for keys, values, count in tables.connections6.chunks():
            self._begin_block()
            pairs = zip(
                _KEY6.iter_unpack(keys[: count * _KEY6.size]),
                form.iter_unpack(values[: count * form.size]),
                strict=True,
            )
            for (source, target, source_port, target_port, protocol, kind), (word, server, port, method, slot) in pairs:
                if method == self._masq:
                    word = tables.words6.words[slot - first]
                assured = 0 if kind == self._plain else tables.controls.get(slot, "assured")
                yield Connection(
                    protocol,
                    self._state_name(protocol, kind, word, assured),
                    self._left_s(word),
                    address_of(source, 6),
                    source_port,
                    address_of(target, 6),
                    target_port,
                    self._server(server, method, 6),
                    socket.ntohs(port),
                )

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
            table = self._tables.destinations
            family = table.get(slot, "family") or version
            found = self._servers[slot] = address_of(table.get(slot, "address"), family)
        return found
