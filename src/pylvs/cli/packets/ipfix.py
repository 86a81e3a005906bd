"""The connection log as IPFIX messages (RFC 7011), for a collector over UDP.

A record tells that a flow was created or deleted (firewallEvent), and why it ended. It has no counters, so it is no
biflow (RFC 5103). Each message has the template of its records: a collector may start at any time, and UDP may lose
messages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pylvs.trace.connection_log import Event

VERSION, TEMPLATE_SET, FIRST_TEMPLATE = 10, 2, 256
LONGEST = 1400  # bytes of a message, which no path fragments
CREATED, DELETED = 1, 2  # firewallEvent
# flowEndReason
_END_REASONS = {"timeout": 1, "finished": 3, "server deleted": 4, "replaced": 4, "evicted": 5}
# Information elements of IANA with their lengths.
_TIME, _EVENT, _REASON, _PROTOCOL = (
    (323, 8),
    (233, 1),
    (136, 1),
    (4, 1),
)  # observationTimeMilliseconds, firewallEvent ...
_SOURCE, _DESTINATION = {4: (8, 4), 6: (27, 16)}, {4: (12, 4), 6: (28, 16)}
_SOURCE_PORT, _DESTINATION_PORT = (7, 2), (11, 2)
_SERVER, _SERVER_PORT = {4: (226, 4), 6: (282, 16)}, (228, 2)  # postNATDestinationIPv4Address ...
_HEADER, _SET = struct.Struct("!HHIII"), struct.Struct("!HH")


class Shape(NamedTuple):
    """What decides about the template of a record."""

    ends: bool
    version: int
    server_version: int

    @property
    def template(self) -> int:
        """Return the number of the template."""
        return FIRST_TEMPLATE + 4 * self.ends + 2 * (self.version == 6) + (self.server_version == 6)

    def elements(self) -> list[tuple[int, int]]:
        """Return number and length of each element."""
        return [
            _TIME,
            _EVENT,
            *([_REASON] if self.ends else []),
            _PROTOCOL,
            _SOURCE[self.version],
            _DESTINATION[self.version],
            _SOURCE_PORT,
            _DESTINATION_PORT,
            _SERVER[self.server_version],
            _SERVER_PORT,
        ]

    def definition(self) -> bytes:
        """Return the template record."""
        elements = self.elements()
        return _SET.pack(self.template, len(elements)) + b"".join(_SET.pack(*element) for element in elements)

    def length(self) -> int:
        """Return the bytes of a data record."""
        return sum(length for _, length in self.elements())


def shape_of(event: Event) -> Shape:
    """Return the shape of an event's record."""
    return Shape(bool(event.why), event.client.version, (event.server or event.virtual).version)


def record(event: Event) -> bytes:
    """Return the data record. Without a real server, its address is the virtual one: the flow bypasses the service."""
    server, port = (event.server, event.server_port) if event.server else (event.virtual, event.virtual_port)
    parts = [
        struct.pack("!QB", round(event.time * 1000), DELETED if event.why else CREATED),
        bytes((_END_REASONS[event.why],)) if event.why else b"",
        bytes((int(event.protocol),)),
        event.client.packed,
        event.virtual.packed,
        struct.pack("!HH", event.client_port, event.virtual_port),
        server.packed,
        struct.pack("!H", port),
    ]
    return b"".join(parts)


class Exporter:
    """Makes the messages of one observation domain."""

    def __init__(self, domain: int) -> None:
        self._domain = domain
        self._sequence = 0  # data records that earlier messages have

    def messages(self, events: Sequence[Event], now_s: float) -> Iterator[bytes]:
        """Yield messages with a record of each event, grouped by template."""
        by_shape: dict[Shape, list[bytes]] = {}
        for event in events:
            by_shape.setdefault(shape_of(event), []).append(record(event))
        for shape, records in by_shape.items():
            definition = shape.definition()
            most = (LONGEST - _HEADER.size - 2 * _SET.size - len(definition)) // shape.length()
            for start in range(0, len(records), most):
                yield self._message(shape.template, definition, records[start : start + most], now_s)

    def _message(self, template: int, definition: bytes, records: Sequence[bytes], now_s: float) -> bytes:
        data = b"".join(records)
        sets = _SET.pack(TEMPLATE_SET, _SET.size + len(definition)) + definition
        sets += _SET.pack(template, _SET.size + len(data)) + data
        sequence, self._sequence = self._sequence, self._sequence + len(records) & 0xFFFFFFFF
        length = _HEADER.size + len(sets)
        return _HEADER.pack(VERSION, length, int(now_s) & 0xFFFFFFFF, sequence, self._domain) + sets
