"""Of all that the kernel tells, what a virtual router hears: each change once, and nothing that is none."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.netlink.monitor import AddressNews, LinkNews, News, RouteKey, RouteNews
from pylvs.vrrp.watching import (
    AddressCame,
    AddressGone,
    Change,
    LinkCame,
    LinkChanged,
    LinkDown,
    LinkGone,
    LinkUp,
    Picture,
    RouteGone,
    primary,
)

MAC = b"\x02\0\0\0\0\x01"
VIP = ip_address("192.0.2.100")


def link(index: int = 1, name: str = "eth0", up: bool = True, gone: bool = False, mac: bytes = MAC) -> LinkNews:
    return LinkNews(index, name, mac, 1500, True, up, gone=gone)


def address(text: str, index: int = 1, flags: int = 0x80, scope: int = 0, gone: bool = False) -> AddressNews:
    return AddressNews(index, ip_interface(text), scope, flags, gone)


def told(*all_news: News) -> Picture:
    picture = Picture()
    for each in all_news:
        picture.tell(each)
    return picture


def kinds(found: list[Change]) -> list[type[Change]]:
    return [type(each) for each in found]


def test_a_device_comes_and_goes() -> None:
    picture = Picture()
    assert kinds(picture.tell(link(up=False))) == [LinkCame]
    assert kinds(picture.tell(link())) == [LinkUp]
    assert kinds(picture.tell(link())) == []
    assert kinds(picture.tell(link(up=False))) == [LinkDown]
    assert kinds(picture.tell(link())) == [LinkUp]
    assert kinds(picture.tell(link(gone=True))) == [LinkDown, LinkGone]
    assert (picture.by_name, picture.by_index) == ({}, {})


def test_what_goes_takes_its_addresses_along() -> None:
    picture = told(link(), address("192.0.2.1/24"))
    found = picture.tell(link(gone=True))
    assert found[0] == AddressGone(ip_address("192.0.2.1"), 24, "eth0")
    assert kinds(found[1:]) == [LinkDown, LinkGone]


def test_a_device_with_a_new_name_is_another_one() -> None:
    picture = told(link(), address("192.0.2.1/24"))
    found = picture.tell(link(name="lan0"))
    assert kinds(found) == [AddressGone, LinkDown, LinkGone, LinkCame, LinkUp, AddressCame]
    assert found[-1] == AddressCame(ip_address("192.0.2.1"), 24, "lan0", True)
    assert list(picture.by_name) == ["lan0"]


def test_a_device_that_takes_the_name_of_one_that_is_renamed_later_keeps_it() -> None:
    picture = told(link(1, "a"), link(2, "b"))
    picture.tell(link(2, "a"))
    picture.tell(link(1, "c"))
    assert {name: each.index for name, each in picture.by_name.items()} == {"a": 2, "c": 1}


def test_another_mac_is_a_change() -> None:
    (found,) = told(link()).tell(link(mac=b"\x02\0\0\0\0\x02"))
    assert isinstance(found, LinkChanged)
    assert found.link.mac == b"\x02\0\0\0\0\x02"


def test_an_address_comes_once_and_again_when_it_may_be_used() -> None:
    picture = told(link())
    fresh = ip_address("fd00::1")
    assert picture.tell(address("fd00::1/64", flags=0xC0)) == [AddressCame(fresh, 64, "eth0", False)]
    assert picture.tell(address("fd00::1/64")) == [AddressCame(fresh, 64, "eth0", True)]
    assert picture.tell(address("fd00::1/64")) == []
    assert picture.tell(address("fd00::1/64", gone=True)) == [AddressGone(fresh, 64, "eth0")]
    assert picture.tell(address("fd00::1/64", gone=True)) == []


def test_ipv4_has_an_address_with_each_prefix_and_ipv6_once() -> None:
    picture = told(link(), address("192.0.2.1/24"))
    assert kinds(picture.tell(address("192.0.2.1/32"))) == [AddressCame]
    picture = told(link(), address("fd00::1/64"))
    assert kinds(picture.tell(address("fd00::1/128"))) == [AddressGone, AddressCame]


def test_an_address_of_no_known_device_is_none() -> None:
    assert Picture().tell(address("192.0.2.1/24", index=9)) == []


def test_a_second_look_tells_what_was_missed_and_no_more() -> None:
    gone = RouteKey(ip_network("192.0.2.0/24"), 254, 0)
    stays = RouteKey(ip_network("198.51.100.0/24"), 254, 0)
    picture = told(link(1, "a"), link(2, "b"), address("192.0.2.1/24"), RouteNews(gone, 18), RouteNews(stays, 18))
    found = picture.replace([link(1, "a", up=False), link(3, "c"), address("192.0.2.2/24"), RouteNews(stays, 18)])
    assert set(kinds(found)) == {AddressGone, AddressCame, LinkDown, LinkGone, LinkCame, LinkUp, RouteGone}
    assert len(found) == 8  # b is down before it has gone
    assert set(picture.by_name) == {"a", "c"}
    assert picture.replace([link(1, "a", up=False), link(3, "c"), address("192.0.2.2/24"), RouteNews(stays, 18)]) == []


def test_only_keepalived_s_routes_are_missed() -> None:
    key = RouteKey(ip_network("192.0.2.0/24"), 254, 0)
    picture = told(RouteNews(key, 18), RouteNews(RouteKey(ip_network("fd00::/8"), 254, 1024), 4))
    assert picture.tell(RouteNews(RouteKey(ip_network("fd00::/8"), 254, 1024), 4, gone=True)) == []
    assert picture.tell(RouteNews(key, 18, gone=True)) == [RouteGone(key)]
    assert picture.tell(RouteNews(key, 18, gone=True)) == []


def test_the_first_address_that_is_not_virtual_is_the_primary_one() -> None:
    held = (
        *(address("169.254.1.1/16", scope=253), address("192.0.2.100/32"), address("192.0.2.1/24", flags=0x81)),
        *(address("192.0.2.2/24"), address("fd00::1/64"), address("fe80::1/64", flags=0xC0, scope=253)),
        *(address("fe80::2/64", flags=0xA0, scope=253), address("fe80::3/64", scope=253)),
    )
    assert primary(held, 4, {VIP}) == ip_address("192.0.2.2")
    assert primary(held[:3], 4, {VIP}) == ip_address("192.0.2.1")
    assert primary(held[:2], 4, {VIP}) == ip_address("169.254.1.1")
    assert primary(held, 6) == ip_address("fe80::3")
    assert primary(held[:7], 6) == ip_address("fe80::2")
    assert primary(held[:6], 6) is None


LINKS = st.builds(link, st.integers(1, 3), st.sampled_from("abc"), st.booleans(), st.booleans())
ADDRESSES = st.builds(
    address,
    st.sampled_from(["192.0.2.1/24", "192.0.2.1/32", "fd00::1/64", "fd00::1/128"]),
    st.integers(1, 3),
    st.sampled_from([0x80, 0xC0, 0x81]),
    gone=st.booleans(),
)


@given(st.lists(LINKS | ADDRESSES, max_size=25))
def test_whoever_only_hears_of_changes_knows_as_much(all_news: list[News]) -> None:
    picture = Picture()
    up: set[str] = set()
    there: set[str] = set()
    addresses: set[tuple[str, str]] = set()
    for each in all_news:
        for change in picture.tell(each):
            if isinstance(change, LinkCame):
                there.add(change.link.name)
            elif isinstance(change, LinkGone):
                there.discard(change.link.name)
            elif isinstance(change, LinkUp):
                up.add(change.link.name)
            elif isinstance(change, LinkDown):
                up.discard(change.link.name)
            elif isinstance(change, AddressCame):
                addresses.add((change.device, f"{change.address}/{change.prefix}"))
            elif isinstance(change, AddressGone):
                addresses.remove((change.device, f"{change.address}/{change.prefix}"))
        if len({each.name for each in picture.by_index.values()}) < len(picture.by_index):
            return  # two devices of one name: only for a moment, while they swap their names
    assert there == set(picture.by_name)
    assert up == {name for name, each in picture.by_name.items() if each.up}
    assert addresses == {(n, str(a.interface)) for n, each in picture.by_name.items() for a in each.addresses}
    assert picture.replace([*picture_news(picture)]) == []


def picture_news(picture: Picture) -> list[News]:
    """What a full look would find."""
    found: list[News] = []
    for each in picture.by_index.values():
        found.append(LinkNews(each.index, each.name, each.mac, each.mtu, each.enabled, each.up))
        found += each.addresses
    return found


@pytest.mark.parametrize("name", ["LinkCame", "LinkGone", "LinkUp", "LinkDown"])
def test_a_change_of_a_device_has_the_device_in_it(name: str) -> None:
    picture = Picture()
    found = [*picture.tell(link()), *picture.tell(link(gone=True))]
    (change,) = [each for each in found if type(each).__name__ == name]
    assert (change.link.name, change.link.index, change.link.mac) == ("eth0", 1, MAC)  # type: ignore[union-attr]
