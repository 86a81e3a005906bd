"""The web page: real processes, TLS and browsers' requests over a canned daemon with hostile strings."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import re
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import pytest

from pylvs.model.wanted import WebSettings
from pylvs.system.http.lines import json_line
from pylvs.system.http.server import HttpServer, Request, Response, Stream
from pylvs.system.processes.channel import BadMessage
from pylvs.web import tokens
from pylvs.web.application import Application, Settings
from pylvs.web.asked import Refused, Rights
from pylvs.web.daemon import MOST_PERIOD_S, PERIOD_S, SHARE, Daemon
from pylvs.web.files import Files
from pylvs.web.jobs import Jobs
from pylvs.web.parent import WebParent
from pylvs.web.process import until_shut_down
from pylvs.web.snapshot import Snapshot
from tests.privileges import assert_unprivileged
from tests.waiting import PATIENCE_S, until_async
from tests.web_server import HOSTILE, LOCAL, CannedDaemon, certificate, token_file

JSON = {"Content-Type": "application/json", "X-Pylvs": "1"}
NONE: Mapping[str, str] = MappingProxyType({})
TRACE = "/api/v1/trace?client=192.0.2.7"
Reply = tuple[int, dict[str, str], bytes]


class Page:
    """The page, with a client that sends what a browser would."""

    def __init__(self, daemon: CannedDaemon, parent: WebParent, tls: ssl.SSLContext | None = None) -> None:
        self.daemon, self.parent, self.tls = daemon, parent, tls

    async def opened(
        self, target: str, headers: dict[str, str], method: str = "GET", body: bytes = b""
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.parent.port, ssl=self.tls)
        fields = {"Host": f"127.0.0.1:{self.parent.port}", "Content-Length": str(len(body)), **headers}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return reader, writer

    async def request(
        self,
        target: str,
        token: str = "",
        headers: Mapping[str, str] = NONE,
        method: str = "GET",
        body: bytes = b"",
    ) -> Reply:
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        reader, writer = await self.opened(target, {**bearer, **headers}, method, body)
        try:
            async with asyncio.timeout(PATIENCE_S):
                head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            await _close(writer)
        status, *fields = head.decode().split("\r\n")
        pairs = (line.partition(": ") for line in fields)
        return int(status.split()[1]), {name.lower(): value for name, _, value in pairs}, content

    async def json(self, target: str, token: str = "", **more: Any) -> tuple[int, Any]:
        status, _, content = await self.request(f"/api/v1/{target}", token, **more)
        return status, json.loads(content)

    async def post(self, name: str, token: str, content: Any, **headers: str) -> tuple[int, Any]:
        body = json.dumps(content).encode()
        return await self.json(name, token, headers={**JSON, **headers}, method="POST", body=body)

    async def sampled(self, token: str = "") -> None:
        """Wait for a sample of the daemon."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self.json("overview", token))[0] != 200:
                await asyncio.sleep(0.05)


class EndlessJobs(Jobs):
    """Commands that give one record, and then run until they are cancelled."""

    def __init__(self) -> None:
        super().__init__((), lambda: ())
        self.running = 0

    async def run(self, kind: str, given: Mapping[str, Any], line: Callable[[str], None]) -> bytes:
        self.running += 1
        try:
            line(json.dumps(given))
            await asyncio.Event().wait()
            return b"{}"
        finally:
            self.running -= 1


def serve(
    scenario: Callable[[Page], Awaitable[None]],
    settings: WebSettings | None = None,
    daemon: CannedDaemon | None = None,
    jobs: Jobs | None = None,
) -> None:
    async def whole() -> None:
        canned = daemon or CannedDaemon()
        parent = WebParent(canned.send, canned.events, jobs or Jobs((), lambda: ()))
        try:
            await parent.follow(settings or WebSettings((LOCAL, 0)))
            await until_async(lambda: parent.process.up)
            await scenario(Page(canned, parent))
        finally:
            await parent.close()

    asyncio.run(whole())


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _until(last: str, reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, Any]]:
    async for event, data in frames(reader):
        yield event, data
        if event == last:
            return


