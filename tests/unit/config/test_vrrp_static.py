"""Addresses, routes and rules of virtual routers and static ones; settings of all virtual routers."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from pylvs.model.routing import HeldAddress, NextHop, Route, RoutingRule
from pylvs.model.vrrp import Fifo, LinkDelay, LinkPolling, PolledLink, SendingLimit, Track, VrrpSettings
from pylvs.model.wanted import DbusSettings, SnmpSettings
from tests.unit.config.vrrp_support import ADDRESS, INSTANCE, clean, configured, instance, left_out, vrrp


def address(line: str) -> tuple[HeldAddress | None, list[str]]:
    """Return the address of a virtual_ipaddress line, None if it is rejected, and the findings."""
    found, messages = instance(addresses=f"192.0.2.99\n{line}")
    return (found.addresses[1] if len(found.addresses) > 1 else None), [each.partition(": ")[2] for each in messages]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("192.0.2.1", {}),
        ("192.0.2.1/24 dev eth1 label eth1:7", {"device": "eth1", "label": "eth1:7"}),
        ("192.0.2.1/24 scope link brd 192.0.2.255", {"scope": 253, "broadcast": ip_address("192.0.2.255")}),
        ("192.0.2.1/24 brd +", {"broadcast": ip_address("192.0.2.255")}),
        ("192.0.2.1/24 brd -", {"broadcast": ip_address("192.0.2.0")}),
        ("192.0.2.1 peer 192.0.2.7 no_track", {"peer": ip_address("192.0.2.7"), "tracked": False}),
        ("192.0.2.1 scope 200 preferred_lft 30", {"scope": 200, "preferred_lft_s": 30}),
        ("192.0.2.1 home noprefixroute", {"home": True, "no_prefix_route": True}),
        ("192.0.2.1 mngtmpaddr autojoin use_vmac", {"manage_temporary": True, "join_group": True, "own_vmac": True}),
    ],
)
def test_an_address_line(line: str, expected: dict[str, Any]) -> None:
    found, messages = address(line)
    assert messages == []
    assert found == HeldAddress(interface=ip_interface(line.split()[0]), **expected)


def test_an_ipv6_address_of_a_router_is_deprecated_so_that_it_is_no_source_address() -> None:
    lines = "virtual_ipaddress_excluded {", "2001:db8::4/64", "}"
    found, _ = instance(*lines, addresses="2001:db8::1\n2001:db8::2/64\n2001:db8::3/64 preferred_lft forever")
    assert [each.preferred_lft_s for each in found.addresses] == [0, 0, -1]
    assert [each.preferred_lft_s for each in found.excluded] == [0]
    static = clean("static_ipaddress {\n2001:db8::1 dev eth0\n2001:db8::2/64 dev eth0\n}")
    assert [each.preferred_lft_s for each in static.addresses] == [0, -1]


def test_an_ipv6_address_skips_dad_unless_its_line_overrides_it() -> None:
    found, _ = instance(addresses="2001:db8::1\n2001:db8::2/64 -nodad")
    assert [each.no_dad for each in found.addresses] == [True, False]


@pytest.mark.parametrize(
    ("line", "finding", "kept"),
    [
        ("192.0.2.300", "error: '192.0.2.300' is not an IP address", False),
        ("192.0.2.1/33", "warning: '33' is not a prefix length of 0 to 32; /32 counts", True),
        ("192.0.2.1/255.255.255.0", "warning: '255.255.255.0' is not a prefix length of 0 to 32; /32 counts", True),
        ("192.0.2.1 dev", "error: 192.0.2.1 lacks a device behind dev", False),
        ("192.0.2.1 dev eth0 dev eth1", "error: a second device for one address", False),
        ("192.0.2.1 colour blue", "warning: 'colour' is not known behind an address and is ignored", True),
        ("192.0.2.1 track_group G", "warning: 'track_group' is not known behind an address and is ignored", True),
        ("192.0.2.1 label eth0:0123456789ab", "error: label 'eth0:0123456789ab' is longer than 15 characters", False),
        ("192.0.2.1/24foo", "warning: '24foo' is not a prefix length of 0 to 32; /24 counts", True),
        ("2001:db8::1/64 brd +", "error: only IPv4 has broadcast addresses", False),
        ("192.0.2.1 brd 2001:db8::1", "error: only IPv4 has broadcast addresses", False),
        ("192.0.2.1 brd all", "error: 'all' is not an IP address", False),
        ("192.0.2.1 scope near", "warning: scope 'near' is not known; global counts", True),
        ("192.0.2.1 preferred_lft 30s", "error: '30s' is not a whole number; 30 counts", True),
        ("192.0.2.1 preferred_lft -1", "warning: '-1' is no lifetime and is ignored", True),
        ("192.0.2.1 peer 192.0.2.2/24", "warning: '192.0.2.2/24' is not an IP address; the address gets no peer", True),
    ],
)
def test_an_address_line_that_is_wrong(line: str, finding: str, kept: bool) -> None:
    found, messages = address(line)
    assert messages[0] == finding
    assert (found is not None) is kept


@pytest.mark.parametrize(
    ("line", "address_text", "kept", "findings"),
    [
        ("198.51.100.1 brd +", "198.51.100.1", {}, ["/32 leaves no bits for a broadcast address; brd is ignored"]),
        (
            "198.51.100.1/31 brd -",
            "198.51.100.1/31",
            {},
            ["/31 leaves no bits for a broadcast address; brd is ignored"],
        ),
        (
            "198.51.100.1 peer 2001:db8::2",
            "198.51.100.1",
            {},
            ["peer 2001:db8::2 is not of the address's family; the address gets no peer"],
        ),
        (
            "198.51.100.1 peer 198.51.100.2 peer 198.51.100.3",
            "198.51.100.1",
            {"peer": ip_address("198.51.100.2")},
            ["the address has peer 198.51.100.2 already; 198.51.100.3 is ignored"],
        ),
        (
            "198.51.100.1/24 peer 198.51.100.2 brd +",
            "198.51.100.1",
            {"peer": ip_address("198.51.100.2")},
            [
                "an address with a peer has no prefix length; /32 counts",
                "an address with a peer has no broadcast address; brd is ignored",
            ],
        ),
        (
            "2001:db8::1/64 label eth0:1 scope link",
            "2001:db8::1/64",
            {"no_dad": True, "preferred_lft_s": 0},
            ["an IPv6 address has no label; it is ignored", "an IPv6 address has no scope; it is ignored"],
        ),
    ],
)
def test_an_option_that_cannot_be_leaves_the_address(
    line: str, address_text: str, kept: dict[str, Any], findings: list[str]
) -> None:
    found, messages = instance("virtual_ipaddress_excluded {", line, "}")
    assert found.excluded == (HeldAddress(interface=ip_interface(address_text), **kept),)
    assert [each.partition(": warning: ")[2] for each in messages] == findings


def test_a_router_of_version_3_stays_without_the_broadcast_address_of_its_only_address() -> None:
    found, messages = instance("version 3", addresses="192.0.2.1 brd +")
    assert [str(each) for each in found.addresses] == ["192.0.2.1/32"]
    assert len(messages) == 1


def route(line: str) -> tuple[Route | None, list[str]]:
    """Return the route of a virtual_routes line, and the findings."""
    found, messages = instance("virtual_routes {", line, "}")
    return (found.routes[0] if found.routes else None), [each.partition(": ")[2] for each in messages]


NET = ip_network("10.1.0.0/16")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("10.1.0.0/16 dev eth1", Route(destination=NET, next_hops=(NextHop(device="eth1"),))),
        (
            "src 10.0.0.1 to 10.1.0.0/16 via 10.0.0.2 dev eth1 metric 7 table 100 onlink",
            Route(
                destination=NET,
                source=ip_address("10.0.0.1"),
                next_hops=(NextHop(via=ip_address("10.0.0.2"), device="eth1", onlink=True),),
                metric=7,
                table=100,
            ),
        ),
        ("blackhole 10.1.0.0/16 no_track", Route(destination=NET, kind="blackhole", tracked=False)),
        (
            "default via 10.0.0.2 dev eth0",
            Route(destination=ip_network("0.0.0.0/0"), next_hops=(NextHop(via=ip_address("10.0.0.2"), device="eth0"),)),
        ),
        (
            "default via fe80::1 dev eth0",
            Route(destination=ip_network("::/0"), next_hops=(NextHop(via=ip_address("fe80::1"), device="eth0"),)),
        ),
        (
            "default6 via fe80::1 dev eth0",
            Route(destination=ip_network("::/0"), next_hops=(NextHop(via=ip_address("fe80::1"), device="eth0"),)),
        ),
        ("10.1.0.0/16 dev eth1 prepend", Route(destination=NET, next_hops=(NextHop(device="eth1"),))),
        ("10.1.0.0/16 dev eth1 append prepend", Route(destination=NET, next_hops=(NextHop(device="eth1"),))),
        (
            "10.1.0.0/16 table main no_track nexthop via 10.0.0.2 dev eth0 weight 2 nexthop via 10.0.0.3 dev eth1",
            Route(
                destination=NET,
                next_hops=(
                    NextHop(via=ip_address("10.0.0.2"), device="eth0", weight=2),
                    NextHop(via=ip_address("10.0.0.3"), device="eth1"),
                ),
                tracked=False,
            ),
        ),
        (
            "10.1.0.0/16 dev eth1 scope site tos 0x04 mtu lock 1400 rtt 10ms features ecn append",
            Route(
                destination=NET,
                next_hops=(NextHop(device="eth1"),),
                scope=200,
                tos=4,
                options=(("mtu", "lock 1400"), ("rtt", "10ms"), ("features", "ecn")),
                append=True,
            ),
        ),
        ("10.1.0.0/16 dev eth1 vrf blue", Route(destination=NET, next_hops=(NextHop(device="eth1"),), table=7)),
        (
            "from 2001:db8::/32 default dev eth1",
            Route(
                destination=ip_network("::/0"),
                next_hops=(NextHop(device="eth1"),),
                from_network=ip_network("2001:db8::/32"),
            ),
        ),
    ],
)
def test_a_route(line: str, expected: Route) -> None:
    found, messages = route(line)
    assert messages == []
    assert found == expected


@pytest.mark.parametrize(
    ("line", "finding", "kept"),
    [
        (
            "10.1.0.0/16",
            "warning: the route to 10.1.0.0/16 has no device, so keepalived would not notice its removal",
            True,
        ),
        ("10.1.0.0/16 gw 10.0.0.2 dev eth0", "warning: 'gw' is old", True),
        ("10.1.0.0/16 dev eth0 protocol 100", "warning: a route that is tracked has protocol keepalived", True),
        ("via 10.0.0.2 dev eth0", "error: the route has no destination", False),
        ("10.1.0.0/16 via 10.0.0.300 dev eth0", "error: '10.0.0.300' is not an IP address", False),
        ("10.1.0.0/16 via fe80::1 dev eth0", "error: IPv4 and IPv6 in one route", False),
        ("10.1.0.0/16 dev eth0 metrik 5", "error: 'metrik' is not known in a route", False),
        ("10.1.0.0/16 10.2.0.0/16 dev eth0", "error: '10.2.0.0/16' is a second destination", False),
        ("10.1.0.0/16 dev eth0 mtu 1x", "error: '1x' is not a whole number", False),
        ("10.1.0.0/16 dev eth0 hoplimit 300", "error: hoplimit 300 is not between 0 and 255", False),
        ("10.1.0.0/16 dev eth0 table nowhere", "error: table 'nowhere' is neither a number", False),
        ("10.1.0.0/16 dev eth0 pref high", "error: IPv4 and IPv6 in one route", False),
        ("10.1.0.0/16 dev eth0 nexthop via 10.0.0.3 weight 257", "error: weight 257 is not between 1 and 256", False),
        ("from 10.2.0.0/16 10.1.0.0/16 dev eth0", "error: a route of IPv4 is for packets from everywhere", False),
        ("from 2001:db8::/32 10.1.0.0/16 dev eth0", "error: IPv4 and IPv6 in one route", False),
        ("10.1.0.0/16 dev eth0 add", "warning: 'add' counts as prepend", True),
        ("10.1.0.0/16 dev eth0 as to 10.0.0.1", "warning: 'as 10.0.0.1' has a meaning for MPLS alone", True),
        ("10.1.0.0/16 dev eth0 features foo", "warning: there is no feature 'foo'; it is ignored", True),
        ("10.1.0.0/16 dev", "error: 10.1.0.0/16 lacks a device behind dev", False),
        ("10.1.0.0/16 dev eth9", "warning: this machine has no device 'eth9'", True),
    ],
)
def test_a_route_that_is_wrong(line: str, finding: str, kept: bool) -> None:
    found, messages = route(line)
    assert [each.startswith(finding) for each in messages] == [True], messages
    assert (found is not None) is kept


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("10.1.0.0/16 dev eth0 encap ip id 5 dst 10.0.0.1 via 10.0.0.2", "a route with encap is not made"),
        ("10.1.0.0/16 no_track nexthop via 10.0.0.2 encap mpls 5 dev eth0", "a route with encap is not made"),
        ("10.1.0.0/16 dev eth0 vrf red", "this machine has no VRF red"),
        ("10.1.0.0/16 dev eth0 vrf eth1", "this machine has no VRF eth1"),
    ],
)
def test_a_router_never_runs_without_a_route_that_cannot_be(line: str, finding: str) -> None:
    text = INSTANCE.format(addresses=ADDRESS, lines=f"virtual_routes {{\n{line}\n}}")
    without = "without it the virtual router must not be master, and is left out"
    assert left_out(text) == [f"8: error: {finding}; {without}"]
    static, messages = vrrp(f"static_routes {{\n10.3.0.0/16 dev eth0\n{line}\n}}\n")
    assert [str(each) for each in static.routes] == ["10.3.0.0/16"]
    assert messages == [f"3: error: {finding}; it is left out"]


def rule(line: str) -> tuple[RoutingRule | None, list[str]]:
    """Return the rule of a virtual_rules line, and the findings."""
    found, messages = instance("virtual_rules {", line, "}")
    return (found.rules[0] if found.rules else None), [each.partition(": ")[2] for each in messages]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from 10.1.0.0/16 table 7 preference 5", {"source": NET, "table": 7, "preference": 5}),
        ("to 10.1.0.0/16 lookup main priority 5", {"destination": NET, "table": 254, "preference": 5}),
        ("from all iif eth0 oif eth1 table 7 order 5", {"iif": "eth0", "oif": "eth1", "table": 7, "preference": 5}),
        ("fwmark 0x10/12 tos 0x10 table 7 preference 5", {"mark": 16, "mark_mask": 12, "tos": 16, "table": 7}),
        ("not from 10.1.0.0/16 blackhole preference 5", {"inverted": True, "source": NET, "action": "blackhole"}),
        ("from 10.1.0.0/16 goto 9 preference 5", {"source": NET, "action": "goto", "goto": 9}),
        ("from 2001:db8::/32 l3mdev preference 5", {"family": 6, "l3mdev": True}),
        ("table 7 preference 0x5 sup_pl 0", {"options": (("suppress_prefixlength", "0"),)}),
        ("table 7 preference 5 tunnel-id 9", {"options": (("tunnel-id", "9"),)}),
        ("table 7 preference 5 sup_group 3", {"options": (("suppress_ifgroup", "3"),)}),
        ("from default6 table 7 preference 5", {"family": 6, "source": None}),
        (
            "table 7 preference 5 uidrange 1-9 ipproto tcp dport 80 no_track",
            {"table": 7, "options": (("uidrange", "1-9"), ("ipproto", "tcp"), ("dport", "80")), "tracked": False},
        ),
    ],
)
def test_a_rule(line: str, expected: dict[str, Any]) -> None:
    found, messages = rule(line)
    assert messages == []
    assert found is not None
    assert found.preference == 5
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("line", "finding", "kept"),
    [
        ("from 10.1.0.0/16 table 7", "warning: the rule has no preference; it gets 16384", True),
        ("from 10.1.0.0/16 table 7 prio 5", "error: 'prio' is not known in a rule", False),
        ("table 7 preference 5 tunnel-id 18446744073709551616", "error: tunnel-id 18446744073709551616 is not", False),
        ("table 7 preference 5 protocol foo", "warning: protocol 'foo' is neither a number", True),
        ("from 10.1.0.0/16 preference 5", "error: the rule does nothing", False),
        ("from 10.1.0.0/16 table 7 nop preference 5", "error: 'nop' is a second action", False),
        ("from 10.1.0.0/16 goto 5 preference 5", "error: goto 5 is not behind preference 5", False),
        ("from 10.1.0./16 table 7 preference 5", "error: '10.1.0./16' is not an IP address", False),
        ("from 10.1.0.0/16 to 2001:db8::/32 table 7 preference 5", "error: IPv4 and IPv6 in one rule", False),
        ("fwmark x table 7 preference 5", "error: 'x' is no mark", False),
        ("table 0 preference 5", "error: table 0 is none", False),
        ("table 7 preference x", "error: 'x' is not a whole number", False),
        ("table 7 preference 5 uidrange 9-1", "error: '9-1' is no range of numbers", False),
    ],
)
def test_a_rule_that_is_wrong(line: str, finding: str, kept: bool) -> None:
    found, messages = rule(line)
    assert [each.startswith(finding) for each in messages] == [True], messages
    assert (found is not None) is kept


def test_rules_without_a_preference_get_one_each() -> None:
    found, messages = vrrp(
        "static_rules {\nto 10.1.0.0/16 table 7\nto 10.2.0.0/16 table 7\n}\n"
        + INSTANCE.format(addresses="192.0.2.1", lines="virtual_rules {\nto 10.3.0.0/16 table 7\n}")
    )
    assert [each.preference for each in (*found.rules, *found.instances[0].rules)] == [16384, 16383, 16382]
    assert len(messages) == 3


GROUP = "track_group G {\ngroup { VI_1 }\n}\n"
ONE = INSTANCE.format(addresses="192.0.2.1", lines="")


def test_static_addresses_routes_and_rules() -> None:
    found = clean(
        GROUP
        + "static_ipaddress {\n10.0.0.1/24\n10.0.0.2/24 dev eth1 track_group G\n}\n"
        + "static_routes {\n10.1.0.0/16 dev eth1 track_group G\n}\n"
        + "static_rules {\nto 10.1.0.0/16 table 7 preference 5\n}\n"
        + ONE
    )
    assert [each.device for each in found.addresses] == ["eth0", "eth1"]
    assert (len(found.routes), len(found.rules)) == (1, 1)
    assert found.instances[0].tracks.interfaces == (Track("eth1"),)


@pytest.mark.parametrize(
    ("blocks", "lines", "tracked"),
    [
        ("static_ipaddress {\n10.0.0.2 dev eth0 track_group G\n}", "", ()),
        ("static_ipaddress {\n10.0.0.2 dev eth0 track_group G\n}", "dont_track_primary", (Track("eth0"),)),
        ("static_ipaddress {\n10.0.0.2 track_group G\n}", "dont_track_primary", (Track("eth0"),)),
        ("static_routes {\n10.1.0.0/16 dev eth1 track_group G\n}", "", (Track("eth1"),)),
        ("static_rules {\niif eth1 table 7 preference 5 track_group G\n}", "", (Track("eth1"),)),
        (
            "static_routes {\n10.1.0.0/16 dev eth1 track_group G\n}",
            "track_interface {\neth1 weight 10\neth3 weight 5\n}",
            (Track("eth3", 5), Track("eth1")),
        ),
    ],
)
def test_members_of_a_track_group_track_the_devices_of_static_objects(
    blocks: str, lines: str, tracked: tuple[Track, ...]
) -> None:
    found = clean(f"{GROUP}{blocks}\n{INSTANCE.format(addresses='192.0.2.1', lines=lines)}")
    assert found.instances[0].tracks.interfaces == tracked


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("static_routes {\n10.1.0.0/16 dev eth1 track_group X\n}", "5: error: no track_group 'X'"),
        ("static_rules {\nto 10.1.0.0/16 table 7 preference 5 track_group X\n}", "5: error: no track_group 'X'"),
        (
            "static_rules {\nto 10.1.0.0/16 table 7 preference 5 track_group G\n}",
            "5: error: track_group is ignored: the line names no device",
        ),
        (
            "static_routes {\n10.1.0.0/16 dev eth1 no_track track_group G\n}",
            "5: warning: track_group is ignored: the line has no_track",
        ),
    ],
)
def test_a_track_group_without_effect_is_a_finding(line: str, finding: str) -> None:
    found, messages = vrrp(f"{GROUP}{line}\n{ONE}")
    assert [each.startswith(finding) for each in messages] == [True], messages
    assert found.instances[0].tracks.interfaces == ()


@pytest.mark.parametrize(
    ("lines", "delay", "counts"),
    [
        ("", "eth0 1.5 1.9", (1.5, 1.9)),
        ("", "eth0 2.5 1", (511 / 256, 1)),
        ("down_timer_adverts 1", "eth0 0.1", (0, 0)),
        ("", "eth1 9", (9, 9)),
    ],
)
def test_a_link_delay_ends_before_a_backup_takes_over(lines: str, delay: str, counts: tuple[float, float]) -> None:
    found, messages = vrrp(
        f"interface_up_down_delays {{\n{delay}\n}}\n{INSTANCE.format(addresses='192.0.2.1', lines=lines)}"
    )
    (kept,) = found.settings.link_delays
    assert (kept.down_s, kept.up_s) == pytest.approx(counts)
    written = tuple(float(word) for word in delay.split()[1:])
    assert bool(messages) == (counts not in (written, 2 * written))


@pytest.mark.parametrize(
    ("text", "findings"),
    [
        ("static_ipaddress {\n10.0.0.1 dev eth1 track_group G\n}\n" + GROUP + ONE, ["2: error: no track_group 'G'"]),
        (
            "static_ipaddress {\n10.0.0.1\n}\nglobal_defs {\ndefault_interface eth8\n}",
            ["2: error: 10.0.0.1 has no device, and this machine has no 'eth8', the default_interface"],
        ),
        ("track_group G {\ngroup { VI_9 }\n}", ["2: error: there is no virtual router 'VI_9'"]),
        (GROUP + GROUP + ONE, ["4: error: the name 'G' is taken"]),
        ("garp_group {\ninterface eth1\n}", ["1: error: the garp_group limits nothing; it is left out"]),
        (
            2 * "garp_group {\ngarp_interval 1\ninterface eth1\n}\n",
            ["7: error: eth1 is in an earlier garp_group"],
        ),
        ("linkbeat_interfaces {\neth1 FIBRE\n}", ["2: error: 'FIBRE' is not one of MII, ETHTOOL, IOCTL"]),
        ("interface_up_down_delays {\neth9 1\n}", ["2: warning: this machine has no device 'eth9'"]),
        ("interface_up_down_delays {\neth1 256\n}", ["2: error: 256 seconds is not between 0 and 255"]),
        ("static_track_group G {\n}", ["1: warning: static_track_group is not known outside of all blocks"]),
        ("global_defs {\nnotify_fifo_script /bin/x\n}", ["2: error: without notify_fifo there is nothing to read"]),
        ("global_defs {\nnotify_fifo /f\nvrrp_notify_fifo /f\n}", ["3: error: /f is notify_fifo already"]),
        ("global_defs {\nlvs_notify_fifo /f\nvrrp_notify_fifo /f\n}", ["2: error: /f is vrrp_notify_fifo already"]),
        ("global_defs {\nlvs_notify_fifo_script /bin/x\n}", ["2: error: without lvs_notify_fifo there is nothing"]),
        ("global_defs {\nvrrp_version 4\n}", ["2: error: vrrp_version 4 is not between 2 and 3"]),
        ("global_defs {\nvrrp_mcast_group4 10.0.0.1\n}", ["2: error: 10.0.0.1 is no multicast address"]),
        ("global_defs {\nvrrp_mcast_group6 224.0.0.9\n}", ["2: error: '224.0.0.9' is not an IPv6 address"]),
        ("global_defs {\nvrrp_cpu_affinity 99999\n}", ["2: error: this machine has no CPU 99999"]),
        ("global_defs {\nvrrp_garp_extra_if all\n}", ["2: error: vrrp_garp_extra_if lacks seconds"]),
        (
            "global_defs {\nvrrp_garp_extra_if all 0\n}",
            ["2: error: vrrp_garp_extra_if 0 is not between 1 and 86400"],
        ),
        ("global_defs {\ndynamic_interfaces maybe\n}", ["2: error: 'maybe' is not known here"]),
        ("global_defs {\nnftables mine\n}", ["2: warning: nftables has no effect in pylvs"]),
    ],
)
def test_what_cannot_be_as_written_is_named(text: str, findings: list[str]) -> None:
    _, messages = vrrp(text)
    assert len(messages) == len(findings), messages
    for finding, each in zip(findings, messages, strict=True):
        assert each.startswith(finding)


@pytest.mark.parametrize(
    ("value", "expected", "finding"),
    [
        ("0", 1, "vrrp_rt_priority 0 is not between 1 and 99; 1 counts"),
        ("-5", 1, "vrrp_rt_priority -5 is not between 1 and 99; 1 counts"),
        ("100", 99, "vrrp_rt_priority 100 is not between 1 and 99; 99 counts"),
        ("50x", 50, "'50x' is not a whole number; 50 counts"),
        ("2147483648", 0, "vrrp_rt_priority 2147483648 is not between -2147483648 and 2147483647"),
    ],
)
def test_a_real_time_priority_out_of_range_counts_as_the_limit(value: str, expected: int, finding: str) -> None:
    found, messages = vrrp(f"global_defs {{\nvrrp_rt_priority {value}\n}}")
    assert found.settings.realtime_priority == expected
    assert [each.startswith(f"2: error: {finding}") for each in messages] == [True]


def test_what_all_virtual_routers_have_in_common() -> None:
    found = clean(
        """\
        global_defs {
            notify_fifo /run/all root
            vrrp_notify_fifo /run/vrrp
            fifo_write_vrrp_states_on_reload
            vrrp_startup_delay 2.5
            vrrp_garp_interval 0.01
            vrrp_priority -5
            vrrp_rt_priority 50
            vrrp_cpu_affinity 0
            vmac_prefix vip
            default_interface eth1
            no_email_faults
            log_unknown_vrids
            vrrp_no_swap
        }
        garp_group {
            garp_interval 0.5
            gna_interval 0.25
            interfaces {
                eth1
                eth2
            }
        }
        interface_up_down_delays {
            eth1 2 3.5
            eth2 1
        }
        """
    )
    assert found.settings == VrrpSettings(
        fifos=(Fifo("/run/all", "root", services=True), Fifo("/run/vrrp")),
        states_on_reload=True,
        startup_delay_s=2.5,
        no_fault_mails=True,
        default_interface="eth1",
        nice=-5,
        realtime_priority=50,
        cpus=(0,),
        log_unknown_vrids=True,
        vmac_prefix="vip",
        vmac_address_prefix="vip",
        limits=(
            SendingLimit(devices=("eth1", "eth2"), arp_s=0.5, neighbour_s=0.25),
            SendingLimit(devices=(), arp_s=0.01),
        ),
        link_delays=(LinkDelay("eth1", 2.0, 3.5), LinkDelay("eth2", 1.0, 1.0)),
    )


def test_links_that_are_polled() -> None:
    one = INSTANCE.format(addresses="192.0.2.1", lines="linkbeat_use_polling")
    found, messages = vrrp("linkbeat_interfaces {\neth1\neth2 ETHTOOL\neth1 IOCTL\n}\n" + one)
    assert [each.partition(": ")[2] for each in messages] == [
        "warning: linkbeat_use_polling in a virtual router is deprecated: it polls the interface alone"
    ]
    polled = (PolledLink("eth1"), PolledLink("eth2", LinkPolling.ETHTOOL), PolledLink("eth0"))
    assert found.settings.polled_links == polled
    assert clean("linkbeat_use_polling\n" + ONE).settings.polled_links == (PolledLink("eth0"),)
    assert clean(ONE).settings.polled_links == ()


@pytest.mark.parametrize(
    ("policy", "own", "octets"),
    [
        ("vrrp_rx_bufs_policy MTU", "", 4500),
        ("vrrp_rx_bufs_policy MTU\nvrrp_rx_bufs_multiplier 5", "", 7500),
        ("vrrp_rx_bufs_policy ADVERT", "", 3 * (20 + 8 + 4 + 8)),
        ("vrrp_rx_bufs_policy mtu", "", 4500),
        ("vrrp_rx_bufs_policy Advert", "version 3", 3 * (20 + 8 + 4)),
        ("vrrp_rx_bufs_policy ADVERT", "version 3", 3 * (20 + 8 + 4)),
        ("vrrp_rx_bufs_policy 70000", "", 70000),
        ("vrrp_rx_bufs_policy 70000", "kernel_rx_buf_size 9000", 9000),
        ("", "", 0),
    ],
)
def test_receive_buffers(policy: str, own: str, octets: int) -> None:
    text = f"global_defs {{\n{policy}\n}}\n" + INSTANCE.format(addresses="192.0.2.1", lines=own)
    assert clean(text).instances[0].receive_buffer == octets


def test_the_names_on_the_bus() -> None:
    assert configured("").configuration.settings.dbus == DbusSettings()
    text = "enable_dbus\ndbus_service_name org.example.Second\ndbus_no_interface_name any"
    found = configured(f"global_defs {{\n{text}\n}}").configuration
    assert found.settings.dbus == DbusSettings(True, "org.example.Second", "any")


@pytest.mark.parametrize("text", ["foo", "org..x", "org.1x", ".org.x", "org.x/y", f"org.{'x' * 252}"])
def test_a_name_that_no_bus_accepts(text: str) -> None:
    found = configured(f"global_defs {{\ndbus_service_name {text}\n}}")
    assert [each.text for each in found.findings] == [
        f"'{text}' is not a name on the bus; the default counts: org.keepalived.Vrrp1"
    ]


def test_a_path_on_the_bus_has_no_empty_element() -> None:
    found = configured('global_defs {\ndbus_no_interface_name ""\n}')
    assert [each.text for each in found.findings] == [
        "a path on the bus has no empty element; the default counts: none"
    ]
    assert found.configuration.settings.dbus.no_interface_name == "none"


@pytest.mark.parametrize("text", ["unix:/run/agentx", "/run/agentx", "tcp:127.0.0.1:705", "localhost:705"])
def test_the_socket_of_the_snmp_agent(text: str) -> None:
    found = configured(f"global_defs {{\nenable_snmp_vrrp\nenable_traps\nsnmp_socket {text}\n}}").configuration
    assert found.settings.snmp == SnmpSettings(socket=text, vrrp=True, traps=True)
    assert found.settings.snmp.enabled


@pytest.mark.parametrize("text", ["udp:127.0.0.1:705", "unix:agentx", "tcp:localhost", "705"])
def test_a_socket_that_is_none(text: str) -> None:
    found = configured(f"global_defs {{\nsnmp_socket {text}\n}}")
    assert [each.text for each in found.findings] == [
        f"'{text}' is no socket of AgentX; the default counts: unix:/var/agentx/master"
    ]
    assert not found.configuration.settings.snmp.enabled
