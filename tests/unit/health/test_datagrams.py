"""UDP_CHECK and DNS_CHECK of servers that answer, answer wrongly, do not answer, or do not exist."""

from __future__ import annotations

import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any, NoReturn

import dns.flags
import dns.message
import dns.rcode
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylvs.health.checkers.dns import judge_response as judged_dns
from pylvs.health.probes import CheckContext, Outcome, probe_of
from pylvs.model.checks import Check, DnsCheck, Pace, Pattern, Target, UdpCheck
from tests.unit.health.fake_servers import PATIENT, TIMED_OUT, V4, V6, Datagrams, Reply, closed, lapse, udp, undisturbed


def asked(check: Callable[[Target], Check], reply: Reply, host: str = V4) -> tuple[Outcome, Datagrams]:
    """Return the outcome of one probe of a server with these answers, and the server."""

    async def main() -> tuple[Outcome, Datagrams]:
        async with udp(reply, host) as (target, server):
            return await probe_of(check(target), CheckContext())(), server

    return undisturbed(main)


def nothing(data: bytes) -> list[bytes]:
    """Answer nothing until the check has timed out."""
    lapse()
    return []


def echo(data: bytes) -> list[bytes]:
    """Echo the query, and then nothing until the check has timed out."""
    return [data, *nothing(data)]


def udp_check(pace: Pace = PATIENT, **options: Any) -> Callable[[Target], Check]:
    return lambda target: UdpCheck(target=target, pace=pace, **options)


@pytest.mark.parametrize("host", [V4, V6])
def test_a_datagram_that_is_not_refused_is_good(host: str) -> None:
    outcome, server = asked(udp_check(payload=b"\1\2"), nothing, host)
    assert outcome == Outcome(True, "no ICMP error within 60 s")
    assert server.requests == [b"\1\2"]


def test_without_a_payload_something_is_sent() -> None:
    assert len(asked(udp_check(), lambda data: [b"x"])[1].requests[0]) == 32


@pytest.mark.parametrize("host", [V4, V6])
@pytest.mark.parametrize("kind", [UdpCheck, DnsCheck])
def test_a_closed_port_is_refused_by_icmp(kind: type[UdpCheck | DnsCheck], host: str) -> None:
    with closed(host, socket.SOCK_DGRAM) as target:
        outcome = undisturbed(lambda: ask(kind(target=target, pace=PATIENT)))
    assert outcome == Outcome(False, "connection refused (ICMP: port unreachable)")


async def ask(check: Check) -> Outcome:
    return await probe_of(check, CheckContext())()


WILD = Pattern(b"\x61\x60", b"\xff\xf0")


@pytest.mark.parametrize(
    ("options", "answer", "outcome"),
    [
        ({}, b"anything", Outcome(True, "answered with 8 bytes")),
        ({"require_reply": True}, b"", Outcome(True, "answered with 0 bytes")),
        ({"require_reply": True}, b"a" * 300, Outcome(True, "answered with 300 bytes")),
        (
            {"require_reply": True, "max_reply_length": 9},
            b"a" * 10,
            Outcome(False, "an answer of 10 bytes, not 0 to 9"),
        ),
        ({"require_reply": True, "min_reply_length": 9}, b"a" * 8, Outcome(False, "an answer of 8 bytes, not 9 to 8")),
        ({"require_reply": True, "reply": WILD}, b"abc", Outcome(True, "answered with 3 bytes")),
        ({"require_reply": True, "reply": WILD}, b"a", Outcome(True, "answered with 1 bytes")),
        ({"require_reply": True, "reply": WILD}, b"aB", Outcome(False, "the answer begins 'aB', not 616X")),
        ({"require_reply": True, "reply": WILD}, b"a" * 300, Outcome(False, "an answer of 300 bytes, not 0 to 255")),
    ],
)
def test_what_an_answer_means(options: dict[str, Any], answer: bytes, outcome: Outcome) -> None:
    assert asked(udp_check(**options), lambda data: [answer])[0] == outcome


def test_a_missing_reply_is_a_failure_if_one_is_required() -> None:
    outcome, _ = asked(udp_check(require_reply=True), nothing)
    assert outcome == Outcome(False, f"{TIMED_OUT} waiting for the answer")


# DNS