async def frames(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, Any]]:
    """Yield the events of a stream, without the sizes of chunks."""
    event = ""
    async with asyncio.timeout(PATIENCE_S):
        while line := await reader.readline():
            if line.startswith(b"event: "):
                event = line[7:].decode().strip()
            elif line.startswith(b"data: "):
                yield event, json.loads(line[6:])


def test_without_tokens_each_user_of_this_host_reads_and_none_operates() -> None:
    async def scenario(page: Page) -> None:
        await page.sampled()
        assert_unprivileged(page.parent.process.pid)
        session = (await page.json("session"))[1]
        assert (session["role"], session["needs_token"], session["operations"]) == ("read", False, False)
        status, reply = await page.post("drain", "", {"server": "10.0.0.1:80"})
        assert (status, "role operate, and web_tokens" in reply["error"]) == (403, True)
        assert page.daemon.edits() == []

    serve(scenario)


def test_a_foreign_name_of_this_host_is_refused_while_no_token_is_needed() -> None:
    """Else a foreign page could read ours by DNS rebinding."""

    async def scenario(page: Page) -> None:
        for host, status in (("evil.example:80", 421), ("localhost:1", 200), ("[::1]", 200), ("", 421)):
            assert (await page.request("/api/v1/session", headers={"Host": host}))[0] == status, host

    serve(scenario)


def test_roles_and_cross_site_requests(tmp_path: Path) -> None:
    read, operate = token_file(tmp_path / "tokens")

    async def scenario(page: Page) -> None:
        await page.sampled(read)
        assert (await page.json("overview"))[0] == 401
        assert (await page.json("overview", "wrong"))[0] == 401
        drain = {"server": "10.0.0.1:80", "deadline_s": 60}
        assert (await page.post("drain", read, drain))[0] == 403
        own = f"http://127.0.0.1:{page.parent.port}"
        assert (await page.post("drain", operate, drain, Origin=own))[0] == 200
        (ask,) = page.daemon.edits()
        assert (ask.path, ask.given, ask.who, ask.role, ask.client) == (
            "/v1/drain", drain, "alice", "operate", "127.0.0.1",
        )  # fmt: skip
        for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
            assert (await page.post("drain", operate, drain, **headers))[0] == 403, headers
        plain = {"Content-Type": "application/json"}  # a form or a simple request of another site
        body = json.dumps(drain).encode()
        assert (await page.json("drain", operate, headers=plain, method="POST", body=body))[0] == 403
        form = {"Content-Type": "text/plain", "X-Pylvs": "1"}
        assert (await page.json("drain", operate, headers=form, method="POST", body=body))[0] == 415
        assert (await page.post("stop", operate, {}))[0] == 404
        assert len(page.daemon.edits()) == 1
        rules = {"service": "web", "rules": ["deny 192.0.2.0/24"]}
        for name in "add", "delete", "replace":
            assert (await page.post(f"client-rules-{name}", read, rules))[0] == 403
        assert (await page.post("client-rules-add", operate, rules))[0] == 200
        ask = page.daemon.edits()[-1]
        assert (ask.path, ask.given, ask.who, ask.role) == ("/v1/client-rules/add", rules, "alice", "operate")
        assert (await page.json("client-rules?service=web&start=1000"))[0] == 401
        assert (await page.json("client-rules?service=web&start=1000", read))[0] == 200

    serve(scenario, WebSettings((LOCAL, 0), tokens=str(tmp_path / "tokens")))


