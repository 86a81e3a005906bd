"""The API's socket: its permissions, its responses, and the commands that use it."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner

from pylvs.cli.daemon import reload as reload_command
from pylvs.config.language.tree import Finding, Location, Severity
from pylvs.daemon.api import encoding
from pylvs.daemon.api import server as api_server
from pylvs.daemon.api.client import Client, NoDaemon
from pylvs.model.errors import PylvsError
from pylvs.system.http import server as http_server
from tests.unit.daemon.commands import during
from tests.unit.daemon.daemons import FakeHost, run, server, service, until
from tests.waiting import PATIENCE_S

WARNING = Finding(Location("test.conf", 3, 5), Severity.WARNING, "weight 0 is unusual", "check the weight")
BROKEN = Finding(Location("test.conf", 9, 1), Severity.ERROR, "a } is missing", fatal=True)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path / "state")


def test_the_socket_is_for_root_alone(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(host.state)
    (mode,) = during(host, lambda: stat.S_IMODE((host.state / "control").stat().st_mode))
    assert mode == 0o600
    monkeypatch.setattr(http_server, "peer_of", lambda _: (os.getpid(), 4711))
    ((status, content),) = during(host, lambda: client.ask("POST", "/v1/reload"))
    assert (status, content) == (403, {"error": "root alone may ask this daemon"})


def test_a_reload_answers_with_findings_differences_and_edits(host: FakeHost) -> None:
    client = Client(host.state)

    def change() -> None:
        host.write(service(server(1, weight=3), server(2)), findings=[WARNING])

    answers = during(
        host,
        change,
        lambda: client.ask("POST", "/v1/reload", {"dry_run": True}),
        lambda: client.ask("POST", "/v1/reload"),
        lambda: host.write(service(server(1)), findings=[BROKEN]),
        lambda: client.ask("POST", "/v1/reload", {}),
    )
    finding = {
        "file": "test.conf",
        "line": 3,
        "column": 5,
        "width": 1,
        "severity": "warning",
        "text": "weight 0 is unusual",
        "advice": "check the weight",
        "security": False,
        "fatal": False,
    }
    reply: dict[str, Any] = {"findings": [finding], "differences": ["1 -> 1 services"]}
    reply |= {"virtual_routers": {"warnings": [], "problem": ""}, "metrics_error": ""}
    assert answers[1] == (200, {**reply, "table": None})
    assert answers[2] == (200, {**reply, "table": {"edits": 1, "refused": [], "error": ""}})
    status, content = answers[4]
    assert status == 409
    assert content["error"] == "the file cannot be run: test.conf:9:1: error: a } is missing"
    assert [each["fatal"] for each in content["findings"]] == [True]


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "text"),
    [
        ("POST", "/v1/reload", {"dry_run": 1}, 400, "dry_run: must be true or false"),
        ("POST", "/v1/reload", {"colour": True}, 400, "it takes dry_run, allow_empty, force"),
        ("POST", "/v1/reload", [], 400, "must be a JSON object"),
        ("GET", "/v1/reload", None, 405, "GET /v1/reload: Method Not Allowed"),
        ("GET", "/v1/nothing", None, 404, "GET /v1/nothing: Not Found"),
    ],
)
def test_a_wrong_request_gets_a_reason(
    host: FakeHost, method: str, path: str, content: Any, status: int, text: str
) -> None:
    ((got, reply),) = during(host, lambda: Client(host.state).ask(method, path, content))
    assert got == status
    assert text in reply["error"]


def test_a_wrong_method_gets_the_allowed_ones(host: FakeHost) -> None:
    def allowed() -> str | None:
        with Client(host.state).stream("TRACE", "/v1/reload") as response:
            assert response.status == 405
            return response.headers["Allow"]

    assert during(host, allowed) == ["POST"]


def posted(host: FakeHost, path: str, content: Any) -> socket.socket:
    """Send a request, and return the connection. The daemon has not read it yet, as it runs in the same thread."""
    end = socket.socket(socket.AF_UNIX)
    end.connect(str(host.state / "control"))
    body = json.dumps(content).encode()
    end.sendall(b"POST %s HTTP/1.0\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body))
    return end


def test_an_edit_whose_client_has_given_up_is_not_made(host: FakeHost, log_output: io.StringIO) -> None:
    """A daemon that hangs finds it later."""
    host.write(service(server(1), server(2)))

    async def scenario() -> None:
        async with host.daemon() as daemon:
            posted(host, "/v1/drain", {"server": "10.0.0.1"}).close()
            dropped = "warning: /v1/drain was not executed, because its client has disconnected\n"
            await until(lambda: dropped in log_output.getvalue())
            assert daemon.drains.all() == ()
            assert daemon.engine.overrides() == {}
            with patch.object(daemon, "stop") as stop:
                posted(host, "/v1/stop", {}).close()
                await until(lambda: stop.called, "a stop is executed all the same")

    run(scenario())


def test_the_modules_of_this_version_are_loaded_before_an_upgrade_replaces_them(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    async def imported(module: str) -> None:
        loaded.append(module)

    monkeypatch.setattr(api_server, "_imported", imported)

    async def scenario() -> None:
        async with host.daemon():
            await until(lambda: loaded)
            assert loaded == ["pylvs.daemon.api.application"]

    run(scenario())


@pytest.mark.parametrize("path", ["/v1/status", "/v1/services"])
def test_a_large_reply_does_not_delay_others(host: FakeHost, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Another request gets its reply while the services of this one are encoded."""
    encodes, answered = threading.Event(), threading.Event()
    client, encode = Client(host.state), encoding.service_encoded

    def slowly(*given: Any) -> Any:
        encodes.set()
        assert answered.wait(PATIENCE_S), "the event loop encodes the services"
        return encode(*given)

    def step() -> tuple[int, int]:
        with ThreadPoolExecutor() as pool:
            large = pool.submit(client.ask, "GET", path)
            assert encodes.wait(PATIENCE_S)
            other = client.ask("GET", "/v1/vrrp")[0]
            answered.set()
            return other, large.result()[0]

    host.write(service(server(1)))
    monkeypatch.setattr("pylvs.daemon.api.routes.service_encoded", slowly)
    assert during(host, step) == [(200, 200)]


