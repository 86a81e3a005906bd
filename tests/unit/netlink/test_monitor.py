"""Decoding of the kernel's messages; invalid ones raise nothing."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.netlink import monitor
from pylvs.netlink.codec import address_of, attribute, nested, text, u32
from pylvs.netlink.monitor import AddressMessage, LinkMessage, Message, RouteKey, RouteMessage

KINDS = (16, 17, 20, 21, 24, 25, 32, 33, 3, 2)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + bytes(-len(body) % 4)


def a_link(index: int = 4, name: str = "eth0", flags: int = 0x41, family: int = 0) -> bytes:
    body = struct.pack("=BxHiII", family, 1, index, flags, 0) + text(3, name) + attribute(1, b"\x02\0\0\0\0\x01")
    return body + u32(4, 1500) + u32(5, 3) + nested(18, text(1, "macvlan"))


def an_address(text: str, flags: int = 0x80, index: int = 4, scope: int = 0) -> bytes:
    own = ip_interface(text)
    family = 2 if own.version == 4 else 10
    body = struct.pack("=BBBBI", family, own.network.prefixlen, flags & 0xFF, scope, index)
    if own.version == 4:
        body += attribute(1, bytes(4)) + attribute(2, own.ip.packed)
    else:
        body += attribute(1, own.ip.packed)
    return body + u32(8, flags)


def a_route(network: str, metric: int = 0, protocol: int = 18, table: int = 254) -> bytes:
    to = ip_network(network)
    family = 2 if to.version == 4 else 10
    body = struct.pack("=8BI", family, to.prefixlen, 0, 0, table & 0xFF, protocol, 0, 1, 0)
    body += attribute(1, to.network_address.packed) if to.prefixlen else b""
    return body + u32(15, table) + (u32(6, metric) if metric else b"")


def one(kind: int, body: bytes) -> Message:
    (found,) = monitor.read(message(kind, body))
    return found


def test_a_link() -> None:
    mac = b"\x02\0\0\0\0\x01"
    assert one(16, a_link()) == LinkMessage(4, "eth0", mac, 1500, True, True, 3, "macvlan")
    assert one(16, a_link(flags=1)) == LinkMessage(4, "eth0", mac, 1500, True, False, 3, "macvlan")
    assert one(16, a_link(flags=0x40)) == LinkMessage(4, "eth0", mac, 1500, False, False, 3, "macvlan")
    gone = one(17, a_link())
    assert isinstance(gone, LinkMessage)
    assert gone.gone


def test_a_port_that_leaves_its_bridge_still_exists() -> None:
    assert list(monitor.read(message(17, a_link(family=7)))) == []


def test_an_address_is_the_own_one_and_not_its_peer() -> None:
    assert one(20, an_address("192.0.2.1/24")) == AddressMessage(4, ip_interface("192.0.2.1/24"), 0, 0x80)
    assert one(21, an_address("fd00::1/64")) == AddressMessage(4, ip_interface("fd00::1/64"), 0, 0x80, gone=True)


@pytest.mark.parametrize(("flags", "usable"), [(0x80, True), (0xC0, False), (0xC4, True), (0x88, False), (0x280, True)])
def test_an_address_is_usable_after_duplicate_address_detection(flags: int, usable: bool) -> None:
    found = one(20, an_address("fd00::1/64", flags))
    assert isinstance(found, AddressMessage)
    assert found.usable is usable


def test_a_route() -> None:
    assert one(24, a_route("192.0.2.0/24", 7)) == RouteMessage(RouteKey(ip_network("192.0.2.0/24"), 254, 7), 18)
    assert one(25, a_route("0.0.0.0/0")) == RouteMessage(RouteKey(ip_network("0.0.0.0/0"), 254, 0), 18, gone=True)
    assert one(24, a_route("::/0", table=5000)) == RouteMessage(RouteKey(ip_network("::/0"), 5000, 0), 18)


def test_a_datagram_has_many_messages_and_those_of_other_kinds_are_passed_over() -> None:
    data = message(16, a_link()) + message(28, b"neighbour") + message(20, an_address("192.0.2.1/24"))
    assert [type(each) for each in monitor.read(data)] == [LinkMessage, AddressMessage]


WHOLE = [(16, a_link()), (20, an_address("192.0.2.1/24")), (20, an_address("fd00::1/64")), (24, a_route("fd00::/8", 3))]


@given(st.sampled_from(WHOLE), st.integers(0, 200))
def test_a_message_that_is_cut_short_yields_no_event(whole: tuple[int, bytes], length: int) -> None:
    kind, body = whole
    data = message(kind, body)
    assert list(monitor.read(data[: min(length, len(data) - 1)])) == []
    list(monitor.read(message(kind, body[:length])))


@given(st.sampled_from(KINDS), st.binary(max_size=120))
def test_no_message_makes_it_fail(kind: int, body: bytes) -> None:
    list(monitor.read(message(kind, body)))


@given(st.sampled_from(WHOLE), st.integers(0), st.integers(0, 255))
def test_no_wrong_octet_makes_it_fail(whole: tuple[int, bytes], at: int, octet: int) -> None:
    data = bytearray(message(*whole))
    data[at % len(data)] = octet
    list(monitor.read(bytes(data)))


@given(st.binary(max_size=200))
def test_nothing_at_all_makes_it_fail(data: bytes) -> None:
    list(monitor.read(data))


def test_the_address_of_no_family_is_none() -> None:
    assert address_of(b"12345") is None
    assert address_of(None) is None
    assert address_of(bytes(4)) == ip_address("0.0.0.0")