def test_a_browser_signs_in_by_a_cookie(tmp_path: Path) -> None:
    read, _ = token_file(tmp_path / "tokens")

    async def scenario(page: Page) -> None:
        body = json.dumps({"token": read}).encode()
        status, headers, _ = await page.request("/api/v1/login", headers=JSON, method="POST", body=body)
        cookie = headers["set-cookie"]
        assert (status, re.sub("=[^;]*", "=X", cookie, count=1)) == (
            200,
            "pylvs_token=X; Path=/pylvs/; HttpOnly; SameSite=Strict; Secure",
        )
        own = {"Cookie": cookie.partition(";")[0]}
        assert (await page.json("session", headers=own))[1]["who"] == "reader"
        assert (await page.post("login", "", {"token": "wrong"}))[0] == 401
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        status, headers, _ = await page.request(
            "/api/v1/login", headers=form, method="POST", body=f"token={read}".encode()
        )
        assert (status, headers["location"]) == (303, "../../plain")

    url = "https://lb.example.org/pylvs/"
    serve(scenario, WebSettings((LOCAL, 0), tokens=str(tmp_path / "tokens"), url=url))


def test_a_prefix_is_accepted_and_may_be_removed_by_the_proxy(tmp_path: Path) -> None:
    async def scenario(page: Page) -> None:
        await page.sampled()
        for target, status in (("/pylvs/plain", 200), ("/plain", 200), ("/pylvs", 308), ("/pylvsx", 404)):
            reply = await page.request(target)
            assert reply[0] == status, target
        assert (await page.request("/pylvs"))[1]["location"] == "/pylvs/"
        assert (await page.request("/plain", headers={"Host": "lb.example.org"}))[0] == 200

    serve(scenario, WebSettings((LOCAL, 0), url="https://lb.example.org/pylvs/"))


def test_no_hostile_string_becomes_markup() -> None:
    async def scenario(page: Page) -> None:
        await page.sampled()
        name = page.daemon.replies["/v1/status"]["services"][0]["name"]
        targets = "/plain", f"/plain?service={name.replace(' ', '%20').replace('&', '%26').replace('<', '%3C')}"
        for target in targets:
            status, headers, content = await page.request(target)
            text = content.decode()
            assert status == 200
            assert "<script" not in text
            assert "<img" not in text
            assert "&lt;script&gt;alert(1)" in text
            assert "script-src 'self'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cache-control"] == "no-store"
        status, headers, content = await page.request("/api/v1/service?name=%3Cscript%3E")
        assert (status, headers["content-type"]) == (404, "application/json; charset=utf-8")
        status, headers, content = await page.request("/%3Cscript%3E")
        assert b"<script" not in content

    serve(scenario)


def test_each_plain_page_reports_that_the_daemon_does_not_reply() -> None:
    async def scenario(page: Page) -> None:
        await page.sampled()
        page.daemon.down = "no pylvs run answers"
        for target in "/plain", f"/plain?service={quote(page.daemon.replies['/v1/status']['services'][0]['name'])}":
            async with asyncio.timeout(PATIENCE_S):
                while page.daemon.down.encode() not in (reply := await page.request(target))[2]:
                    await asyncio.sleep(0.05)
            assert reply[0] == 200
            assert b"UTC. no pylvs run answers" in reply[2] or b"drained. no pylvs run answers" in reply[2]

    serve(scenario)


def test_a_server_of_two_services_is_drawn_as_down_if_one_finds_it_down() -> None:
    services = [
        {"name": name, "keys": [], "quorum": {"up": True}, "servers": [{"server": "a", "up": up, "weight": 1}]}
        for name, up in (("one", True), ("two", False))
    ]
    drawn = Snapshot(0.0, 1.0, {"services": services}).topology([], [])
    assert drawn["servers"] == [{"server": "a", "up": False, "weight": 1}]
    assert [each["servers"] for each in drawn["services"]] == [[0], [0]]


