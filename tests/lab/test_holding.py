"""Add addresses to real devices, compare with `ip`, and receive every change of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from pylvs.model.routing import HeldAddress, RoutingRule
from pylvs.netlink.addresses import hold, release
from pylvs.netlink.routes import add_rules, key_of_rule
from pylvs.vrrp.netlink_monitor import (
    AddressAdded,
    AddressRemoved,
    Change,
    KeyRemoved,
    LinkAdded,
    LinkChanged,
    LinkDown,
    LinkRemoved,
    LinkUp,
    NetlinkMonitor,
)
from tests.interop.namespaces import inside, ip
from tests.waiting import PATIENCE_S


@pytest.fixture(autouse=True)
def namespace() -> Iterator[None]:
    """Make a network namespace with eth0 and eth1, whose other ends are peer0 and peer1."""
    with inside("holding"):
        for number in (0, 1):
            ip(f"link add eth{number} type veth peer name peer{number}")
            ip(f"link set peer{number} up")
            ip(f"link set eth{number} up")
        yield


def shown(device: str, family: int = 4) -> dict[str, dict[str, Any]]:
    """Return each address that `ip` prints for a device."""
    (found,) = json.loads(ip(f"-j -{family} addr show dev {device}")) or [{"addr_info": []}]
    return {f"{each['local']}/{each['prefixlen']}": each for each in found["addr_info"] if each["scope"] != "link"}


def address(text: str, **given: Any) -> HeldAddress:
    return HeldAddress(interface=ip_interface(text), **given)


def until(watch: NetlinkMonitor, wanted: type[Change]) -> list[Change]:
    """Return all changes up to the first of that type."""
    found: list[Change] = []
    deadline = time.monotonic() + PATIENCE_S
    while not any(isinstance(each, wanted) for each in found):
        assert time.monotonic() < deadline, found
        found += watch.read()
        time.sleep(0.01)
    return found


def test_addresses_are_added_and_removed_repeatedly() -> None:
    placed = [(address("192.0.2.1"), "eth0"), (address("192.0.2.2/24"), "eth1"), (address("fd00::1"), "eth0")]
    for _ in range(2):
        assert all(each.done for each in hold(placed))
        assert (set(shown("eth0")), set(shown("eth1"))) == ({"192.0.2.1/32"}, {"192.0.2.2/24"})
        assert set(shown("eth0", 6)) == {"fd00::1/128"}
    for _ in range(2):
        assert all(each.done for each in release(placed))
        assert (shown("eth0"), shown("eth1"), shown("eth0", 6)) == ({}, {}, {})


def test_an_address_has_all_its_options() -> None:
    first = address("192.0.2.1/24", label="eth0:vip", scope=200, broadcast=ip_address("192.0.2.255"))
    others = [
        *(first, address("192.0.2.3", peer=ip_address("192.0.2.4"), no_prefix_route=True)),
        *(address("fd00::1", preferred_lft_s=0, no_dad=True), address("fd00::2/64"), address("fd00::3", home=True)),
    ]
    assert all(each.done for each in hold([(each, "eth0") for each in others]))
    ipv4, ipv6 = shown("eth0"), shown("eth0", 6)
    assert ipv4["192.0.2.1/24"]["label"] == "eth0:vip"
    assert (ipv4["192.0.2.1/24"]["scope"], ipv4["192.0.2.1/24"]["broadcast"]) == ("site", "192.0.2.255")
    assert (ipv4["192.0.2.3/32"]["address"], ipv4["192.0.2.3/32"]["noprefixroute"]) == ("192.0.2.4", True)
    assert (ipv6["fd00::1/128"]["nodad"], ipv6["fd00::1/128"]["preferred_life_time"]) == (True, 0)
    assert "nodad" not in ipv6["fd00::2/64"]
    assert ipv6["fd00::3/128"]["home"] is True
    assert all(each.done for each in release([(each, "eth0") for each in others]))
    assert (shown("eth0"), shown("eth0", 6)) == ({}, {})


def test_an_existing_address_gets_its_options() -> None:
    ip("addr add fd00::1/128 dev eth0")
    assert "deprecated" not in shown("eth0", 6)["fd00::1/128"]
    assert hold([(address("fd00::1", preferred_lft_s=0, no_dad=True), "eth0")])[0].done
    assert shown("eth0", 6)["fd00::1/128"]["deprecated"] is True


def test_a_refused_address_is_reported_and_the_others_are_added() -> None:
    placed = [(address("192.0.2.1"), "eth0"), (address("192.0.2.2", scope=253), "nowhere0"), (address("fd00::1"), "lo")]
    wrong = (address("fd00::9", manage_temporary=True), "eth0")  # only a /64 can have temporary addresses
    outcomes = hold([*placed, wrong])
    assert [each.done for each in outcomes] == [True, False, True, False]
    assert outcomes[1].error == "192.0.2.2/32 could not be put on nowhere0: No such device"
    assert outcomes[3].error.startswith("fd00::9/128 could not be put on eth0: Invalid argument (")
    assert [each.done for each in release([*placed, wrong])] == [True] * 4


def test_many_addresses_at_once() -> None:
    placed = [(address(f"10.0.{number // 250}.{number % 250 + 1}"), "eth0") for number in range(1000)]
    assert all(each.done for each in hold(placed))
    assert len(shown("eth0")) == 1000
    assert all(each.done for each in release(placed))
    assert shown("eth0") == {}


def test_every_change_of_a_device_is_seen() -> None:
    with closing(NetlinkMonitor()) as watch:
        ip("link set peer0 down")
        found = until(watch, LinkDown)
        while not any(isinstance(each, LinkDown) and each.link.name == "eth0" for each in found):
            found += until(watch, LinkDown)
        assert not watch.links["eth0"].running
        assert watch.links["eth0"].enabled
        ip("link set peer0 up")
        until(watch, LinkUp)
        ip("link set eth1 address 02:00:00:00:00:07")
        until(watch, LinkChanged)
        assert watch.links["eth1"].mac == bytes.fromhex("020000000007")
        ip("link add vip0 link eth0 type macvlan mode private")
        until(watch, LinkAdded)
        assert watch.links["vip0"].below == watch.links["eth0"].index
        assert watch.links["vip0"].kind == "macvlan"
        ip("link del vip0")
        until(watch, LinkRemoved)
        assert "vip0" not in watch.links


def test_every_change_of_an_address_is_seen() -> None:
    with closing(NetlinkMonitor()) as watch:
        hold([(address("192.0.2.1/24"), "eth0"), (address("192.0.2.100"), "eth0")])
        until(watch, AddressAdded)
        assert watch.primary_address("eth0", 4) == ip_address("192.0.2.1")
        assert watch.primary_address("eth0", 4, {ip_address("192.0.2.1")}) == ip_address("192.0.2.100")
        assert watch.primary_address("nowhere0", 4) is None
        ip("addr del 192.0.2.100/32 dev eth0")
        assert AddressRemoved(ip_interface("192.0.2.100/32"), "eth0") in until(watch, AddressRemoved)


def test_a_link_local_address_counts_after_duplicate_address_detection() -> None:
    ip("link set eth1 addrgenmode none")
    ip("link set eth1 down")
    ip("link set eth1 up")
    with closing(NetlinkMonitor()) as watch:
        assert watch.primary_address("eth1", 6) is None
        ip("addr add fe80::7/64 dev eth1")
        came = AddressAdded(ip_interface("fe80::7/64"), "eth1", True)
        while came not in until(watch, AddressAdded):
            pass
        assert watch.primary_address("eth1", 6) == ip_address("fe80::7")


def test_nothing_is_missed_after_an_overflow_of_the_socket() -> None:
    with closing(NetlinkMonitor(receive_buffer=1)) as watch:
        hold([(address("192.0.2.1"), "eth0"), (address("192.0.2.2"), "eth0")])
        for number in range(200):
            ip(f"addr add 10.0.0.{number + 1}/32 dev eth1")
        release([(address("192.0.2.1"), "eth0")])
        came = {str(each.interface.ip) for each in until(watch, AddressAdded) if isinstance(each, AddressAdded)}
        assert came >= {"192.0.2.2", *(f"10.0.0.{number + 1}" for number in range(200))}
        assert watch.primary_address("eth0", 4) == ip_address("192.0.2.2")


def test_a_removed_route_is_seen_even_without_a_notification() -> None:
    ip("addr add 192.0.2.1/24 dev eth0")
    with closing(NetlinkMonitor()) as watch:
        ip("route add 198.51.100.0/24 via 192.0.2.9 proto 18")
        ip("route add 198.51.101.0/24 via 192.0.2.9 proto 18")
        ip("route add 203.0.113.0/24 via 192.0.2.9 proto static")
        watch.read()
        ip("route del 203.0.113.0/24")
        ip("route del 198.51.101.0/24")
        (gone,) = [each for each in until(watch, KeyRemoved) if isinstance(each, KeyRemoved)]
        assert isinstance(gone, KeyRemoved)
        assert (str(gone.key.destination), gone.key.table) == ("198.51.101.0/24", 254)
        ip("link set eth0 down")
        (found,) = [each for each in until(watch, KeyRemoved) if isinstance(each, KeyRemoved)]
        assert str(found.key.destination) == "198.51.100.0/24"


def test_a_removed_rule_is_seen() -> None:
    rules = [
        RoutingRule(family=4, preference=100, table=5000, source=ip_network("192.0.2.0/24"), iif="eth0"),
        RoutingRule(family=6, preference=101, action="goto", goto=32766, destination=ip_network("fd00::/8")),
        RoutingRule(family=4, preference=102, action="blackhole", source=ip_network("198.51.100.0/24")),
    ]
    with closing(NetlinkMonitor()) as watch:
        assert all(each.done for each in add_rules(rules))
        watch.read()
        ip("rule del preference 100")
        assert KeyRemoved(key_of_rule(rules[0])) in until(watch, KeyRemoved)
        ip("-6 rule del preference 101")
        assert KeyRemoved(key_of_rule(rules[1])) in until(watch, KeyRemoved)
    with closing(NetlinkMonitor()) as later:
        ip("rule add preference 103 blackhole from 203.0.113.0/24 protocol static")
        ip("rule del preference 103")
        ip("rule del preference 102")
        assert [each for each in until(later, KeyRemoved) if isinstance(each, KeyRemoved)] == [
            KeyRemoved(key_of_rule(rules[2]))
        ]
