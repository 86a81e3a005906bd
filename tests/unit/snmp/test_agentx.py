"""Messages of AgentX: what the master agent sends, and what the sub-agent answers."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.snmp import agentx
from pylvs.snmp.agentx import BadMessage, Decoder, Kind, Message, Oid, Pdu, SearchRange, Value, VarBind

OIDS = st.lists(st.integers(0, 2**32 - 1), min_size=0, max_size=12).map(tuple)


def encoded_oid(order: str, value: Oid, include: bool = False) -> bytes:
    return struct.pack(f"{order}BBBx{len(value)}I", len(value), 0, include, *value)


def encoded(order: str, pdu: Pdu, payload: bytes, context: bytes | None = None) -> bytes:
    """Return a message as a master agent of either byte order sends it."""
    flags = (agentx.NETWORK_BYTE_ORDER if order == "!" else 0) | (0 if context is None else 8)
    if context is not None:
        payload = struct.pack(f"{order}I", len(context)) + context + bytes(-len(context) % 4) + payload
    return struct.pack(f"{order}BBBxIIII", 1, pdu, flags, 7, 8, 9, len(payload)) + payload


@given(st.sampled_from("!<"), OIDS, OIDS, st.booleans(), st.sampled_from([None, b"", b"abcde"]))
def test_a_request_in_either_byte_order(order: str, start: Oid, end: Oid, include: bool, context: bytes | None) -> None:
    payload = encoded_oid(order, start, include) + encoded_oid(order, end)
    (found,) = Decoder().feed(encoded(order, Pdu.GET_NEXT, payload, context))
    assert found == Message(Pdu.GET_NEXT, 7, 8, 9, (SearchRange(start, end, include),))


def test_a_set_has_values_of_each_type() -> None:
    name = (1, 3, 6, 1, 4, 1)
    values = [
        (Value(Kind.INTEGER, -5), struct.pack("<i", -5)),
        (Value(Kind.OCTETS, b"abcde"), struct.pack("<I", 5) + b"abcde" + bytes(3)),
        (Value(Kind.NULL), b""),
        (Value(Kind.OID, (1, 2)), encoded_oid("<", (1, 2))),
        (Value(Kind.GAUGE32, 2**32 - 1), b"\xff" * 4),
        (Value(Kind.COUNTER64, 2**40), struct.pack("<Q", 2**40)),
    ]
    payload = b"".join(struct.pack("<HH", value.kind, 0) + encoded_oid("<", name) + data for value, data in values)
    (found,) = Decoder().feed(encoded("<", Pdu.TEST_SET, payload))
    assert found.binds == tuple(VarBind(name, value) for value, _ in values)


def test_a_value_of_no_type_is_no_agentx() -> None:
    payload = struct.pack("!HH", 3, 0) + encoded_oid("!", (1, 2))
    with pytest.raises(BadMessage, match="a value of type 3"):
        Decoder().feed(encoded("!", Pdu.TEST_SET, payload))


def test_getbulk_has_its_two_numbers() -> None:
    payload = struct.pack("!HH", 1, 20) + encoded_oid("!", (1, 2)) + encoded_oid("!", ())
    (found,) = Decoder().feed(encoded("!", Pdu.GET_BULK, payload))
    assert (found.non_repeaters, found.repetitions, found.ranges) == (1, 20, (SearchRange((1, 2)),))


@given(st.integers(1, 40))
def test_messages_arrive_in_pieces(size: int) -> None:
    one = encoded("<", Pdu.GET, encoded_oid("<", (1, 3, 6)) + encoded_oid("<", ()))
    stream = one * 3
    decoder = Decoder()
    found = [each for at in range(0, len(stream), size) for each in decoder.feed(stream[at : at + size])]
    assert [each.ranges for each in found] == [(SearchRange((1, 3, 6)),)] * 3


def test_an_internet_identifier_is_sent_with_its_prefix() -> None:
    message = agentx.register(1, 2, (1, 3, 6, 1, 4, 1, 9586))
    assert message[20:] == bytes([0, 127, 0, 0, 2, 4, 0, 0]) + struct.pack("!II", 1, 9586)


@pytest.mark.parametrize(
    ("value", "octets"),
    [
        (Value(Kind.INTEGER, -2), "fffffffe"),
        (Value(Kind.GAUGE32, 2**32 - 1), "ffffffff"),
        (Value(Kind.COUNTER64, 2**40), "0000010000000000"),
        (Value(Kind.OCTETS, b"abcde"), "00000005 6162636465 000000"),
        (Value(Kind.OID, (1, 3, 6, 1, 2, 1)), "01020000 00000001"),
        (Value(Kind.END_OF_MIB_VIEW), ""),
    ],
)
def test_values(value: Value, octets: str) -> None:
    request = Message(Pdu.GET, 7, 8, 9)
    found = agentx.response(request, [VarBind((1,), value)])
    bind = struct.pack("!HH", value.kind, 0) + bytes([1, 0, 0, 0]) + struct.pack("!I", 1) + bytes.fromhex(octets)
    assert found[4:] == struct.pack("!IIII", 7, 8, 9, 8 + len(bind)) + bytes(8) + bind


@pytest.mark.parametrize("data", [b"\x02" + bytes(19), b"\x01\x05\x10\x00" + bytes(12) + b"\xff" * 4])
def test_what_is_no_agentx(data: bytes) -> None:
    with pytest.raises(BadMessage):
        Decoder().feed(data)


@given(st.binary(max_size=200))
def test_any_octets_are_messages_or_an_error(data: bytes) -> None:
    framed = struct.pack("!BBBxIIII", 1, Pdu.GET, 0x10, 1, 2, 3, len(data)) + data
    try:
        found = Decoder().feed(framed)
    except BadMessage:
        return
    assert len(found) == 1