def test_views_have_what_the_daemon_counts() -> None:
    async def scenario(page: Page) -> None:
        await page.sampled()
        view = (await page.json("servers?sort=down&limit=2"))[1]
        assert (view["total"], view["matched"], len(view["servers"])) == (3, 3, 2)
        first = view["servers"][0]
        assert (first["server"], first["up"], first["method"], first["latency_ms"]) == ("10.0.0.2:80", False, "DR", 1.2)
        assert first["rates"]["in_bits"] == 8000
        assert (await page.json("servers?filter=0.1:80"))[1]["matched"] == 1
        topology = (await page.json("topology"))[1]
        assert topology["services"][0]["servers"] == [0, 1, 2]
        assert topology["director"]["devices"] == [{"name": HOSTILE, "mode": "tc"}]
        assert (await page.json("history?resolution=fine"))[1]["series"]["in_bits"][0] == 8000

    serve(scenario)


def test_a_page_gets_samples_and_events_by_one_stream() -> None:
    async def scenario(page: Page) -> None:
        await page.sampled()
        reader, writer = await page.opened("/api/v1/live?view=services", {})
        seen: list[str] = []
        put = False
        async for event, data in frames(reader):
            seen.append(event)
            if event == "view" and not put:
                assert data["services"][0]["rates"]["out_bits"] == 40_000
                page.daemon.events_now.put_nowait(json_line({"event": "reloaded", "at": 1.0, "edits": 1}))
                put = True
            if event == "event" and data["event"] == "reloaded":
                break
        assert seen[:2] == ["hello", "daemon"]
        assert {"overview", "view", "event"} <= set(seen)
        await _close(writer)

    serve(scenario)


def test_an_event_may_have_the_separators_of_unicode() -> None:
    """JSON escapes only those of ASCII."""
    text = "a\u2028b\x85c\x0bd\re"

    async def scenario(page: Page) -> None:
        reader, writer = await page.opened("/api/v1/live", {})
        async for event, data in frames(reader):
            if event == "daemon":
                page.daemon.events_now.put_nowait(json_line({"event": "reloaded", "at": 1.0, "text": text}))
            if event == "event" and data["event"] == "reloaded":
                assert data["text"] == text
                break
        await _close(writer)

    serve(scenario)


def test_a_revoked_token_ends_the_stream_and_a_reload_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    read, operate = token_file(path)
    settings = WebSettings((LOCAL, 0), tokens=str(path))

    async def scenario(page: Page) -> None:
        streams = [await page.opened("/api/v1/live", {"Authorization": f"Bearer {each}"}) for each in (read, operate)]
        for reader, _ in streams:
            assert [event async for event, _ in _until("hello", reader)] == ["hello"]
        path.write_text(path.read_text().splitlines()[1] + "\n")
        await page.parent.follow(settings)
        assert [data async for event, data in frames(streams[0][0]) if event == "bye"] == [
            {"reason": "the token is unknown: sign in again"}
        ]
        page.daemon.events_now.put_nowait(json_line({"event": "reloaded", "at": 1.0}))
        async for event, data in frames(streams[1][0]):
            assert event != "bye"
            if event == "event" and data["event"] == "reloaded":
                break
        for _, writer in streams:
            await _close(writer)

    serve(scenario, settings)


@pytest.mark.parametrize(
    ("role", "reason"),
    [("", "the token is unknown: sign in again"), ("read", "trace: that needs a token with the role operate")],
)
def test_a_revoked_token_ends_its_trace(tmp_path: Path, role: str, reason: str) -> None:
    path = tmp_path / "tokens"
    _, operate = token_file(path)
    settings, jobs = WebSettings((LOCAL, 0), tokens=str(path)), EndlessJobs()

    async def scenario(page: Page) -> None:
        reader, writer = await page.opened(TRACE, {"Authorization": f"Bearer {operate}"})
        assert [data async for _, data in _until("record", reader)] == [{"client": "192.0.2.7"}]
        first, last = path.read_text().splitlines()
        path.write_text("\n".join([first, last.replace("operate", role) if role else "", ""]))
        await page.parent.follow(settings)
        assert [data async for event, data in frames(reader) if event == "end"] == [{"reason": reason}]
        await until_async(lambda: not jobs.running)
        await _close(writer)

    serve(scenario, settings, jobs=jobs)


