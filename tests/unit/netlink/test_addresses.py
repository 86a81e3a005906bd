"""The encoding of addresses, octet by octet (rtnetlink(7), linux/if_addr.h)."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_interface

import pytest

from pylvs.model.routing import HeldAddress
from pylvs.netlink.addresses import encoded, flags_of, named
from pylvs.netlink.codec import attributes

LOCAL, OTHER = ip_address("192.0.2.1").packed, ip_address("192.0.2.9").packed


def address(text: str, **given: object) -> HeldAddress:
    return HeldAddress(interface=ip_interface(text), **given)  # type: ignore[arg-type]


def test_the_header_has_family_prefix_length_scope_and_device() -> None:
    assert encoded(address("192.0.2.1/24", scope=253), 7)[:8] == struct.pack("=BBBBI", 2, 24, 0, 253, 7)
    assert encoded(address("2001:db8::1"), 7)[:8] == struct.pack("=BBBBI", 10, 128, 0, 0, 7)


def test_omitted_options_have_no_attributes() -> None:
    assert attributes(encoded(address("192.0.2.1"), 1), 8) == {1: LOCAL, 2: LOCAL}
    assert attributes(encoded(address("fd00::1"), 1), 8) == {1: ip_address("fd00::1").packed}


def test_all_options_of_ip_address() -> None:
    held = address(
        "192.0.2.1/24", label="eth0:vip", broadcast=ip_address("192.0.2.255"), peer=ip_address("192.0.2.9"), home=True
    )
    assert attributes(encoded(held, 1), 8) == {
        1: OTHER,
        2: LOCAL,
        3: b"eth0:vip\0",
        4: ip_address("192.0.2.255").packed,
        8: struct.pack("=I", 0x10),
    }


def test_a_deprecated_address_is_valid_forever_and_never_preferred() -> None:
    found = attributes(encoded(address("fd00::1", preferred_lft_s=0, no_dad=True), 1), 8)
    assert found[6] == struct.pack("=4I", 0, 0xFFFFFFFF, 0, 0)
    assert found[8] == struct.pack("=I", 0x02)


@pytest.mark.parametrize(
    ("given", "flag"),
    [("no_dad", 2), ("home", 0x10), ("manage_temporary", 0x100), ("no_prefix_route", 0x200), ("join_group", 0x400)],
)
def test_each_flag_is_the_kernel_s(given: str, flag: int) -> None:
    assert flags_of(address("fd00::1", **{given: True})) == flag


def test_the_removal_of_an_address_names_its_peer() -> None:
    with_peer = attributes(named(address("192.0.2.1", peer=ip_address("192.0.2.9")), 1), 8)
    assert with_peer == {1: OTHER, 2: LOCAL}
    assert attributes(named(address("fd00::1", peer=ip_address("fd00::9")), 1), 8) == {
        1: ip_address("fd00::9").packed,
        2: ip_address("fd00::1").packed,
    }
