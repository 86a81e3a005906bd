"""HTTP_GET and SSL_GET of servers that answer correctly, wrongly, slowly, without end or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import tracemalloc
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from typing import Any

import pytest

from pylvs.health.checkers.http import BODY_LIMIT, request
from pylvs.health.probes import CheckContext, Outcome, probe_of
from pylvs.model.checks import HttpCheck, Pace, Target, Url
from pylvs.system.pcre2 import Regex
from tests.unit.health.fake_servers import (
    HASTY,
    PATIENT,
    TIMED_OUT,
    V6,
    Handler,
    asked,
    closed,
    hangs,
    lapse,
    received,
    replies,
    silent,
    tcp,
    undisturbed,
)
from tests.waiting import PATIENCE_S

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsay hello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"4\r\nsay \r\n5;x=y\r\nhello\r\n0\r\nTrailer: t\r\n\r\n"


ROOT = Url("/")


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def got(handler: Handler, url: Url = ROOT, pace: Pace = PATIENT, **options: object) -> Outcome:
    """Return the outcome of a check of one page."""
    return asked(lambda target: HttpCheck(target=target, urls=(url,), pace=pace, **options), handler)  # type: ignore[arg-type]


def test_requests_are_keepaliveds() -> None:
    target = Target(IPv4Address("192.0.2.1"), 80)
    check = HttpCheck(target=target, urls=())
    agent = "User-Agent: KeepAliveClient\r\n"
    lines = {
        "1.0": "HTTP/1.0\r\n" + agent,
        "1.0C": "HTTP/1.0\r\n" + agent + "Connection: close\r\n",
        "1.0c": "HTTP/1.0\r\n" + agent + "Connection: close\r\n",
        "1.0K": "HTTP/1.0\r\n" + agent + "Connection: keep-alive\r\n",
        "1.1": "HTTP/1.1\r\n" + agent + "Connection: close\r\n",
        "1.1C": "HTTP/1.1\r\n" + agent + "Connection: close\r\n",
        "1.1K": "HTTP/1.1\r\n" + agent + "Connection: keep-alive\r\n",
    }
    for protocol, middle in lines.items():
        sent = request(replace(check, protocol=protocol), Url("/a?b"), "")
        assert sent.decode() == f"GET /a?b {middle}Host: 192.0.2.1:80\r\n\r\n"
    assert b"Host: www.example.com\r\n" in request(check, Url("/"), "www.example.com")
    over_v6 = replace(check, target=Target(IPv6Address("2001:db8::1"), 8080))
    assert b"Host: [2001:db8::1]:8080\r\n" in request(over_v6, Url("/"), "")


@pytest.mark.parametrize(
    ("url", "check", "parents", "name"),
    [
        ("url.example", "check.example", "server.example", "url.example"),
        ("", "check.example", "server.example", "check.example"),
        ("", "", "server.example", "server.example"),
    ],
)
def test_the_nearest_virtual_host_is_asked_for(url: str, check: str, parents: str, name: str) -> None:
    requests: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(HELLO)

    outcome = asked(
        lambda target: HttpCheck(target=target, urls=(Url("/", virtualhost=url),), virtualhost=check, pace=PATIENT),
        handler,
        context=CheckContext(virtualhost=parents),
    )
    assert outcome.ok
    assert f"\r\nHost: {name}\r\n".encode() in requests[0]


GOOD = "status 200"


@pytest.mark.parametrize(
    ("answer", "url", "outcome"),
    [
        (HELLO, Url("/"), Outcome(True, GOOD)),
        (b"HTTP/1.0 204 No Content\r\n\r\n", Url("/"), Outcome(True, "status 204")),
        (b"HTTP/1.0 200 OK\r\n\r\nto the end", Url("/", digest=md5(b"to the end")), Outcome(True, GOOD)),
        (b"HTTP/1.0 200\r\n\r\n", Url("/"), Outcome(True, GOOD)),
        (b"HTTP/1.0 200 OK\nContent-Length: 2\n\nhi", Url("/", digest=md5(b"hi")), Outcome(True, GOOD)),
        (b"ICY 200 OK\r\n\r\n", Url("/"), Outcome(True, GOOD)),
        (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + HELLO, Url("/", digest=md5(b"say hello")), Outcome(True, GOOD)),
        # Status codes; redirects are not followed.
        (b"HTTP/1.0 404 No\r\n\r\n", Url("/"), Outcome(False, "status 404, not 200-299")),
        (b"HTTP/1.0 302 There\r\nLocation: /x\r\n\r\n", Url("/"), Outcome(False, "status 302, not 200-299")),
        (b"HTTP/1.0 404 No\r\n\r\n", Url("/", statuses=((404, 404),)), Outcome(True, "status 404")),
        (HELLO, Url("/", statuses=((301, 302), (404, 404))), Outcome(False, "status 200, not 301-302 404")),
        # Digests: of a chunked body, as keepalived takes them and as a user would.
        (HELLO, Url("/", digest=md5(b"say hello").upper()), Outcome(True, GOOD)),
        (HELLO, Url("/", digest="0" * 32), Outcome(False, f"digest {md5(b'say hello')}, not {'0' * 32}")),
        (CHUNKED + CHUNKS, Url("/", digest=md5(CHUNKS)), Outcome(True, GOOD)),
        (CHUNKED + CHUNKS, Url("/", digest=md5(b"say hello")), Outcome(True, GOOD)),
        (CHUNKED + CHUNKS, Url("/", digest="0" * 32), Outcome(False, f"digest {md5(CHUNKS)}, not {'0' * 32}")),
        (b"HTTP/1.1 304 Same\r\n\r\n", Url("/", digest=md5(b""), statuses=((304, 304),)), Outcome(True, "status 304")),
        # Text.
        (HELLO, Url("/", regex="h.llo$"), Outcome(True, GOOD)),
        (HELLO, Url("/", regex="^say"), Outcome(True, GOOD)),
        (HELLO, Url("/", regex="Content-Length: 9"), Outcome(True, GOOD)),
        (HELLO, Url("/", regex="HELLO"), Outcome(False, "the text does not match 'HELLO'")),
        (HELLO, Url("/", regex="HELLO", regex_options=("caseless",)), Outcome(True, GOOD)),
        (HELLO, Url("/", regex="hello", regex_no_match=True), Outcome(False, "the text matches 'hello'")),
        (HELLO, Url("/", regex="Content", regex_no_match=True), Outcome(True, GOOD)),
        (HELLO, Url("/", regex="say", regex_max_offset=0), Outcome(True, GOOD)),
        (HELLO, Url("/", regex="ay", regex_max_offset=0), Outcome(False, "the text does not match 'ay'")),
        (HELLO, Url("/", regex="hello", regex_max_offset=4), Outcome(True, GOOD)),
        (HELLO, Url("/", regex="hello", regex_max_offset=3), Outcome(False, "the text does not match 'hello'")),
        (HELLO, Url("/", regex="hello", regex_min_offset=4), Outcome(True, GOOD)),
        (HELLO, Url("/", regex="hello", regex_min_offset=99), Outcome(False, "the text does not match 'hello'")),
        (CHUNKED + CHUNKS, Url("/", regex="say hello"), Outcome(True, GOOD)),
        # A wrong length is reported, but as in keepalived it is no failure.
        (
            b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nhi",
            Url("/", digest=md5(b"hi")),
            Outcome(True, "status 200 (2 bytes for a Content-Length of 10)"),
        ),
        (
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhiho",
            Url("/", digest=md5(b"hi")),
            Outcome(True, "status 200 (more bytes than its Content-Length of 2)"),
        ),
        (
            b"HTTP/1.0 200 OK\r\nContent-Length: two\r\n\r\nhi",
            Url("/", digest=md5(b"hi")),
            Outcome(True, "status 200 (Content-Length is 'two')"),
        ),
        (
            b"HTTP/1.0 200 OK\r\nContent-Length: 10\r\n\r\nhi",
            Url("/", digest="0" * 32),
            Outcome(False, f"digest {md5(b'hi')}, not {'0' * 32} (2 bytes for a Content-Length of 10)"),
        ),
        (CHUNKED + b"5\r\nsay", Url("/"), Outcome(True, "status 200 (ended within its chunks, after 3 bytes)")),
        (CHUNKED + b"5\r\nhello", Url("/"), Outcome(True, "status 200 (ended within its chunks, after 5 bytes)")),
        (CHUNKED + b"0\r\n", Url("/"), Outcome(True, "status 200 (ended within its chunks, after 0 bytes)")),
        # What is no HTTP.
        (b"", Url("/"), Outcome(False, "connection closed without an answer")),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Url("/"), Outcome(False, "not an HTTP answer: 'SSH-2.0-OpenSSH_9.2'")),
        (b"HTTP/1.0 2000 OK\r\n\r\n", Url("/"), Outcome(False, "not an HTTP answer: 'HTTP/1.0 2000 OK'")),
        (
            b"HTTP/1.0 \xb2\xb2\xb2 OK\r\n\r\n",
            Url("/"),
            Outcome(False, "not an HTTP answer: 'HTTP/1.0 \\xb2\\xb2\\xb2 OK'"),
        ),
        (b"\r\n\r\n", Url("/"), Outcome(False, "not an HTTP answer: ''")),
        (b"HTTP/1.0 200 OK\r\nServ", Url("/"), Outcome(False, "connection closed after 'HTTP/1.0 200 OK\\r\\nServ'")),
        (CHUNKED + b"x\r\n", Url("/"), Outcome(False, "not a chunk of a body: 'x'")),
        (CHUNKED + b"-1\r\n", Url("/"), Outcome(False, "not a chunk of a body: '-1'")),
        (CHUNKED + b"f" * 16 + b"\r\n", Url("/"), Outcome(False, f"not a chunk of a body: '{'f' * 16}'")),
    ],
)
def test_what_an_answer_means(answer: bytes, url: Url, outcome: Outcome) -> None:
    assert got(replies(answer), url) == outcome
    if len(answer) < 200:
        assert got(replies(*(bytes([each]) for each in answer)), url).ok is outcome.ok


def test_a_known_length_ends_the_wait() -> None:
    assert got(replies(HELLO, hold=True)) == Outcome(True, GOOD)
    assert got(replies(CHUNKED + CHUNKS, hold=True)) == Outcome(True, GOOD)
    assert got(replies(b"HTTP/1.1 204 No\r\n\r\n", hold=True)) == Outcome(True, "status 204")


@pytest.mark.parametrize(
    ("handler", "reason"),
    [
        (hangs(), "waiting for the answer"),
        (hangs(b"HTTP/1.0 200 OK\r\n"), "waiting for the answer"),
        (hangs(b"HTTP/1.0 200 OK\r\n\r\n123"), "reading the body, 3 bytes so far"),
        (hangs(CHUNKED + b"a\r\n123"), "reading the body, 3 bytes so far"),
    ],
)
def test_a_server_that_stops_replying_times_out(handler: Handler, reason: str) -> None:
    assert got(handler) == Outcome(False, f"{TIMED_OUT} {reason}")


def test_a_trickle_does_not_last_longer_than_the_timeout() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        for _ in range(10 * int(PATIENT.timeout_s)):
            writer.write(b"x")
            await received(writer)
            lapse(1)

    outcome = got(trickle)
    assert not outcome.ok
    assert outcome.reason.startswith(f"{TIMED_OUT} reading the body")


MANY = [b"\0" * (1 << 20)] * 100


def test_a_hundred_megabytes_are_not_read() -> None:
    endless = replies(b"HTTP/1.0 200 OK\r\n\r\n", *MANY)
    assert got(endless) == Outcome(True, "status 200 (a body of more than 16 MiB, not read on)")
    assert got(endless, Url("/", digest="0" * 32)) == Outcome(False, "a body of more than 16 MiB")
    assert got(endless, Url("/", regex="x")) == Outcome(False, "a body of more than 16 MiB")
    announced = replies(b"HTTP/1.0 200 OK\r\nContent-Length: 104857600\r\n\r\n", hold=True)
    assert got(announced, Url("/", digest="0" * 32)) == Outcome(False, "a body of more than 16 MiB")
    in_chunks = replies(CHUNKED, *[b"100000\r\n" + each + b"\r\n" for each in MANY])
    assert got(in_chunks, Url("/", regex="x")) == Outcome(False, "a body of more than 16 MiB")


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\n", bytes(1 << 20)),
        (b"HTTP/1.0 200 OK\r\n", b"X: " + bytes(4000) + b"\r\n"),
        (CHUNKED, b"100000\r\n" + bytes(1 << 20) + b"\r\n"),
        (CHUNKED, b"1\r\nx\r\n" * 4000),
    ],
    ids=["body", "header", "chunks", "small chunks"],
)
@pytest.mark.parametrize(
    ("url", "most"), [(ROOT, 4 << 20), (Url("/", regex="y"), 2 * BODY_LIMIT + (8 << 20))], ids=["status", "regex"]
)
def test_the_memory_of_a_probe_is_bounded(head: bytes, piece: bytes, url: Url, most: int) -> None:
    """A regular expression needs the body twice: its pieces, and joined."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()

    tracemalloc.start()
    try:
        got(handler, url)
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def test_endless_small_chunks_are_not_read() -> None:
    """The work is bounded, not only the bytes: such chunks take a hundred times the time of large ones."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED)
        while True:
            writer.write(b"1\r\nx\r\n" * 4000)
            await writer.drain()

    assert got(handler, Url("/", regex="y")).reason.startswith("an answer in too many pieces, ")
    assert got(handler).reason.startswith("status 200 (an answer in too many pieces, ")


@pytest.mark.parametrize("piece", [b"X: y\r\n", b"0123456789" * 1000 + b"\r\n"])
def test_an_endless_trailer_is_not_read(piece: bytes) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED + b"0\r\n")
        while True:
            writer.write(piece * 10)
            await writer.drain()

    assert not got(handler, Url("/", regex="y")).ok


def test_data_without_end_does_not_last_longer_than_the_timeout() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(CHUNKED)
        for number in range(1000):
            writer.write(b"1\r\nx\r\n" * 100)
            await writer.drain()
            if number == 20:
                lapse()

    outcome = got(handler, Url("/", regex="y"))
    assert not outcome.ok
    assert outcome.reason.startswith(f"{TIMED_OUT} reading the body")


def test_a_huge_header_is_not_read() -> None:
    assert got(replies(b"HTTP/1.0 200 OK\r\n", *MANY)) == Outcome(False, "a header of more than 65536 bytes")
    assert got(replies(*MANY)) == Outcome(False, "a header of more than 65536 bytes")
    large = b"HTTP/1.0 200 OK\r\n" + b"X: " + b"v" * 30_000 + b"\r\n\r\n"
    assert got(replies(large)) == Outcome(True, GOOD)


def test_a_reset_is_reported_in_every_phase() -> None:
    assert got(replies(reset=True)).reason == "connection reset waiting for the answer"
    in_body = got(replies(b"HTTP/1.0 200 OK\r\n\r\nhi", pause_s=0.2, reset=True))
    assert in_body == Outcome(False, "connection reset reading the body, 2 bytes so far")


def test_a_closed_port_is_refused() -> None:
    with closed() as target:
        check = HttpCheck(target=target, urls=(Url("/"),), pace=PATIENT)
        assert undisturbed(lambda: probe_now(check)) == Outcome(False, "connection refused")


async def probe_now(check: HttpCheck) -> Outcome:
    return await probe_of(check, CheckContext())()


def test_an_invalid_expression_is_reported() -> None:
    check = HttpCheck(target=Target(IPv4Address("127.0.0.1"), 1), urls=(Url("/", regex="a("),))
    assert undisturbed(lambda: probe_now(check)) == Outcome(False, "missing closing parenthesis at character 3")


def test_an_expression_without_end_is_cancelled() -> None:
    outcome = got(replies(b"HTTP/1.0 200 OK\r\n\r\n" + b"a" * 40 + b"b"), Url("/", regex="^(a+)+$"))
    assert outcome == Outcome(False, "'^(a+)+$': the match was given up: match limit exceeded")


def test_a_slow_search_ends_with_its_probe_and_so_does_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole search would take half an hour. The end of the test waits for the thread."""
    match, calls = Regex.matches, count(1)

    async def main() -> Outcome:
        loop = asyncio.get_running_loop()

        def slow(regex: Regex, *arguments: Any, **options: Any) -> bool:
            if next(calls) == 2:
                loop.call_soon_threadsafe(lapse)
            return match(regex, *arguments, **options)

        monkeypatch.setattr(Regex, "matches", slow)
        async with tcp(replies(b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 1_000_000)) as target:
            url = Url("/", regex="x[^y]*+[yz]")
            return await probe_now(HttpCheck(target=target, urls=(url,), pace=PATIENT))

    assert undisturbed(main) == Outcome(False, f"{TIMED_OUT} searching 'x[^y]*+[yz]'")