def test_a_malformed_request_is_logged_in_one_line(host: FakeHost, log_output: io.StringIO) -> None:
    def malformed() -> bytes:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(str(host.state / "control"))
            stream.sendall(b"GET /v1/status HTTP/1.1\r\nHost: pylvs\r\nX: a\0b\r\n\r\n")
            return stream.recv(100)

    before, (answer, good) = (
        len(log_output.getvalue()),
        during(host, malformed, lambda: Client(host.state).ask("GET", "/v1/status")[0]),
    )
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert good == 200
    lines = log_output.getvalue()[before:].splitlines()
    about = [line for line in lines if "malformed request refused" in line]
    assert len(about) == 1
    assert "warning" in about[0]
    assert "illegal header line" in about[0]
    assert not [line for line in lines if "Traceback" in line]


def test_without_a_daemon_the_error_names_the_socket(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match=re.escape(f"no pylvs run answers at {tmp_path}/none/control; start it")):
        Client(tmp_path / "none").ask("POST", "/v1/reload")


def test_the_command_prints_the_differences_and_fails_with_the_reload(host: FakeHost) -> None:
    def command(*text: str) -> Callable[[], tuple[int, str, str, str]]:
        def call() -> tuple[int, str, str, str]:
            done = CliRunner().invoke(reload_command, [*text, "--state-dir", str(host.state)])
            error = str(done.exception) if isinstance(done.exception, PylvsError) else ""
            return done.exit_code, done.stdout, done.stderr, error

        return call

    answers = during(
        host,
        command(),
        lambda: host.write(service(server(1, weight=3)), findings=[WARNING]),
        command("--dry-run"),
        command(),
        lambda: host.write(service(server(1)), findings=[BROKEN]),
        command(),
        host.write,
        command(),
        command("--allow-empty"),
    )
    assert answers[0] == (0, "nothing has changed\n", "", "")
    assert answers[2] == answers[3] == (0, "1 -> 1 services\n", f"{WARNING}\n", "")
    assert answers[5] == (1, "", "", f"the file cannot be run: {BROKEN}")  # it names the finding once
    assert answers[7][3].startswith("test.conf: is empty;")
    assert answers[8][:2] == (0, "1 -> 0 services\n")


def test_a_table_that_cannot_be_edited_is_reported(host: FakeHost) -> None:
    def refuse() -> None:
        host.write(service(server(1), server(2), scheduler="no-such"))

    def command() -> tuple[int, str, str]:
        done = CliRunner().invoke(reload_command, ["--state-dir", str(host.state)])
        return done.exit_code, done.stderr, str(done.exception)

    _, (status, stderr, error) = during(host, refuse, command)
    assert status == 1
    assert "scheduler wlc -> no-such: refused: " in stderr
    assert error == "the configuration is in force, but the table refused 1 edit"
