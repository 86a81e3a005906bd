"""The messages of IPVS's sync daemons, versions 0 and 1 (IPVS-SEMANTICS 10.2, 10.3). Pure.

No message raises an error. `parse` counts what is wrong with it, by the names in COUNTERS. It returns the connections
that IPVS would take from it.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.director import SCTP_STATES, TCP_STATES
from pylvs.model.service import Protocol
from pylvs.model.sync.connection import METHOD_MASK, SEQUENCE_BYTES, SyncedConnection, SyncFlag

# What a backup counts, with its meaning.
COUNTERS = {
    "messages": "messages received",
    "connections": "connections and templates taken from them",
    "bad size": "messages whose size field differs from the datagram's size, or that have no header",
    "other syncid": "messages of another syncid",
    "incomplete": "messages that end within a connection, or whose connection exceeds the message",
    "bad record": "connections of an unknown version or type, or too short; the rest of the message is lost",
    "bad option": "options that occur twice, have a wrong length or exceed the connection; the rest is lost",
    "unknown option": "connections with an unknown option that may not be ignored",
    "bad protocol": "connections of an unknown protocol",
    "bad state": "connections in a state that their protocol does not have",
    "bad engine": "connections with data of an unknown persistence engine, or of none",
}
MOST_CONNECTIONS = 255  # of a message: its number is one byte
LONGEST = 65507  # bytes of a message that fit a UDP datagram
_SEQUENCES = SyncFlag.OUT_SEQ | SyncFlag.IN_SEQ
# What a backup takes of the flags; the others are its own.
_TAKEN = (
    METHOD_MASK
    | SyncFlag.NOOUTPUT
    | SyncFlag.INACTIVE
    | _SEQUENCES
    | SyncFlag.NO_CPORT
    | SyncFlag.TEMPLATE
    | SyncFlag.ONE_PACKET
)
_HASHED = 0x40  # IPVS's flag of an entry in the table; never sent
_STATES: dict[int, int] = {  # how many states a protocol has
    Protocol.TCP: len(TCP_STATES),
    Protocol.UDP: 1,
    Protocol.SCTP: len(SCTP_STATES),
    50: 1,  # ESP
    51: 1,  # AH
}
_ENGINES = ("sip",)

_HEADER_V0 = struct.Struct("!BBH")  # number of connections, syncid, size
_HEADER = struct.Struct("!BBHBBH")  # 0, syncid, size, number of connections, version, 0
_VERSION = 1
_RECORD = struct.Struct("!BBHIHHHHII")  # type, protocol, version and size, flags, state, ports, mark, timeout
_RECORD_V0 = struct.Struct("!BBHHH4s4s4sHH")  # 0, protocol, ports, addresses, flags, state
_SIZE_MASK, _VERSION_SHIFT = 0xFFF, 12
_IPV6 = 1  # the only bit of a type
_SMALLEST = _RECORD.size + 3 * 4
_ADDRESSES = {4: struct.Struct("4s4s4s"), 6: struct.Struct("16s16s16s")}
_SEQUENCE, _DATA, _NAME = 1, 2, 3  # types of options
_IGNORABLE = 0x40  # bit of a type: may be ignored if it is unknown
# pylvs's own: how old a connection of a whole table is, in milliseconds. IPVS ignores it, as its type says.
_AGE = 16
_AGE_FORM = struct.Struct("!I")
_MOST_AGE = 0xFFFFFFFF
_LONGEST_OPTION = {_SEQUENCE: SEQUENCE_BYTES, _DATA: 255, _NAME: 16}
_HOST_ORDER = struct.Struct("=6I")  # of version 0: as the sender has it in memory
_NETWORK_ORDER = struct.Struct("!6I")


class _Lost(Exception):
    """Something is wrong with a record; the argument is the name of its counter, and whether the rest is lost."""

    def __init__(self, counter: str, rest: bool = False) -> None:
        super().__init__(counter)
        self.counter = counter
        self.rest = rest


def parse(data: bytes, syncid: int, counts: Counter[str]) -> list[SyncedConnection]:
    """Return the connections of a message for a backup of this syncid; 0 takes those of all.

    `counts` gets what was received, and what was wrong with it.
    """
    counts["messages"] += 1
    if len(data) < _HEADER_V0.size or _HEADER_V0.unpack_from(data)[2] != len(data):
        counts["bad size"] += 1
        return []
    if syncid and data[1] != syncid:
        counts["other syncid"] += 1
        return []
    is_v1 = len(data) >= _HEADER.size and not data[0] and data[5] == _VERSION and data[6:8] == b"\0\0"
    found = list((_records if is_v1 else _records_v0)(data, counts))
    counts["connections"] += len(found)
    return found


def _records(data: bytes, counts: Counter[str]) -> Iterator[SyncedConnection]:
    at = _HEADER.size
    for _ in range(data[4]):
        if at + _SMALLEST > len(data):
            counts["incomplete"] += 1
            return
        size = (data[at + 2] << 8 | data[at + 3]) & _SIZE_MASK
        if at + size > len(data):
            counts["incomplete"] += 1
            return
        try:
            yield _record(data[at : at + size])
        except _Lost as lost:
            counts[lost.counter] += 1
            if lost.rest:
                return
        at += size + 3 & ~3


def _record(data: bytes) -> SyncedConnection:
    """Parse a record with its options. Raises _Lost."""
    if len(data) < _SMALLEST:
        raise _Lost("bad record", rest=True)
    kind, protocol, sized, flags, state, *ports, mark, timeout_s = _RECORD.unpack_from(data)
    family = 6 if kind & _IPV6 else 4
    form = _ADDRESSES[family]
    end = _RECORD.size + form.size
    if sized >> _VERSION_SHIFT or kind & ~_IPV6 or end > len(data):
        raise _Lost("bad record", rest=True)
    flags &= _TAKEN
    options = _options(data, end)
    _check_state(protocol, state, flags)
    engine, engine_data = _engine(options)
    client, virtual, server = _addresses(form.unpack_from(data, _RECORD.size))
    sequence = options.get(_SEQUENCE, b"") if flags & _SEQUENCES else b""
    if not sequence:
        flags &= ~_SEQUENCES
    return SyncedConnection(
        protocol,
        client,
        ports[0],
        virtual,
        ports[1],
        server,
        ports[2],
        flags,
        state,
        timeout_s,
        mark,
        sequence,
        engine,
        engine_data,
        _age(options),
    )


def _options(data: bytes, at: int) -> dict[int, bytes]:
    """Return the options behind the fixed part by their types. Raises _Lost."""
    found: dict[int, bytes] = {}
    unknown = False
    while at < len(data):
        if at + 2 > len(data):
            raise _Lost("bad option", rest=True)
        kind, length = data[at] & ~_IGNORABLE, data[at + 1]
        ignorable = data[at] & _IGNORABLE
        at += 2
        if not length or at + length > len(data):
            raise _Lost("bad option", rest=True)
        if kind in _LONGEST_OPTION:
            wrong = length != SEQUENCE_BYTES if kind == _SEQUENCE else length > _LONGEST_OPTION[kind]
            if kind in found or wrong:
                raise _Lost("bad option", rest=True)
            found[kind] = data[at : at + length]
        elif ignorable:
            if kind == _AGE and length == _AGE_FORM.size:
                found[kind] = data[at : at + length]
        else:  # IPVS reads no further
            unknown = True
            break
        at += length
    if unknown:
        raise _Lost("unknown option")
    return found


def _check_state(protocol: int, state: int, flags: int) -> None:
    """Raise _Lost unless a connection can have this state. Templates have no protocol and no state of one."""
    if flags & SyncFlag.TEMPLATE:
        return
    if protocol not in _STATES:
        raise _Lost("bad protocol")
    if state >= _STATES[protocol]:
        raise _Lost("bad state")


def _engine(options: dict[int, bytes]) -> tuple[str, bytes]:
    """Return the persistence engine and its data. A name without data means nothing. Raises _Lost."""
    if _DATA not in options:
        return "", b""
    name = options.get(_NAME, b"").partition(b"\0")[0].decode("ascii", "replace")
    if name not in _ENGINES:
        raise _Lost("bad engine")
    return name, options[_DATA]


def _age(options: Mapping[int, bytes]) -> int | None:
    """Return the age of a connection of a whole table, in milliseconds; None of another one."""
    return _AGE_FORM.unpack(options[_AGE])[0] if _AGE in options else None


def _addresses(packed: tuple[bytes, bytes, bytes]) -> Iterator[Address]:
    for each in packed:
        yield IPv4Address(each) if len(each) == 4 else IPv6Address(each)


def _records_v0(data: bytes, counts: Counter[str]) -> Iterator[SyncedConnection]:
    at = _HEADER_V0.size
    for _ in range(data[0]):
        if at + _RECORD_V0.size > len(data):
            counts["incomplete"] += 1
            return
        _, protocol, cport, vport, dport, caddr, vaddr, daddr, flags, state = _RECORD_V0.unpack_from(data, at)
        at += _RECORD_V0.size
        sequence = b""
        if flags & _SEQUENCES:
            if at + SEQUENCE_BYTES > len(data):
                counts["incomplete"] += 1
                return
            sequence = _NETWORK_ORDER.pack(*_HOST_ORDER.unpack_from(data, at))
            at += SEQUENCE_BYTES
        flags &= _TAKEN
        if flags & SyncFlag.TEMPLATE:
            state = 0
        try:
            _check_state(protocol, state, flags)
        except _Lost as lost:
            counts[lost.counter] += 1
            continue
        client, virtual, server = _addresses((caddr, vaddr, daddr))
        yield SyncedConnection(
            protocol, client, cport, virtual, vport, server, dport, flags, state, None, sequence=sequence
        )


def encode(connection: SyncedConnection) -> bytes:
    """Return a record of version 1."""
    addresses = connection.client.packed, connection.virtual.packed, connection.server.packed
    family = connection.client.version
    options = b""
    if connection.flags & _SEQUENCES and connection.sequence:
        options += _option(_SEQUENCE, connection.sequence)
    if connection.age_ms is not None:
        options += _option(_AGE | _IGNORABLE, _AGE_FORM.pack(min(connection.age_ms, _MOST_AGE)))
    if connection.data:
        options += _option(_DATA, connection.data) + _option(_NAME, connection.engine.encode())
    size = _RECORD.size + 3 * len(addresses[0]) + len(options)
    head = _RECORD.pack(
        _IPV6 if family == 6 else 0,
        connection.protocol,
        size,
        connection.flags & ~_HASHED,
        connection.state,
        connection.client_port,
        connection.virtual_port,
        connection.server_port,
        connection.mark,
        connection.timeout_s or 0,
    )
    return head + b"".join(addresses) + options


def _option(kind: int, data: bytes) -> bytes:
    return bytes((kind, len(data))) + data


def encode_v0(connection: SyncedConnection) -> bytes:
    """Return a record of version 0, which has neither IPv6 nor timeouts, marks and engines."""
    flags = connection.flags & 0xFFFF & ~_HASHED
    sequence = b""
    if flags & _SEQUENCES:
        sequence = _HOST_ORDER.pack(*_NETWORK_ORDER.unpack(connection.sequence))
    head = _RECORD_V0.pack(
        0,
        connection.protocol,
        connection.client_port,
        connection.virtual_port,
        connection.server_port,
        connection.client.packed,
        connection.virtual.packed,
        connection.server.packed,
        flags,
        connection.state,
    )
    return head + sequence


@dataclass(slots=True)
class Message:
    """A message that is being filled; `began_s` is when its first connection was added."""

    version: int
    syncid: int
    longest: int  # bytes; a message has at least one connection
    began_s: float
    body: bytearray
    count: int = 0

    def add(self, record: bytes) -> bool:
        """Append a record; return False if it does not fit."""
        padding = -len(self.body) % 4 if self.version else 0
        if self.count and (
            self.count == MOST_CONNECTIONS or self._header + len(self.body) + padding + len(record) > self.longest
        ):
            return False
        self.body += bytes(padding) + record
        self.count += 1
        return True

    @property
    def _header(self) -> int:
        return (_HEADER if self.version else _HEADER_V0).size

    def encoded(self) -> bytes:
        """Return the whole message."""
        size = self._header + len(self.body)
        if self.version:
            return _HEADER.pack(0, self.syncid, size, self.count, _VERSION, 0) + self.body
        return _HEADER_V0.pack(self.count, self.syncid, size) + self.body