def dns_check(pace: Pace = PATIENT, **options: str) -> Callable[[Target], Check]:
    return lambda target: DnsCheck(target=target, pace=pace, **options)


def answering(rcode: int = 0) -> Reply:
    def reply(data: bytes) -> list[bytes]:
        answer = dns.message.make_response(dns.message.from_wire(data))
        answer.set_rcode(dns.rcode.Rcode(rcode))
        return [answer.to_wire()]

    return reply


@pytest.mark.parametrize("host", [V4, V6])
def test_a_name_server_is_asked_as_keepalived_asks(host: str) -> None:
    outcome, server = asked(dns_check(), answering(), host)
    assert outcome == Outcome(True, "NOERROR for . SOA")
    assert server.requests[0][2:] == bytes.fromhex("01000001 000000000000 00 0006 0001")
    outcome, server = asked(dns_check(type="A", name="www.example.com"), answering())
    assert outcome == Outcome(True, "NOERROR for www.example.com A")
    question = dns.message.from_wire(server.requests[0])
    assert [str(each) for each in question.question] == ["www.example.com. IN A"]
    assert question.flags == dns.flags.RD


@pytest.mark.parametrize(
    ("rcode", "name"), [(1, "FORMERR"), (2, "SERVFAIL"), (3, "NXDOMAIN"), (5, "REFUSED"), (9, "NOTAUTH")]
)
def test_an_error_is_named(rcode: int, name: str) -> None:
    assert asked(dns_check(), answering(rcode))[0] == Outcome(False, f"{name} for . SOA")


def test_replies_to_other_queries_are_skipped() -> None:
    def reply(data: bytes) -> list[bytes]:
        right = answering()(data)[0]
        foreign, question = bytes([right[0] ^ 1]) + right[1:], data
        return [b"", b"\0", foreign, question, right]

    assert asked(dns_check(), reply)[0] == Outcome(True, "NOERROR for . SOA")


@pytest.mark.parametrize("reply", [nothing, echo])
def test_a_silent_name_server_times_out(reply: Reply) -> None:
    assert asked(dns_check(), reply)[0] == Outcome(False, f"{TIMED_OUT} waiting for the answer")


def test_a_malformed_reply_is_reported() -> None:
    outcome, _ = asked(dns_check(), lambda data: [data[:2] + b"\x81\x80\0\1"])
    assert not outcome.ok
    assert outcome.reason.startswith("the answer cannot be read: ")


def test_unreadable_records_are_ignored() -> None:
    def reply(data: bytes) -> list[bytes]:
        return [data[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + data[12:] + b"\xff" * 30]

    assert asked(dns_check(), reply)[0] == Outcome(True, "NOERROR for . SOA")


@pytest.mark.parametrize(
    ("rcode", "outcome"), [(0, Outcome(True, "NOERROR for .")), (4, Outcome(False, "NOTIMP for ."))]
)
@pytest.mark.parametrize("opcode", [0, 3, 15])
def test_an_answer_with_an_unassigned_opcode_counts_by_its_code(
    opcode: int, rcode: int, outcome: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in keepalived. dnspython 2.3 raises ValueError for it, and later versions raise nothing."""

    def refuse(*_: object, **__: object) -> NoReturn:
        raise ValueError(f"{opcode} is not a valid Opcode")

    monkeypatch.setattr("dns.message.from_wire", refuse)
    assert judged_dns(bytes([7, 7, 0x80 | opcode << 3, 0x80 | rcode]) + bytes(8), ".") == outcome


@pytest.mark.parametrize(("type_", "name"), [("A", "a" * 64 + ".example"), ("A", "a..b"), ("NOSUCH", ".")])
def test_an_impossible_query_is_reported(type_: str, name: str) -> None:
    check = DnsCheck(target=Target(IPv4Address(V4), 53), type=type_, name=name)
    outcome = undisturbed(lambda: ask(check))
    assert not outcome.ok
    assert outcome.reason.startswith(f"{name} {type_} cannot be asked for: ")


@given(st.binary(max_size=64))
@settings(max_examples=300, deadline=None)
def test_no_answer_makes_the_checker_fail(data: bytes) -> None:
    outcome = judged_dns(b"\0\0\x80" + data, ". SOA")
    assert outcome.ok == outcome.reason.startswith("NOERROR")
