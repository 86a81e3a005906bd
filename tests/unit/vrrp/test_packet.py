"""Advertisements as bytes, beside scapy's."""

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
from pylvs.vrrp.packet import Advertisement, Dropped, Flaw, checksum, decode, encode, has_pseudo_header, virtual_mac

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
    """Of version 3, over one family."""
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
def test_version_2_is_what_scapy_makes(told: Advertisement) -> None:
    made = VRRP(
        version=2,
        vrid=told.vrid,
        priority=told.priority,
        adv=int(told.interval_s),
        addrlist=[str(address) for address in told.addresses],
        authtype=0 if told.authentication is None else {"PASS": 1, "AH": 2}[told.authentication.value],
        auth1=int.from_bytes(told.password.ljust(8, b"\0")[:4], "big"),
        auth2=int.from_bytes(told.password.ljust(8, b"\0")[4:], "big"),
    )
    assert encode(told, V4, MULTICAST_V4) == bytes(made)


@given(third(4))
def test_version_3_over_ipv4_is_what_scapy_makes(told: Advertisement) -> None:
    made = IP(src=str(V4), dst=str(MULTICAST_V4)) / VRRPv3(
        vrid=told.vrid,
        priority=told.priority,
        adv=round(told.interval_s * 100),
        addrlist=[str(address) for address in told.addresses],
    )
    assert encode(told, V4, MULTICAST_V4) == bytes(made)[20:]


@given(third(6))
def test_version_3_over_ipv6_is_what_scapy_makes(told: Advertisement) -> None:
    made = IPv6(src=str(V6), dst=str(MULTICAST_V6)) / VRRPv3(
        vrid=told.vrid,
        priority=told.priority,
        adv=round(told.interval_s * 100),
        addrlist=[str(address) for address in told.addresses],
    )
    assert encode(told, V6, MULTICAST_V6) == bytes(made)[40:]


@given(second | third(4) | third(6))
def test_what_is_encoded_is_decoded(told: Advertisement) -> None:
    family = told.addresses[0].version if told.addresses else 4
    source, destination = ends(told, family)
    assert decode(encode(told, source, destination), source, destination) == told


@given(st.binary(max_size=80), st.sampled_from((V4, V6)))
def test_any_bytes_are_an_advertisement_or_dropped_by_name(payload: bytes, source: Address) -> None:
    destination = MULTICAST_V4 if source is V4 else MULTICAST_V6
    try:
        told = decode(payload, source, destination)
    except Dropped:
        return
    assert told.version in (2, 3)


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
    ("payload", "flaw"),
    [
        (b"", Flaw.TRUNCATED),
        (GOOD[:7], Flaw.TRUNCATED),
        (GOOD[:-1], Flaw.TRUNCATED),
        (GOOD + b"\0", Flaw.TRAILING),
        (corrected(GOOD, b3=9), Flaw.TRUNCATED),
        (corrected(GOOD, b0=0x22), Flaw.TYPE),
        (corrected(GOOD, b0=0x41), Flaw.VERSION),
        (corrected(GOOD, b4=3), Flaw.AUTHENTICATION),
        (GOOD[:-1] + b"x", Flaw.CHECKSUM),
        (GOOD_3[:-1] + b"x", Flaw.CHECKSUM),
    ],
)
def test_what_is_wrong_has_a_name(payload: bytes, flaw: Flaw) -> None:
    with pytest.raises(Dropped) as dropped:
        decode(payload, V4, MULTICAST_V4)
    assert dropped.value.flaw is flaw


def test_old_routers_of_version_3_leave_the_pseudo_header_out() -> None:
    told = Advertisement(3, 51, 100, 1, VIPS)
    plain = encode(told, V4, MULTICAST_V4, pseudo=False)
    assert decode(plain, V4, MULTICAST_V4) == told
    assert not has_pseudo_header(plain, V4, MULTICAST_V4)
    assert has_pseudo_header(encode(told, V4, MULTICAST_V4), V4, MULTICAST_V4)


def test_version_2_is_for_ipv4_alone() -> None:
    with pytest.raises(Dropped, match="another version"):
        decode(GOOD, IPv6Address("fe80::2"), MULTICAST_V6)


def test_virtual_routers_have_link_addresses_of_their_own() -> None:
    assert virtual_mac(51, 4).hex(":") == "00:00:5e:00:01:33"
    assert virtual_mac(51, 6).hex(":") == "00:00:5e:00:02:33"


@given(st.binary(max_size=60))
def test_data_with_its_checksum_sums_to_nothing(data: bytes) -> None:
    even = data + b"\0" * (len(data) % 2)
    assert checksum(even + checksum(even).to_bytes(2, "big")) == 0
