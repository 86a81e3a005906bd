"""Compiling virtual_server blocks: services as in keepalived, and findings."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from pylvs.config.language.tree import Severity
from pylvs.config.show import shown
from pylvs.model.checks import HttpCheck, TcpCheck, targets_of
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    Tunnel,
    TunnelFlag,
    TunnelKind,
)
from tests.unit.config.support import SERVICE, TUTORIAL, compiled, messages, single, with_service


def key(address: str, port: int, protocol: Protocol = Protocol.TCP) -> ServiceKey:
    return ServiceKey(protocol, ip_address(address), port)


def test_the_usual_tutorial_compiles_with_a_finding_for_its_dead_keyword() -> None:
    document = compiled(TUTORIAL)
    assert messages(document) == [
        "11: warning: nb_get_retry has no effect; write retry",
        "20: warning: nb_get_retry has no effect; write retry",
    ]
    service = single(document)
    assert service.name == "192.0.2.100:80 tcp"
    assert service.keys == (key("192.0.2.100", 80),)
    assert (service.scheduler, service.flags, service.timeout_s) == ("wlc", ServiceFlag.PERSISTENT, 60)
    assert [str(each.destination.key) for each in service.servers] == ["192.0.2.129:80", "192.0.2.130:80"]
    assert {(each.destination.method, each.destination.weight) for each in service.servers} == {(Method.ROUTE, 100)}
    (check,) = service.servers[0].checks
    assert isinstance(check, TcpCheck)
    assert str(check.target) == "192.0.2.129:80"
    assert (check.pace.delay_loop_s, check.pace.timeout_s) == (10.0, 10.0)
    assert (check.pace.retry, check.pace.delay_before_retry_s, check.pace.warmup_s) == (1, 3.0, 10.0)


@pytest.mark.parametrize(
    ("line", "attribute", "value"),
    [
        ("persistence_timeout", "timeout_s", 360),
        ("persistence_timeout 60\n persistence_granularity 255.255.255.0", "netmask", 0xFFFFFF00),
        ("lvs_sched sh\n sh-port\n sh-fallback", "flags", ServiceFlag.SCHED_1 | ServiceFlag.SCHED_2),
        ("lvs_sched mh\n mh-port", "flags", ServiceFlag.SCHED_2),
        ("flag-3", "flags", ServiceFlag.SCHED_3),
        ("alpha", "alpha", True),
        ("omega", "omega", True),
        ("ha_suspend", "ha_suspend", True),
        ("virtualhost www.example.org", "virtualhost", "www.example.org"),
        ("smtp_alert", "smtp_alert", True),
        ("weight 5\n quorum 5\n hysteresis 4", "hysteresis", 4),
    ],
)
def test_a_services_keywords_reach_the_configuration(line: str, attribute: str, value: object) -> None:
    document = with_service(line)
    assert [each for each in messages(document) if "given already" not in each] == []
    assert getattr(single(document), attribute) == value


@pytest.mark.parametrize(
    ("line", "finding", "attribute", "value"),
    [
        (
            "lb_algo loadbalance",
            (
                "5: warning: there is no scheduler 'loadbalance'; wlc is used; "
                "one of rr, wrr, lc, wlc, sed, nq, fo, ovf, dh, sh, mh, lblc, lblcr, twos"
            ),
            "scheduler",
            "wlc",
        ),
        (
            "persistence_timeout 0",
            "5: warning: 0 is no time; the service is not persistent; remove persistence_timeout",
            "flags",
            ServiceFlag(0),
        ),
        ("nat_mask 255.255.255.0", "5: warning: nat_mask has no effect; remove it", "netmask", -1),
        (
            "quorum 3",
            (
                "5: warning: quorum 3 is more than all real servers weigh; it is 1; "
                "write quorum 1 or less, or larger weights"
            ),
            "quorum",
            1,
        ),
        (
            "hysteresis 1",
            "5: warning: hysteresis 1 is not below the quorum of 1; it is 0; write hysteresis 0 or less",
            "hysteresis",
            0,
        ),
        (
            "persistence_timeout 9\n    persistence_engine sip",
            (
                "6: warning: persistence_engine sip is of UDP alone; every new connection will be dropped; "
                "write protocol UDP"
            ),
            "engine",
            "sip",
        ),
        (
            "persistence_engine sip",
            (
                "5: warning: persistence_engine has no effect on clients without persistence_timeout; "
                "write persistence_timeout"
            ),
            "engine",
            "sip",
        ),
        ("persistence_engine rtp", "5: error: there is no persistence engine 'rtp'; write sip", "engine", ""),
        ("ops", "5: warning: ops is of UDP alone; it is ignored; remove it", "flags", ServiceFlag(0)),
        (
            "sh-port",
            "5: warning: sh-port is of the scheduler sh alone; it is ignored; write lvs_sched sh, or remove it",
            "flags",
            ServiceFlag(0),
        ),
        (
            "alpha perhaps",
            "5: warning: surplus 'perhaps' behind alpha is ignored",
            "alpha",
            True,
        ),
        (
            "persistence_granularity 255.0.255.0",
            (
                "5: warning: the ones of '255.0.255.0' are not all in front; clients that differ in its zeros share "
                "a server; write 255.255.255.0, for instance"
            ),
            "netmask",
            0xFF00FF00,
        ),
        (
            "persistence_granularity 0.0.0.0",
            "5: warning: with 0.0.0.0 all clients share one server; write 255.255.255.0, for instance",
            "netmask",
            0,
        ),
        (
            "persistence_timeout 9\n    persistence_granularity 64",
            (
                "6: error: 64 is no netmask of the service's IP version; it is ignored; "
                "255.255.255.0 for IPv4, 64 for IPv6"
            ),
            "netmask",
            -1,
        ),
        (
            "sorry_server_inhibit\n    sorry_server 10.0.0.9 80",
            (
                "5: warning: sorry_server_inhibit has no effect above sorry_server in line 6, as in keepalived; "
                "it is ignored; move it below sorry_server"
            ),
            "sorry_server_inhibit",
            False,
        ),
        (
            "sorry_server_lvs_method DR\n    sorry_server 10.0.0.9 80",
            (
                "5: warning: sorry_server_lvs_method has no effect above sorry_server in line 6, as in keepalived; "
                "it is ignored; move it below sorry_server"
            ),
            "sorry_server",
            Destination(DestinationKey(ip_address("10.0.0.9"), 80), Method.MASQ),
        ),
        (
            "sorry_server_inhibit",
            "5: warning: sorry_server_inhibit has no effect without sorry_server; write one",
            "sorry_server",
            None,
        ),
        (
            "sorry_server 2001:db8::9 80",
            (
                "5: error: 2001:db8::9 is not of the service's IP version; there is no sorry server; "
                "only sorry_server_lvs_method TUN leads to the other IP version"
            ),
            "sorry_server",
            None,
        ),
        (
            "retry 0",
            "5: error: retry 0 is not between 1 and 4294967295",
            "quorum",
            1,
        ),
        (
            "weigth 5",
            "5: warning: weigth is not known in virtual_server and is ignored; did you mean 'weight'?",
            "quorum",
            1,
        ),
    ],
)
def test_impossible_values_are_replaced_as_in_keepalived(
    line: str, finding: str, attribute: str, value: object
) -> None:
    document = with_service(line)
    assert messages(document) == [finding]
    assert getattr(single(document), attribute) == value


@pytest.mark.parametrize(
    ("lines", "finding"),
    [
        ("lb_algo {0}\n    {1}", ""),
        ("{1}\n    lb_algo {0}\n    {1}", ""),
        (
            "{1}\n    lb_algo {0}",
            (
                "3: warning: {1} has no effect above lvs_sched in line 4, as in keepalived; it is ignored; "
                "move it below lvs_sched"
            ),
        ),
        (
            "lb_algo {2}\n    {1}",
            "4: warning: {1} is of the scheduler {0} alone; it is ignored; write lvs_sched {0}, or remove it",
        ),
    ],
)
@pytest.mark.parametrize("flag", ["sh-port", "sh-fallback", "mh-port", "mh-fallback"])
def test_a_schedulers_flag_counts_below_its_scheduler(lines: str, finding: str, flag: str) -> None:
    words = flag[:2], flag, "mh" if flag[:2] == "sh" else "sh"
    document = compiled(SERVICE.format(service="", server="").replace("lvs_sched wlc", lines.format(*words)))
    found = [each for each in messages(document) if "given already" not in each]
    assert found == ([finding.format(*words)] if finding else [])
    bit = ServiceFlag.SCHED_1 if "fallback" in flag else ServiceFlag.SCHED_2
    assert single(document).flags == (ServiceFlag(0) if finding else bit)


@pytest.mark.parametrize(
    ("head", "lines", "timeout", "findings"),
    [
        ("192.0.2.1 80", "", 360, 0),
        ("192.0.2.1", "", 360, 0),
        ("192.0.2.1 80", "persistence_timeout 60", 60, 0),
        ("192.0.2.1 80", "persistence_timeout 0", 360, 2),
    ],
)
def test_persistence_granularity_alone_makes_a_service_persistent(
    head: str, lines: str, timeout: int, findings: int
) -> None:
    text = SERVICE.format(service=f"persistence_granularity 255.255.255.0\n{lines}", server="")
    document = compiled(text.replace("192.0.2.1 80", head))
    service = single(document)
    assert (service.timeout_s, service.flags, service.netmask) == (timeout, ServiceFlag.PERSISTENT, 0xFFFFFF00)
    assert len(messages(document)) == findings


def test_a_service_by_mark_keeps_ops() -> None:
    head = "virtual_server fwmark 3 {\n lvs_sched rr\n lvs_method NAT\n ops\n"
    document = compiled(head + " real_server 10.0.0.2 80 {\n }\n}\n")
    assert single(document).flags == ServiceFlag.ONE_PACKET
    assert messages(document) == []


def test_missing_values_are_findings_with_their_default() -> None:
    document = compiled("virtual_server 192.0.2.1 80 {\n real_server 10.0.0.2 80 {\n }\n}\n")
    assert messages(document) == [
        "1: warning: no protocol is given; it is UDP; write protocol TCP, or protocol UDP",
        "1: warning: no forwarding method is given; it is NAT; write lvs_method DR, or NAT",
        "1: warning: no scheduler is given; it is wlc; write lvs_sched wlc",
    ]
    service = single(document)
    assert service.keys == (key("192.0.2.1", 80, Protocol.UDP),)
    assert service.servers[0].destination.method is Method.MASQ


def test_a_method_in_lower_case_is_refused() -> None:
    document = compiled(
        "virtual_server 192.0.2.1 80 {\n protocol TCP\n lb_algo rr\n lb_kind dr\n real_server 10.0.0.2 80 {\n }\n}\n"
    )
    assert messages(document) == [
        "1: warning: no forwarding method is given; it is NAT; write lvs_method DR, or NAT",
        "4: error: there is no forwarding method 'dr'; did you mean 'DR'?",
    ]


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
            "DR and TUN change no port; checks still go to the written one"
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


def test_a_mark_has_no_protocol_and_its_dr_servers_no_port() -> None:
    document = compiled(
        """\
        virtual_server fwmark 7 {
            protocol TCP
            lvs_sched rr
            lvs_method DR
            real_server 10.0.0.2 80 {
                TCP_CHECK {
                }
            }
        }
        """
    )
    service = single(document)
    assert messages(document) == [
        "2: warning: a firewall mark's service has no protocol; it is ignored; remove it",
        (
            "5: warning: a firewall mark's service has no port; that of 10.0.0.2 is ignored; "
            "write 10.0.0.2 alone, and connect_port in its checks"
        ),
    ]
    assert service.name == "fwmark 7"
    assert service.keys == (ServiceKey.of_mark(7),)
    assert service.servers[0].destination.key.port == 0
    (check,) = service.servers[0].checks
    assert isinstance(check, TcpCheck)
    assert check.target.port == 80


@pytest.mark.parametrize(
    ("head", "lines", "family"),
    [
        ("fwmark 7", "real_server 2001:db8::2 {\n }", socket.AF_INET6),
        ("fwmark 7", "ip_family inet6\n lvs_method TUN\n real_server 10.0.0.2 {\n }", socket.AF_INET6),
        ("fwmark 7 inet6", "real_server 10.0.0.2 {\n lvs_method TUN\n }", socket.AF_INET6),
        ("fwmark 7", "real_server 10.0.0.2 {\n }", socket.AF_INET),
        ("fwmark 7", "lvs_method TUN\n real_server 10.0.0.2 {\n }\n real_server 2001:db8::2 {\n }", socket.AF_INET),
    ],
)
def test_a_marks_family_is_by_default_that_of_its_servers(head: str, lines: str, family: int) -> None:
    service = single(compiled(f"virtual_server {head} {{\n lvs_sched rr\n {lines}\n}}\n"))
    assert service.keys == (ServiceKey.of_mark(7, family),)
    assert service.name == ("fwmark 7 inet6" if family == socket.AF_INET6 else "fwmark 7")


def test_a_service_without_a_port_becomes_persistent() -> None:
    document = compiled(
        "virtual_server 192.0.2.1 {\n protocol TCP\n lvs_sched rr\n lvs_method DR\n real_server 10.0.0.2 {\n }\n}\n"
    )
    assert single(document).timeout_s == 360
    assert messages(document) == [
        (
            "1: warning: a service without a port must be persistent; persistence_timeout is 360; "
            "write a port, or persistence_timeout"
        )
    ]


@pytest.mark.parametrize(
    ("service", "server", "missing"),
    [("", "", True), ("smtp_alert", "smtp_alert no", True), ("", "smtp_alert no", False)],
)
def test_alerts_of_services_and_servers_need_a_mail_server(service: str, server: str, missing: bool) -> None:
    settings = "global_defs {\n    notification_email {\n        a@b\n    }\n}\n"
    found = messages(compiled(settings + SERVICE.format(service=service, server=server)))
    text = "2: warning: no alert is mailed: there is no smtp_server; add smtp_server ADDRESS"
    assert found == ([text] if missing else [])


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
    ("value", "expected", "severities"),
    [("30", 30, []), ("1.5", 1.5, []), ("20s", 20, ["error"]), ("0", 1, ["warning"]), ("-1", 30, ["error"])],
)
def test_the_timeout_of_the_mail_server_may_have_a_fraction(value: str, expected: float, severities: list[str]) -> None:
    document = compiled(f"global_defs {{\n smtp_connect_timeout {value}\n}}")
    assert document.configuration.settings.mail.connect_timeout_s == expected
    assert [each.severity.value for each in document.findings] == severities


def test_several_lines_of_lvs_timeouts_count_together() -> None:
    document = compiled("global_defs {\n lvs_timeouts tcp 9 udp 7\n lvs_timeouts tcpfin 8 udp 6\n}")
    assert document.configuration.settings.lvs_timeouts == Timeouts(9, 8, 6)
    assert messages(document) == []


def test_a_later_zero_of_lvs_timeouts_leaves_the_timeout_unchanged() -> None:
    document = compiled("global_defs {\n lvs_timeouts tcp 9 udp 7\n lvs_timeouts tcp 0\n}")
    assert document.configuration.settings.lvs_timeouts == Timeouts(0, 0, 7)


@pytest.mark.parametrize(
    ("line", "expected", "finding"),
    [
        ("tcp x udp 7", Timeouts(0, 0, 7), "error: 'x' is not a whole number; tcp is ignored"),
        ("udp 7 tcp 3000000", Timeouts(0, 0, 7), "error: tcp 3000000 is not between 0 and 2678400; tcp is ignored"),
        ("sctp tcp 9", Timeouts(9, 0, 0), "error: there is no timeout 'sctp'; it is ignored"),
        ("tcp 9 udp", Timeouts(9, 0, 0), "error: udp lacks seconds; it is ignored"),
        ("tcp 8O", None, "error: '8O' is not a whole number; tcp is ignored"),
        ("tcp", None, "error: lvs_timeouts lacks seconds"),
        ("", None, "error: lvs_timeouts lacks one of tcp, tcpfin and udp with seconds"),
    ],
)
def test_a_wrong_pair_of_lvs_timeouts_leaves_the_others(line: str, expected: Timeouts | None, finding: str) -> None:
    document = compiled(f"global_defs {{\n lvs_timeouts {line}\n}}")
    assert document.configuration.settings.lvs_timeouts == expected
    (message,) = messages(document)
    assert message.startswith(f"2: {finding}")


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


@pytest.mark.parametrize(("lines", "expected"), [("weight 0", 1), ("weight 5", 5), ("weight 5\n weight 0", 5)])
def test_weight_0_of_a_service_does_not_count(lines: str, expected: int) -> None:
    document = compiled(SERVICE.format(service=lines, server=""))
    assert single(document).servers[0].destination.weight == expected
    assert ["weight 0 is not between 1 and" in each for each in messages(document)] == [True] * lines.count("weight 0")


def test_ha_suspend_does_not_count_with_firewall_marks() -> None:
    text = SERVICE.format(service="ha_suspend", server="")
    for group in ("fwmark 7", "192.0.2.1 80\n fwmark 7"):
        document = compiled(
            text.replace("virtual_server 192.0.2.1 80", "virtual_server group G")
            + f"virtual_server_group G {{\n {group}\n}}\n"
        )
        assert not single(document).ha_suspend
        assert any("warning: ha_suspend is not possible with firewall marks" in each for each in messages(document))


def test_without_weight_no_smaller_quorum_is_advised() -> None:
    document = compiled(SERVICE.format(service="", server="weight 0"))
    assert messages(document) == [
        "1: warning: quorum 1 is more than all real servers weigh; it is 0; write larger weights"
    ]
    assert document.configuration.services[0].quorum == 0


def test_a_joined_block_keeps_the_host_name_of_its_own_checks() -> None:
    check = "HTTP_GET {\n url {\n path /\n }\n }"
    first = SERVICE.format(service="virtualhost a.example", server=check)
    second = SERVICE.format(service="", server=check).replace("10.0.0.2", "10.0.0.3")
    assert single(compiled(first)).virtualhost == "a.example"
    service = single(compiled(first + second))
    assert service.virtualhost == ""
    checks = [each.checks[0] for each in service.servers]
    assert [isinstance(each, HttpCheck) and each.virtualhost for each in checks] == ["a.example", ""]


def test_addresses_with_a_prefix_length_count_without_it() -> None:
    document = compiled(
        SERVICE.format(
            service="sorry_server 10.0.0.9-12 81",
            server="TCP_CHECK {\n connect_ip 10.9.0.2/24\n bindto 10.0.0.9/24\n }",
        )
        .replace("192.0.2.1 80", "192.0.2.1/24 80")
        .replace("10.0.0.2 80", "10.0.0.2/32 80;")
    )
    service = single(document)
    assert service.name == "192.0.2.1:80 tcp"
    assert str(service.servers[0].destination.key) == "10.0.0.2:80"
    assert service.sorry_server is not None
    assert str(service.sorry_server.key) == "10.0.0.9:81"
    (check,) = service.servers[0].checks
    assert isinstance(check, TcpCheck)
    assert [str(check.target.address), str(check.target.source)] == ["10.9.0.2", "10.0.0.9"]
    assert [each.partition(": ")[2] for each in messages(document)] == [
        "warning: the prefix length /24 has no meaning here and is ignored; write 192.0.2.1",
        "warning: the end of a range -12 has no meaning here and is ignored; write 10.0.0.9",
        "warning: the prefix length /32 has no meaning here and is ignored; write 10.0.0.2",
        "error: '80;' is not a whole number; 80 counts; write decimal digits alone",
        "warning: the prefix length /24 has no meaning here and is ignored; write 10.9.0.2",
        "warning: the prefix length /24 has no meaning here and is ignored; write 10.0.0.9",
    ]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (
            "virtual_server 192.0.2.1 80 {\n protocol TCP\n lvs_sched rr\n}\n",
            "1: error: the service has no real server; it is left out; add a real_server block",
        ),
        (
            "virtual_server 192.0.2.300 80 {\n protocol TCP\n lvs_sched rr\n}\n",
            "1: error: '192.0.2.300' is not an IP address",
        ),
        ("virtual_server 192.0.2.1 80000 {\n}\n", "1: error: port 80000 is not between 1 and 65535"),
        ("virtual_server fwmark 0 {\n}\n", "1: error: fwmark 0 is not between 1 and 4294967295"),
        (
            "virtual_server fwmark {\n}\n",
            (
                "1: error: virtual_server lacks a whole number, 1 to 4294967295; "
                "write 'virtual_server ...' with a whole number, 1 to 4294967295"
            ),
        ),
        (
            "virtual_server group web {\n}\n",
            ("1: error: there is no group web; the service is left out; write a block virtual_server_group web"),
        ),
        (
            "virtual_server\n",
            ("1: error: virtual_server lacks an IP address; write 'virtual_server ...' with an IP address"),
        ),
        (
            "real_server 10.0.0.2 80 {\n}\n",
            ("1: warning: real_server is not known outside of all blocks and is ignored; it belongs in virtual_server"),
        ),
    ],
)
def test_a_service_that_cannot_be_is_left_out(text: str, finding: str) -> None:
    document = compiled(text)
    assert finding in messages(document)
    assert document.configuration.services == ()


def test_a_port_behind_a_colon_gets_advice() -> None:
    document = compiled("global_defs {\n metrics_address 127.0.0.1:9999\n}")
    assert messages(document) == ["2: error: '127.0.0.1:9999' is not an IP address; write 127.0.0.1 9999"]


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
                "7: warning: the service has the real server 10.0.0.2 with this port already; "
                "this one is left out; remove it"
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


TWICE = """\
virtual_server 192.0.2.1 80 {{
    protocol TCP
    lvs_sched {scheduler}
    lvs_method {method}
    delay_loop {delay}
    real_server {server} {{
        TCP_CHECK {{
        }}
    }}
}}
"""


def test_of_two_services_with_one_key_the_first_gets_all_real_servers() -> None:
    first = TWICE.format(scheduler="rr", method="NAT", delay=7, server="10.0.0.2 80")
    second = TWICE.format(scheduler="wrr", method="DR", delay=9, server="10.0.0.3 80")
    document = compiled(first + second)
    assert messages(document) == [
        (
            "11: error: the service was given already, in line 1; this block only adds its real servers to it; "
            "write one block with all real servers"
        )
    ]
    service = single(document)
    assert service.scheduler == "rr"
    servers = [(str(each.destination.key), each.destination.method) for each in service.servers]
    assert servers == [("10.0.0.2:80", Method.MASQ), ("10.0.0.3:80", Method.ROUTE)]
    assert [check.pace.delay_loop_s for each in service.servers for check in each.checks] == [7.0, 9.0]
    again = compiled(shown(document.effective))
    assert messages(again) == []
    assert again.configuration.services == document.configuration.services


def test_a_real_server_that_two_blocks_give_to_a_service_counts_once() -> None:
    one = TWICE.format(scheduler="rr", method="NAT", delay=7, server="10.0.0.2 80")
    document = compiled(one * 2)
    assert len(single(document).servers) == 1
    assert messages(document)[1:] == [
        (
            "16: warning: the service has the real server 10.0.0.2 with this port already; this one is left out; "
            "remove it"
        )
    ]


BOTH_PORTS = """\
virtual_server fwmark 7 {{
    lvs_sched rr
    lvs_method DR
    delay_loop 7
    real_server 10.0.0.2 80 {{
        delay_loop 3
        notify_up "/bin/true a"
        HTTP_GET {{
            url {{
                path /
            }}
        }}
    }}
    real_server 10.0.0.2 443 {{
        notify_up {notify_up}
        {lines}
        TCP_CHECK {{
        }}
        MISC_CHECK {{
            misc_path /bin/true
        }}
    }}
    real_server 10.0.0.2 443 {{
        TCP_CHECK {{
        }}
    }}
}}
"""
MERGED = (
    "without its port this is the real server of line 5, which gets the checks of this block, too; "
    "write one real_server, and connect_port in its checks"
)


@pytest.mark.parametrize(
    ("lines", "notify_up", "finding"),
    [
        ("", '"/bin/true a"', None),
        ("retry 3", '"/bin/true a"', None),
        ("weight 1", '"/bin/true a"', None),
        (
            "",
            '"/bin/true b"',
            (
                "15: error: notify_up is not that of the same real server in line 5, which counts; "
                "write the same value into both blocks"
            ),
        ),
        (
            "weight 5",
            '"/bin/true a"',
            (
                "16: error: weight is not that of the same real server in line 5, which counts; "
                "write the same value into both blocks"
            ),
        ),
    ],
)
def test_a_real_server_with_two_ports_for_a_mark_has_the_checks_of_both(
    lines: str, notify_up: str, finding: str | None
) -> None:
    document = compiled(BOTH_PORTS.format(lines=lines, notify_up=notify_up))
    (server,) = single(document).servers
    assert server.destination.weight == 1
    checks = [(each.word, each.pace.delay_loop_s) for each in server.checks]
    assert checks == [("HTTP_GET", 3.0), ("TCP_CHECK", 7.0), ("MISC_CHECK", 7.0)]
    assert [target.port for each in server.checks for target in targets_of(each)] == [80, 443]
    about = [each for each in messages(document) if "ignored" not in each and "script_security" not in each]
    assert about == [
        f"14: warning: {MERGED}",
        *([finding] if finding else []),
        "23: warning: the service has the real server 10.0.0.2 with this port already; this one is left out; remove it",
    ]
    assert compiled(shown(document.effective)).configuration.services == document.configuration.services


SAME_CHECK = """
virtual_server fwmark 7 {{
    lb_kind DR
    real_server 10.0.0.2 80 {{
        connect_timeout 10
        {check}
    }}
    real_server 10.0.0.2 443 {{
        connect_timeout 3
        {check}
    }}
}}
"""


@pytest.mark.parametrize(
    ("check", "count"),
    [
        ("AGENT_CHECK {{\n connect_port 5555\n retry {retry}\n }}", 1),
        ("LOAD_CHECK {\n}", 1),
        ("TCP_CHECK {\n connect_port 99\n }", 1),
        ("TCP_CHECK {\n}", 2),
    ],
)
def test_a_check_that_both_blocks_of_a_real_server_have_counts_once(check: str, count: int) -> None:
    """The weight that it reports would count twice, too."""
    document = compiled(SAME_CHECK.format(check=check.format(retry=2) if "{retry}" in check else check))
    (server,) = single(document).servers
    assert len(server.checks) == count
    assert compiled(shown(document.effective)).configuration.services == document.configuration.services


def test_a_host_of_a_joined_block_has_the_timeout_of_its_own_real_server() -> None:
    check = "SMTP_CHECK {\n connect_timeout 2\n host {\n connect_port 25\n }\n }"
    (server,) = single(compiled(SAME_CHECK.format(check=check))).servers
    assert [each.pace.timeout_s for each in server.checks] == [10, 3]


def test_of_two_groups_with_one_address_in_common_the_first_has_it() -> None:
    groups = "virtual_server_group a {\n 192.0.2.1 80\n 192.0.2.2 80\n}\n"
    groups += "virtual_server_group b {\n 192.0.2.2 80\n 192.0.2.3 80\n}\n"
    one = TWICE.format(scheduler="rr", method="NAT", delay=7, server="10.0.0.2 80")
    text = groups + "".join(one.replace("192.0.2.1 80", f"group {name}") for name in "ab")
    document = compiled(text)
    keys = [[str(key) for key in each.keys] for each in document.configuration.services]
    assert keys == [["TCP 192.0.2.1:80", "TCP 192.0.2.2:80"], ["TCP 192.0.2.3:80"]]
    assert messages(document) == [
        "6: error: TCP 192.0.2.2:80 was given already, in line 3; this one is left out; remove one of them"
    ]


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
        ("group one", "DR", ["10.0.0.2:80", "10.0.0.9:80"]),
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
