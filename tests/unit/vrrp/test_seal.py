"""The authentication header."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.vrrp.packet import Dropped, Flaw
from pylvs.vrrp.seal import AH_BYTES, Window, opened, seal

HEADER = bytes.fromhex("45c0003c000100 00ff33 0000 c0000201 e0000012".replace(" ", ""))
keys = st.binary(min_size=1, max_size=8).filter(lambda key: key[-1:] != b"\0")


@given(st.binary(max_size=60), keys, st.integers(0, 0xFFFFFFFF))
def test_what_is_sealed_opens_with_the_same_key(payload: bytes, key: bytes, sequence: int) -> None:
    sealed = seal(HEADER, payload, key, sequence)
    assert len(sealed) == AH_BYTES + len(payload)
    assert opened(HEADER, sealed, key) == (sequence, payload)


@given(st.binary(min_size=1, max_size=60), keys, st.data())
def test_a_changed_bit_is_found(payload: bytes, key: bytes, data: st.DataObject) -> None:
    sealed = bytearray(seal(HEADER, payload, key, 7))
    at = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[at // 8] ^= 1 << at % 8
    with pytest.raises(Dropped) as dropped:
        opened(HEADER, bytes(sealed), key)
    assert dropped.value.flaw in (Flaw.DIGEST, Flaw.AUTHENTICATION)


@given(keys, keys)
def test_another_key_does_not_open_it(key: bytes, other: bytes) -> None:
    sealed = seal(HEADER, b"payload", key, 1)
    if key != other:
        with pytest.raises(Dropped, match="wrong digest"):
            opened(HEADER, sealed, other)


def test_what_routers_change_is_not_covered_and_the_rest_is() -> None:
    sealed = seal(HEADER, b"payload", b"secret", 1)
    changed = bytearray(HEADER)
    for at, value in ((1, 0), (6, 0x40), (10, 0xAB), (11, 0xCD)):
        changed[at] = value
    assert opened(bytes(changed), sealed, b"secret") == (1, b"payload")
    changed[15] ^= 1
    with pytest.raises(Dropped, match="wrong digest"):
        opened(bytes(changed), sealed, b"secret")


def test_the_ttl_of_multicast_is_covered_as_255_and_that_of_unicast_is_not() -> None:
    for destination, sent, came in (("e0000012", 255, 255), ("c0000202", 64, 3)):
        header = bytearray(HEADER[:16] + bytes.fromhex(destination))
        header[8] = sent
        sealed = seal(bytes(header), b"payload", b"secret", 1)
        header[8] = came
        assert opened(bytes(header), sealed, b"secret") == (1, b"payload")


def test_what_keepalived_sealed_opens() -> None:
    """Recorded from 2.2.7: multicast, and unicast with unicast_ttl 64."""
    told = "21339602020132000a0000640a0000650000000000000000"
    for packet in (
        "45c0004400010000ff33d0b20a000001e0000012700400000a00000100000001172c2ea8c3d1b01d5330f327" + told,
        "45c0004400010000403365c40a0000010a000002700400000a000001000000012f4301863ffbaa3cc61eb4cd" + told,
    ):
        whole = bytes.fromhex(packet)
        assert opened(whole[:20], whole[20:], b"secret") == (1, whole[44:])
        assert seal(whole[:20], whole[44:], b"secret", 1) == whole[20:]


def test_a_sequence_number_counts_once() -> None:
    window = Window()
    for sequence in 0, 1, 5:
        window.take(sequence)
    for sequence in 5, 4, 0:
        with pytest.raises(Dropped, match="was there before"):
            window.take(sequence)
    window.take(6)


def test_too_little_is_named() -> None:
    with pytest.raises(Dropped, match="truncated"):
        opened(HEADER, bytes(AH_BYTES - 1), b"key")
