"""virtual_server_group: ranges, networks and marks become the keys of one service."""

from __future__ import annotations

import pytest

from pylvs.config.compile.document import CompiledDocument
from pylvs.daemon.notifications import fifo_line
from pylvs.health.events import QuorumGained
from tests.unit.config.support import compiled, messages, single

GROUP = """\
virtual_server_group web {{
    {lines}
}}
virtual_server group web {{
    {method}
    lvs_sched rr
    protocol TCP
    real_server {server} {{
    }}
}}
"""


def group(*lines: str, method: str = "lvs_method NAT", server: str = "10.0.0.2 80") -> CompiledDocument:
    return compiled(GROUP.format(lines="\n    ".join(lines), method=method, server=server))


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ("192.0.2.1 80", ["TCP 192.0.2.1:80"]),
        ("192.0.2.1-3 80", ["TCP 192.0.2.1:80", "TCP 192.0.2.2:80", "TCP 192.0.2.3:80"]),
        ("192.0.2.254-192.0.3.1 80", [f"TCP 192.0.{each}:80" for each in ("2.254", "2.255", "3.0", "3.1")]),
        ("192.0.2.5-192.0.2.5 80", ["TCP 192.0.2.5:80"]),
        ("192.0.2.8/30 80", [f"TCP 192.0.2.{each}:80" for each in range(8, 12)]),
    ],
)
def test_a_line_of_a_group_is_every_address_of_it(line: str, keys: list[str]) -> None:
    document = group(line)
    assert messages(document) == []
    assert list(map(str, single(document).keys)) == keys
    assert single(document).name == "group web tcp"


def test_ranges_of_ipv6_end_in_their_last_part() -> None:
    found = group("2001:db8::e-11 80", "2001:db8:1::/127 80", server="2001:db8::2 80")
    assert [str(key.address) for key in single(found).keys] == [
        "2001:db8::e",
        "2001:db8::f",
        "2001:db8::10",
        "2001:db8::11",
        "2001:db8:1::",
        "2001:db8:1::1",
    ]


def test_marks_and_addresses_go_together_and_the_mark_has_the_addresses_family() -> None:
    found = group("192.0.2.1 80", "fwmark 7")
    assert list(map(str, single(found).keys)) == ["TCP 192.0.2.1:80", "FWM 7"]


def test_both_families_go_together_where_all_is_tunnelled() -> None:
    found = group("192.0.2.1 80", "2001:db8::1 80", "fwmark 3 inet6", method="lvs_method TUN")
    assert messages(found) == []
    assert list(map(str, single(found).keys)) == ["TCP 192.0.2.1:80", "TCP [2001:db8::1]:80", "FWM 3 IPv6"]


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("192.0.2.5-3 80", "the range '192.0.2.5-3' does not end behind its begin; write the smaller address first"),
        ("192.0.2.5-5 80", "the range '192.0.2.5-5' does not end behind its begin; write the smaller address first"),
        (
            "192.0.2.5-192.0.2.4 80",
            "the range '192.0.2.5-192.0.2.4' does not end behind its begin; write the smaller address first",
        ),
        ("192.0.2.5-x 80", "'x' is not the end of a range of addresses; such as 192.0.2.1-9"),
        ("192.0.2.1/29 80", "'192.0.2.1/29' is not the begin of its network; write 192.0.2.0/29"),
        ("192.0.2.0/33 80", "'192.0.2.0/33' is not an address with a prefix length; such as 192.0.2.8/29"),
        ("192.0.2.9 99999", "port 99999 is not between 1 and 65535"),
        (
            "fwmark",
            ("fwmark lacks a whole number, 1 to 4294967295; write 'fwmark ...' with a whole number, 1 to 4294967295"),
        ),
        ("fwmark 3 foo", "'foo' is not one of inet, inet6"),
        ("nonsense", "'nonsense' is not an IP address"),
        (
            "2001:db8::/64 80",
            (
                "'2001:db8::/64' has 18,446,744,073,709,551,616 addresses, and each is a service of its own; "
                "65536 are allowed; use a firewall mark"
            ),
        ),
    ],
)
def test_a_wrong_line_is_left_out(line: str, finding: str) -> None:
    found = group("192.0.2.1 80", line)
    assert messages(found) == [f"3: error: {finding}"]
    assert list(map(str, single(found).keys)) == ["TCP 192.0.2.1:80"]


def test_both_families_without_tunnels_are_refused() -> None:
    found = group("192.0.2.1 80", "2001:db8::1 80")
    assert found.configuration.services == ()
    assert messages(found) == [
        (
            "5: error: the group web has IPv4 and IPv6, and not all servers are tunnelled; the service is left out; "
            "make a group of each, or write lvs_method TUN"
        )
    ]


def test_an_empty_group_is_a_finding() -> None:
    found = group()
    assert found.configuration.services == ()
    assert messages(found) == [
        "4: error: the group web is empty; the service is left out; give it an address or a mark"
    ]


def test_of_two_groups_with_one_name_the_first_counts() -> None:
    found = compiled("virtual_server_group a {\n 192.0.2.1 80\n}\nvirtual_server_group a {\n 192.0.2.2 80\n}\n")
    assert messages(found) == [
        "4: error: there is a group a already, in line 1; the first one counts; give it another name"
    ]


def test_a_duplicate_address_in_a_group_is_a_finding() -> None:
    found = group("192.0.2.1 80", "192.0.2.1-2 80")
    assert list(map(str, single(found).keys)) == ["TCP 192.0.2.1:80", "TCP 192.0.2.2:80"]
    assert messages(found) == [
        "3: error: TCP 192.0.2.1:80 was given already, in line 2; this one is left out; remove one of them"
    ]


def test_dr_servers_of_a_group_of_several_ports_keep_each_packets_port() -> None:
    found = group("192.0.2.1 80", "192.0.2.1 81", method="lvs_method DR")
    (server,) = single(found).servers
    assert [server.destination.listed_by(key).key.port for key in single(found).keys] == [80, 81]
    assert messages(found) == [
        (
            "9: warning: port 80 is not that of every entry of the group; the port of each packet stays; "
            "DR and TUN change no port; write the address alone"
        )
    ]


def test_a_near_name_is_suggested() -> None:
    found = compiled("virtual_server_group web {\n 192.0.2.1 80\n}\nvirtual_server group wep {\n}\n")
    assert "4: error: there is no group wep; the service is left out; did you mean 'web'?" in messages(found)


def test_services_of_a_group_have_keepaliveds_names() -> None:
    service = "virtual_server group {} {{\n protocol {}\n lvs_sched rr\n lvs_method NAT\n{}}}\n"
    server = " real_server 10.0.0.2 53 {\n }\n"
    blocks = [("dns", "TCP", server), ("web", "TCP", server), ("dns", "UDP", server)]
    text = "virtual_server_group dns {\n 192.0.2.1 53\n}\nvirtual_server_group web {\n 192.0.2.1 80\n}\n"
    document = compiled(text + "".join(service.format(*block) for block in blocks))
    services = document.configuration.services
    assert [each.name for each in services] == ["group dns tcp", "group web tcp", "group dns udp"]
    gained = QuorumGained(at=0.0, service="", reason="", weight=1, quorum=1, hysteresis=0)
    lines = [fifo_line(gained, each) for each in services]
    assert lines == ["VS [dns]:0 UP", "VS [web]:0 UP", "VS [dns]:1 UP"]
