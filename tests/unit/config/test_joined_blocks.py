"""Blocks about the same service, address or real server: what each of them adds, and findings."""

from __future__ import annotations

import pytest

from pylvs.config.show import shown
from pylvs.model.checks import HttpCheck, targets_of
from pylvs.model.service import Method
from tests.unit.config.support import SERVICE, compiled, messages, single


def test_a_joined_block_keeps_the_host_name_of_its_own_checks() -> None:
    check = "HTTP_GET {\n url {\n path /\n }\n }"
    first = SERVICE.format(service="virtualhost a.example", server=check)
    second = SERVICE.format(service="", server=check).replace("10.0.0.2", "10.0.0.3")
    assert single(compiled(first)).virtualhost == "a.example"
    service = single(compiled(first + second))
    assert service.virtualhost == ""
    checks = [each.checks[0] for each in service.servers]
    assert [isinstance(each, HttpCheck) and each.virtualhost for each in checks] == ["a.example", ""]


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
            "16: warning: the service has the real server 10.0.0.2 already, in line 6; this one is left out; "
            "correct its address, or remove it"
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
    checks = [(each.keyword, each.pace.delay_loop_s) for each in server.checks]
    assert checks == [("HTTP_GET", 3.0), ("TCP_CHECK", 7.0), ("MISC_CHECK", 7.0)]
    assert [target.port for each in server.checks for target in targets_of(each)] == [80, 443]
    about = [each for each in messages(document) if "ignored" not in each and "script_security" not in each]
    assert about == [
        f"14: warning: {MERGED}",
        *([finding] if finding else []),
        (
            "23: warning: the service has the real server 10.0.0.2 already, in line 5; this one is left out; "
            "correct its address, or remove it"
        ),
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
