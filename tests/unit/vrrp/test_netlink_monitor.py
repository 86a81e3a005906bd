"""LinkState: each change of links, addresses and routes is reported once."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.netlink.monitor import AddressMessage, LinkMessage, Message, RouteKey, RouteMessage
from pylvs.vrrp.netlink_monitor import (
    AddressAdded,
    AddressRemoved,
    Change,
    KeyRemoved,
    LinkAdded,
    LinkChanged,
    LinkDown,
    LinkRemoved,
    LinkState,
    LinkUp,
    select_primary,
)

MAC = b"\x02\0\0\0\0\x01"
VIP = ip_address("192.0.2.100")


def link(index: int = 1, name: str = "eth0", up: bool = True, gone: bool = False, mac: bytes = MAC) -> LinkMessage:
    return LinkMessage(index, name, mac, 1500, True, up, gone=gone)


def address(text: str, index: int = 1, flags: int = 0x80, scope: int = 0, gone: bool = False) -> AddressMessage:
    return AddressMessage(index, ip_interface(text), scope, flags, gone)


def state_of(*messages: Message) -> LinkState:
    state = LinkState()
    for each in messages:
        state.update(each)
    return state


def kinds(changes: list[Change]) -> list[type[Change]]:
    return [type(each) for each in changes]


def test_a_device_is_added_and_removed() -> None:
    state = LinkState()
    assert kinds(state.update(link(up=False))) == [LinkAdded]
    assert kinds(state.update(link())) == [LinkUp]
    assert kinds(state.update(link())) == []
    assert kinds(state.update(link(up=False))) == [LinkDown]
    assert kinds(state.update(link())) == [LinkUp]
    assert kinds(state.update(link(gone=True))) == [LinkDown, LinkRemoved]
    assert (state.by_name, state.by_index) == ({}, {})


def test_a_removed_device_removes_its_addresses() -> None:
    state = state_of(link(), address("192.0.2.1/24"))
    changes = state.update(link(gone=True))
    assert changes[0] == AddressRemoved(ip_interface("192.0.2.1/24"), "eth0")
    assert kinds(changes[1:]) == [LinkDown, LinkRemoved]


def test_a_renamed_device_is_removed_and_added() -> None:
    state = state_of(link(), address("192.0.2.1/24"))
    changes = state.update(link(name="lan0"))
    assert kinds(changes) == [AddressRemoved, LinkDown, LinkRemoved, LinkAdded, LinkUp, AddressAdded]
    assert changes[-1] == AddressAdded(ip_interface("192.0.2.1/24"), "lan0", True)
    assert list(state.by_name) == ["lan0"]


def test_two_devices_may_swap_their_names() -> None:
    state = state_of(link(1, "a"), link(2, "b"))
    state.update(link(2, "a"))
    state.update(link(1, "c"))
    assert {name: each.index for name, each in state.by_name.items()} == {"a": 2, "c": 1}


def test_another_mac_address_is_reported() -> None:
    (changes,) = state_of(link()).update(link(mac=b"\x02\0\0\0\0\x02"))
    assert isinstance(changes, LinkChanged)
    assert changes.link.mac == b"\x02\0\0\0\0\x02"


def test_an_address_is_reported_once_and_again_when_it_becomes_usable() -> None:
    state = state_of(link())
    fresh = ip_interface("fd00::1/64")
    assert state.update(address("fd00::1/64", flags=0xC0)) == [AddressAdded(fresh, "eth0", False)]
    assert state.update(address("fd00::1/64")) == [AddressAdded(fresh, "eth0", True)]
    assert state.update(address("fd00::1/64")) == []
    assert state.update(address("fd00::1/64", gone=True)) == [AddressRemoved(fresh, "eth0")]
    assert state.update(address("fd00::1/64", gone=True)) == []


def test_ipv4_has_an_address_with_each_prefix_and_ipv6_once() -> None:
    state = state_of(link(), address("192.0.2.1/24"))
    assert kinds(state.update(address("192.0.2.1/32"))) == [AddressAdded]
    state = state_of(link(), address("fd00::1/64"))
    assert kinds(state.update(address("fd00::1/128"))) == [AddressRemoved, AddressAdded]


def test_an_address_of_an_unknown_device_is_ignored() -> None:
    assert LinkState().update(address("192.0.2.1/24", index=9)) == []


def test_a_dump_reports_what_was_missed_and_no_more() -> None:
    gone = RouteKey(ip_network("192.0.2.0/24"), 254, 0)
    stays = RouteKey(ip_network("198.51.100.0/24"), 254, 0)
    state = state_of(
        link(1, "a"), link(2, "b"), address("192.0.2.1/24"), RouteMessage(gone, 18), RouteMessage(stays, 18)
    )
    changes = state.replace([link(1, "a", up=False), link(3, "c"), address("192.0.2.2/24"), RouteMessage(stays, 18)])
    assert set(kinds(changes)) == {AddressRemoved, AddressAdded, LinkDown, LinkRemoved, LinkAdded, LinkUp, KeyRemoved}
    assert len(changes) == 8  # b is down before it has gone
    assert set(state.by_name) == {"a", "c"}
    assert state.replace([link(1, "a", up=False), link(3, "c"), address("192.0.2.2/24"), RouteMessage(stays, 18)]) == []


def test_only_keepalived_s_routes_are_reported() -> None:
    key = RouteKey(ip_network("192.0.2.0/24"), 254, 0)
    state = state_of(RouteMessage(key, 18), RouteMessage(RouteKey(ip_network("fd00::/8"), 254, 1024), 4))
    assert state.update(RouteMessage(RouteKey(ip_network("fd00::/8"), 254, 1024), 4, gone=True)) == []
    assert state.update(RouteMessage(key, 18, gone=True)) == [KeyRemoved(key)]
    assert state.update(RouteMessage(key, 18, gone=True)) == []


def test_the_first_address_that_is_not_virtual_is_the_primary_one() -> None:
    held = (
        *(address("169.254.1.1/16", scope=253), address("192.0.2.100/32"), address("192.0.2.1/24", flags=0x81)),
        *(address("192.0.2.2/24"), address("fd00::1/64"), address("fe80::1/64", flags=0xC0, scope=253)),
        *(address("fe80::2/64", flags=0xA0, scope=253), address("fe80::3/64", scope=253)),
    )
    assert select_primary(held, 4, {VIP}) == ip_address("192.0.2.2")
    assert select_primary(held[:3], 4, {VIP}) == ip_address("192.0.2.1")
    assert select_primary(held[:2], 4, {VIP}) == ip_address("169.254.1.1")
    assert select_primary(held, 6) == ip_address("fe80::3")
    assert select_primary(held[:7], 6) == ip_address("fe80::2")
    assert select_primary(held[:6], 6) is None


LINKS = st.builds(link, st.integers(1, 3), st.sampled_from("abc"), st.booleans(), st.booleans())
ADDRESSES = st.builds(
    address,
    st.sampled_from(["192.0.2.1/24", "192.0.2.1/32", "fd00::1/64", "fd00::1/128"]),
    st.integers(1, 3),
    st.sampled_from([0x80, 0xC0, 0x81]),
    gone=st.booleans(),
)


@given(st.lists(LINKS | ADDRESSES, max_size=25))
def test_all_changes_add_up_to_the_state(messages: list[Message]) -> None:
    state = LinkState()
    up: set[str] = set()
    present: set[str] = set()
    addresses: set[tuple[str, str]] = set()
    for message in messages:
        for change in state.update(message):
            if isinstance(change, LinkAdded):
                present.add(change.link.name)
            elif isinstance(change, LinkRemoved):
                present.discard(change.link.name)
            elif isinstance(change, LinkUp):
                up.add(change.link.name)
            elif isinstance(change, LinkDown):
                up.discard(change.link.name)
            elif isinstance(change, AddressAdded):
                addresses.add((change.device, str(change.interface)))
            elif isinstance(change, AddressRemoved):
                addresses.remove((change.device, str(change.interface)))
        if len({each.name for each in state.by_index.values()}) < len(state.by_index):
            return  # two devices of one name exist only while they swap names
    assert present == set(state.by_name)
    assert up == {name for name, each in state.by_name.items() if each.running}
    assert addresses == {(n, str(a.interface)) for n, each in state.by_name.items() for a in each.addresses}
    assert state.replace([*dump_of(state)]) == []


def dump_of(state: LinkState) -> list[Message]:
    """Return the messages of a complete dump."""
    changes: list[Message] = []
    for device in state.by_index.values():
        changes.append(LinkMessage(device.index, device.name, device.mac, device.mtu, device.enabled, device.running))
        changes += device.addresses
    return changes


@pytest.mark.parametrize("name", ["LinkAdded", "LinkRemoved", "LinkUp", "LinkDown"])
def test_a_change_of_a_device_contains_the_device(name: str) -> None:
    state = LinkState()
    changes = [*state.update(link()), *state.update(link(gone=True))]
    (change,) = [each for each in changes if type(each).__name__ == name]
    assert (change.link.name, change.link.index, change.link.mac) == ("eth0", 1, MAC)  # type: ignore[union-attr]
