"""Checks compared with the real keepalived's: the same file, servers, bytes on the wire, and results.

If pylvs has another result on purpose, the case has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import dns.message
import dns.rcode
import pytest

from bench.keepalived import preload, running
from pylvs.config.compile.document import build
from pylvs.config.language.parser import read
from pylvs.health.probes import CheckContext, Outcome, probe_of
from pylvs.model.checks import HttpCheck, Url
from tests.interop import keepalived
from tests.interop.namespaces import inside, server_tls
from tests.unit.health import fake_servers
from tests.waiting import PATIENCE_S

REASON = keepalived.why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

END_S = 10  # connect_timeout where its end is the result; a pause of the machine is shorter
HEAD = b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\n"
HELLO = HEAD + b"say hello"
CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, list[bytes]], Awaitable[None]]


@dataclass
class Case:
    """A checker, its server, and keepalived's result; `ours` if pylvs has another."""

    name: str
    block: str
    up: bool
    ours: bool | None = None
    serve: Serve | None = None  # without either, no socket listens
    reply: fake_servers.Reply | None = None
    tls: bool = False
    times_out: bool = False  # whether keepalived's result is that of the end of connect_timeout
    received: list[list[bytes]] = field(default_factory=list)  # of each connection
    port: int = 0

    def protocol(self) -> str:
        return "UDP" if self.block.startswith(("UDP", "DNS")) else "TCP"

    def timeout_s(self) -> int:
        """Return a short timeout only where keepalived waits for its end: a slow machine must not change a result."""
        return END_S if self.times_out else 60

    def server(self) -> str:
        """Return protocol and port as in keepalived's log, because TCP and UDP may have the same port."""
        return f"{self.protocol().lower()}:{self.port}"

    def wanted(self) -> bool:
        return self.up if self.ours is None else self.ours


