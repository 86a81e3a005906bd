"""Faults around the daemon, and large numbers of requests, have no further effects."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pylvs.cli import main
from pylvs.daemon import Options
from pylvs.daemon.api import routes, tables
from pylvs.daemon.api.client import READ_TIMEOUT_S as CLIENT_S  # before conftest.py raises it
from pylvs.daemon.api.client import Client
from pylvs.daemon.api.encoding import Counts, counts_of
from pylvs.daemon.api.metrics import exposition
from pylvs.daemon.api.routes import STATUS_TABLES_S as TABLES_S
from pylvs.daemon.leftovers import delete_services
from pylvs.daemon.loading import load_in_subprocess
from pylvs.daemon.notifications import log_event
from pylvs.daemon.state import saved
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.table import ownership
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.daemon.via_vip import VipChecks
from pylvs.daemon.virtual_routers.supervision import STATUS_TIMEOUT_S as ROUTERS_S
from pylvs.health.events import CheckInconclusive
from pylvs.model.errors import PylvsError, Unsupported
from pylvs.model.rows import ServiceRow
from tests.shortages import SHORTAGES, failing
from tests.unit.daemon.commands import ask
from tests.unit.daemon.daemons import OTHER, FakeHost, run, server, service, until
from tests.waiting import PATIENCE_S

OF_TABLES = (
    "node_ipvs_connections_total",
    "node_ipvs_backend_weight",
    "pylvs_service_connections_total",
    "pylvs_connections ",
    "pylvs_packets_total",
    "pylvs_forwarded_packets_total",
    "pylvs_refused_connections_total",
)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path / "state")


def test_a_directory_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    state = StateDirectory(tmp_path)
    state.acquire()
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    state.release()


def test_a_directory_that_others_may_write_to_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(Unsupported, match="others may write to it"):
        StateDirectory(shared).acquire()
    assert shared.stat().st_mode & 0o7777 == 0o1777
    assert not list(shared.iterdir())


@pytest.mark.parametrize("content", ["7", "[1]", '{"devices": 5}', '{"devices": [1]}', "[" * 100_000])
def test_a_damaged_note_of_changed_devices_is_reported_in_one_line(
    tmp_path: Path, content: str, log_output: io.StringIO
) -> None:
    state, checks = StateDirectory(tmp_path), VipChecks()
    state.file("via_vip").write_text(f'{{"version": 1, "content": {content}}}')
    for _ in range(2):
        checks.adapt_host(state)
    (line,) = log_output.getvalue().splitlines()
    assert re.search(r"checks through virtual addresses may fail: .*via_vip\.json: damaged .*; remove it", line)
    assert checks.error in line
    with pytest.raises(PylvsError, match=r"via_vip\.json: damaged .*; remove it"):
        checks.restore(state)


@pytest.mark.parametrize("number", SHORTAGES)
def test_a_state_file_that_cannot_be_read_is_not_called_damaged(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateDirectory(tmp_path)
    state.write("via_vip", {"devices": ["eth0"]})
    monkeypatch.setattr("pylvs.daemon.state.directory.os.open", failing(number))
    with pytest.raises(PylvsError, match=rf"via_vip\.json: cannot be read: {os.strerror(number)}$"):
        state.read("via_vip")


def test_a_host_is_followed_although_a_state_file_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, checks = StateDirectory(tmp_path), VipChecks()
    state.write("via_vip", {"devices": []})
    monkeypatch.setattr("pylvs.daemon.state.directory.os.open", failing(errno.EMFILE))
    checks.adapt_host(state)
    assert checks.error.endswith(f"cannot be read: {os.strerror(errno.EMFILE)}")


def test_an_override_of_many_services_is_saved_once(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    kept_now: list[int] = []
    keep = saved.save_overrides

    def counted(state: StateDirectory, saved: saved.SavedOverrides) -> None:
        kept_now.append(len(saved.overrides))
        keep(state, saved)

    monkeypatch.setattr(saved, "save_overrides", counted)
    host.write(service(*(server(1, port=port) for port in range(1000, 1200))))

    async def scenario() -> None:
        async with host.daemon():
            reply = await asyncio.to_thread(ask, host, "POST", "/v1/drain", {"server": "10.0.0.1"})
            assert len(reply["servers"]) == 200
            assert len(saved.load_overrides(StateDirectory(host.state)).overrides) == 200

    run(scenario())
    assert kept_now[0] == 200
    assert len(kept_now) <= 3


def test_a_drain_of_one_port_does_not_end_that_of_others(host: FakeHost) -> None:
    host.write(service(server(1), server(2)), service(server(1, port=443), key=OTHER))

    async def scenario() -> None:
        async with host.daemon() as daemon:
            key = server(1, port=443).destination.key
            host.tables.count(OTHER, key, active=1)
            await asyncio.to_thread(ask, host, "POST", "/v1/drain", {"server": "10.0.0.1"})
            await asyncio.to_thread(ask, host, "POST", "/v1/drain", {"server": "10.0.0.1:80"})
            first, second = daemon.drains.all()
            assert first.stage.value == "waiting"
            assert first.servers == ((str(OTHER), key),)
            await until(lambda: second.stage.value == "removed")
            host.tables.count(OTHER, key, active=0)
            await until(lambda: first.stage.value == "removed")
            await until(lambda: host.servers(OTHER) == set())

    run(scenario())


def test_the_status_of_many_services_counts_the_table_once(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def noted(rows: Sequence[ServiceRow]) -> Counts:
        calls.append(1)
        return counts_of(rows)

    monkeypatch.setattr(routes, "counts_of", noted)
    host.write(service(server(1)), service(server(2), key=OTHER))

    async def scenario() -> None:
        async with host.daemon():
            await asyncio.to_thread(ask, host, "GET", "/v1/status")

    run(scenario())
    assert calls == [1]


def test_the_page_of_metrics_is_written_beside_the_checks(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def noted(*given: Any) -> str:
        threads.append(threading.current_thread())
        return exposition(*given)

    monkeypatch.setattr("pylvs.daemon.api.routes.exposition", noted)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            assert "pylvs_info" in (await routes.metrics_page(daemon)).text

    run(scenario())
    assert threads
    assert threading.main_thread() not in threads


def test_without_the_process_that_makes_checks_their_state_is_unknown(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    monkeypatch.setattr("pylvs.daemon.supervisor.PROBER_LEASE_S", 3.0)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            host.prober.process.problem = "the prober process cannot be started"
            await until(daemon.liveness.silent)
            reply = await asyncio.to_thread(ask, host, "GET", "/v1/status")
            assert reply["unknown"] == ["the prober process has made no progress for 3 s; its state is unknown"]
            assert [each["in_table"] for each in reply["services"][0]["servers"]] == [True, True]
            page = (await routes.metrics_page(daemon)).text
            assert "pylvs_prober_up 0.0" in page
            assert 'pylvs_part_silent{part="the_prober_process"} 1.0' in page
            (event,) = [each for each in daemon.events.recent() if each["event"] == "part_silent"]
            assert [event["reason"]] == reply["unknown"]
            assert f"error: {event['reason']}\n" in log_output.getvalue()
            host.prober.process.problem = ""
            await until(lambda: not daemon.liveness.silent())

    run(scenario())


def test_a_client_waits_longer_than_a_status_takes() -> None:
    assert TABLES_S + ROUTERS_S < CLIENT_S


def test_a_status_does_not_wait_for_a_slow_table(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "STATUS_TABLES_S", 0.05)
    resumed = threading.Event()

    async def scenario() -> None:
        async with host.daemon() as daemon:
            slow = asyncio.create_task(daemon.table_thread.run(resumed.wait))
            try:
                reply = await asyncio.to_thread(ask, host, "GET", "/v1/status")
            finally:
                resumed.set()
            await slow
            assert reply["unknown"] == ["the table was not read within 0.05 s: connections are unknown"]
            assert [each["up"] for each in reply["services"][0]["servers"]] == [True, True]

    run(scenario())


def test_a_status_does_not_wait_for_the_file_system_of_the_configuration(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pylvs.daemon.api.files.PATIENCE_S", 0.05)
    answers, stat = threading.Event(), os.stat
    file = "/nonexistent/on-a-server/keepalived.conf"
    host.file = replace(host.file, files=(file,))

    def hanging(path: Any, **options: Any) -> os.stat_result:
        if path == file:
            answers.wait()
        return stat(path, **options)

    async def scenario() -> None:
        async with host.daemon():
            with monkeypatch.context() as server:
                server.setattr(os, "stat", hanging)
                late = ["the configuration cannot be read: its file system has not answered for 0.05 s"]
                for _ in range(2):
                    reply = await asyncio.to_thread(ask, host, "GET", "/v1/status")
                    assert reply["differs"] == late
                answers.set()
            monkeypatch.setattr("pylvs.daemon.api.files.PATIENCE_S", PATIENCE_S)
            reply = await asyncio.to_thread(ask, host, "GET", "/v1/status")
            assert reply["differs"] == [f"{file} cannot be read any more: No such file or directory"]

    try:
        run(scenario())
    finally:
        answers.set()


def test_metrics_and_counters_omit_a_table_that_is_not_read_in_time(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number of 0 is a reset of the counter for Prometheus and for SNMP."""
    monkeypatch.setattr(tables, "TABLES_TIMEOUT_S", 0.05)
    resumed = threading.Event()

    async def scenario() -> None:
        async with host.daemon() as daemon:
            slow = asyncio.create_task(daemon.table_thread.run(resumed.wait))
            await asyncio.sleep(0)  # it is first
            try:
                page = await routes.metrics_page(daemon)
                status, reply = await asyncio.to_thread(Client(host.state).ask, "GET", "/v1/counters")
            finally:
                resumed.set()
            await slow
            assert not page.has_table
            assert [word for word in OF_TABLES if word in page.text] == []
            assert "pylvs_server_up" in page.text
            assert (status, reply) == (503, {"error": "the table was not read within 0.05 s; try again"})
            monkeypatch.setattr(tables, "TABLES_TIMEOUT_S", PATIENCE_S)
            page = await routes.metrics_page(daemon)
            assert page.has_table
            assert [word for word in OF_TABLES if word not in page.text] == []
            await asyncio.to_thread(ask, host, "GET", "/v1/counters")

    run(scenario())


