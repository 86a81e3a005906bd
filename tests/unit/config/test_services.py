"""Compiling virtual_server blocks: services as in keepalived, and findings."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.model.checks import TcpCheck
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
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
        ("protocol TCP\n handshake_share 50", "handshake_share", 50),
        ("protocol TCP\n handshake_share 50\n handshake_minimum 9", "handshake_minimum", 9),
        ("protocol TCP\n handshake_share 50\n handshake_retry 7.5", "handshake_retry_s", 7.5),
        ("smtp_alert", "smtp_alert", True),
        ("weight 5\n quorum 5\n hysteresis 4", "hysteresis", 4),
        ("protocol TCP\n mss_clamp 1360", "mss_clamp", 1360),
        ("announce", "announce", True),
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
            (f"5: warning: there is no scheduler 'loadbalance'; wlc is used; one of {', '.join(SCHEDULERS)}"),
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
        "4: error: there is no forwarding method 'dr'; the default counts: NAT; did you mean 'DR'?",
    ]


def test_words_of_dpvs_are_another_product_s() -> None:
    group = "local_address_group a {\n 10.0.0.9\n}\n"
    service = SERVICE.replace("NAT", "FNAT").format(
        service="laddr_group_name a\n syn_proxy\n net_mask 255.0.0.0", server=""
    )
    method = "7: error: FNAT is a forwarding method of another product, DPVS; the default counts: NAT; write NAT; "
    assert messages(compiled(group + service)) == [
        "1: warning: local_address_group is a keyword of another product, DPVS, and is ignored; remove it",
        f"{method}the real servers must then send their replies through the director",
        "8: warning: laddr_group_name is a keyword of another product, DPVS, and is ignored; remove it",
        "9: warning: syn_proxy is a keyword of another product, DPVS, and is ignored; remove it",
        # not the similar nat_mask, which has no effect
        "10: warning: net_mask is not known in virtual_server and is ignored; remove it",
    ]


@pytest.mark.parametrize(
    ("line", "consequence"),
    [
        ("quorum 0", "the default counts: 1"),
        ("quorum 2\n quorum 0", "that in line 5 counts"),
        ("lvs_method", "that in line 4 counts"),
    ],
)
def test_the_error_for_a_rejected_value_names_what_counts(line: str, consequence: str) -> None:
    assert consequence in messages(with_service(line))[-1]


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


def test_handshakes_are_of_services_that_have_any() -> None:
    document = compiled(SERVICE.format(service="handshake_share 50", server="").replace("protocol TCP", "protocol UDP"))
    assert messages(document) == [
        "5: warning: UDP has no handshakes; handshake_share is ignored; remove it",
    ]
    assert single(document).handshake_share == 0
    document = with_service("handshake_minimum 5\n handshake_retry 5")
    assert [each.partition(": ")[2] for each in messages(document)] == [
        f"warning: {name} has no effect without handshake_share; write handshake_share 50"
        for name in ("handshake_minimum", "handshake_retry")
    ]


def test_without_weight_no_smaller_quorum_is_advised() -> None:
    document = compiled(SERVICE.format(service="", server="weight 0"))
    assert messages(document) == [
        "1: warning: quorum 1 is more than all real servers weigh; it is 0; write larger weights"
    ]
    assert document.configuration.services[0].quorum == 0


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


def test_a_sorry_server_has_no_checks_that_keep_its_port() -> None:
    text = "port 3306 of the sorry server is not the service's; it is 80 in the table; DR and TUN change no port"
    document = compiled(SERVICE.replace("NAT", "DR").format(service="sorry_server 10.0.0.6 3306", server=""))
    assert [each.partition("warning: ")[2] for each in messages(document)] == [text]


@pytest.mark.parametrize(
    "server", ["mail.example.org", "mail", "192.0.2.1", "2001:db8::1", "fe80::1%eth0", "münchen.example"]
)
def test_a_mail_server_is_an_address_or_a_name(server: str) -> None:
    text = "global_defs {{\n notification_email {{\n a@b\n }}\n smtp_server {}\n}}\n"
    assert messages(compiled(text.format(server))) == []
    (wrong,) = messages(compiled(text.format("**")))
    assert wrong == "5: error: '**' is neither an address nor a name; write one of them"


def test_recipients_of_alerts_are_addresses() -> None:
    assert messages(compiled("global_defs {\n notification_email {\n }\n}\n")) == [
        "2: warning: notification_email has no address; no alert is mailed; write one, or remove the block"
    ]


def test_a_firewall_mark_has_no_address_to_announce() -> None:
    text = "virtual_server fwmark 7 {\n    announce\n    real_server 10.0.0.1 80 {\n    }\n}\n"
    found = messages(compiled(text))
    assert any("a service of a firewall mark has no address; announce has no effect" in each for each in found)


def test_an_mss_clamp_is_of_tcp() -> None:
    found = messages(with_service("protocol UDP\n    mss_clamp 1360"))
    assert "6: warning: mss_clamp has no effect on other protocols than TCP; write protocol TCP" in found


RULES = """\
virtual_server 192.0.2.1 80 {
    protocol TCP
    lvs_method DR
    lvs_sched rr
    client_rules {
        deny 10.0.0.0/8
        allow 10.1.0.0/16
        limit 0.0.0.0/0 20/min per 24 burst 5 pass
%s    }
    real_server 10.0.0.1 80 {
        TCP_CHECK {
        }
    }
}
"""


def test_client_rules_are_in_the_order_of_their_prefixes() -> None:
    document = compiled(RULES % "")
    assert messages(document) == []
    assert [str(rule) for rule in single(document).client_rules] == [
        "limit 0.0.0.0/0 20/min per 24 burst 5 pass",
        "deny 10.0.0.0/8",
        "allow 10.1.0.0/16",
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("refuse 10.0.0.0/8", "9: error: refuse 10.0.0.0/8: must be allow PREFIX"),
        ("deny 10.0.0.1/8", "10.0.0.1/8: has bits behind its prefix; write 10.0.0.0/8"),
        ("deny fd00::/8", "error: client_rules: deny fd00::/8: no address of the service is of IPv6; remove it"),
        (
            "allow 10.0.0.0/8",
            "error: client_rules: two rules for 10.0.0.0/8: deny 10.0.0.0/8; allow 10.0.0.0/8; remove",
        ),
    ],
)
def test_a_wrong_client_rule_is_named(line: str, problem: str) -> None:
    document = compiled(RULES % f"        {line}\n")
    assert problem in messages(document)[0]
    assert len(single(document).client_rules) == 3


def test_too_many_client_rules_prevent_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them the service would serve clients that they deny."""
    monkeypatch.setattr("pylvs.model.client_rules.MOST_RULES", 2)
    document = compiled(RULES % "")
    assert messages(document) == [
        "5: error: client_rules: 3 client rules; the table holds 2; write fewer, with shorter prefixes",
    ]
    assert [finding.fatal for finding in document.findings] == [True]


def test_the_client_rules_of_all_services_and_addresses_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pylvs.model.client_rules.MOST_RULES", 6)
    second = (RULES % "").replace("192.0.2.1 80", "192.0.2.2 80")
    assert messages(compiled(RULES % "" + second)) == []
    monkeypatch.setattr("pylvs.model.client_rules.MOST_RULES", 5)
    document = compiled(RULES % "" + second)
    text = "error: client_rules: 6 client rules of all services up to here; the table holds 5; write fewer"
    assert text in messages(document)[0]
    assert [finding.fatal for finding in document.findings] == [True]
    group = "virtual_server_group G {\n    192.0.2.1 80\n    192.0.2.2 80\n}\n"
    of_group = group + (RULES % "").replace("virtual_server 192.0.2.1 80", "virtual_server group G")
    assert text in messages(compiled(of_group))[0]
