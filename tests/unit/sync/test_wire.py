"""Messages of the sync protocol: what is written is read, and what is wrong costs only counters."""

from __future__ import annotations

import struct
from collections import Counter
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.addresses import Address
from pylvs.model.sync.connection import SyncedConnection, SyncFlag
from pylvs.sync import wire

_ADDRESSES: dict[int, st.SearchStrategy[Address]] = {
    4: st.integers(0, (1 << 32) - 1).map(IPv4Address),
    6: st.integers(0, (1 << 128) - 1).map(IPv6Address),
}
_PORT = st.integers(0, 65535)
_STATES = {6: 11, 17: 1, 132: 14, 50: 1, 51: 1}
_FLAGS = (SyncFlag.NOOUTPUT, SyncFlag.INACTIVE, SyncFlag.NO_CPORT, SyncFlag.ONE_PACKET)


@st.composite
def connections(draw: st.DrawFn, versions: tuple[int, ...] = (4, 6), old: bool = False) -> SyncedConnection:
    """Connections that a message can have; `old`: one of version 0."""
    address = _ADDRESSES[draw(st.sampled_from(versions))]
    is_template = draw(st.booleans())
    protocol = draw(st.sampled_from(sorted(_STATES)))
    flags = draw(st.integers(0, 4)) | sum(draw(st.sets(st.sampled_from(_FLAGS))))
    sequence = draw(st.one_of(st.just(b""), st.binary(min_size=24, max_size=24)))
    if sequence:
        flags |= draw(st.sampled_from([SyncFlag.IN_SEQ, SyncFlag.OUT_SEQ, SyncFlag.IN_SEQ | SyncFlag.OUT_SEQ]))
    data = b"" if old else draw(st.binary(max_size=255))
    return SyncedConnection(
        protocol,
        draw(address),
        draw(_PORT),
        draw(address),
        draw(_PORT),
        draw(address),
        draw(_PORT),
        int(flags | (SyncFlag.TEMPLATE if is_template else 0)),
        0 if is_template else draw(st.integers(0, _STATES[protocol] - 1)),
        None if old else draw(st.integers(0, (1 << 32) - 1)),
        0 if old else draw(st.integers(0, (1 << 32) - 1)),
        sequence,
        "sip" if data else "",
        data,
        None if old else draw(st.one_of(st.none(), st.integers(0, (1 << 32) - 1))),
    )


def message(found: list[SyncedConnection], syncid: int = 5, version: int = 1) -> bytes:
    """A message with as many connections as fit 60,000 bytes."""
    made = wire.Message(version, syncid, 60000, 0.0, bytearray())
    for each in found:
        made.add(wire.encode(each) if version else wire.encode_v0(each))
    return made.encoded()


def parsed(data: bytes, syncid: int = 5) -> tuple[list[SyncedConnection], Counter[str]]:
    """The connections of a message, and what was counted, without what is right."""
    counts: Counter[str] = Counter()
    found = wire.parse(data, syncid, counts)
    assert counts.pop("messages") == 1
    assert counts.pop("connections", 0) == len(found)
    assert counts.keys() <= wire.COUNTERS.keys()
    return found, counts


@given(st.lists(connections(), max_size=20))
def test_what_is_written_is_read(found: list[SyncedConnection]) -> None:
    assert parsed(message(found)) == (found, {})


@given(st.lists(connections((4,), old=True), max_size=20))
def test_version_0_is_read(found: list[SyncedConnection]) -> None:
    assert parsed(message(found, version=0)) == (found, {})


@given(st.lists(connections(), max_size=5), st.integers(0, 3000))
def test_a_truncated_message_is_refused(found: list[SyncedConnection], size: int) -> None:
    data = message(found)
    taken, counts = parsed(data[: min(size, len(data) - 1)])
    assert (taken, counts) == ([], {"bad size": 1})


@given(st.lists(connections(), max_size=5), st.integers(0, 255), st.integers(0, 255))
def test_a_message_of_another_syncid_is_refused(found: list[SyncedConnection], sent: int, own: int) -> None:
    taken, counts = parsed(message(found, sent), own)
    assert (taken, counts) == ((found, {}) if own in (0, sent) else ([], {"other syncid": 1}))


