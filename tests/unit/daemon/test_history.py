"""The events on disk: they survive restarts, stay bounded, and a bad disk stops nothing."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pylvs.cli import daemon as views
from pylvs.cli import servers as verbs
from pylvs.daemon.api.client import NoDaemon
from pylvs.daemon.state import history
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.history import MAX_LINE, History
from pylvs.system.http.lines import json_line
from tests.unit.daemon.daemons import FakeHost, address, run, server, service, until

FIRST = "10.0.0.1:80"


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    made = FakeHost(tmp_path / "state")
    made.write(service(server(1), server(2)))
    return made


@pytest.fixture
def saved(tmp_path: Path) -> History:
    state = StateDirectory(tmp_path / "state")
    state.path.mkdir()
    return History(state)


def put(saved: History, *numbers: int, **more: Any) -> None:
    for each in numbers:
        saved.put({"event": "counted", "at": float(each), **more})
    saved.write()


def numbers(saved: History, count: int = 1000) -> list[int]:
    return [round(each["at"]) for each in saved.saved(count)]


def output(command: Any, host: FakeHost, *words: str) -> str:
    done = CliRunner().invoke(command, [*words, "--state-dir", str(host.state)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("kill", [False, True])
def test_events_survive_a_restart_and_are_read_without_a_daemon(host: FakeHost, kill: bool) -> None:
    async def first() -> None:
        async with host.daemon(kill=kill) as daemon:
            host.dead.add(address(1))
            await until(lambda: host.servers() == {str(address(2))})
            await until(lambda: not daemon.history.unwritten)
            await until(lambda: "server_down" in daemon.history.path.read_text())

    run(first())
    alone = output(views.events, host)
    assert f"server down {FIRST} of " in alone
    host.dead.clear()

    async def second() -> None:
        async with host.daemon():
            await until(lambda: len(host.servers()) == 2)
            listed = await asyncio.to_thread(output, views.events, host)
            assert f"server down {FIRST} of " in listed
            about = await asyncio.to_thread(output, verbs.history, host, FIRST)
            assert "server down" in about
            assert "10.0.0.2" not in about
            if kill:  # after an orderly stop it is up from the start, which is no event
                assert listed.index("server down") < listed.rindex("server up")
                assert about.index("server down") < about.index("server up")
            assert "last events:\n" in await asyncio.to_thread(output, views.status, host, "--history")
            reply = json.loads(await asyncio.to_thread(output, views.status, host, "--history", "--json"))
            assert "server_down" in [each["event"] for each in reply["last_events"]]

    run(second())


def test_events_of_a_build_with_other_names_are_printed_as_they_are(host: FakeHost) -> None:
    """A daemon of another build may have written the file."""
    host.state.mkdir()
    History(StateDirectory(host.state)).path.write_text(
        '{"event": "vrrp_unheard_of", "at": 1.0, "was": true, "reason": "it ended"}\n'
        '{"event": "vrrp_track", "at": 2.0, "kind": "script", "name": "chk", "was": false}\n'
    )

    def check() -> None:
        first, second, *_ = output(views.events, host).splitlines()
        assert first.endswith(" vrrp unheard of was=true: it ended")
        assert second.endswith(" vrrp track kind=script name=chk was=false")

    async def scenario() -> None:
        async with host.daemon():
            await asyncio.to_thread(check)

    check()
    run(scenario())


def test_without_a_daemon_and_without_events_the_error_names_the_socket(host: FakeHost) -> None:
    done = CliRunner().invoke(views.events, ["--state-dir", str(host.state)])
    assert isinstance(done.exception, NoDaemon)


def test_the_file_is_replaced_at_its_size_and_both_are_read(saved: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_BYTES", 400)
    for each in range(40):
        put(saved, each)
    sizes = [path.stat().st_size for path in (saved.path, history.rotated(saved.path))]
    assert all(0 < size <= 400 for size in sizes)
    found = numbers(saved)
    assert found == list(range(found[0], 40))
    assert numbers(saved, 3) == [37, 38, 39]


def test_damaged_lines_are_left_out(saved: History) -> None:
    put(saved, 1)
    with open(saved.path, "ab") as file:
        file.write(b'\xff\n[]\n{"event": 3, "at": 1}\n{"event": "cut')
    assert numbers(saved) == [1]
    put(saved, 2)
    put(saved, 3)
    assert numbers(saved) == [1, 2, 3]
    assert b"\n\n" not in saved.path.read_bytes()


def test_a_torn_line_is_as_large_as_its_newline_makes_it(saved: History, monkeypatch: pytest.MonkeyPatch) -> None:
    put(saved, 1)
    line = saved.path.stat().st_size
    saved.path.write_bytes(b"x" * line)
    monkeypatch.setattr(history, "MAX_BYTES", 2 * line)
    put(saved, 2)
    assert [saved.path.stat().st_size, history.rotated(saved.path).stat().st_size] == [line, line]
    assert numbers(saved) == [2]


def test_a_bad_disk_is_reported_once_and_events_are_written_later(saved: History, log_output: io.StringIO) -> None:
    folder = saved.path.parent
    aside = folder.with_name("aside")
    folder.rename(aside)
    put(saved, 1)
    put(saved, 2)
    assert saved.unwritten
    assert saved.error.startswith(f"{saved.path}: No such file or directory: events would be lost")
    aside.rename(folder)
    put(saved, 3)
    assert (saved.error, saved.unwritten, numbers(saved)) == ("", False, [1, 2, 3])
    lines = [line.split(" ", 1)[1] for line in log_output.getvalue().splitlines()]
    assert [line.split(":")[0] for line in lines] == ["error", "info"]


def test_a_disk_that_is_full_for_long_costs_no_memory(saved: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved, "_unwritten", saved._unwritten.__class__(maxlen=3))
    monkeypatch.setattr(history, "MAX_UNWRITTEN", 3)
    saved.path.mkdir()  # no file can be opened there
    put(saved, 1, 2)
    put(saved, 3, 4)
    saved.path.rmdir()
    saved.write()
    assert numbers(saved) == [2, 3, 4]


def test_a_backlog_is_appended_in_slices(saved: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_BYTES", 400)
    put(saved, *range(40))
    sizes = [path.stat().st_size for path in (saved.path, history.rotated(saved.path))]
    assert all(0 < size <= 400 for size in sizes)
    found = numbers(saved)
    assert len(found) > 10
    assert found == list(range(found[0], 40))
    assert not saved.unwritten


def test_only_the_slices_that_the_disk_refused_are_put_back(saved: History, monkeypatch: pytest.MonkeyPatch) -> None:
    line = len(json_line({"event": "counted", "at": 10.0}))
    monkeypatch.setattr(history, "MAX_BYTES", 4 * line)
    append, calls = saved._append, [0]

    def full(data: bytes) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(data)

    monkeypatch.setattr(saved, "_append", full)
    put(saved, *range(10, 20))
    assert "No space left" in saved.error
    assert numbers(saved) == [10, 11, 12, 13]
    assert [event["at"] for event in saved._unwritten] == list(range(14, 20))
    saved.write()
    assert numbers(saved) == list(range(14, 20))  # two files hold at most eight; 10 to 13 were replaced


def test_a_new_file_that_cannot_be_opened_closes_no_descriptor_of_others(
    saved: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may open a file with the number of the one that was closed."""
    put(saved, 10, 11)
    monkeypatch.setattr(history, "MAX_BYTES", saved.path.stat().st_size)
    opened: list[int] = []
    pipes: list[int] = []
    real = os.open

    def short(*arguments: Any) -> int:
        if opened:
            pipes.extend(os.pipe())
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        opened.append(real(*arguments))
        return opened[0]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", short)
        put(saved, 12)
    assert opened[0] in pipes
    for each in pipes:
        os.close(each)  # raises OSError if it is closed
    assert saved.error.startswith(f"{saved.path}: Too many open files: events would be lost")
    put(saved, 13)
    assert (saved.error, numbers(saved)) == ("", [10, 11, 12, 13])


def test_of_a_long_event_the_short_fields_are_saved(saved: History) -> None:
    put(saved, 1, differences=["x" * MAX_LINE], reason="y" * MAX_LINE)
    (line,) = saved.path.read_text().splitlines()
    assert len(line) < MAX_LINE
    assert json.loads(line)["reason"].startswith("yyy")
    assert "differences" not in json.loads(line)


def test_the_file_is_for_root_alone_and_no_link_is_followed(saved: History, tmp_path: Path) -> None:
    put(saved, 1)
    assert saved.path.stat().st_mode & 0o777 == 0o600
    saved.path.unlink()
    saved.path.symlink_to(tmp_path / "elsewhere")
    put(saved, 2)
    assert saved.error
    assert not (tmp_path / "elsewhere").exists()
