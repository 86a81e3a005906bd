"""Encode and decode advertisements, compared with scapy."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.vrrp import VRRP, VRRPv3

from pylvs.model.addresses import Address
from pylvs.model.vrrp import MULTICAST_V4, MULTICAST_V6, Authentication
from pylvs.vrrp.protocol.adverts import (
    AH_BYTES,
    AdvertError,
    Advertisement,
    InvalidAdvert,
    add_ah,
    checksum,
    decode,
    encode,
    has_pseudo_header,
    verify_ah,
    virtual_mac,
)
from tests.unit.vrrp.instances import without_pseudo_header

V4, V6 = ip_address("192.0.2.1"), ip_address("fe80::1")
VIPS = (ip_address("192.0.2.100"), ip_address("192.0.2.101"))

passwords = st.binary(max_size=8).map(lambda text: text.rstrip(b"\0"))
second = st.builds(
    Advertisement,
    st.just(2),
    st.integers(1, 255),
    st.integers(0, 255),
    st.integers(1, 255).map(float),
    st.lists(st.ip_addresses(v=4), max_size=20).map(tuple),
    st.sampled_from((None, *Authentication)),
    passwords,
)


def third(version: Literal[4, 6]) -> st.SearchStrategy[Advertisement]:
    """Advertisements of version 3 over one address family."""
    return st.builds(
        Advertisement,
        st.just(3),
        st.integers(1, 255),
        st.integers(0, 255),
        st.integers(1, 4095).map(lambda hundredths: hundredths / 100),
        st.lists(st.ip_addresses(v=version), max_size=20).map(tuple),
    )


def ends(advertisement: Advertisement, family: int) -> tuple[Address, Address]:
    """Between which addresses it travels."""
    return (V4, MULTICAST_V4) if family == 4 else (V6, MULTICAST_V6)


@given(second)
def test_version_2_is_what_scapy_makes(advert: Advertisement) -> None:
    made = VRRP(
        version=2,
        vrid=advert.vrid,
        priority=advert.priority,
        adv=int(advert.interval_s),
        addrlist=[str(address) for address in advert.addresses],
        authtype=0 if advert.authentication is None else {"PASS": 1, "AH": 2}[advert.authentication.value],
        auth1=int.from_bytes(advert.password.ljust(8, b"\0")[:4], "big"),
        auth2=int.from_bytes(advert.password.ljust(8, b"\0")[4:], "big"),
    )
    assert encode(advert, V4, MULTICAST_V4) == bytes(made)


@given(third(4))
def test_version_3_over_ipv4_is_what_scapy_makes(advert: Advertisement) -> None:
    made = IP(src=str(V4), dst=str(MULTICAST_V4)) / VRRPv3(
        vrid=advert.vrid,
        priority=advert.priority,
        adv=round(advert.interval_s * 100),
        addrlist=[str(address) for address in advert.addresses],
    )
    assert encode(advert, V4, MULTICAST_V4) == bytes(made)[20:]


@given(third(6))
def test_version_3_over_ipv6_is_what_scapy_makes(advert: Advertisement) -> None:
    made = IPv6(src=str(V6), dst=str(MULTICAST_V6)) / VRRPv3(
        vrid=advert.vrid,
        priority=advert.priority,
        adv=round(advert.interval_s * 100),
        addrlist=[str(address) for address in advert.addresses],
    )
    assert encode(advert, V6, MULTICAST_V6) == bytes(made)[40:]


@given(second | third(4) | third(6))
def test_what_is_encoded_is_decoded(advert: Advertisement) -> None:
    family = advert.addresses[0].version if advert.addresses else 4
    source, destination = ends(advert, family)
    assert decode(encode(advert, source, destination), source, destination) == advert


@given(st.binary(max_size=80), st.sampled_from((V4, V6)))
def test_any_bytes_are_an_advertisement_or_dropped_by_name(payload: bytes, source: Address) -> None:
    destination = MULTICAST_V4 if source is V4 else MULTICAST_V6
    try:
        advert = decode(payload, source, destination)
    except InvalidAdvert:
        return
    assert advert.version in (2, 3)


GOOD = encode(Advertisement(2, 51, 100, 1, VIPS, Authentication.PASS, b"evobot"), V4, MULTICAST_V4)
GOOD_3 = encode(Advertisement(3, 51, 100, 0.01, VIPS), V4, MULTICAST_V4)


def corrected(payload: bytes, **changes: int) -> bytes:
    """With some bytes changed, `b3=1`, and the checksum as it must be then."""
    fields = bytearray(payload)
    for name, value in changes.items():
        fields[int(name[1:])] = value
    fields[6:8] = bytes(2)
    fields[6:8] = checksum(bytes(fields)).to_bytes(2, "big")
    return bytes(fields)


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"", AdvertError.TRUNCATED),
        (GOOD[:7], AdvertError.TRUNCATED),
        (GOOD[:-1], AdvertError.TRUNCATED),
        (GOOD + b"\0", AdvertError.TRAILING),
        (corrected(GOOD, b3=9), AdvertError.TRUNCATED),
        (corrected(GOOD, b0=0x22), AdvertError.TYPE),
        (corrected(GOOD, b0=0x41), AdvertError.VERSION),
        (corrected(GOOD, b4=3), AdvertError.AUTHENTICATION),
        (GOOD[:-1] + b"x", AdvertError.CHECKSUM),
        (GOOD_3[:-1] + b"x", AdvertError.CHECKSUM),
    ],
)
def test_each_error_is_raised(payload: bytes, error: AdvertError) -> None:
    with pytest.raises(InvalidAdvert) as dropped:
        decode(payload, V4, MULTICAST_V4)
    assert dropped.value.error is error


def test_a_version_3_checksum_without_pseudo_header_is_valid() -> None:
    advert = Advertisement(3, 51, 100, 1, VIPS)
    plain = without_pseudo_header(encode(advert, V4, MULTICAST_V4))
    assert decode(plain, V4, MULTICAST_V4) == advert
    assert not has_pseudo_header(plain, V4, MULTICAST_V4)
    assert has_pseudo_header(encode(advert, V4, MULTICAST_V4), V4, MULTICAST_V4)


def test_version_2_over_ipv6_is_an_error() -> None:
    with pytest.raises(InvalidAdvert, match="another version"):
        decode(GOOD, IPv6Address("fe80::2"), MULTICAST_V6)


def test_the_link_address_of_a_virtual_router() -> None:
    assert virtual_mac(51, 4).hex(":") == "00:00:5e:00:01:33"
    assert virtual_mac(51, 6).hex(":") == "00:00:5e:00:02:33"


@given(st.binary(max_size=60))
def test_the_checksum_of_data_with_its_checksum_is_0(data: bytes) -> None:
    even = data + b"\0" * (len(data) % 2)
    assert checksum(even + checksum(even).to_bytes(2, "big")) == 0


# --- authentication header ---


HEADER = bytes.fromhex("45c0003c000100 00ff33 0000 c0000201 e0000012".replace(" ", ""))
keys = st.binary(min_size=1, max_size=8).filter(lambda key: key[-1:] != b"\0")


@given(st.binary(max_size=60), keys, st.integers(0, 0xFFFFFFFF))
def test_a_digest_is_valid_with_the_same_key(payload: bytes, key: bytes, sequence: int) -> None:
    with_ah = add_ah(HEADER, payload, key, sequence)
    assert len(with_ah) == AH_BYTES + len(payload)
    assert verify_ah(HEADER, with_ah, key) == (sequence, payload)


@given(st.binary(min_size=1, max_size=60), keys, st.data())
def test_a_digest_detects_a_changed_bit(payload: bytes, key: bytes, data: st.DataObject) -> None:
    with_ah = bytearray(add_ah(HEADER, payload, key, 7))
    at = data.draw(st.integers(0, 8 * len(with_ah) - 1))
    with_ah[at // 8] ^= 1 << at % 8
    with pytest.raises(InvalidAdvert) as dropped:
        verify_ah(HEADER, bytes(with_ah), key)
    assert dropped.value.error in (AdvertError.DIGEST, AdvertError.AUTHENTICATION)


@given(keys, keys)
def test_a_digest_is_wrong_with_another_key(key: bytes, other: bytes) -> None:
    with_ah = add_ah(HEADER, b"payload", key, 1)
    if key != other:
        with pytest.raises(InvalidAdvert, match="wrong digest"):
            verify_ah(HEADER, with_ah, other)


def test_the_digest_covers_all_but_the_mutable_fields() -> None:
    with_ah = add_ah(HEADER, b"payload", b"secret", 1)
    changed = bytearray(HEADER)
    for at, value in ((1, 0), (6, 0x40), (10, 0xAB), (11, 0xCD)):
        changed[at] = value
    assert verify_ah(bytes(changed), with_ah, b"secret") == (1, b"payload")
    changed[15] ^= 1
    with pytest.raises(InvalidAdvert, match="wrong digest"):
        verify_ah(bytes(changed), with_ah, b"secret")


def test_the_digest_covers_the_ttl_of_multicast_as_255_and_not_that_of_unicast() -> None:
    for destination, sent, came in (("e0000012", 255, 255), ("c0000202", 64, 3)):
        header = bytearray(HEADER[:16] + bytes.fromhex(destination))
        header[8] = sent
        with_ah = add_ah(bytes(header), b"payload", b"secret", 1)
        header[8] = came
        assert verify_ah(bytes(header), with_ah, b"secret") == (1, b"payload")


def test_ah_of_keepalived_is_valid_and_ours_is_the_same() -> None:
    """Recorded from 2.2.7: multicast, and unicast with unicast_ttl 64."""
    payload = "21339602020132000a0000640a0000650000000000000000"
    for packet in (
        "45c0004400010000ff33d0b20a000001e0000012700400000a00000100000001172c2ea8c3d1b01d5330f327" + payload,
        "45c0004400010000403365c40a0000010a000002700400000a000001000000012f4301863ffbaa3cc61eb4cd" + payload,
    ):
        whole = bytes.fromhex(packet)
        assert verify_ah(whole[:20], whole[20:], b"secret") == (1, whole[44:])
        assert add_ah(whole[:20], whole[44:], b"secret", 1) == whole[20:]


def test_a_truncated_header_is_an_error() -> None:
    with pytest.raises(InvalidAdvert, match="truncated"):
        verify_ah(HEADER, bytes(AH_BYTES - 1), b"key")