def test_a_client_that_leaves_ends_its_own_trace_alone(tmp_path: Path) -> None:
    _, operate = token_file(tmp_path / "tokens")
    jobs = EndlessJobs()

    async def scenario(page: Page) -> None:
        bearer = {"Authorization": f"Bearer {operate}"}
        streams = [await page.opened(TRACE, bearer) for _ in range(2)]
        for reader, _ in streams:
            assert [data async for _, data in _until("record", reader)] == [{"client": "192.0.2.7"}]
        await _close(streams[0][1])
        await until_async(lambda: jobs.running < 2)
        page.parent._receive({"cancel": "trace"})
        page.parent._receive({"cancel": 10**6})
        await page.sampled(operate)
        assert jobs.running == 1
        await _close(streams[1][1])
        await until_async(lambda: not jobs.running)

    serve(scenario, WebSettings((LOCAL, 0), tokens=str(tmp_path / "tokens")), jobs=jobs)


def test_another_address_ends_a_trace_and_not_the_process(tmp_path: Path) -> None:
    path = str(tmp_path / "tokens")
    _, operate = token_file(Path(path))
    jobs = EndlessJobs()

    async def scenario(page: Page) -> None:
        reader, writer = await page.opened(TRACE, {"Authorization": f"Bearer {operate}"})
        assert [event async for event, _ in _until("record", reader)] == ["record"]
        pid = page.parent.process.pid
        await page.parent.follow(WebSettings((ip_address("127.0.0.2"), 0), tokens=path))
        assert [event async for event, _ in frames(reader)] == []
        await until_async(lambda: not jobs.running)
        await _close(writer)
        assert page.parent.process.pid == pid

    serve(scenario, WebSettings((LOCAL, 0), tokens=path), jobs=jobs)


@pytest.mark.parametrize("is_answered", [False, True])
def test_a_trace_leaves_nothing_that_the_event_loop_reports(is_answered: bool) -> None:
    """What it reports ends the process, and the history with it. A command that has ended is not cancelled again."""
    token, line = tokens.new("alice", tokens.OPERATE)
    sent: list[Mapping[str, Any]] = []
    reported: list[dict[str, Any]] = []

    async def whole() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        daemon = Daemon(sent.append)
        application = Application(daemon, lambda *_: None, Files())
        application.settings = Settings(tokens=tokens.parse(line, "tokens"))
        headers = {"authorization": f"Bearer {token}"}
        request = Request("GET", "/api/v1/trace", {"client": "192.0.2.7"}, b"", None, "127.0.0.1", headers)
        stream = await application.handle(request)
        assert isinstance(stream, Stream)
        parts = stream.parts
        alive = await anext(parts)
        await until_async(lambda: sent)
        daemon.receive({"line": 1, "text": "{}"}, [])
        while (part := await anext(parts)) == alive:
            pass
        assert part == b"event: record\ndata: {}\n\n"
        reading = asyncio.ensure_future(anext(parts))
        await asyncio.sleep(0)
        if is_answered:
            daemon.receive({"reply": 1, "status": 503, "body": json.dumps({"error": "no tables"})}, [])
        reading.cancel()
        await asyncio.wait({reading})
        await asyncio.sleep(0)
        del stream, parts, reading
        gc.collect()
        await asyncio.sleep(0)

    asyncio.run(whole())
    gc.collect()
    assert reported == []
    assert [each for each in sent if "cancel" in each] == ([] if is_answered else [{"cancel": 1}])


def test_an_expired_token_is_refused(tmp_path: Path) -> None:
    read, _ = token_file(tmp_path / "tokens", "2020-01-01")

    async def scenario(page: Page) -> None:
        assert await page.json("overview", read) == (401, {"error": "the token is expired: sign in again"})

    serve(scenario, WebSettings((LOCAL, 0), tokens=str(tmp_path / "tokens")))