def test_an_inconclusive_check_is_a_warning(log_output: io.StringIO) -> None:
    key = server(1).destination.key
    log_event(CheckInconclusive(at=1.0, service="web", server=key, reason="no memory", check="TCP_CHECK"))
    assert "warning: check inconclusive (service=web, check=TCP_CHECK" in log_output.getvalue()


@pytest.mark.parametrize("service", ["\udcff", "ä"])
def test_arguments_that_are_not_text_are_refused_with_a_reason(
    host: FakeHost, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_output = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")  # as the interpreter makes stderr
    monkeypatch.setattr(sys, "stderr", log_output)
    verbs = ["drain", "enable", "history", "check-now"]

    async def scenario() -> None:
        async with host.daemon():
            where = ["--service", service, "--state-dir", str(host.state)]
            for verb in verbs:
                assert await asyncio.to_thread(main.run, [verb, "10.0.0.1", *where]) == 1

    run(scenario())
    log_output.seek(0)
    lines = log_output.read().splitlines()
    assert len(lines) == len(verbs)
    assert all("no such service" in line for line in lines), lines


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"\xff\xfe\xfd", "application/json"), (b"{", "application/json; charset=nonsense"), (b"[" * 100_000, "x/y")],
)
def test_a_body_that_is_no_text_is_a_bad_request(host: FakeHost, body: bytes, kind: str) -> None:
    def asked() -> tuple[int, bytes]:
        from pylvs.system.unix_http import UnixConnection

        connection = UnixConnection(StateDirectory(host.state).socket_path, 60)
        connection.request("POST", "/v1/enable", body, {"Content-Type": kind})
        response = connection.getresponse()
        found = response.status, response.read()
        connection.close()
        return found

    async def scenario() -> None:
        async with host.daemon():
            answered, reply = await asyncio.to_thread(asked)
            assert answered == 400
            assert "no JSON" in json.loads(reply)["error"]

    run(scenario())


