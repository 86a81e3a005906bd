"""Compiling checker blocks: checks with keepalived's defaults, and findings."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import dns.message
import dns.rdatatype
import pytest

from pylvs.config.compile.checkers import BFD_TIMING
from pylvs.config.show import shown
from pylvs.model.checks import (
    AgentCheck,
    BfdCheck,
    Check,
    DnsCheck,
    FileCheck,
    HttpCheck,
    LoadCheck,
    LoadSource,
    MiscCheck,
    Pattern,
    PingCheck,
    Script,
    SmtpCheck,
    Target,
    TcpCheck,
    UdpCheck,
    Url,
)
from pylvs.model.dataclass import replace
from tests.unit.config.support import SERVICE, compiled, messages, single, with_checker, with_service

RIP = ip_address("10.0.0.2")
PROGRAM = "/bin/sh"


def checks(text: str) -> tuple[Check, ...]:
    """Return the checks of a real server without findings."""
    document = with_checker(text)
    assert messages(document) == []
    return single(document).servers[0].checks


def check(text: str) -> Check:
    (found,) = checks(text)
    return found


def test_a_check_defaults_to_the_real_server_and_keepaliveds_timing() -> None:
    found = check("TCP_CHECK {\n}")
    assert isinstance(found, TcpCheck)
    assert found.target == Target(RIP, 80)
    pace = found.pace
    assert (pace.delay_loop_s, pace.timeout_s, pace.retry, pace.delay_before_retry_s) == (60.0, 5.0, 1, 1.0)
    assert (pace.warmup_s, pace.alpha, pace.log_all_failures, pace.shared) == (60.0, False, False, True)


def test_a_check_uses_the_configured_target_and_source() -> None:
    found = check(
        "TCP_CHECK {\n connect_ip 10.0.0.9\n connect_port 81\n bindto 10.0.0.1\n bind_port 1024\n "
        "bind_if eth0\n fwmark 7\n}"
    )
    assert isinstance(found, TcpCheck)
    assert found.target == Target(ip_address("10.0.0.9"), 81, ip_address("10.0.0.1"), 1024, "eth0", 7)


def test_checks_inherit_from_the_real_server_and_then_the_virtual_server() -> None:
    document = with_service(
        "delay_loop 7\n retry 4\n connect_timeout 3\n warmup 0\n delay_before_retry 2.5",
        "retry 5\n TCP_CHECK {\n connect_timeout 4\n}",
    )
    (found,) = single(document).servers[0].checks
    pace = found.pace
    assert (pace.delay_loop_s, pace.timeout_s, pace.retry, pace.delay_before_retry_s) == (7.0, 4.0, 5, 2.5)
    assert pace.warmup_s == 0.0


def test_a_server_may_have_several_checks() -> None:
    found = checks("TCP_CHECK {\n}\nTCP_CHECK {\n connect_port 81\n}\nPING_CHECK {\n}")
    assert [type(each) for each in found] == [TcpCheck, TcpCheck, PingCheck]


def test_http() -> None:
    found = check(
        "virtualhost rs.example.org\nHTTP_GET {\n url {\n path /a\n status_code 200 301-302\n }\n"
        " url {\n path /b\n digest D41D8CD98F00B204E9800998ECF8427E\n virtualhost b.example.org\n }\n"
        " url {\n path /c\n regex 'up|ok'\n regex_options caseless never_utf\n regex_no_match\n"
        " regex_min_offset 3\n regex_max_offset 9\n }\n http_protocol 1.1\n fast_recovery\n enable_sni\n}"
    )
    assert isinstance(found, HttpCheck)
    assert found.urls == (
        Url("/a", statuses=((200, 200), (301, 302)), virtualhost="rs.example.org"),
        Url("/b", digest="d41d8cd98f00b204e9800998ecf8427e", virtualhost="b.example.org"),
        Url("/c", "", ((200, 299),), "rs.example.org", "up|ok", True, ("caseless", "never_utf"), 3, 9),
    )
    assert (found.protocol, found.tls, found.sni, found.fast_recovery) == ("1.1", False, True, True)
    assert found.pace.delay_before_retry_s == 3.0


def test_an_offset_that_is_no_number_does_not_count() -> None:
    text = "HTTP_GET {\n url {\n path /\n status_code 200\n regex a\n regex_min_offset 10x\n }\n}"
    document = with_checker(text)
    (found,) = single(document).servers[0].checks
    assert isinstance(found, HttpCheck)
    assert found.urls[0].regex_min_offset == 0
    assert ["error: '10x' is not a whole number" in each for each in messages(document)] == [True]


def test_a_last_offset_of_0_is_the_first_byte() -> None:
    for offset in 0, 3:
        document = with_checker(f"HTTP_GET {{\n url {{\n path /\n regex a\n regex_max_offset {offset}\n }}\n}}")
        (found,) = single(document).servers[0].checks
        assert isinstance(found, HttpCheck)
        assert found.urls[0].regex_max_offset == offset


@pytest.mark.parametrize("last", [0, 8])
def test_offsets_in_the_wrong_order_are_ignored_with_a_warning(last: int) -> None:
    offsets = f"regex_min_offset 9\n regex_max_offset {last}"
    document = with_checker(f"HTTP_GET {{\n url {{\n path /\n status_code 200\n regex a\n {offsets}\n }}\n}}")
    (found,) = single(document).servers[0].checks
    assert isinstance(found, HttpCheck)
    assert (found.urls[0].regex_min_offset, found.urls[0].regex_max_offset) == (0, None)
    text = f"12: warning: regex_min_offset 9 is above regex_max_offset {last}; both are ignored; write a smaller one"
    assert messages(document) == [text]
    again = compiled(shown(document.effective))
    assert messages(again) == []
    assert again.configuration.services == document.configuration.services


def test_several_lines_of_status_codes_and_regex_options_count_together() -> None:
    text = "HTTP_GET {\n url {\n path /\n status_code 200\n status_code 301-302\n regex a\n"
    text += " regex_options caseless\n regex_options multiline dotall\n }\n}"
    document = with_checker(text)
    (found,) = single(document).servers[0].checks
    assert isinstance(found, HttpCheck)
    assert found.urls[0].statuses == ((200, 200), (301, 302))
    assert found.urls[0].regex_options == ("caseless", "multiline", "dotall")
    assert messages(document) == []
    again = compiled(shown(document.effective))
    assert again.configuration.services == document.configuration.services


@pytest.mark.parametrize(
    ("lines", "expected"),
    [("status_code 99", ((200, 299),)), ("status_code 99\n status_code 404", ((404, 404),))],
)
def test_invalid_status_codes_do_not_count(lines: str, expected: tuple[tuple[int, int], ...]) -> None:
    document = with_checker(f"HTTP_GET {{\n url {{\n path /\n {lines}\n }}\n}}")
    (found,) = single(document).servers[0].checks
    assert isinstance(found, HttpCheck)
    assert found.urls[0].statuses == expected
    assert ["'99' is not a status code" in each for each in messages(document)] == [True]


def test_nb_get_retry_counts_where_it_does_in_keepalived() -> None:
    document = with_checker("SSL_GET {\n nb_get_retry 4\n url {\n path /\n }\n}")
    (found,) = single(document).servers[0].checks
    assert isinstance(found, HttpCheck)
    assert (found.tls, found.pace.retry) == (True, 4)
    assert messages(document) == ["8: warning: nb_get_retry is an old word for retry; write retry"]


def test_dns_waits_as_long_before_a_retry_as_between_checks() -> None:
    found = check("delay_loop 9\nDNS_CHECK {\n type aaaa\n name www.example.org\n}")
    assert isinstance(found, DnsCheck)
    assert (found.type, found.name, found.pace.retry, found.pace.delay_before_retry_s) == (
        "AAAA",
        "www.example.org",
        3,
        9.0,
    )


def test_smtp_asks_every_host() -> None:
    plain = check("SMTP_CHECK {\n}")
    assert isinstance(plain, SmtpCheck)
    assert plain.targets == (Target(RIP, 80),)
    found = check("SMTP_CHECK {\n helo_name me\n host {\n connect_port 25\n }\n host {\n connect_ip 10.0.0.3\n }\n}")
    assert isinstance(found, SmtpCheck)
    assert (found.helo_name, found.targets) == ("me", (Target(RIP, 25), Target(ip_address("10.0.0.3"), 80)))


@pytest.mark.parametrize(
    ("line", "own"),
    [
        ("", None),
        ("retry 3", None),
        ("connect_port 587", Target(RIP, 587)),
        ("connect_ip 10.0.0.9", Target(ip_address("10.0.0.9"), 80)),
        ("bindto 10.0.0.8", Target(RIP, 80, source=ip_address("10.0.0.8"))),
        ("bind_port 1099", Target(RIP, 80, source_port=1099)),
        ("bind_if eth0", Target(RIP, 80, device="eth0")),
        ("fwmark 7", Target(RIP, 80, mark=7)),
        ("connect_timeout 3", Target(RIP, 80)),
    ],
)
def test_smtp_asks_the_server_beside_hosts_if_its_connection_is_configured(line: str, own: Target | None) -> None:
    document = with_service(server=f"SMTP_CHECK {{\n {line}\n host {{\n connect_port 25\n }}\n}}")
    (found,) = document.configuration.services[0].servers[0].checks
    assert isinstance(found, SmtpCheck)
    assert found.targets == (*([own] if own else []), Target(RIP, 25))
    assert compiled(shown(document.effective)).configuration.services == document.configuration.services


@pytest.mark.parametrize(
    ("server", "check_timeout", "hosts", "expected"),
    [
        ("", "", ["", "connect_timeout 3"], 5),
        ("connect_timeout 8", "", ["", "connect_timeout 3"], 8),
        ("connect_timeout 2", "", ["", "connect_timeout 3"], 3),
        ("connect_timeout 2", "connect_timeout 9", [""], 9),
        ("connect_timeout 7", "connect_timeout 4", [""], 7),
    ],
)
def test_a_host_without_a_timeout_has_that_of_the_server(
    server: str, check_timeout: str, hosts: list[str], expected: float
) -> None:
    blocks = "\n".join(f"host {{\n connect_port 25\n {each}\n }}" for each in hosts)
    document = with_service(server=f"{server}\n SMTP_CHECK {{\n {check_timeout}\n {blocks}\n}}")
    (found,) = document.configuration.services[0].servers[0].checks
    assert found.pace.timeout_s == expected
    assert compiled(shown(document.effective)).configuration.services == document.configuration.services


def test_smtp_has_the_timing_that_its_hosts_write() -> None:
    hosts = "host {\n connect_timeout 9\n retry 4\n delay_before_retry 2\n }\n host {\n connect_timeout 3\n alpha\n }"
    found = check(f"SMTP_CHECK {{\n retry 2\n delay_loop 7\n {hosts}\n}}")
    assert isinstance(found, SmtpCheck)
    pace = found.pace
    assert (pace.timeout_s, pace.retry, pace.delay_before_retry_s, pace.delay_loop_s, pace.alpha) == (9, 4, 2, 7, True)


@pytest.mark.parametrize("kind", ["A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA", "RRSIG", "DNSKEY"])
def test_dns_asks_for_every_type_of_keepalived(kind: str) -> None:
    found = check(f"DNS_CHECK {{\n type {kind.lower()}\n}}")
    assert isinstance(found, DnsCheck)
    assert found.type == kind
    assert dns.message.make_query(".", found.type).question[0].rdtype == dns.rdatatype.from_text(kind)


def test_udp_reads_bytes_as_keepalived_does() -> None:
    found = check("UDP_CHECK {\n payload Ab12f 3 456\n require_reply 12 XX 4X\n min_reply_length 3\n}")
    assert isinstance(found, UdpCheck)
    assert found.payload == bytes.fromhex("ab120f034506")
    assert found.require_reply
    assert found.reply == Pattern(b"\x12\x00\x40", b"\xff\x00\xf0")
    assert (found.min_reply_length, found.max_reply_length) == (3, 255)
    bare = check("UDP_CHECK {\n require_reply\n}")
    assert isinstance(bare, UdpCheck)
    assert (bare.payload, bare.require_reply, bare.reply) == (b"", True, Pattern())


@pytest.mark.parametrize(("data", "matches"), [(b"\x12\x99\x4f", True), (b"\x12", True), (b"\x13\x00\x40", False)])
def test_a_pattern_compares_the_digits_that_count(data: bytes, matches: bool) -> None:
    assert Pattern(b"\x12\x00\x40", b"\xff\x00\xf0").matches(data) is matches


def test_a_missing_program_of_a_check_is_an_error() -> None:
    """Without the check the server is always up."""
    document = with_checker("MISC_CHECK {\n misc_path /no/such/program\n}")
    problem = "/no/such/program is not run: no such file or directory; the check is left out"
    advice = "install it before pylvs starts"
    assert messages(document) == [LEFT.format("MISC_CHECK"), f"8: error: {problem}; {advice}"]
    reason = "MISC_CHECK: /no/such/program is not run: no such file or directory"
    assert single(document).servers[0].checks_left_out == (reason,)


LEFT = "6: warning: no check of the real server 10.0.0.2 is left, so it always counts as up; correct its {}"


@pytest.mark.parametrize(
    ("checks", "left_out", "last"),
    [
        ("TCP_CHEK {\n}", ["TCP_CHEK: no such check"], "TCP_CHEK"),
        ("BFD_CHECK {\n}\nHTTP_GET {\n}", ["BFD_CHECK", "HTTP_GET"], "BFD_CHECK, HTTP_GET"),
        ("TCP_CHECK {\n}\nFILE_CHECK {\n}", ["FILE_CHECK"], ""),
        ("TCP_CHECK {\n}", [], ""),
        ("", [], ""),  # nothing was meant
    ],
)
def test_a_server_knows_the_checks_that_are_left_out(checks: str, left_out: list[str], last: str) -> None:
    document = with_checker(checks)
    found = single(document).servers[0].checks_left_out
    assert [each.startswith(name) for each, name in zip(found, left_out, strict=True)] == [True] * len(left_out)
    assert [each for each in messages(document) if "always counts" in each] == ([LEFT.format(last)] if last else [])


def test_misc_has_its_own_defaults() -> None:
    document = compiled(
        f"global_defs {{\n enable_script_security\n script_user root\n}}\n"
        f"virtual_server 192.0.2.1 80 {{\n protocol TCP\n lvs_sched rr\n lvs_method NAT\n delay_loop 8\n"
        f" real_server 10.0.0.2 80 {{\n MISC_CHECK {{\n misc_path \"{PROGRAM} -c 'exit 3'\"\n misc_dynamic\n"
        f" user root daemon\n }}\n }}\n}}\n"
    )
    assert messages(document) == []
    (found,) = single(document).servers[0].checks
    assert isinstance(found, MiscCheck)
    assert found.script == Script((PROGRAM, "-c", "exit 3"), "root", "daemon")
    assert (found.dynamic, found.pace.retry, found.pace.timeout_s) == (True, 0, 8.0)


@pytest.mark.parametrize(
    ("service", "server", "check_line", "timeout"),
    [
        ("", "delay_loop 3", "delay_loop 2", 60.0),
        ("delay_loop 7.5", "delay_loop 3", "", 7.5),
        ("delay_loop 7", "delay_loop 3", "misc_timeout 4", 4.0),
        ("delay_loop 7", "", "misc_timeout 4s", 4.0),
    ],
)
def test_a_script_may_run_as_long_as_the_delay_loop_of_the_virtual_server(
    service: str, server: str, check_line: str, timeout: float
) -> None:
    check = f"{server}\nMISC_CHECK {{\n misc_path {PROGRAM}\n {check_line}\n}}"
    document = compiled(SERVICE.format(service=service, server=check))
    (found,) = single(document).servers[0].checks
    assert found.pace.timeout_s == timeout
    again = compiled(shown(document.effective))
    assert again.configuration.services == document.configuration.services


def test_a_files_check_finds_its_file_by_name(tmp_path: Path) -> None:
    document = with_checker("FILE_CHECK {\n track_file load\n}")
    assert messages(document) == [
        LEFT.format("FILE_CHECK"),
        (
            "7: error: there is no track_file load with a file; the check is left out; "
            "write a block track_file load with its file"
        ),
    ]
    assert single(document).servers[0].checks == ()


def test_an_unknown_session_is_reported_at_its_own_line() -> None:
    _, found = messages(with_checker("BFD_CHECK {\n name peer2\n}"))
    text = "8: error: there is no bfd_instance peer2; the check is left out; write a block bfd_instance peer2"
    assert found == text


@pytest.mark.parametrize(
    ("lines", "alpha", "usable"),
    [("", "", True), ("", "alpha", True), ("vrrp\nchecker", "", True), ("checker", "", True), ("vrrp", "", False)],
)
def test_a_session_is_a_check_unless_it_is_for_virtual_routers_alone(lines: str, alpha: str, usable: bool) -> None:
    session = f"bfd_instance peer {{\n neighbor_ip 10.0.0.9\n {lines}\n}}\n"
    check = f"BFD_CHECK {{\n name peer\n {alpha}\n}}"
    document = compiled(session + SERVICE.format(service="", server=check))
    expected = BfdCheck(session="peer", pace=replace(BFD_TIMING, alpha=bool(alpha)))
    assert single(document).servers[0].checks == ((expected,) if usable else ())
    found = [each for each in messages(document) if "always counts as up" not in each]
    text = "bfd_instance peer is for virtual routers alone; the check is left out; write checker into it too"
    assert [text in each for each in found] == ([] if usable else [True])


def test_a_session_is_one_check_however_often_it_is_named() -> None:
    check = "BFD_CHECK {\n name peer\n}"
    session = "bfd_instance peer {\n neighbor_ip 10.0.0.9\n}\n"
    document = compiled(session + SERVICE.format(service="", server=f"{check}\n{check}"))
    assert len(single(document).servers[0].checks) == 1
    assert "BFD_CHECK of peer is there already; it counts once" in messages(document)[0]


@pytest.mark.parametrize("keyword", ["track_file", "vrrp_track_file"])
@pytest.mark.parametrize(
    ("own", "weight"), [("", (2, False)), (" weight -3", (-3, False))], ids=["the file's weight", "its own weight"]
)
def test_a_files_check_takes_a_track_file_by_either_name(keyword: str, own: str, weight: tuple[int, bool]) -> None:
    track = f"{keyword} load {{\n file /run/load\n weight 2\n}}\n"
    router = (
        "vrrp_instance A {\n interface eth0\n virtual_router_id 51\n virtual_ipaddress {\n 192.0.2.9\n }\n"
        " track_file {\n load weight 5\n }\n}\n"
    )
    service = (
        "virtual_server 192.0.2.1 80 {\n protocol TCP\n lvs_sched rr\n lvs_method NAT\n"
        f" real_server 10.0.0.2 80 {{\n FILE_CHECK {{\n track_file load\n{own}\n }}\n }}\n}}\n"
    )
    document = compiled(track + router + service)
    assert messages(document) == []
    (found,) = single(document).servers[0].checks
    assert isinstance(found, FileCheck)
    assert (found.path, (found.weight, found.reverse)) == ("/run/load", weight)


def test_keywords_of_pylvs() -> None:
    agent = check('AGENT_CHECK {\n connect_port 5555\n send "hello there"\n}')
    assert isinstance(agent, AgentCheck)
    assert (agent.target, agent.send) == (Target(RIP, 5555), b"hello there\n")
    load = check("LOAD_CHECK {\n}")
    assert isinstance(load, LoadCheck)
    assert load == LoadCheck(target=Target(RIP, 9100), pace=load.pace)
    load = check("LOAD_CHECK {\n source metric 'queue{pool=\"a\"}'\n full 40\n floor 0.2\n smoothing 0\n tls\n}")
    assert isinstance(load, LoadCheck)
    assert (load.source, load.metric, load.full) == (LoadSource.METRIC, 'queue{pool="a"}', 40.0)
    via = check("HTTP_GET {\n via_vip\n url {\n path /\n }\n}")
    assert isinstance(via, HttpCheck)
    assert via.target == Target(RIP, 80, via_vip=True)


def test_a_check_through_the_vip_uses_the_services_port() -> None:
    document = compiled(
        "virtual_server 192.0.2.1 80 {\n protocol TCP\n lvs_sched rr\n lvs_method NAT\n"
        " real_server 10.0.0.2 8080 {\n TCP_CHECK {\n via_vip\n }\n }\n}\n"
    )
    (found,) = single(document).servers[0].checks
    assert isinstance(found, TcpCheck)
    assert found.target == Target(RIP, 80, via_vip=True)


@pytest.mark.parametrize(
    ("settings", "own", "server", "shared"),
    [
        ("", "", "", True),
        ("checker_share off", "", "", False),
        ("checker_share off", "checker_share", "", True),
        ("", "checker_share off", "", False),
        ("", "checker_share off", "checker_share on", True),
    ],
)
def test_checks_are_shared_unless_the_file_configures_otherwise(
    settings: str, own: str, server: str, shared: bool
) -> None:
    document = compiled(
        f"global_defs {{\n {settings}\n checker_log_all_failures\n}}\n"
        f"virtual_server 192.0.2.1 80 {{\n protocol TCP\n lvs_sched rr\n lvs_method NAT\n {own}\n"
        f" real_server 10.0.0.2 80 {{\n {server}\n TCP_CHECK {{\n }}\n }}\n}}\n"
    )
    (found,) = single(document).servers[0].checks
    assert found.pace.shared is shared
    assert found.pace.log_all_failures


@pytest.mark.parametrize(
    ("checker", "finding"),
    [
        ("TCP_CHECK {\n nb_get_retry 3\n}", "8: warning: nb_get_retry has no effect; write retry"),
        (
            "TCP_CHECK {\n timeout 3\n}",
            "8: warning: timeout is not known in TCP_CHECK and is ignored; did you mean 'connect_timeout'?",
        ),
        (
            "TCP_CHECK {\n connect_port 0\n}",
            "8: error: connect_port 0 is not between 1 and 65535; the default counts: the real server's",
        ),
        ("TCP_CHECK {\n warmup -1\n}", "8: error: warmup -1 seconds is not between 0 and 1000000000"),
        (
            "TCP_CHECK {\n bindto 2001:db8::1\n}",
            (
                "8: error: bindto 2001:db8::1 is not of the IP version of 10.0.0.2; it is ignored; "
                "write an address of the same IP version"
            ),
        ),
        ("TCP_CHECK", "7: error: TCP_CHECK has no block; add { ... }"),
        ("TCP_CHECK 80 {\n}", "7: warning: surplus '80' behind TCP_CHECK is ignored"),
        ("HTTP_GET {\n}", "7: error: HTTP_GET has no url with a path; the check is left out; add url { path / }"),
        (
            "HTTP_GET {\n url {\n path /\n digest abc\n }\n}",
            "10: error: 'abc' is not an MD5 sum; 32 hexadecimal digits, as md5sum prints them",
        ),
        (
            "HTTP_GET {\n url {\n path /\n status_code 200 99\n }\n}",
            "10: warning: '99' is not a status code; such as 200, or 200-299",
        ),
        (
            "HTTP_GET {\n url {\n path /\n regex 'a(b'\n }\n}",
            (
                "10: error: 'a(b' is not a regular expression: missing closing parenthesis at "
                "character 4; it is ignored; repair it"
            ),
        ),
        (
            "HTTP_GET {\n url {\n path /\n regex_no_match\n }\n}",
            "10: warning: regex_no_match has no effect without regex; write one",
        ),
        (
            "HTTP_GET {\n url {\n path /\n regex a\n regex_options caseles\n }\n}",
            "11: warning: there is no regex option 'caseles'; it is ignored; did you mean 'caseless'?",
        ),
        (
            "HTTP_GET {\n url {\n path /\n }\n http_protocol 2.0\n}",
            (
                "11: error: '2.0' is not one of 1.0, 1.0C, 1.0K, 1.1, 1.1C, 1.1K; the default counts: 1.0; "
                "did you mean '1.0'?"
            ),
        ),
        (
            "HTTP_GET {\n path /\n url {\n path /\n }\n}",
            "8: warning: path is not known in HTTP_GET and is ignored; it belongs in url or LOAD_CHECK",
        ),
        (
            "DNS_CHECK {\n type FOO\n}",
            "8: error: 'FOO' is not one of A, NS, CNAME, SOA, MX, TXT, AAAA, RRSIG, DNSKEY; the default counts: SOA",
        ),
        (
            "DNS_CHECK {\n name .example..org\n}",
            "8: error: '.example..org' is not a domain name; the default counts: .; each label has 1 to 63 bytes",
        ),
        (
            "UDP_CHECK {\n payload zz\n}",
            "8: error: 'zz' is not hexadecimal; the default counts: some random bytes; bytes in hexadecimal",
        ),
        (
            "UDP_CHECK {\n min_reply_length 300\n}",
            (
                "8: warning: min_reply_length 300 is above max_reply_length 255: the check will always fail; "
                "write a smaller one"
            ),
        ),
        (
            "MISC_CHECK {\n}",
            "7: error: MISC_CHECK has no misc_path; the check is left out; write misc_path with a program",
        ),
        ("MISC_CHECK {\n misc_path\n}", "8: error: misc_path lacks a program; write 'misc_path ...' with a program"),
        (
            "FILE_CHECK {\n}",
            "7: error: FILE_CHECK has no track_file; the check is left out; write track_file with a block's name",
        ),
        (
            "BFD_CHECK {\n}",
            "7: error: BFD_CHECK has no name; the check is left out; write name with that of a bfd_instance",
        ),
        (
            "AGENT_CHECK {\n}",
            (
                "7: error: AGENT_CHECK has no connect_port; the check is left out; "
                "write the port that the agent listens on"
            ),
        ),
        (
            "LOAD_CHECK {\n source load\n}",
            (
                "8: error: there is no load 'load'; the default counts: load1_per_core; "
                "one of load1_per_core | cpu_busy | metric NAME"
            ),
        ),
        (
            "HTTP_CHECK {\n}",
            "7: warning: HTTP_CHECK is not known in real_server and is ignored; did you mean 'TCP_CHECK'?",
        ),
    ],
)
def test_problems_of_checks_are_findings(checker: str, finding: str) -> None:
    assert finding in messages(with_checker(checker))