def answers(*replies: bytes, hold: bool = False, greeting: bytes = b"") -> Serve:
    """Return a server that sends one of these after each request, and closes or waits for the other side to close."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, received: list[bytes]) -> None:
        writer.write(greeting)
        for reply in replies:
            received.append(await reader.read(4096))
            writer.write(reply)
            await writer.drain()
        if hold:
            await reader.read()

    return serve


def http(
    name: str,
    answer: bytes,
    up: bool,
    url: str = "",
    top: str = "",
    hold: bool = False,
    tls: bool = False,
    ours: bool | None = None,
) -> Case:
    block = f"{'SSL' if tls else 'HTTP'}_GET {{\n{top}\nurl {{\npath /a?b=c\n{url}\n}}\n}}"
    return Case(name, block, up, ours, answers(answer, hold=hold), tls=tls, times_out=hold)


def smtp(name: str, lines: list[bytes], up: bool, top: str = "", ours: bool | None = None) -> Case:
    return Case(name, f"SMTP_CHECK {{\n{top}\n}}", up, ours, answers(*lines[1:], greeting=lines[0]))


def udp(name: str, reply: fake_servers.Reply | None, up: bool, top: str = "", times_out: bool = False) -> Case:
    return Case(name, f"UDP_CHECK {{\n{top}\n}}", up, reply=reply, times_out=times_out)


def dns_(name: str, rcode: int | None, up: bool, top: str = "") -> Case:
    def reply(data: bytes) -> list[bytes]:
        answer = dns.message.make_response(dns.message.from_wire(data))
        answer.set_rcode(dns.rcode.Rcode(rcode or 0))
        return [answer.to_wire()]

    return Case(name, f"DNS_CHECK {{\n{top}\n}}", up, reply=None if rcode is None else reply)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def cases() -> list[Case]:
    """Return new cases."""
    return [
        *(http(f"http {each}", HELLO, True, top=f"http_protocol {each}") for each in ("1.0", "1.0C", "1.0c", "1.1")),
        http("virtual host", HELLO, True, url="virtualhost www.example.com", top="virtualhost other.example"),
        http("virtual host of the check", HELLO, True, top="virtualhost other.example"),
        http("404", b"HTTP/1.0 404 No\r\n\r\n", False),
        http("302", b"HTTP/1.0 302 There\r\nLocation: /\r\n\r\n", False),
        http("204", b"HTTP/1.0 204 None\r\n\r\n", True),
        http("404 wanted", b"HTTP/1.0 404 No\r\n\r\n", True, url="status_code 300-310 404"),
        http("digest", HELLO, True, url=f"digest {md5(b'say hello')}"),
        http("another digest", HELLO, False, url=f"digest {md5(b'say')}"),
        http("digest, but 404", b"HTTP/1.0 404 No\r\n\r\nhi", False, url=f"digest {md5(b'hi')}"),
        http("digest of chunks", CHUNKED, True, url=f"digest {md5(CHUNKS)}", top="http_protocol 1.1"),
        http("digest in chunks", CHUNKED, False, url=f"digest {md5(b'hello')}", top="http_protocol 1.1", ours=True),
        http("digest of less", HEAD + b"hi", True, url=f"digest {md5(b'hi')}"),
        http("digest of more", HELLO + b"more", True, url=f"digest {md5(b'say hello')}"),
        http("regex", HELLO, True, url="regex h.llo"),
        http("regex of the header", HELLO, True, url='regex "Content-Length: 9"'),
        http("regex that is not there", HELLO, False, url="regex good.?bye"),
        http("regex at the first byte", HELLO, True, url="regex HTTP\nregex_max_offset 0"),
        http("regex behind the first byte", HELLO, False, url="regex TTP\nregex_max_offset 0"),
        http("regex without case", HELLO, True, url="regex HELLO\nregex_options caseless"),
        http("no match wanted", HELLO, False, url="regex hello\nregex_no_match"),
        http("no match found", HELLO, True, url="regex goodbye\nregex_no_match"),
        http("regex to the end", HELLO, False, url="regex hello$", ours=True),  # a fault of keepalived's
        http("open after its length", HELLO, False, hold=True, ours=True),  # a fault of keepalived's
        http("open without a length", b"HTTP/1.0 200 OK\r\n\r\nhi", False, hold=True),
        http("no http", b"hello there\r\n\r\n", False),
        http("nothing", b"", False),
        http("half a header", b"HTTP/1.0 200 OK\r\n", False),
        http("four digits", b"HTTP/1.0 2000 OK\r\n\r\n", False),
        http("another protocol", b"ICY 200 OK\r\n\r\n", True),
        http("tls", HELLO, True, tls=True),
        Case("tls to plain", "SSL_GET {\nurl {\npath /\n}\n}", False, serve=answers(HELLO)),
        Case("no web server", "HTTP_GET {\nurl {\npath /\n}\n}", False),
        Case("tcp", "TCP_CHECK {\n}", True, serve=answers(b"")),
        Case("no tcp", "TCP_CHECK {\n}", False),
        smtp("smtp", [b"220 hi\r\n", b"250 ok\r\n", b"221 bye\r\n"], True),
        smtp("smtp name", [b"220 hi\r\n", b"250 ok\r\n", b"221 bye\r\n"], True, top="helo_name me.example"),
        smtp("smtp lines", [b"220-hi\r\n220 hi\r\n", b"250 ok\r\n", b"221 bye\r\n"], False, ours=True),  # a fault
        smtp("smtp 554", [b"554 no\r\n"], False),
        smtp("smtp 500", [b"220 hi\r\n", b"500 ok\r\n"], False),
        smtp("smtp quit 500", [b"220 hi\r\n", b"250 ok\r\n", b"500 bye\r\n"], True),
        smtp("smtp quit", [b"220 hi\r\n", b"250 ok\r\n", b""], False),
        udp("udp", lambda data: [], True, top="payload Ab12f 3 456 546443123", times_out=True),
        udp("no udp", None, False),
        udp("udp reply", lambda data: [b"x" * 300], True, top="require_reply"),
        udp("udp no reply", lambda data: [], False, top="require_reply", times_out=True),
        udp("udp pattern", lambda data: [b"abc"], True, top="require_reply 61 6x"),
        udp("udp another", lambda data: [b"abc"], False, top="require_reply 61 63"),
        udp("udp short", lambda data: [b"a"], True, top="require_reply 61 62"),
        udp("udp too short", lambda data: [b"ab"], False, top="require_reply 61\nmin_reply_length 5"),
        udp("udp too long", lambda data: [b"a" * 300], False, top="require_reply 61"),
        dns_("dns", 0, True),
        dns_("dns name", 0, True, top="type AAAA\nname www.example.com"),
        *(dns_(f"dns rcode {rcode}", rcode, False) for rcode in (1, 2, 3, 5)),
        dns_("no dns", None, False),
    ]


SERVICE = """\
virtual_server 192.0.2.{number} {port} {{
    lb_kind NAT
    protocol {protocol}
    delay_loop 600
    warmup 0
    connect_timeout {timeout_s}
    real_server 127.0.0.1 {port} {{
        {block}
    }}
}}
"""


async def listen(case: Case, stack: contextlib.AsyncExitStack, tls: ssl.SSLContext) -> None:
    """Let the case's server listen on its own port, and store the port in the case."""
    serve, reply = case.serve, case.reply
    if serve is not None:

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            case.received.append([])
            await serve(reader, writer, case.received[-1])

        target = await stack.enter_async_context(fake_servers.tcp(handler, tls=tls if case.tls else None))
        case.port = target.port
    elif reply is not None:

        def recorded(data: bytes) -> list[bytes]:
            case.received.append([data])
            return reply(data)

        target, _ = await stack.enter_async_context(fake_servers.udp(recorded))
        case.port = target.port
    else:
        case.port = stack.enter_context(fake_servers.closed()).port


