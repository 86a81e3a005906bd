"""`pylvs check` has the exit status of `keepalived -t`, or a better one, for services and checks.

Each case has keepalived's status, so that a change on either side is found.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pylvs.cli.main import run
from tests.interop import keepalived
from tests.unit.config.support import TUTORIAL

REASON = keepalived.why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

WHOLE = """\
virtual_server {head} {{
    protocol TCP
    lb_algo wlc
    lb_kind NAT
    {service}
    real_server 10.0.0.2 80 {{
        {server}
    }}
}}
"""
CRASHED = (-11, 139)  # a fault of keepalived's own


def file_of(kind: str, text: str) -> str:
    """Return a configuration with this text: at the top, in the service, the server, or a TCP_CHECK."""
    parts = {"head": "192.0.2.1 80", "service": "", "server": ""}
    if kind == "file":
        return text
    if kind == "global":
        return f"global_defs {{\n{text}\n}}\n" + WHOLE.format(**parts)
    if kind == "check":
        kind, text = "server", f"TCP_CHECK {{\n{text}\n}}"
    return WHOLE.format(**{**parts, kind: text})


def both(kind: str, text: str, folder: Path) -> tuple[int, int]:
    """Return keepalived's exit status and ours."""
    file = folder / "keepalived.conf"
    file.write_text(file_of(kind, text))
    return keepalived.status_of(file), run(["check", str(file)])