def test_the_page_is_served_by_tls(tmp_path: Path) -> None:
    pem = certificate(tmp_path)
    read, _ = token_file(tmp_path / "tokens")

    async def scenario(page: Page) -> None:
        status, _, content = await page.request("/api/v1/session")
        assert (status, b"https://" in content) == (400, True)
        page.tls = ssl.create_default_context(cafile=str(pem))
        assert (await page.json("session"))[1]["secure"] is True
        await page.sampled(read)
        reader, writer = await page.opened("/api/v1/live", {"Authorization": f"Bearer {read}"})
        async for event, _ in frames(reader):
            if event == "overview":
                break
        await _close(writer)

    serve(scenario, WebSettings((LOCAL, 0), str(pem), tokens=str(tmp_path / "tokens")))


def test_a_daemon_that_is_gone_or_older_is_reported_in_one_line() -> None:
    daemon = CannedDaemon()
    daemon.down = "no pylvs run answers at /run/pylvs.sock; start it"

    async def scenario(page: Page) -> None:
        reader, writer = await page.opened("/api/v1/live", {})
        async for event, data in frames(reader):
            if event == "daemon" and data["problem"] == daemon.down:
                daemon.down, daemon.version, daemon.absent = "", "0.0.9", {"/v1/differences", "/v1/drains"}
            if event == "daemon" and data["connected"]:
                assert data["older"].startswith("the daemon is pylvs 0.0.9, this page is of ")
                break
        await _close(writer)
        assert await page.json("reload-preview") == (
            404, {"error": "the daemon, pylvs 0.0.9, has no /v1/differences: it is older than this page"},
        )  # fmt: skip

    serve(scenario, daemon=daemon)


def test_pages_that_do_not_read_cost_little_memory_and_keep_no_other_waiting() -> None:
    async def scenario(page: Page) -> None:
        await page.sampled()
        stuck = [await page.opened("/api/v1/live?view=servers&limit=500", {}) for _ in range(50)]
        for reader, _ in stuck:
            reader._transport.pause_reading()  # type: ignore[attr-defined]
        before = _memory(page.parent.process.pid)
        reader, writer = await page.opened("/api/v1/live", {})
        samples = 0
        for number in range(3000):
            page.daemon.events_now.put_nowait(json_line({"event": "reloaded", "at": float(number), "text": "x" * 1000}))
        async for event, _ in frames(reader):
            samples += event == "overview"
            if samples == 5:
                break
        assert _memory(page.parent.process.pid) - before < 64 << 20
        for _, each in (*stuck, (reader, writer)):
            await _close(each)

    serve(scenario, daemon=CannedDaemon(servers=500))


def _memory(pid: int) -> int:
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGESIZE")


def test_a_listener_that_the_parent_shuts_down_ends_no_process() -> None:
    async def whole() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            serving = asyncio.create_task(until_shut_down(HttpServer(listener, _no_request)))
            await asyncio.sleep(0)
            listener.shutdown(socket.SHUT_RDWR)
            async with asyncio.timeout(PATIENCE_S):
                await serving

    asyncio.run(whole())


async def _no_request(request: Request) -> Response:
    raise AssertionError(request)


def test_a_killed_process_is_replaced_and_serves_the_same_port() -> None:
    async def scenario(page: Page) -> None:
        await page.sampled()
        first = page.parent.process.pid
        os.kill(first, signal.SIGKILL)
        await until_async(lambda: page.parent.process.up and page.parent.process.pid != first)
        await page.sampled()

    serve(scenario)


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda path: path.chmod(0o640), "others may read or change it (mode 0640): chmod 600"),
        (lambda path: path.unlink(), "No such file or directory"),
        (lambda path: path.write_text("alice operate secret\n"), ":1: is no token: write NAME"),
        (lambda path: path.write_text(f"alice root sha256:{'0' * 64}\n"), "'root' is no role: write read or operate"),
        (lambda path: path.write_text(f"a read sha256:{'0' * 64} soon\n"), "'soon' is no date"),
        (lambda path: path.write_text("# nothing\n"), "has no token"),
    ],
)
def test_a_wrong_file_of_tokens_serves_no_page(tmp_path: Path, write: Callable[[Path], object], text: str) -> None:
    path = tmp_path / "tokens"
    token_file(path)
    write(path)
    _assert_refused(WebSettings((LOCAL, 0), tokens=str(path)), text)


