"""Read the connection table of a build with another layout for listings."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from pylvs.dataplane.connections import ConnectionReader, EntryFields
from pylvs.dataplane.former import FormerTables
from pylvs.dataplane.restore import Source
from pylvs.dataplane.tables import Records

_AT_ONCE = 1 << 11  # entries that are compared with one reading of the clock
_PORT = struct.Struct("=H")
_TUPLES = {4: struct.Struct("=4s4sHHBB"), 6: struct.Struct("=16s16sHHBB")}  # struct tuple4 and tuple6, without the end


class FormerConnectionReader(ConnectionReader):
    """Reads its connections as a migration does, and converts none but the present one."""

    def __init__(self, tables: FormerTables) -> None:
        """Open all maps now: an edit may replace their pins later. Raises Unsupported."""
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
        return self._source.control(slot, "assured")

    def _raw_call(self, key: bytes) -> bytes | None:
        return self._source.calls.get(key) if self._source.calls else None

    @property
    def _destinations(self) -> Records:
        return self._servers_there