def test_one_server_does_not_occupy_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search that did not end with its probe is the only one of its page."""
    began, end = threading.Event(), threading.Event()

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()

        def stuck(regex: Regex, *arguments: Any, **options: Any) -> bool:
            began.set()
            loop.call_soon_threadsafe(lapse)
            return end.wait(PATIENCE_S)

        monkeypatch.setattr(Regex, "search", stuck)
        async with tcp(replies(b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 5000)) as target:
            probe = probe_of(HttpCheck(target=target, urls=(Url("/", regex="y"),), pace=PATIENT), CheckContext())
            try:
                return [(await probe()).reason, (await probe()).reason]
            finally:
                end.set()

    assert undisturbed(main) == [f"{TIMED_OUT} searching 'y'", "'y': the search of an earlier page has not ended"]
    assert began.is_set()


def test_a_large_body_is_searched() -> None:
    large = b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 3_000_000 + b"needle"
    assert got(replies(large), Url("/", regex="needle$")) == Outcome(True, GOOD)


def test_all_pages_must_be_good() -> None:
    paths: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n\r\n")).split()
        paths.append(line[1])
        writer.write(HELLO if line[1] != b"/bad" else b"HTTP/1.0 500 Oh\r\n\r\n")

    def check(*names: str) -> Outcome:
        return asked(lambda target: HttpCheck(target=target, urls=tuple(map(Url, names)), pace=PATIENT), handler)

    assert check("/a", "/b") == Outcome(True, GOOD)
    assert paths == [b"/a", b"/b"]
    assert check("/a", "/bad", "/c") == Outcome(False, "/bad: status 500, not 200-299")
    assert paths[2:] == [b"/a", b"/bad"]


def test_slow_servers_do_not_delay_others() -> None:
    async def main() -> list[Outcome]:
        async with tcp(silent) as slow, tcp(replies(HELLO), V6) as quick:
            checks = [HttpCheck(target=slow, urls=(Url("/"),), pace=HASTY) for _ in range(30)]
            checks += [HttpCheck(target=quick, urls=(Url("/"),), pace=PATIENT) for _ in range(30)]
            return list(await asyncio.gather(*map(probe_now, checks)))

    outcomes = undisturbed(main)
    assert [outcome.ok for outcome in outcomes] == [False] * 30 + [True] * 30
