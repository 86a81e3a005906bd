"""The API's HTTP server: malformed requests, its limits, and what a client leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import io
import json
import os
import socket
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.daemon.api.application import _executed
from pylvs.daemon.notifications import MAX_QUEUED, REMEMBERED, EventBus
from pylvs.model.errors import Busy
from pylvs.system.http import server as http_server
from pylvs.system.http.server import HttpServer, Limits, Request, Response, Stream, json_response
from tests.unit.daemon.daemons import FakeHost, run, until
from tests.waiting import PATIENCE_S

Handler = http_server.Handler


@contextlib.asynccontextmanager
async def served(path: Path, handler: Handler, limits: Limits = Limits()) -> AsyncIterator[HttpServer]:  # noqa: B008
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(str(path))
    listener.listen(128)
    server = HttpServer(listener, handler, limits)
    task = asyncio.create_task(server.run())
    try:
        yield server
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.close()
        path.unlink()


async def exchanged(path: Path, sent: bytes, half_close: bool = True) -> bytes:
    """Send this, and return all that comes back."""
    reader, writer = await asyncio.open_unix_connection(str(path))
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(sent)
            if half_close:
                writer.write_eof()
            return await asyncio.wait_for(reader.read(), PATIENCE_S)
        return b""
    finally:
        writer.close()


def parsed(raw: bytes) -> tuple[int, dict[str, str], Any]:
    """Return status, header fields and the JSON of a response."""
    head, separator, body = raw.partition(b"\r\n\r\n")
    assert separator, raw
    line, *fields = head.decode("ascii").split("\r\n")
    assert line.startswith("HTTP/1.1 "), line
    found = dict(field.lower().split(": ", 1) for field in fields)
    assert int(found["content-length"]) == len(body)
    return int(line.split()[1]), found, json.loads(body)


async def echo(request: Request) -> Response:
    return json_response({"method": request.method, "path": request.path, "body": len(request.body)})


POST = b"POST /v1/drain HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s"
VALID = (
    b"GET /v1/events?follow=false HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n",
    POST % (b"", 14, b'{"server": ""}'),
    b"POST /v1/stop HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"OPTIONS * HTTP/1.0\r\n\r\n",
)
PIECES = st.sampled_from(
    [
        *(b"\0", b"\xff", b"\r", b"\n", b"\r\n\r\n", b" ", b"\t", b":", b"http://[", b"%ff%00", b"HTTP/9.9", b"PRI * "),
        *(b"Content-Length: -1\r\n", b"Content-Length: 99999999999\r\n", b"Content-Encoding: gzip\r\n"),
        *(
            b"Transfer-Encoding: gzip\r\n",
            b"Host: y\r\n",
            b"Expect: 100-continue\r\n",
            b"Upgrade: h2c\r\n",
            b"A" * 20_000,
        ),
    ]
)


@given(
    raw=st.sampled_from(VALID),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 8), PIECES), min_size=1, max_size=3),
)
def test_a_damaged_request_is_refused_in_json_or_executed(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, changes: list[tuple[float, int, bytes]]
) -> None:
    for where, removed, added in changes:
        at = int(where * len(raw))
        raw = raw[:at] + added + raw[at + removed :]
    path = tmp_path_factory.getbasetemp() / f"damaged-{os.getpid()}"

    async def scenario() -> None:
        async with served(path, echo):
            answer = await exchanged(path, raw)
            head, _, rest = answer.partition(b"\r\n\r\n")
            if head == b"HTTP/1.1 100 ":
                answer = rest
            if not answer:  # the server saw no request at all
                assert not raw.strip(b"\r\n")
                return
            if raw.startswith(b"HEAD"):
                return
            status, fields, content = parsed(answer)
            assert fields["content-type"] == "application/json; charset=utf-8"
            assert (status == 200) != (set(content) == {"error"}), content
            assert status < 500 or status == 501, answer

    run(scenario())


async def operation(request: Request) -> Response | Stream:
    return await _executed(None, request)  # type: ignore[arg-type]  # refused before the daemon matters


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        (POST % (b"Content-Encoding: gzip\r\n", 3, b"abc"), 415, "Content-Encoding: gzip: send the body without"),
        (POST % (b"Content-Encoding: gzip\r\n", 22, gzip.compress(b"{}", mtime=0)[:22]), 415, "without an encoding"),
        (POST % (b"", 3, b"abc"), 400, "the request's body is no JSON"),
        (POST % (b"", http_server.MAX_BODY + 1, b" " * (http_server.MAX_BODY + 1)), 413, "has more than 1048576 bytes"),
        (b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", 400, "malformed request: "),
        (b"GET /v1/status HTTP/1.1\r\n\r\n", 400, "malformed request: "),
        (b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n", 400, "its target is no URL"),
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * 100_000), 431, "malformed request: "),
        (b"nonsense\r\n\r\n", 400, "malformed request: "),
        (b"GET /v1/nothing HTTP/1.0\r\n\r\n", 404, "GET /v1/nothing: Not Found"),
        (b"PUT /v1/drain HTTP/1.0\r\n\r\n", 405, "PUT /v1/drain: Method Not Allowed"),
        (b"POST /v1/drain HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "malformed request: "),
        (b"GET /v1/stat", 400, "malformed request: "),
    ],
)
def test_each_error_is_one_json_object(tmp_path: Path, sent: bytes, status: int, text: str) -> None:
    async def scenario() -> None:
        async with served(tmp_path / "api", operation):
            found, _, content = parsed(await exchanged(tmp_path / "api", sent))
            assert (found, list(content)) == (status, ["error"])
            assert text in content["error"]
            assert "\n" not in content["error"]

    run(scenario())


def test_a_request_that_is_not_complete_in_time_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path / "api", echo, Limits(request_s=0.01)):
            status, _, content = parsed(await exchanged(tmp_path / "api", b"GET / HTTP/1.1\r\n", half_close=False))
            assert (status, content) == (408, {"error": "the request was not complete in 0.01 s"})

    run(scenario())


def test_a_body_is_sent_after_100_continue(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with served(tmp_path / "api", echo):
            reader, writer = await asyncio.open_unix_connection(str(tmp_path / "api"))
            writer.write(b"POST /x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)).startswith(b"HTTP/1.1 100 ")
            writer.write(b"{}")
            assert parsed(await asyncio.wait_for(reader.read(), PATIENCE_S))[2]["body"] == 2
            writer.close()

    run(scenario())


def test_a_new_connection_replaces_the_one_that_has_waited_longest_for_its_client(tmp_path: Path) -> None:
    """First of those without a request, then of those that do not read; never one that is executed."""
    hold = asyncio.Event()

    async def handler(request: Request) -> Response:
        if request.path == "/held":
            await hold.wait()
        return Response(b" " * (8 << 20 if request.path == "/large" else 1))

    async def scenario() -> None:
        path = tmp_path / "api"
        async with served(path, handler, Limits(connections=3, of_one_user=3)) as server:

            async def opened(sent: bytes, waits: http_server._Waits) -> asyncio.StreamReader:
                before = len([each for each in server._connections if each.waits is waits])
                reader, writer = await asyncio.open_unix_connection(str(path), limit=1)
                writers.append(writer)
                writer.write(sent)
                await until(lambda: len([e for e in server._connections if e.waits is waits]) > before)
                return reader

            writers: list[asyncio.StreamWriter] = []
            held = await opened(b"GET /held HTTP/1.0\r\n\r\n", http_server._Waits.WORK)
            await opened(b"GET /large HTTP/1.0\r\n\r\n", http_server._Waits.READER)
            silent = await opened(b"", http_server._Waits.REQUEST)
            for _ in range(2):  # replaces the silent one, then the one that does not read
                await opened(b"GET /held HTTP/1.0\r\n\r\n", http_server._Waits.WORK)
                assert len(server._connections) == 3
            assert await asyncio.wait_for(silent.read(), PATIENCE_S) == b""
            status, _, content = parsed(await exchanged(path, b"GET /held HTTP/1.0\r\n\r\n"))
            assert (status, "try again" in content["error"]) == (503, True)
            hold.set()
            assert b" 200 " in await asyncio.wait_for(held.read(100), PATIENCE_S)
            for writer in writers:
                writer.close()

    run(scenario())


def test_one_user_cannot_take_the_connections_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    users = [1001, 1000, 1000, 1000]
    monkeypatch.setattr(http_server, "peer_of", lambda _: (1, users.pop()))

    async def scenario() -> None:
        path = tmp_path / "api"
        async with served(path, echo, Limits(connections=4, of_one_user=2)) as server:
            writers = []
            for left, found in ((3, [1000]), (2, [1000, 1000]), (1, [1000, 1000]), (0, [1000, 1000, 1001])):
                _, writer = await asyncio.open_unix_connection(str(path))
                writers.append(writer)
                await until(lambda left=left, found=found: (len(users), sorted(_users(server))) == (left, found))  # type: ignore[misc]
            for writer in writers:
                writer.close()

    run(scenario())


def _users(server: HttpServer) -> list[int | str]:
    return [each.user for each in server._connections]


def test_operations_of_a_limited_socket_run_one_after_another_with_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, pauses = 0, 0, list[float]()
    sleep, now = asyncio.sleep, [100.0]

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    async def handler(_: Request) -> Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        now[0] += 0.1
        await sleep(0)
        running -= 1
        return json_response({})

    monkeypatch.setattr("time.monotonic", lambda: now[0])

    async def scenario() -> None:
        path = tmp_path / "api"
        async with served(path, handler, Limits(share=4)):
            monkeypatch.setattr(asyncio, "sleep", noted)
            await asyncio.gather(*(exchanged(path, b"GET / HTTP/1.0\r\n\r\n") for _ in range(8)))
            monkeypatch.setattr(asyncio, "sleep", sleep)

    run(scenario())
    assert most == 1
    assert [each for each in pauses if each] == [pytest.approx(0.4)] * 8


# --- what clients leave behind ---


def test_events_are_kept_once_for_all_streams_and_are_let_go() -> None:
    bus = EventBus()
    readers = [bus.subscribe() for _ in range(500)]
    for number in range(MAX_QUEUED + 500):
        bus.publish("reload_refused", reason=f"number {number}")
    assert len(bus._lines) == MAX_QUEUED
    assert {type(each._position) for each in readers} == {int}, "a stream that is not read holds no event"

    async def scenario() -> None:
        first = json.loads((await readers[0].next_lines()).splitlines()[0])
        assert (first["event"], first["count"]) == ("missed", 500)
        found = 0
        while readers[0].position < bus.end:
            found += len((await readers[0].next_lines()).splitlines())
        assert found < MAX_QUEUED

    run(scenario())
    for each in readers[1:]:
        each.close()
    assert len(bus._lines) == REMEMBERED
    readers[0].close()


def test_a_reader_that_keeps_up_lets_go_of_all_but_the_last_events() -> None:
    async def scenario() -> None:
        bus = EventBus()
        reader = bus.subscribe()
        for number in range(3 * REMEMBERED):
            bus.publish("reload_refused", reason=str(number))
            await reader.next_lines()
        assert len(bus._lines) < REMEMBERED + 100

    run(scenario())


def test_clients_leave_nothing_in_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 streams that are not read, and requests of any kind: afterwards their objects are gone."""
    monkeypatch.setattr("pylvs.daemon.api.routes.CLIENT_POLL_S", 0.05)
    made = weakref.WeakSet[Any]()
    init = http_server._Connection.__init__

    async def scenario() -> None:
        host = FakeHost(tmp_path / "state")
        async with host.daemon() as daemon:
            path = host.state / "control"
            ends = []
            for count in range(1, 51):
                end = socket.socket(socket.AF_UNIX)
                end.connect(str(path))
                end.sendall(b"GET /v1/events?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
                ends.append(end)
                await until(lambda count=count: len(daemon.events._subscribers) == count)  # type: ignore[misc]
            for number in range(2000):
                daemon.events.publish("reload_refused", reason=f"{number}: " + "x" * 500)
            await exchanged(path, b"GET /v1/status HTTP/1.0\r\n\r\n")
            for end in ends:
                end.close()
            await until(lambda: not daemon.events._subscribers)
            # asyncio's futures refer to the error that they have, and it to them.
            await until(lambda: gc.collect() >= 0 and not made)
            assert len(daemon.events._lines) == REMEMBERED

    def noted(self: Any, *given: Any, **named: Any) -> None:
        init(self, *given, **named)
        made.add(self.http)

    monkeypatch.setattr(http_server._Connection, "__init__", noted)
    run(scenario())


def test_a_stream_that_fails_is_logged_and_ends_its_connection_alone(tmp_path: Path, log_output: io.StringIO) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"1\n"
        raise Busy("the table was not read")

    async def handler(request: Request) -> Response | Stream:
        return Stream(parts(), "text/plain") if request.path == "/stream" else json_response({})

    async def scenario() -> None:
        async with served(tmp_path / "api", handler):
            answer = await exchanged(tmp_path / "api", b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer.endswith(b"2\r\n1\n\r\n"), "without the last chunk"
            assert parsed(await exchanged(tmp_path / "api", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 200

    run(scenario())
    assert "error: a response was not completed: the table was not read" in log_output.getvalue()


def test_head_of_a_stream_gets_its_head_alone(tmp_path: Path, log_output: io.StringIO) -> None:
    """RFC 9110, 9.3.2: the stream is closed, without a part of it."""
    closed: list[bool] = []

    async def parts() -> AsyncIterator[bytes]:
        yield b"1\n"

    async def handler(_: Request) -> Response | Stream:
        return Stream(parts(), "text/plain", lambda: closed.append(True))

    async def scenario() -> None:
        async with served(tmp_path / "api", handler):
            answer = await exchanged(tmp_path / "api", b"HEAD /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert answer.endswith(b"\r\n\r\n")
            await until(lambda: closed)

    run(scenario())
    assert log_output.getvalue() == ""
