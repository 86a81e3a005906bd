"""Read the handshakes of each destination (bpf/conntrack/handshake.h), cheaply enough to do it once a second.

The counts of all destinations are one piece of memory, without a system call. What a slot stands for is decoded once.
"""

from __future__ import annotations

from pylvs.bpf import abi
from pylvs.dataplane.tables import Tables, address_of
from pylvs.model import sockets as socket
from pylvs.model.rows import Handshakes
from pylvs.model.service import DestinationKey, Protocol, ServiceKey

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

Named = tuple[ServiceKey, DestinationKey]
_IDENTITY = (
    *("address", "port", "family", "used", "virtual_address", "mark"),
    *("virtual_port", "protocol", "virtual_family"),
)


class HandshakeReader:
    """Reads them from one state's tables. Each count begins at 0 with its destination."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._counts = abi.struct("conn_counts").view("begun", "completed")
        self._form = abi.struct("destination").view(*_IDENTITY)
        self._names: dict[int, tuple[tuple[Any, ...], Named]] = {}  # by slot, with what they were decoded from

    def read(self) -> dict[Named, Handshakes]:
        """Return the counts of the destinations that have any, since they were added.

        Deleted ones are among them: one that is added again soon continues its counts (IPVS-SEMANTICS 1.8).
        """
        top = self._tables.book.get(0, "destination_top")
        memory = self._tables.conn_counts.array.elements(0, top) if top else b""
        found = {}
        for slot, (begun, completed) in enumerate(self._counts.iter_unpack(memory)):
            if begun or completed:
                name = self._name(slot)
                if name is not None:
                    found[name] = Handshakes(begun, completed)
        return found

    def _name(self, slot: int) -> Named | None:
        """Return service and destination of a slot; None if it is free."""
        table = self._tables.destinations.array
        fields = self._form.unpack_from(table.upto(slot), slot * table.stride)
        known = self._names.get(slot)
        if known is not None and known[0] == fields:
            return known[1]
        address, port, family, used, virtual, mark, virtual_port, protocol, virtual_family = fields
        if not used:
            return None
        if mark:
            key = ServiceKey.of_mark(mark, socket.AF_INET if virtual_family == 4 else socket.AF_INET6)
        else:
            key = ServiceKey(Protocol(protocol), address_of(virtual, virtual_family), virtual_port)
        name = key, DestinationKey(address_of(address, family), socket.ntohs(port))
        self._names[slot] = fields, name
        return name