@given(st.lists(connections(), max_size=5), st.binary(min_size=1, max_size=65000))
def test_bytes_behind_a_message_are_refused(found: list[SyncedConnection], behind: bytes) -> None:
    assert parsed(message(found) + behind) == ([], {"bad size": 1})


@given(st.binary(max_size=2000), st.booleans())
def test_any_bytes_cost_only_counters(data: bytes, right_size: bool) -> None:
    if right_size and len(data) >= 4:
        data = data[:2] + struct.pack("!H", len(data)) + data[4:]
    parsed(data, 0)


@given(st.lists(connections(), min_size=1, max_size=6), st.data())
def test_one_wrong_byte_costs_only_connections(found: list[SyncedConnection], data: st.DataObject) -> None:
    raw = bytearray(message(found))
    raw[data.draw(st.integers(4, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    taken, _ = parsed(bytes(raw))
    assert len(taken) <= 255


@given(connections(), st.sampled_from(["sequence", "data", "name"]), st.booleans())
def test_an_option_that_occurs_twice_ends_the_message(first: SyncedConnection, kind: str, may_be_ignored: bool) -> None:
    option = {"sequence": b"\x01\x18" + bytes(24), "data": b"\x02\x04call", "name": b"\x03\x03sip"}[kind]
    if may_be_ignored:
        option = bytes([option[0] | 0x40]) + option[1:]
    plain = wire.encode(SyncedConnection(6, first.client, 1, first.client, 2, first.client, 3, 3, 1, 60))
    record = plain[:2] + struct.pack("!H", len(plain) + 2 * len(option)) + plain[4:] + 2 * option
    made = wire.Message(1, 5, 60000, 0.0, bytearray())
    for each in (plain, record, plain):
        made.add(each)
    taken, counts = parsed(made.encoded())
    assert (len(taken), counts) == (1, {"bad option": 1})


@pytest.mark.parametrize("version", [0, 1])
def test_a_message_has_at_most_255_connections(version: int) -> None:
    address = IPv4Address("192.0.2.1")
    made = wire.Message(version, 5, 65507, 0.0, bytearray())
    encode = wire.encode if version else wire.encode_v0
    added = [made.add(encode(SyncedConnection(6, address, n, address, 2, address, 3, 3, 1, 60))) for n in range(300)]
    assert added.count(True) == 255
    assert len(parsed(made.encoded())[0]) == 255


def test_a_message_has_at_least_one_connection() -> None:
    address = IPv4Address("192.0.2.1")
    record = wire.encode(SyncedConnection(6, address, 1, address, 2, address, 3, 3, 1, 60))
    made = wire.Message(1, 5, 1, 0.0, bytearray())
    assert made.add(record)
    assert not made.add(record)


def test_sequences_of_version_0_are_in_the_hosts_order() -> None:
    numbers = struct.pack("!6I", 1, 2, 3, 4, 5, 6)
    address = IPv4Address("192.0.2.1")
    flags = 3 | SyncFlag.IN_SEQ
    connection = SyncedConnection(6, address, 1, address, 2, address, 3, int(flags), 1, None, sequence=numbers)
    assert wire.encode_v0(connection)[-24:] == struct.pack("=6I", 1, 2, 3, 4, 5, 6)
    assert parsed(message([connection], version=0))[0] == [connection]


def test_the_recorded_template_is_read() -> None:
    """The record of the real IPVS in IPVS-SEMANTICS 10.2."""
    record = bytes.fromhex("000600240000118300000000005100510000000000000 03c0a0100010a0100640a00000b".replace(" ", ""))
    data = struct.pack("!BBHBBH", 0, 5, 8 + len(record), 1, 1, 0) + record
    ((connection,), counts) = parsed(data)
    flags = SyncFlag.TEMPLATE | SyncFlag.INACTIVE | SyncFlag.NOOUTPUT
    assert not counts
    assert connection == SyncedConnection(
        6,
        IPv4Address("10.1.0.1"),
        0,
        IPv4Address("10.1.0.100"),
        81,
        IPv4Address("10.0.0.11"),
        0x51,
        int(flags | 3),
        0,
        60,
    )
    assert wire.encode(connection) == record