def test_a_wrong_certificate_serves_no_page(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    pem = certificate(tmp_path)
    (tmp_path / "alone").write_text(Path(f"{pem}.crt").read_text())
    for certificate_, text in (
        ("empty", "has no certificate in PEM format"),
        ("alone", "has no private key in PEM format"),
        ("absent", "No such file or directory"),
    ):
        _assert_refused(WebSettings((LOCAL, 0), str(tmp_path / certificate_)), text)


def test_a_taken_port_is_one_line() -> None:
    async def scenario(page: Page) -> None:
        taken = WebSettings((LOCAL, page.parent.port))
        other = WebParent(page.daemon.send, page.daemon.events, Jobs((), lambda: ()))
        try:
            await other.follow(taken)
            assert (
                other.error == f"web_address 127.0.0.1:{page.parent.port}: Address already in use; write another port"
            )
        finally:
            await other.close()

    serve(scenario)


def _assert_refused(settings: WebSettings, text: str) -> None:
    async def whole() -> None:
        daemon = CannedDaemon()
        parent = WebParent(daemon.send, daemon.events, Jobs((), lambda: ()))
        try:
            await parent.follow(settings)
            assert text in parent.error
            assert parent.port == 0
            assert not parent.process.runs
        finally:
            await parent.close()

    asyncio.run(whole())


def test_the_parent_refuses_what_the_page_does_not_have(tmp_path: Path) -> None:
    """A process in an attacker's hands has no more power than the tokens that it saw."""
    read, operate = token_file(tmp_path / "tokens")
    rights = Rights(tokens.read(str(tmp_path / "tokens")))
    message = {"method": "POST", "path": "/v1/drain", "given": {}, "sample": True}
    for token in ("", read, "wrong"):
        with pytest.raises(Refused):
            rights.ask({**message, "token": token})
    assert rights.ask({**message, "token": operate}).who == "alice"
    wrongs: tuple[dict[str, Any], ...] = (
        {"path": "/v1/stop"},
        {"path": "/v1/connections", "method": "GET"},
        {"given": []},
    )
    for wrong in wrongs:
        with pytest.raises(BadMessage):
            rights.ask({**message, "token": operate, **wrong})
    with contextlib.suppress(Refused):
        rights.job({"job": "trace", "token": read})
        pytest.fail("a reader may not trace")


def test_a_slow_sample_of_a_starting_daemon_delays_no_later_one() -> None:
    """A sample is followed by a multiple of its duration, but not if it waited for the daemon's start."""
    daemon = Daemon(lambda _: None)
    assert (daemon.pause_s(1.5, counts=False), daemon.period_s) == (PERIOD_S, PERIOD_S)
    assert daemon.pause_s(0.01, counts=True) == PERIOD_S - 0.01
    assert daemon.pause_s(2.0, counts=True) < PERIOD_S
    slow = Daemon(lambda _: None)
    assert (slow.pause_s(0.5, counts=True), slow.period_s) == (0.5 * SHARE, 0.5 * SHARE + 0.5)
    assert slow.pause_s(100.0, counts=True) == 0.5 * SHARE
    assert Daemon(lambda _: None).pause_s(100.0, counts=True) == MOST_PERIOD_S


def test_a_request_that_is_cancelled_at_once_leaves_nothing() -> None:
    """pytest reports a coroutine without an await."""

    async def scenario(page: Page) -> None:
        page.parent._receive({"ask": 1, "method": "GET", "path": "/v1/status", "given": {}, "sample": True})
        page.parent._down()

    serve(scenario)