def verdicts(log: str) -> dict[str, bool]:
    """Return which real servers keepalived found up or down so far; it does not log success of DNS."""
    found: dict[str, bool] = {}
    for line in log.splitlines():
        if at := re.search(r"\[127\.0\.0\.1\]:((?:tcp|udp):\d+)", line):
            if "succe" in line and "not" not in line:
                found.setdefault(at[1], True)
            elif "Removing service" in line:
                found[at[1]] = False
    return found


async def both(folder: Path, all_cases: list[Case]) -> dict[str, tuple[bool, Outcome]]:
    """Return keepalived's result and ours for each case. The cases have the bytes, keepalived's first."""
    tls = server_tls(folder)
    file = folder / "keepalived.conf"
    async with contextlib.AsyncExitStack() as stack:
        for case in all_cases:
            await listen(case, stack, tls)
        text = "".join(
            SERVICE.format(
                number=number, port=case.port, block=case.block, protocol=case.protocol(), timeout_s=case.timeout_s()
            )
            for number, case in enumerate(all_cases, 1)
        )
        file.write_text(text)
        log = file.with_suffix(".log")
        with running(file, preload(folder)):
            silent = {case.server() for case in all_cases if case.block.startswith("DNS") and case.up}
            deadline = time.monotonic() + PATIENCE_S
            while time.monotonic() < deadline:
                await asyncio.sleep(0.1)
                found = verdicts(log.read_text(errors="replace"))
                if all(case.server() in found or (case.server() in silent and case.received) for case in all_cases):
                    break
        found = verdicts(log.read_text(errors="replace")) | dict.fromkeys(silent - found.keys(), True)
        missing = [case.name for case in all_cases if case.server() not in found]
        assert not missing, f"keepalived did not say: {missing}\n{log.read_text(errors='replace')}"
        configuration, findings = build(read(str(file))[0])
        assert not [finding for finding in findings if finding.fatal], findings
        checks = {
            f"{key.protocol.name.lower()}:{server.destination.key.port}": server.checks[0]
            for key, server in ((service.keys[0], service.servers[0]) for service in configuration.services)
        }
        for case in all_cases:
            case.received.append([])  # from here on, the checks are ours
        outcomes = await asyncio.gather(*(probe_of(checks[case.server()], CheckContext())() for case in all_cases))
        return {case.name: (found[case.server()], ours) for case, ours in zip(all_cases, outcomes, strict=True)}


def test_results_are_those_of_keepalived(tmp_path: Path) -> None:
    all_cases = cases()
    with inside("kc"):
        found = asyncio.run(both(tmp_path, all_cases))
    assert {name: theirs for name, (theirs, _) in found.items()} == {case.name: case.up for case in all_cases}
    wrong = [f"{case.name}: {found[case.name][1]}" for case in all_cases if found[case.name][1].ok is not case.wanted()]
    assert not wrong, "\n".join(wrong)
    for case in all_cases:
        if case.ours is None and case.name != "tls to plain":  # TLS handshakes are random
            assert sent_by_us(case) == sent_by_keepalived(case), case.name


def without_chance(case: Case, connection: list[bytes]) -> list[bytes]:
    """Return the bytes without random parts: a DNS query ID, a datagram without a payload."""
    if case.block.startswith("DNS"):
        return [data[2:] for data in connection]
    if case.block.startswith("UDP") and "payload" not in case.block:
        return [b"%d bytes" % len(data) for data in connection]
    return [data for data in connection if data]


def sent_by_keepalived(case: Case) -> list[bytes]:
    return without_chance(case, case.received[0])


def sent_by_us(case: Case) -> list[bytes]:
    """Return the bytes of our first connection, without random parts."""
    mark = case.received.index([], 1 if case.serve or case.reply else 0)
    return without_chance(case, case.received[mark + 1] if case.received[mark + 1 :] else [])


def test_a_digest_is_that_of_genhash() -> None:
    body = b"<html>a page</html>\n" * 1000

    async def main() -> tuple[str, Outcome]:
        handler = fake_servers.replies(b"HTTP/1.0 200 OK\r\n\r\n" + body)
        async with fake_servers.tcp(handler) as target:
            words = ["genhash", "-s", "127.0.0.1", "-p", str(target.port), "-u", "/page"]
            process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            output, _ = await process.communicate()
            digest = output.decode().strip()
            check = HttpCheck(target=target, urls=(Url("/page", digest=digest),))
            return digest, await probe_of(check, CheckContext())()

    with inside("gh"):
        digest, outcome = asyncio.run(main())
    assert digest == md5(body)
    assert outcome == Outcome(True, "status 200")
