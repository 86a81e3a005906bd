"""Compiling real_server blocks: methods, ports and numbers as in keepalived, and findings."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pylvs.config.language.tree import Severity
from pylvs.config.show import shown
from pylvs.model.checks import TcpCheck
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Tunnel,
    TunnelFlag,
    TunnelKind,
)
from tests.unit.config.support import SERVICE, compiled, messages, single, with_service


@pytest.mark.parametrize(
    ("words", "destination"),
    [
        ("NAT", (Method.MASQ, Tunnel())),
        ("TUN", (Method.TUNNEL, Tunnel())),
        ("TUN type ipip nocsum", (Method.TUNNEL, Tunnel())),
        ("TUN type gre csum", (Method.TUNNEL, Tunnel(TunnelKind.GRE, 0, TunnelFlag.CSUM))),
        ("TUN type gue port 6080 remcsum", (Method.TUNNEL, Tunnel(TunnelKind.GUE, 6080, TunnelFlag.REMCSUM))),
    ],
)
def test_a_real_server_may_have_a_method_of_its_own(words: str, destination: tuple[Method, Tunnel]) -> None:
    document = with_service(server=f"lvs_method {words}")
    found = single(document).servers[0].destination
    assert messages(document) == []
    assert (found.method, found.tunnel) == destination


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("TUN type gue", "a gue tunnel needs a port, no other has one; write TUN type gue port PORT"),
        ("TUN type gre remcsum", "a gre tunnel has no remote checksum; leave remcsum out, or take gue"),
        ("TUN csum", "an ipip tunnel has no checksums; leave csum and remcsum out"),
        ("TUN type foo", "there is no tunnel of type 'foo'; one of ipip, gue, gre"),
    ],
)
def test_tunnels_that_there_are_not_are_refused(words: str, text: str) -> None:
    assert messages(with_service(server=f"lvs_method {words}")) == [f"7: error: {text}"]


def test_a_dr_servers_other_port_is_reset_but_checked() -> None:
    document = compiled(
        """\
        virtual_server 192.0.2.1 80 {
            protocol TCP
            lvs_sched rr
            lvs_method DR
            sorry_server 10.0.0.9 81
            real_server 10.0.0.2 8080 {
                TCP_CHECK {
                }
            }
        }
        """
    )
    service = single(document)
    assert messages(document) == [
        (
            "5: warning: port 81 of the sorry server is not the service's; it is 80 in the table; "
            "DR and TUN change no port"
        ),
        (
            "6: warning: port 8080 of the real server is not the service's; it is 80 in the table; "
            "DR and TUN change no port; checks still go to the written one"
        ),
    ]
    assert service.servers[0].destination.key == DestinationKey(ip_address("10.0.0.2"), 80)
    assert service.sorry_server == Destination(DestinationKey(ip_address("10.0.0.9"), 80), Method.ROUTE)
    (check,) = service.servers[0].checks
    assert isinstance(check, TcpCheck)
    assert check.target.port == 8080


@pytest.mark.parametrize(
    ("settings", "service", "server", "expected"),
    [
        ("", "", "", (False, True)),
        ("", "smtp_alert no", "", (False, True)),
        ("", "smtp_alert", "smtp_alert no", (True, False)),
        ("smtp_alert no", "smtp_alert", "", (True, False)),
        ("smtp_alert no\n smtp_alert_checker", "", "", (True, True)),
    ],
)
def test_a_real_server_does_not_inherit_smtp_alert(
    settings: str, service: str, server: str, expected: tuple[bool, bool]
) -> None:
    document = compiled(f"global_defs {{\n {settings}\n}}\n" + SERVICE.format(service=service, server=server))
    found = single(document)
    assert (found.smtp_alert, found.servers[0].smtp_alert) == expected


@pytest.mark.parametrize(
    ("line", "expected", "finding"),
    [
        ("10.0.0.2 8O", (8, 1), "'8O' is not a whole number; 8 counts"),
        ("10.0.0.2 80 l00", (80, 0), "'l00' is not a whole number; 0 counts"),
    ],
)
def test_a_typing_error_in_a_number_counts_as_in_keepalived_and_is_an_error(
    line: str, expected: tuple[int, int], finding: str
) -> None:
    address, port, *weight = line.split()
    text = SERVICE.format(service="", server=f"weight {weight[0]}" if weight else "")
    document = compiled(text.replace("10.0.0.2 80", f"{address} {port}"))
    destination = single(document).servers[0].destination
    assert (destination.key.port, destination.weight) == expected
    assert [each.text for each in document.findings if each.severity is Severity.ERROR] == [finding]


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        ("real_server 10.0.0.x 80 {\n}", "5: error: '10.0.0.x' is not an IP address"),
        ("real_server 10.0.0.3:80 {\n}", "5: error: '10.0.0.3:80' is not an IP address; write 10.0.0.3 80"),
        ("real_server [::1]:80 {\n}", "5: error: '[::1]:80' is not an IP address; write ::1 80"),
        (
            "real_server 2001:db8::2 80 {\n}",
            (
                "5: error: 2001:db8::2 is not IPv4 as the service is; the real server is left out; "
                "only lvs_method TUN leads to the other IP version"
            ),
        ),
        (
            "real_server 10.0.0.2 80 {\n}",
            (
                "7: warning: the service has the real server 10.0.0.2 already, in line 5; "
                "this one is left out; correct its address, or remove it"
            ),
        ),
    ],
)
def test_a_real_server_that_cannot_be_is_left_out(line: str, finding: str) -> None:
    document = with_service(line)
    assert messages(document) == [finding]
    assert len(single(document).servers) == 1


@pytest.mark.parametrize(
    ("line", "finding", "weight"),
    [
        ("weight 70000", "7: warning: weight 70000 is beyond 65535; it is taken; use smaller weights", 70000),
        ("weight -1", "7: error: weight -1 is not between 0 and 2147483647", 1),
        ("weight 1 2", "7: warning: surplus '2' behind weight is ignored", 1),
        (
            "weight",
            (
                "7: error: weight lacks a whole number, 0 to 2147483647; "
                "write 'weight ...' with a whole number, 0 to 2147483647"
            ),
            1,
        ),
        (
            "uthreshold 5\n lthreshold 6",
            (
                "8: warning: lthreshold 6 is above uthreshold 5: once full, never free again by number; "
                "write a smaller lthreshold"
            ),
            1,
        ),
    ],
)
def test_unusual_numbers_of_real_servers_are_findings(line: str, finding: str, weight: int) -> None:
    document = with_service(server=line)
    assert messages(document) == [finding]
    assert single(document).servers[0].destination.weight == weight


@pytest.mark.parametrize(
    ("head", "method", "expected"),
    [
        ("192.0.2.1 80", "NAT", ["10.0.0.2:80", "10.0.0.9:0"]),
        ("192.0.2.1 80", "DR", ["10.0.0.2:80", "10.0.0.9:80"]),
        ("192.0.2.1 80", "TUN", ["10.0.0.2:80", "10.0.0.9:80"]),
        ("192.0.2.1", "NAT", ["10.0.0.2:0", "10.0.0.9:0"]),
        ("fwmark 7", "NAT", ["10.0.0.2:0", "10.0.0.9:0"]),
        ("fwmark 7", "DR", ["10.0.0.2:0", "10.0.0.9:0"]),
        ("group one", "NAT", ["10.0.0.2:0", "10.0.0.9:0"]),
        ("group one", "DR", ["10.0.0.2:0", "10.0.0.9:0"]),
        ("group ports", "DR", ["10.0.0.2:0", "10.0.0.9:0"]),
        ("group mark", "DR", ["10.0.0.2:0", "10.0.0.9:0"]),
    ],
)
def test_a_server_without_a_port_gets_that_of_the_service(head: str, method: str, expected: list[str]) -> None:
    groups = "virtual_server_group one {\n 192.0.2.1 80\n 192.0.2.2 80\n}\n"
    groups += "virtual_server_group ports {\n 192.0.2.1 80\n 192.0.2.1 81\n}\n"
    groups += "virtual_server_group mark {\n 192.0.2.1 80\n fwmark 7\n}\n"
    text = f"virtual_server {head} {{\n lvs_sched rr\n lvs_method {method}\n protocol TCP\n persistence_timeout\n"
    text += " sorry_server 10.0.0.9\n real_server 10.0.0.2 {\n }\n}\n"
    document = compiled(groups + text)
    service = single(document)
    assert service.sorry_server is not None
    assert [str(each) for each in (service.servers[0].destination.key, service.sorry_server.key)] == expected
    assert compiled(shown(document.effective)).configuration.services == document.configuration.services


def test_thresholds_weight_and_inhibition_reach_the_server() -> None:
    (server,) = single(with_service("inhibit_on_failure\n weight 3", "uthreshold 10\n lthreshold 5\n alpha")).servers
    assert (server.destination.weight, server.destination.upper, server.destination.lower) == (3, 10, 5)
    assert server.inhibit_on_failure
    assert server.alpha
