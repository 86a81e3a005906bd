"""The messages to and from the prober process: each check arrives as it was sent, and no result is believed blindly."""

from __future__ import annotations

import json
from dataclasses import fields
from ipaddress import ip_address
from typing import Any

import pytest

from pylvs.health.prober import wire
from pylvs.health.probes import MAX_REASON, Outcome
from pylvs.model import checks
from pylvs.model.checks import (
    AgentCheck,
    Check,
    DnsCheck,
    HttpCheck,
    LoadCheck,
    LoadSource,
    Pace,
    Pattern,
    PingCheck,
    SmtpCheck,
    Target,
    TcpCheck,
    UdpCheck,
    Url,
)
from pylvs.model.plain import from_plain, to_plain
from pylvs.system.processes.channel import MAX_PACKET, BadMessage, decode, encode

HERE = Target(ip_address("192.0.2.1"), 80, ip_address("192.0.2.9"), 700, "eth0", 0xFFFFFFFF, True)
THERE = Target(ip_address("2001:db8::1"))
PACE = Pace(1.5, 0.25, 3, 0.1, 0.0, True, True, True)
CHECKS: list[Check] = [
    TcpCheck(target=HERE, pace=PACE),
    HttpCheck(
        target=THERE,
        urls=(Url('/\udcff"', digest="0" * 32, statuses=((200, 204), (404, 404)), regex="a\\b"), Url("/é")),
        tls=True,
    ),
    SmtpCheck(targets=(HERE, THERE), helo_name="x"),
    DnsCheck(target=HERE, type="AAAA", name="example.org"),
    UdpCheck(target=HERE, payload=bytes(range(256)), require_reply=True, reply=Pattern(b"\0\1", b"\xff\x0f")),
    PingCheck(target=THERE),
    AgentCheck(target=HERE, send=b"\r\n"),
    LoadCheck(target=HERE, source=LoadSource.METRIC, metric='x{a="b"}', full=0.1),
]


def _over_network() -> list[type[Check]]:
    """Return the kinds of checks that have a target."""
    kinds = [each for each in vars(checks).values() if isinstance(each, type) and issubclass(each, Check)]
    return [kind for kind in kinds if {"target", "targets"} & {each.name for each in fields(kind)}]


# A kind that is not above has its defaults here.
CHECKS += [kind(target=HERE) for kind in _over_network() if kind not in map(type, CHECKS)]  # type: ignore[call-arg]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.keyword)
def test_a_check_arrives_as_it_was_sent(check: Check) -> None:
    packet = encode({"check": to_plain(check, Check)})
    assert from_plain(Check, decode(packet)["check"]) == check
    assert len(packet) < 2048


@pytest.mark.parametrize("state", [None, "[1, 2]"])
def test_a_result_arrives_as_it_was_sent(state: str | None) -> None:
    done = wire.Done(7, Outcome(True, "weight 4", 4, False), state, 0.25)
    assert wire.decode_done(json.loads(json.dumps(wire.encode_done(done)))) == done


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        {"run": 1},
        "123456",
        [1, True, "ok", None, False, None],
        [True, True, "ok", None, False, None, 1],
        [1.0, True, "ok", None, False, None, 1],
        [1, 1, "ok", None, False, None, 1],
        [1, True, ["ok"], None, False, None, 1],
        [1, True, "ok", -1, False, None, 1],
        [1, True, "ok", 1 << 31, False, None, 1],
        [1, True, "ok", True, False, None, 1],
        [1, True, "ok", 1.5, False, None, 1],
        [1, True, "ok", None, None, None, 1],
        [1, True, "ok", None, False, "x" * (wire.MAX_STATE + 1), 1],
        [1, True, "ok", None, False, {}, 1],
        [1, True, "ok", None, False, None, -1],
        [1, True, "ok", None, False, None, 1e3],
        [1, True, "ok", None, False, None, 1 << 60],
    ],
)
def test_an_invalid_result_is_refused(entry: Any) -> None:
    with pytest.raises(BadMessage):
        wire.decode_done(entry)


def test_counts_are_validated() -> None:
    assert wire.decode_same([7, 3, 250_000, "connected"]) == wire.Same(7, 3, 0.25, "connected")
    assert wire.decode_same([7, 3, 0, None]).reason is None
    for entry in (
        None,
        [7, 3, 0],
        [7, -1, 0, None],
        [7, True, 0, None],
        ["7", 3, 0, None],
        [7, 3, 0, 5],
        [7, 3, 1 << 60, None],
    ):
        with pytest.raises(BadMessage):
            wire.decode_same(entry)


def test_a_reason_is_made_short_and_printable() -> None:
    found = wire.decode_done([1, False, "\x1b[31mred\n" + "x" * 500_000, None, False, None, 1]).outcome.reason
    assert found.startswith("\ufffd[31mred x")
    assert len(found) == MAX_REASON


@pytest.mark.parametrize(
    "packet", [b"", b"[]", b"7", b"{", b"\xff", b"[" * MAX_PACKET, b'{"a":' + b"9" * 10_000 + b"}"]
)
def test_a_packet_that_is_no_message_is_refused(packet: bytes) -> None:
    with pytest.raises(BadMessage):
        decode(packet)


def test_a_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(BadMessage, match="a message of"):
        encode({"log": "x" * MAX_PACKET})