GOOD = [
    ("service", ""),
    ("service", "persistence_timeout\n persistence_granularity 255.255.255.0\n delay_loop 0.5\n warmup 0"),
    ("service", "alpha\n omega\n ha_suspend\n inhibit_on_failure\n weight 2\n quorum 2\n hysteresis 1"),
    ("service", "persistence_granularity 255.255.255.0"),
    (
        "head",
        "fwmark 3\n{\n lb_algo rr\n lb_kind NAT\n ops\n real_server 10.0.0.1 {\n }\n}\nvirtual_server 192.0.2.2 80",
    ),
    (
        "server",
        (
            "HTTP_GET {\n url {\n path /\n status_code 200\n status_code 301\n regex a\n"
            " regex_options caseless\n regex_options dotall\n }\n}"
        ),
    ),
    ("service", "sorry_server 10.0.0.9\n sorry_server_lvs_method DR\n sorry_server_inhibit"),
    ("server", "lvs_method TUN type gue port 6080 csum"),
    ("service", "real_server 10.0.0.7 {\n lvs_method DR\n }"),
    ("server", "uthreshold 5\n lthreshold 2\n alpha no\n virtualhost a\n smtp_alert\n retry 2\n warmup 3"),
    ("check", "retry 0\n connect_ip 10.0.0.9\n bindto 10.0.0.8\n bind_port 1024\n fwmark 3\n log_all_failures"),
    (
        "server",
        ("HTTP_GET {\n url {\n path /\n status_code 200 300-310\n regex a\n regex_no_match\n }\n enable_sni\n}"),
    ),
    ("server", "SSL_GET {\n url {\n path /\n digest d41d8cd98f00b204e9800998ecf8427e\n }\n http_protocol 1.0C\n}"),
    ("server", "SMTP_CHECK {\n helo_name a\n host {\n connect_ip 10.0.0.2\n connect_port 25\n }\n}"),
    ("server", "DNS_CHECK {\n type a\n name example.org\n}\nPING_CHECK {\n}"),
    ("server", "DNS_CHECK {\n type RRSIG\n}\nDNS_CHECK {\n type dnskey\n}"),
    ("server", "SMTP_CHECK {\n host {\n connect_timeout 3\n retry 2\n delay_before_retry 2\n warmup 0\n }\n}"),
    ("server", "UDP_CHECK {\n payload Ab12f 3\n require_reply 12 XX\n min_reply_length 2\n}"),
    ("service", "quorum_up /no/such/program"),
    (
        "head",
        "fwmark 3 inet\n{\n lb_algo rr\n lb_kind NAT\n real_server 10.0.0.1 {\n }\n}\nvirtual_server 192.0.2.2 80",
    ),
    ("global", "smtp_server 127.0.0.1 25\n notification_email {\n a@b c@d\n }\n lvs_flush\n lvs_flush_on_stop VS"),
    ("global", "lvs_timeouts tcp 10 udp 30\n router_id a\n checker_log_all_failures\n smtp_alert"),
]
FOUND = [
    ("file", TUTORIAL),
    ("service", "lb_kind dr"),
    ("service", "lb_algo loadbalance"),
    ("service", "persistence_timeout 0"),
    ("service", "persistence_granularity foo"),
    ("service", "nat_mask 255.255.255.0"),
    ("service", "delay_loop 0"),
    ("service", "delay_loop x"),
    ("service", "protocol foo"),
    ("service", "quorum 5"),
    ("service", "quorum 0"),
    ("service", "hysteresis 1"),
    ("service", "sh-port"),
    ("service", "ops"),
    ("service", "retry 0"),
    ("service", "connect_timeout 0"),
    ("service", "sorry_server ::1 80"),
    ("service", "sorry_server_inhibit"),
    ("service", "smtp_alert maybe"),
    ("service", "fwmark 3"),
    ("service", "lvs_method TUN type gue"),
    ("service", "lvs_method TUN type gre remcsum"),
    ("service", "lvs_method TUN csum"),
    ("service", "real_server foo 80 {\n }"),
    ("service", "real_server ::1 80 {\n }"),
    ("service", "real_server 10.0.0.2 80 {\n }"),
    ("head", "192.0.2.1"),
    ("head", "192.0.2.1 99999"),
    ("head", "192.0.2.300 80"),
    ("head", "fwmark 3"),
    ("head", "fwmark x"),
    ("server", "weight -1"),
    ("server", "weight x"),
    ("server", "weight 10;"),
    ("server", "weight 0x10"),
    ("service", "quorum 1;"),
    ("service", "retry 3;"),
    ("head", "192.0.2.1 80;"),
    ("check", "connect_port 80;"),
    ("check", "retry 2x"),
    ("server", "MISC_CHECK {\n misc_path /no/such/program\n misc_timeout 4s\n}"),
    ("global", "smtp_connect_timeout 10s"),
    ("server", "uthreshold -5"),
    ("server", "foo 3"),
    ("server", "lb_kind DR"),
    ("server", "TCP_CHECK"),
    ("check", "nb_get_retry 3"),
    ("check", "connect_port 0"),
    ("check", "connect_ip foo"),
    ("check", "bindto ::1"),
    ("check", "warmup -1"),
    ("check", "timeout 5"),
    ("server", "HTTP_GET {\n url {\n path /\n digest abc\n }\n}"),
    ("server", "HTTP_GET {\n url {\n path /\n status_code 99\n }\n}"),
    ("server", "HTTP_GET {\n url {\n path /\n }\n nb_get_retry 3\n}"),
    ("server", "HTTP_GET {\n url {\n path /\n }\n http_protocol 2.0\n}"),
    ("server", "DNS_CHECK {\n type FOO\n}"),
    ("server", "DNS_CHECK {\n name .example..org\n}"),
    ("server", "UDP_CHECK {\n payload zz\n}"),
    ("server", "UDP_CHECK {\n min_reply_length 300\n}"),
    ("server", "MISC_CHECK {\n}"),
    ("server", "MISC_CHECK {\n misc_path /bin/true\n user no-such-user\n}"),
    ("server", "FILE_CHECK {\n}"),
    ("server", "BFD_CHECK {\n name foo\n}"),
    ("global", "smtp_server 127.0.0.1 99999"),
    ("global", "script_user no-such-user"),
    ("global", "lvs_timeouts tcp 10 foo"),
    ("global", "lvs_flush_on_stop foo"),
    ("global", "checker_priority 30"),
    ("file", "virtual_server 192.0.2.1 80 {\n real_server 10.0.0.2 80 {\n }\n}\n"),
    ("file", "virtual_server 192.0.2.1 80 {\n protocol TCP\n lb_algo rr\n lb_kind NAT\n}\n"),
    ("file", ("virtual_server 192.0.2.1 80 {\n protocol TCP\n lb_algo rr\n lb_kind DR\n real_server 10.0.0.2 "
"81 {\n }\n}\n")),
    ("file", "virtual_server fwmark 3 {\n lb_algo rr\n lb_kind DR\n real_server 10.0.0.2 80 {\n }\n}\n"),
]  # fmt: skip
SCRIPTS = [
    ("service", "quorum_up /bin/true"),
    ("server", "notify_up /bin/true root"),
    ("server", "MISC_CHECK {\n misc_path /bin/true\n}"),
    ("global", ("script_user root\n}\nvirtual_server 192.0.2.9 80 {\n protocol TCP\n lb_algo rr\n lb_kind NAT\n"
        " omega\n real_server 10.0.0.9 80 {\n notify_down '/bin/true now'\n }")),
]  # fmt: skip
MISSING = [  # keepalived stops reading there, with another status
    ("service", "lb_algo"),
    ("service", "delay_loop"),
    ("server", "weight"),
    ("server", "notify_up"),
    ("global", "smtp_server"),
]
BETTER = [  # keepalived does not report these
    ("server", "MISC_CHECK {\n misc_path /no/such/program\n}"),
    ("server", "weight 70000"),
    ("server", "weight 3 4"),
    ("service", "alpha maybe"),
    ("service", "persistence_granularity 255.0.255.0"),
    ("service", "persistence_granularity 33"),
    ("head", "192.0.2.1 80 90"),
    ("head", "192.0.2.1/24 80"),
    ("head", "192.0.2.1-9 80"),
    ("service", "real_server 10.0.0.7/32 80 {\n }"),
    ("service", "sorry_server 10.0.0.9/a 80"),
    ("check", "connect_ip 10.9.0.2/24\n bindto 10.0.0.9/24"),
    ("head", "group nowhere"),
    ("check", "connect_port 80\n connect_port 81"),
    ("server", "uthreshold 5\n lthreshold 6"),
    ("server", "HTTP_GET {\n url {\n path /\n regex_no_match\n }\n}"),
    ("file", (WHOLE * 2).format(head="192.0.2.1 80", service="", server="")),
    ("file", (WHOLE + WHOLE.replace("10.0.0.2", "10.0.0.3")).format(head="192.0.2.1 80", service="", server="")),
    ("file", "virtual_server_group a {\n 192.0.2.1 80\n}\nvirtual_server_group a {\n 192.0.2.2 80\n}\n"),
]
CRASHES = [
    ("head", "fwmark"),
    ("head", "group"),
    ("server", "HTTP_GET {\n}"),
    ("server", "HTTP_GET {\n url {\n digest d41d8cd98f00b204e9800998ecf8427e\n }\n}"),
]


