"""Connections between the process that receives messages and the one that edits the tables, as JSON. Pure.

The first one parses what other hosts send, so the second one checks every field.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from pylvs.model.addresses import Address
from pylvs.model.sync.connection import SEQUENCE_BYTES, SyncedConnection
from pylvs.system.processes.channel import BadMessage

AT_ONCE = 64  # connections of a message, which then fits a packet
_FIELDS = 15
# The largest value of each number, by its position.
_NUMBERS = {0: 255, 2: 65535, 4: 65535, 6: 65535, 7: 0xFFFFFFFF, 8: 65535, 10: 0xFFFFFFFF}
_OPTIONAL = {9: ("a timeout", 0xFFFFFFFF), 14: ("an age", 0xFFFFFFFF)}  # numbers, or None
_LONGEST_NAME, _LONGEST_DATA = 16, 255


def encode(connections: Iterable[SyncedConnection]) -> list[list[Any]]:
    """Return plain values."""
    return [
        [
            each.protocol,
            each.client.packed.hex(),
            each.client_port,
            each.virtual.packed.hex(),
            each.virtual_port,
            each.server.packed.hex(),
            each.server_port,
            each.flags,
            each.state,
            each.timeout_s,
            each.mark,
            each.sequence.hex(),
            each.engine,
            each.data.hex(),
            each.age_ms,
        ]
        for each in connections
    ]


def decode(found: object) -> list[SyncedConnection]:
    """Return the connections. Raises BadMessage."""
    if not isinstance(found, list) or len(found) > AT_ONCE:
        raise BadMessage("no list of connections")
    return [_connection(each) for each in found]


def _connection(found: object) -> SyncedConnection:
    if not isinstance(found, list) or len(found) != _FIELDS:
        raise BadMessage("a connection without its fields")
    for at, most in _NUMBERS.items():
        if type(found[at]) is not int or not 0 <= found[at] <= most:
            raise BadMessage("a number of a connection that is out of range")
    for at, (what, most) in _OPTIONAL.items():
        if found[at] is not None and (type(found[at]) is not int or not 0 <= found[at] <= most):
            raise BadMessage(f"{what} that is out of range")
    client, virtual, server = (_address(found[at]) for at in (1, 3, 5))
    sequence, data, engine = _octets(found[11]), _octets(found[13]), found[12]
    if not client.version == virtual.version == server.version:
        raise BadMessage("a connection of two address families")
    if len(sequence) not in (0, SEQUENCE_BYTES) or len(data) > _LONGEST_DATA:
        raise BadMessage("an option of a wrong length")
    if not isinstance(engine, str) or len(engine) > _LONGEST_NAME or bool(engine) != bool(data):
        raise BadMessage("a persistence engine that is none")
    protocol, _, client_port, _, virtual_port, _, server_port, flags, state, timeout_s, mark, *_, age_ms = found
    return SyncedConnection(
        protocol,
        client,
        client_port,
        virtual,
        virtual_port,
        server,
        server_port,
        flags,
        state,
        timeout_s,
        mark,
        sequence,
        engine,
        data,
        age_ms,
    )


def _octets(found: object) -> bytes:
    try:
        return bytes.fromhex(found)  # type: ignore[arg-type]  # a TypeError
    except (TypeError, ValueError):
        raise BadMessage("no hexadecimal digits") from None


def _address(found: object) -> Address:
    octets = _octets(found)
    if len(octets) == 4:
        return IPv4Address(octets)
    if len(octets) == 16:
        return IPv6Address(octets)
    raise BadMessage("no address")
