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
    for at, value in ((1, 0), (6, 0x40), (8, 3), (10, 0xAB), (11, 0xCD)):
        changed[at] = value
    assert opened(bytes(changed), sealed, b"secret") == (1, b"payload")
    changed[15] ^= 1
    with pytest.raises(Dropped, match="wrong digest"):
        opened(bytes(changed), sealed, b"secret")


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