def test_a_follower_that_disconnected_is_removed_without_an_event(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "CLIENT_POLL_S", 0.05)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            _, writer = await asyncio.open_unix_connection(str(host.state / "control"))
            writer.write(b"GET /v1/events?follow=true HTTP/1.1\r\nHost: pylvs\r\n\r\n")
            await until(lambda: len(daemon.events._subscribers) == 1)
            writer.close()
            await until(lambda: not daemon.events._subscribers)

    run(scenario())


def test_a_full_disk_does_not_interrupt_the_stop(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    def full(*_: object) -> None:
        raise PylvsError("no space left")

    restored: list[StateDirectory] = []
    monkeypatch.setattr(host.vip_checks, "restore", restored.append)

    async def scenario() -> None:
        async with host.daemon():
            monkeypatch.setattr(ownership, "save_owned", full)

    run(scenario())
    assert restored
    assert host.servers() == set()
    assert "no space left" in log_output.getvalue()


def test_settings_that_stay_on_this_host_keep_the_note_of_their_namespace(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: StateDirectory) -> None:
        raise PylvsError("accept_local is left")

    async def scenario() -> None:
        async with host.daemon():
            assert "namespaces.json" in host.left()
            monkeypatch.setattr(host.vip_checks, "restore", refused)

    run(scenario())
    assert host.servers() == set()
    assert "namespaces.json" in host.left()


def test_a_daemon_that_leaves_its_services_notes_that_until_the_next_one(host: FakeHost) -> None:
    async def scenario() -> None:
        async with host.daemon(keep_table=True):
            pass
        before = host.table()
        delete_services(StateDirectory(host.state), lambda _: None)
        assert host.table() == before
        assert "services.json" in host.left()
        async with host.daemon(kill=True):
            pass
        assert not StateDirectory(host.state).read("namespaces")["keep_table"]

    run(scenario())


def test_an_os_error_without_a_text_is_reported(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    errors = [TimeoutError(), OSError(errno.EIO, "Input/output error"), ValueError("not allowed")]

    async def failing(*_: object) -> NoReturn:
        raise errors.pop(0)

    def write() -> None:
        raise TimeoutError

    async def scenario() -> None:
        async with BackgroundTasks() as background:
            background.keep_running(failing, "draining")
            await until(lambda: background.failures() == {"draining": "TimeoutError()"})
        errors.insert(0, TimeoutError())
        async with host.daemon() as daemon:
            monkeypatch.setattr(daemon, "reload", failing)
            for status, text in ((503, "TimeoutError()"), (503, "Input/output error"), (500, "this is a bug of pylvs")):
                reply = await asyncio.to_thread(Client(host.state).ask, "POST", "/v1/reload")
                assert (reply[0], text in reply[1]["error"]) == (status, True)
            with pytest.raises(PylvsError, match=r"TimeoutError\(\)"):
                await daemon._writer.write("overrides", write)

    run(scenario())
    assert "POST /v1/reload failed: this is a bug" in log_output.getvalue()


def test_a_task_with_an_os_error_is_restarted_and_is_no_bug(log_output: io.StringIO) -> None:
    tries: list[int] = []

    async def scenario() -> None:
        async def work() -> None:
            tries.append(1)
            if len(tries) == 1:
                raise OSError("busy")
            await asyncio.Event().wait()

        async with BackgroundTasks() as background:
            background.keep_running(work, "draining")
            await until(lambda: len(tries) == 2)

    run(scenario())
    assert "draining failed and is restarted: busy" in log_output.getvalue()
    assert "bug" not in log_output.getvalue()


def test_without_a_process_to_read_it_a_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "run", none)
    (finding,) = load_in_subprocess(Options("test.conf")).findings
    assert finding.fatal
    assert finding.text == "no process could be made to read it: Resource temporarily unavailable"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["weight", "10.0.0.1", "9" * 5000], 2, "the weight must be a number from 0 to 2147483647 or auto"),
        (["status", "--state-dir", "/dev/null/x"], 1, "no pylvs run answers at /dev/null/x/control"),
    ],
)
def test_wrong_arguments_of_commands_are_one_short_line(
    arguments: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == code
    log_output = capsys.readouterr().err
    assert text in log_output
    assert log_output.count("\n") == 1
    assert len(log_output) < 200
