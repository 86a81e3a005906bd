"""The reconciler logs an error once and tries again, and copes with the edits of other programs."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylvs.daemon.table import reconciler
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.model.errors import Busy
from pylvs.model.service import VirtualService
from tests.memory import MemoryDirector
from tests.unit.daemon.daemons import OTHER, WEB, FakeHost, run, server, service, until


class RefusingDirector(MemoryDirector):
    """Raises Busy so many times, then an error without a text; another program edits before an edit so many times."""

    locked = 0
    silent = 0
    foreign_edits = 0

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        if self.locked:
            self.locked -= 1
            raise Busy("the tables are locked by process 4711 for more than 10 s; try again later")
        if self.silent:
            self.silent -= 1
            raise TimeoutError
        if self.foreign_edits:
            self.foreign_edits -= 1
            with contextlib.suppress(Exception):
                self.delete_service(OTHER)
            self.add_service(VirtualService(OTHER))
        yield


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    for name in ("POLL_S", "PAUSE_S"):
        monkeypatch.setattr(reconciler, name, 0.01)
    monkeypatch.setattr("pylvs.daemon.services.RETRY_S", 0.01)
    made = FakeHost(tmp_path / "state")
    made.tables = RefusingDirector()
    return made


def errors(log_output: io.StringIO) -> list[str]:
    """Return the log's errors without their times."""
    return [line.partition(" ")[2] for line in log_output.getvalue().splitlines() if " error: " in line]


def test_a_locked_table_is_waited_for_and_logged_once(host: FakeHost, log_output: io.StringIO) -> None:
    assert isinstance(host.tables, RefusingDirector)
    host.tables.locked = 5

    async def scenario() -> None:
        async with host.daemon() as daemon:
            assert host.servers() == {"10.0.0.1", "10.0.0.2"}
            assert isinstance(host.tables, RefusingDirector)
            host.tables.locked = 5
            host.write(service(server(1)))
            result = (await daemon.reload()).table
            assert result is not None
            assert result.error.startswith("the tables are locked by process 4711")
            await until(lambda: host.servers() == {"10.0.0.1"})
            await until(lambda: "has the desired state again" in log_output.getvalue().partition("reloaded")[2])

    run(scenario())
    line = "error: the tables are locked by process 4711 for more than 10 s; try again later (retry_in_s=0.01)"
    assert errors(log_output) == [line, line]


def test_an_error_without_a_text_is_an_error(host: FakeHost, log_output: io.StringIO) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            assert isinstance(host.tables, RefusingDirector)
            host.tables.silent = 1
            host.write(service(server(1)))
            result = (await daemon.reload()).table
            assert result is not None
            assert result.error == "TimeoutError()"
            await until(lambda: host.servers() == {"10.0.0.1"})

    run(scenario())
    assert errors(log_output) == ["error: TimeoutError() (retry_in_s=0.01)"]


def test_edits_of_others_in_the_last_moment_are_seen(host: FakeHost) -> None:
    assert isinstance(host.tables, RefusingDirector)
    host.tables.foreign_edits = 3

    async def scenario() -> None:
        async with host.daemon():
            assert host.servers() == {"10.0.0.1", "10.0.0.2"}
            assert host.servers(OTHER) == set()
            host.tables.service(OTHER)

    run(scenario())


def test_a_table_that_others_edit_continuously_is_an_error(host: FakeHost, log_output: io.StringIO) -> None:
    assert isinstance(host.tables, RefusingDirector)
    host.tables.foreign_edits = reconciler.ATTEMPTS

    async def scenario() -> None:
        async with host.daemon():
            assert host.servers() == {"10.0.0.1", "10.0.0.2"}

    run(scenario())
    assert "error: other programs edit the tables continuously" in log_output.getvalue()


def test_a_refused_edit_does_not_delay_the_start_and_is_logged_once(host: FakeHost, log_output: io.StringIO) -> None:
    host.write(service(server(1), scheduler="no-such"), service(server(2), key=OTHER))

    async def scenario() -> None:
        async with host.daemon() as daemon:
            assert host.servers(OTHER) == {"10.0.0.2"}
            refused = daemon.reconciler.edit_counts["refused"]
            await until(lambda: daemon.reconciler.edit_counts["refused"] > refused + 3)
            host.write(service(server(1)), service(server(2), key=OTHER))
            await daemon.reload()
            assert host.servers(WEB) == {"10.0.0.1"}

    run(scenario())
    (line,) = errors(log_output)
    assert line.startswith("error: TCP 192.0.2.1:80: added, scheduler no-such: refused: ")


def test_signals_reload_write_down_and_end(host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))

    async def scenario() -> None:
        async with host.daemon() as daemon:
            host.write(service(server(1)))
            for _ in range(10):
                os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: host.servers() == {"10.0.0.1"})
            await until(lambda: daemon.reloads["done"] > 0)
            host.write()
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: daemon.reloads["refused"] > 0)
            assert daemon.reloads.total() <= 3, "signals that come while one waits are that one"
            os.kill(os.getpid(), signal.SIGUSR1)
            await until((tmp_path / "tmp" / "keepalived_check.data").exists)
            os.kill(os.getpid(), signal.SIGTERM)
            await until(lambda: host.table() == {})

    run(scenario())
    dump = (host.state / "dump.json").read_text()
    assert '"address":"10.0.0.1"' in dump
    written = {path.name for path in (tmp_path / "tmp").iterdir()}
    assert written == {"keepalived_parent.data", "keepalived_check.data"}, "and none in /tmp"


def test_a_background_task_is_restarted_after_an_exception(
    monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    monkeypatch.setattr("pylvs.daemon.tasks.RESTART_PAUSE_S", 0.001)
    begun: list[int] = []

    async def faulty() -> None:
        begun.append(1)
        raise ValueError("why")

    async def scenario() -> None:
        async with BackgroundTasks() as background:
            background.keep_running(faulty, "being faulty")
            background.start(faulty())
            await until(lambda: len(begun) > 3)

    run(scenario())
    assert "error: being faulty failed and is restarted: this is a bug\n" in log_output.getvalue()
    assert "ValueError: why" in log_output.getvalue()
