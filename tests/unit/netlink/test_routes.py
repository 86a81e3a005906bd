"""The encoding of routes and rules, octet by octet (rtnetlink(7), linux/fib_rules.h)."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from pylvs.model.routing import NextHop, Route, RoutingRule
from pylvs.netlink.codec import attributes
from pylvs.netlink.monitor import RouteKey, RouteMessage, RuleMessage, understood
from pylvs.netlink.routes import encoded, encoded_rule, key_of, key_of_rule

HOP = NextHop(via=ip_address("192.0.2.9"))


def route(to: str, *options: tuple[str, str], **given: Any) -> Route:
    return Route(destination=ip_network(to), options=options, **given)


def encoded_attributes(of: Route, going: bool = False) -> dict[int, bytes]:
    return attributes(encoded(of, going), 12)


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def metrics(*options: tuple[str, str]) -> dict[int, bytes]:
    return attributes(encoded_attributes(route("10.0.0.0/8", *options))[8])


@pytest.mark.parametrize(
    ("kind", "number", "scope"),
    [
        ("unicast", 1, 0),
        ("local", 2, 254),
        ("broadcast", 3, 253),
        ("multicast", 5, 0),
        ("blackhole", 6, 0),
        ("unreachable", 7, 0),
        ("prohibit", 8, 0),
        ("throw", 9, 0),
        ("nat", 10, 254),
    ],
)
def test_each_kind_has_its_number_and_its_scope(kind: str, number: int, scope: int) -> None:
    assert encoded(route("10.0.0.0/8", kind=kind))[:12] == struct.pack("=8BI", 2, 8, 0, 0, 254, 18, scope, number, 0)
    assert encoded(route("10.0.0.0/8", kind=kind, scope=200))[6] == 200
    assert encoded(route("10.0.0.0/8", kind=kind, scope=200), going=True)[6] == 255


def test_a_route_through_one_hop() -> None:
    found = encoded_attributes(
        route("10.0.0.0/8", next_hops=(HOP,), source=ip_address("192.0.2.1"), metric=7, table=5000)
    )
    assert found == {
        1: bytes([10, 0, 0, 0]),
        5: ip_address("192.0.2.9").packed,
        6: u32(7),
        7: ip_address("192.0.2.1").packed,
        15: u32(5000),
    }


def test_a_route_for_packets_of_one_network() -> None:
    of = route("::/0", from_network=ip_network("2001:db8::/32"))
    assert encoded(of)[2] == 32
    assert str(of) == "::/0 from 2001:db8::/32"
    for going in False, True:
        assert encoded_attributes(of, going)[2] == ip_address("2001:db8::").packed


def test_a_table_beyond_255_does_not_fit_the_header() -> None:
    assert encoded(route("10.0.0.0/8", table=5000))[4] == 0
    assert encoded(route("10.0.0.0/8", table=7))[4] == 7


def test_several_hops_are_one_route() -> None:
    other = NextHop(via=ip_address("192.0.2.8"), weight=256, onlink=True)
    way = encoded_attributes(route("10.0.0.0/8", next_hops=(HOP, other)))[9]
    assert way[:8] == struct.pack("=HBBi", 16, 0, 0, 0)
    assert attributes(way[8:16]) == {5: ip_address("192.0.2.9").packed}
    assert way[16:24] == struct.pack("=HBBi", 16, 4, 255, 0)
    assert attributes(way[24:]) == {5: ip_address("192.0.2.8").packed}


def test_a_route_that_drops_has_no_hops() -> None:
    assert set(encoded_attributes(route("10.0.0.0/8", kind="blackhole", next_hops=(HOP,)))) == {1, 15}


@pytest.mark.parametrize(
    ("name", "words", "kind", "value"),
    [
        ("mtu", "1400", 2, 1400),
        ("window", "5000", 3, 5000),
        ("rtt", "200ms", 4, 1600),
        ("rtt", "1.5s", 4, 12000),
        ("rtt", "77", 4, 77),
        ("rttvar", "200ms", 5, 800),
        ("ssthresh", "7", 6, 7),
        ("cwnd", "10", 7, 10),
        ("advmss", "1300", 8, 1300),
        ("reordering", "5", 9, 5),
        ("hoplimit", "9", 10, 9),
        ("initcwnd", "20", 11, 20),
        ("features", "ecn", 12, 1),
        ("rto_min", "300ms", 13, 300),
        ("initrwnd", "6", 14, 6),
        ("quickack", "1", 15, 1),
        ("fastopen_no_cookie", "1", 17, 1),
    ],
)
def test_each_metric_has_its_number_and_its_unit(name: str, words: str, kind: int, value: int) -> None:
    assert metrics((name, words)) == {kind: u32(value)}


def test_the_locked_metrics_share_one_attribute() -> None:
    found = metrics(("mtu", "lock 1400"), ("advmss", "lock 1300"), ("congctl", "lock cubic"), ("window", "9"))
    assert found[1] == u32(1 << 2 | 1 << 8 | 1 << 16)
    assert (found[2], found[16]) == (u32(1400), b"cubic\0")


def test_options_that_are_no_metrics() -> None:
    given = ("realms", "5/6"), ("pref", "low"), ("expires", "500"), ("ttl-propagate", "disabled")
    found = encoded_attributes(route("fd00::/8", *given))
    assert (found[11], found[20], found[23], found[26]) == (u32(0x50006), b"\3", u32(500), b"\0")
    assert encoded_attributes(route("10.0.0.0/8", ("realms", "6")))[11] == u32(6)


@pytest.mark.parametrize("to", ["10.0.0.0/8", "fd00::/8", "0.0.0.0/0", "::/0"])
@pytest.mark.parametrize("given", [{}, {"metric": 9}, {"table": 5000}, {"tos": 16}])
def test_the_removal_of_a_route_has_its_key(to: str, given: dict[str, int]) -> None:
    wanted = route(to, **given)
    found = understood(25, encoded(wanted, going=True))
    assert isinstance(found, RouteMessage)
    tos = 0 if wanted.destination.version == 6 else found.key.tos
    assert RouteKey(found.key.destination, found.key.table, found.key.metric, tos) == key_of(wanted)


def test_a_rule_has_its_conditions_and_its_action() -> None:
    rule = RoutingRule(
        family=4,
        table=99,
        preference=1002,
        source=ip_network("10.3.0.0/16"),
        inverted=True,
        iif="eth0",
        oif="eth1",
        mark=5,
        mark_mask=255,
        tos=16,
    )
    assert encoded_rule(rule)[:12] == struct.pack("=8BI", 2, 0, 16, 16, 99, 0, 0, 1, 2)
    assert attributes(encoded_rule(rule), 12) == {
        2: bytes([10, 3, 0, 0]),
        3: b"eth0\0",
        6: u32(1002),
        10: u32(5),
        15: u32(99),
        16: u32(255),
        17: b"eth1\0",
        21: bytes([18]),
    }


@pytest.mark.parametrize(
    ("action", "number"), [("goto", 2), ("nop", 3), ("blackhole", 6), ("unreachable", 7), ("prohibit", 8)]
)
def test_each_action_has_its_number(action: str, number: int) -> None:
    found = encoded_rule(RoutingRule(family=6, action=action, goto=2000, table=9))
    assert (found[0], found[4], found[7]) == (10, 0, number)
    assert attributes(found, 12).get(4) == (u32(2000) if action == "goto" else None)


@pytest.mark.parametrize(
    ("name", "words", "kind", "value"),
    [
        ("uidrange", "10-20", 20, struct.pack("=II", 10, 20)),
        ("sport", "10-20", 23, struct.pack("=HH", 10, 20)),
        ("dport", "80", 24, struct.pack("=HH", 80, 80)),
        ("ipproto", "tcp", 22, b"\6"),
        ("ipproto", "17", 22, b"\x11"),
        ("realms", "3/4", 11, u32(0x30004)),
        ("suppress_prefixlength", "8", 14, u32(8)),
        ("suppress_ifgroup", "3", 13, u32(3)),
        ("tunnel-id", "9", 12, bytes(7) + b"\x09"),
    ],
)
def test_each_option_of_a_rule_has_its_number(name: str, words: str, kind: int, value: bytes) -> None:
    found = encoded_rule(RoutingRule(family=4, table=5, options=((name, words),)))
    assert attributes(found, 12)[kind] == value


@pytest.mark.parametrize(
    "rule",
    [
        RoutingRule(family=4, table=99, preference=7, source=ip_network("10.0.0.0/8"), iif="eth0"),
        RoutingRule(family=6, table=5000, preference=7, destination=ip_network("fd00::/8")),
        RoutingRule(family=4, action="goto", goto=9, preference=8, source=ip_network("0.0.0.0/0")),
        RoutingRule(family=4, l3mdev=True, preference=9, table=0),
    ],
)
def test_the_removal_of_a_rule_has_its_key(rule: RoutingRule) -> None:
    assert understood(33, encoded_rule(rule)) == RuleMessage(key_of_rule(rule), 18, gone=True)


def test_l3mdev_names_no_table() -> None:
    found = attributes(encoded_rule(RoutingRule(family=4, l3mdev=True)), 12)
    assert found[19] == b"\1"
    assert 15 not in found
