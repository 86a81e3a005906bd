"""BFD control packets: the bytes of RFC 5880 section 4.1, and what section 6.8.6 drops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.bfd.packet import BYTES, Diagnostic, Flaw, InvalidPacket, Packet, State, decode, diagnostic_text

U32 = st.integers(0, 0xFFFFFFFF)
UP = Packet(state=State.UP, multiplier=3, mine=0x11223344, yours=0x55667788, min_tx_us=50_000, min_rx_us=60_000)
UP_BYTES = bytes.fromhex("20c00318 11223344 55667788 0000c350 0000ea60 00000000")


def flaw_of(data: bytes) -> Flaw | None:
    try:
        decode(data)
    except InvalidPacket as invalid:
        return invalid.flaw
    return None


def changed(at: int, value: int, data: bytes = UP_BYTES) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    state = draw(st.sampled_from(State))
    poll = draw(st.booleans())
    return Packet(
        state=state,
        diagnostic=draw(st.integers(0, 31)),
        poll=poll,
        final=not poll and draw(st.booleans()),
        independent=draw(st.booleans()),
        demand=draw(st.booleans()),
        multiplier=draw(st.integers(1, 255)),
        mine=draw(st.integers(1, 0xFFFFFFFF)),
        yours=draw(st.integers(1 if state in (State.INIT, State.UP) else 0, 0xFFFFFFFF)),
        min_tx_us=draw(U32),
        min_rx_us=draw(U32),
        min_echo_rx_us=draw(U32),
    )


def test_a_packet_has_the_bytes_of_the_rfc() -> None:
    assert UP.encoded() == UP_BYTES
    assert decode(UP_BYTES) == UP


@given(packets())
def test_a_packet_survives_its_bytes(packet: Packet) -> None:
    data = packet.encoded()
    assert len(data) == BYTES
    assert decode(data) == packet


@given(st.binary(max_size=64))
def test_any_bytes_are_a_packet_or_have_a_flaw(data: bytes) -> None:
    if flaw_of(data) is None:
        packet = decode(data)
        assert packet.encoded() == data[:3] + bytes([BYTES]) + data[4:BYTES]


@pytest.mark.parametrize(
    ("data", "flaw"),
    [
        (b"", Flaw.TRUNCATED),
        (UP_BYTES[:-1], Flaw.TRUNCATED),
        (changed(0, 0x00), Flaw.VERSION),
        (changed(0, 0x40), Flaw.VERSION),
        (changed(3, 23), Flaw.LENGTH),
        (changed(3, 25), Flaw.LENGTH),
        (changed(2, 0), Flaw.MULTIPLIER),
        (changed(1, 0xC1), Flaw.MULTIPOINT),
        (UP_BYTES[:4] + bytes(4) + UP_BYTES[8:], Flaw.MY_DISCRIMINATOR),
        (UP_BYTES[:8] + bytes(4) + UP_BYTES[12:], Flaw.YOUR_DISCRIMINATOR),
        (changed(1, 0x80)[:8] + bytes(4) + UP_BYTES[12:], Flaw.YOUR_DISCRIMINATOR),
        (changed(1, 0xF0), Flaw.POLL_AND_FINAL),
        (changed(1, 0xC4), Flaw.LENGTH),
        (changed(3, 28, changed(1, 0xC4)) + bytes([1, 4, 1, 0]), Flaw.AUTHENTICATED),
    ],
)
def test_a_flaw_is_named(data: bytes, flaw: Flaw) -> None:
    assert flaw_of(data) is flaw


@pytest.mark.parametrize("flags", [0x00, 0x40])
def test_a_neighbor_that_knows_no_discriminator_is_down_or_disabled(flags: int) -> None:
    assert flaw_of(changed(1, flags)[:8] + bytes(4) + UP_BYTES[12:]) is None


def test_bytes_behind_the_packet_are_ignored() -> None:
    assert decode(UP_BYTES + b"padding") == UP


def test_every_diagnostic_has_a_text() -> None:
    assert diagnostic_text(Diagnostic.EXPIRED) == "Control Detection Time Expired"
    assert diagnostic_text(31) == "Diagnostic 31"
    assert all(diagnostic_text(each) for each in Diagnostic)