@pytest.mark.parametrize(("kind", "text"), GOOD)
def test_what_keepalived_accepts_is_accepted(kind: str, text: str, tmp_path: Path) -> None:
    assert both(kind, text, tmp_path) == (0, 0)


@pytest.mark.parametrize(("kind", "text"), FOUND)
def test_what_keepalived_reports_is_reported(kind: str, text: str, tmp_path: Path) -> None:
    assert both(kind, text, tmp_path) == (5, 5)


@pytest.mark.parametrize(("kind", "text"), SCRIPTS)
def test_scripts_that_keepalived_calls_insecure_are_so(kind: str, text: str, tmp_path: Path) -> None:
    assert both(kind, text, tmp_path) == (6, 6)


@pytest.mark.parametrize(("kind", "text"), MISSING)
def test_a_missing_value_is_a_finding_like_any_other(kind: str, text: str, tmp_path: Path) -> None:
    assert both(kind, text, tmp_path) == (2, 5)


@pytest.mark.parametrize(("kind", "text"), BETTER)
def test_what_keepalived_misses_is_reported(kind: str, text: str, tmp_path: Path) -> None:
    assert both(kind, text, tmp_path) == (0, 5)


@pytest.mark.parametrize(("kind", "text"), CRASHES)
def test_what_crashes_keepalived_is_reported(kind: str, text: str, tmp_path: Path) -> None:
    theirs, ours = both(kind, text, tmp_path)
    assert theirs in CRASHED
    assert ours == 5


def test_script_security_satisfies_both(tmp_path: Path) -> None:
    text = "enable_script_security\n script_user root\n}\nvirtual_server 192.0.2.9 80 {\n protocol TCP\n lb_algo rr\n"
    text += " lb_kind NAT\n quorum_up /bin/true\n real_server 10.0.0.9 80 {\n }"
    assert both("global", text, tmp_path) == (0, 0)
