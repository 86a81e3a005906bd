"""A disk that blocks delays the commands whose state it has to keep, and nothing else."""

from __future__ import annotations

import asyncio
import io
import os
import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.history import History
from pylvs.daemon.state.overrides import NotSaved, Prepare, StateWriter
from pylvs.daemon.state.saved import load_overrides, load_owned
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.health.events import ServerName
from pylvs.model.errors import Busy, PylvsError
from pylvs.model.service import DestinationKey
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.model.wanted import Configuration
from tests.unit.daemon.commands import ask
from tests.unit.daemon.daemons import OTHER, FakeHost, address, run, server, service, until
from tests.waiting import PATIENCE_S

FIRST = DestinationKey(address(1), 80)
HANG_S = PATIENCE_S  # a call in the event loop ends then, and the test fails


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    made = FakeHost(tmp_path / "state")
    made.write(service(server(1), server(2)))
    return made


class Disk:
    """While it is `blocked`, fsync(2) and unlink(2) below the folder wait."""

    def __init__(self, folder: Path) -> None:
        self.waits, self._answers = threading.Event(), threading.Event()
        self._answers.set()
        self._folder, self._unlink = folder, Path.unlink

    @property
    def blocked(self) -> bool:
        """Whether it blocks still: no call has waited to the end of HANG_S."""
        return not self._answers.is_set()

    def _wait(self) -> None:
        if self.blocked:
            self.waits.set()
            if not self._answers.wait(HANG_S):
                self.answer()

    def fsync(self, descriptor: int) -> None:
        self._wait()
        os.fdatasync(descriptor)

    def unlink(self, path: Path, missing_ok: bool = False) -> None:
        if path.parent == self._folder:
            self._wait()
        self._unlink(path, missing_ok)

    def block(self) -> None:
        self._answers.clear()

    def answer(self) -> None:
        self._answers.set()


@pytest.fixture
def disk(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    found = Disk(host.state)
    monkeypatch.setattr("pylvs.system.files.os.fsync", found.fsync)
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok=False: found.unlink(path, missing_ok))
    yield found
    found.answer()


def overridden(host: FakeHost) -> list[ServerName]:
    return list(load_overrides(StateDirectory(host.state)).overrides)


@pytest.mark.parametrize(
    ("verb", "file"),
    [("disable", "overrides"), ("drain", "drains")],
)
def test_while_the_disk_blocks_an_override_other_requests_are_answered(
    host: FakeHost, disk: Disk, monkeypatch: pytest.MonkeyPatch, verb: str, file: str
) -> None:
    for module in "state.overrides", "services":  # the command waits for the disk so long
        monkeypatch.setattr(f"pylvs.daemon.{module}.SLOW_S", PATIENCE_S)

    async def scenario() -> None:
        async with host.daemon():
            host.tables.count(service().keys[0], FIRST, active=1)
            disk.block()
            content = {"server": str(FIRST)}
            command = asyncio.create_task(asyncio.to_thread(ask, host, "POST", f"/v1/{verb}", content))
            await until(disk.waits.is_set)
            await asyncio.to_thread(ask, host, "GET", "/v1/drains")
            assert disk.blocked
            assert not command.done(), "its reply reports what was not saved"
            assert not (host.state / f"{file}.json").exists()
            disk.answer()
            await command
            await until((host.state / f"{file}.json").exists)
            await until((host.state / "overrides.json").exists)
            assert [server for _, server in overridden(host)] == [FIRST]

    run(scenario())


def test_a_write_that_takes_long_is_reported_until_it_ends(
    host: FakeHost, disk: Disk, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    late = f"{host.state}/overrides.json: not written within 0.05 s: this state would be lost in a crash"

    async def scenario() -> None:
        async with host.daemon() as daemon:
            await until(lambda: not daemon._ownership.pending and not daemon.saving)
            for module in "state.overrides", "services":  # only now: the start may take longer to save
                monkeypatch.setattr(f"pylvs.daemon.{module}.SLOW_S", 0.05)
            disk.block()
            daemon.engine.disable(FIRST)
            assert await daemon.services.saved() == late
            assert late in [each.text for each in daemon.problems() if each.kind == "state"]
            await until(lambda: f"{host.state}/overrides.json: the disk has not answered" in log_output.getvalue())
            disk.answer()
            await until(lambda: not daemon.saving)
            assert await daemon.services.saved() == ""

    run(scenario())


def test_one_write_runs_at_a_time_and_the_newest_content_wins(tmp_path: Path) -> None:
    state, written, answers = StateDirectory(tmp_path), list[str](), threading.Event()

    async def scenario() -> None:
        writer = StateWriter(state)

        def write(text: str) -> None:
            written.append(text)
            answers.wait(HANG_S)

        def put(name: str, number: int) -> None:
            writer.put(name, lambda: partial(write, f"{name} {number}"))

        put("a", 0)
        await until(lambda: written)
        for number in range(1, 4):
            put("a", number)
            put("b", number)
        put("a", 4)
        assert written == ["a 0"]
        answers.set()
        assert await writer.end(PATIENCE_S)

    run(scenario())
    assert written == ["a 0", "b 3", "a 4"]


def test_the_stop_waits_for_the_last_write(host: FakeHost, disk: Disk) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            disk.block()
            daemon.engine.disable(FIRST)
            await until(disk.waits.is_set)
            daemon.stop()
            asyncio.get_running_loop().call_later(0.2, disk.answer)

    run(scenario())
    assert len(overridden(host)) == 1
    assert not (host.state / "pid").exists()


@pytest.mark.parametrize("hangs", ["write", "removal"])
def test_the_stop_does_not_wait_for_a_disk_that_hangs_and_keeps_the_lock(
    hangs: str, host: FakeHost, disk: Disk, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    """The thread may still write, and must not replace a file of the next daemon."""
    monkeypatch.setattr("pylvs.daemon.state.overrides.END_S", 0.05)
    monkeypatch.setattr("pylvs.daemon.state.overrides.SLOW_S", 0.05)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            disk.block()
            if hangs == "write":
                daemon.engine.disable(FIRST)
                await until(disk.waits.is_set)
        with pytest.raises(Busy):
            StateDirectory(host.state).acquire()
        daemon.state.abandon()

    run(scenario())
    assert disk.blocked
    assert host.servers() == set()
    assert f"{host.state}: the disk does not answer; the process ends without it" in log_output.getvalue()


def test_the_stop_does_not_wait_for_the_removal_of_the_directory(
    host: FakeHost, disk: Disk, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    monkeypatch.setattr("pylvs.daemon.state.overrides.END_S", 0.05)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            release = daemon.state.release

            def hang() -> None:
                disk.block()
                release()

            monkeypatch.setattr(daemon.state, "release", hang)
        assert disk.waits.is_set()

    run(scenario())
    assert disk.blocked
    assert f"{host.state}: the disk does not answer; the process ends without it" in log_output.getvalue()


def test_while_the_disk_blocks_a_reload_is_refused_and_the_next_one_is_not(
    host: FakeHost, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = "pylvs.daemon.state.overrides.SLOW_S"
    monkeypatch.setattr(limit, 0.05)
    late = f"{host.state}/services.json: not written within 0.05 s"

    async def scenario() -> None:
        async with host.daemon() as daemon:
            before = host.table()
            host.write(service(server(1), key=OTHER))
            disk.block()
            with pytest.raises(PylvsError, match=re.escape(late)):
                await daemon.reload()
            assert host.table() == before
            (event,) = [each for each in daemon.events.recent() if each["event"] == "reload_refused"]
            assert late in event["reason"]
            await until(lambda: [each for each in daemon.problems() if each.kind == "state" and late in each.text])
            monkeypatch.setattr(limit, PATIENCE_S)  # of a disk that answers, on a machine however busy
            disk.answer()
            await until(lambda: not daemon._ownership.pending and not daemon.saving, "saved as before the reload")
            assert [key.port for key in load_owned(daemon.state)] == [80]
            assert [each for each in daemon.problems() if each.kind == "state"] == []
            await daemon.reload()
            assert [key.port for key in load_owned(daemon.state)] == [443]

    run(scenario())


def test_a_reload_without_overrides_edits_the_table_while_the_disk_blocks(
    host: FakeHost, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pylvs.daemon.services.RENAMED_S", PATIENCE_S)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            replace = daemon.engine.replace

            def then_block(wanted: Configuration) -> None:
                replace(wanted)
                disk.block()

            monkeypatch.setattr(daemon.engine, "replace", then_block)
            host.write(service(server(1), server(3)))
            reload = asyncio.create_task(daemon.reload())
            await until(lambda: host.servers() == {"10.0.0.1", "10.0.0.3"})
            assert disk.blocked
            disk.answer()
            await reload

    run(scenario())


def test_what_the_disk_refused_is_written_again_unless_there_is_newer_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pylvs.daemon.state.overrides.RETRY_S", 0.01)
    written, full = list[str](), [True]

    async def scenario() -> None:
        writer = StateWriter(StateDirectory(tmp_path))

        def write(text: str) -> None:
            if full:
                raise PylvsError("No space left on device")
            written.append(text)

        async with BackgroundTasks() as tasks:
            await writer.begin(tasks)
            for text in ("a 1", "b 1", "a 2"):
                writer.put(text[0], lambda text=text: partial(write, text))  # type: ignore[misc]
            await until(lambda: [each.kind for each in writer.problems()] == ["state"])
            await until(lambda: not writer.busy)
            writer.put("a", lambda: partial(write, "a 3"))
            full.clear()
            await until(lambda: len(written) > 1 and not writer.busy)
            assert list(writer.problems()) == []
        assert await writer.end(PATIENCE_S)

    run(scenario())
    assert sorted(written) == ["a 3", "b 1"]


def test_what_the_disk_refused_does_not_replace_newer_content_that_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pylvs.daemon.state.overrides.RETRY_S", 0.01)
    put, written, answers = list[str](), list[str](), threading.Event()

    class Writer(StateWriter):
        def put(self, name: str, prepare: Prepare) -> None:
            put.append(name)
            super().put(name, prepare)

    def refuse() -> None:
        raise PylvsError("No space left on device")

    def write() -> None:
        written.append("a")
        answers.wait(HANG_S)

    async def scenario() -> None:
        writer = Writer(StateDirectory(tmp_path))
        for name in "a", "b":
            writer.put(name, lambda: refuse)
        await until(lambda: not writer.busy)
        writer.put("a", lambda: write)
        await until(lambda: written)
        async with BackgroundTasks() as tasks:
            await writer.begin(tasks)
            await until(lambda: put[-1] == "b")
        answers.set()
        assert await writer.end(PATIENCE_S)

    run(scenario())
    assert put == ["a", "b", "a", "b"]


def test_a_refused_write_that_is_tried_again_at_once_is_not_late(tmp_path: Path) -> None:
    class Writer(StateWriter):
        async def idle(self, timeout_s: float) -> bool:
            ended = await super().idle(timeout_s)
            for name, prepare in self._refused.items():
                self.put(name, prepare)  # as `_write_again` may at this moment
            return ended

    def refuse() -> None:
        raise PylvsError("No space left on device")

    async def scenario() -> None:
        writer = Writer(StateDirectory(tmp_path))
        with pytest.raises(NotSaved, match="No space left"):
            await writer.write("a", refuse, PATIENCE_S)
        await StateWriter.end(writer, PATIENCE_S)

    run(scenario())


def test_addresses_that_the_disk_refused_at_a_reload_are_saved_again(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pylvs.daemon.state.overrides.RETRY_S", 0.01)
    saved: list[list[str]] = []

    def full_twice(_: StateDirectory, routers: VrrpConfiguration) -> None:
        saved.append([each.name for each in routers.instances])
        if len(saved) <= 2:
            raise PylvsError("No space left on device")

    async def scenario() -> None:
        async with host.daemon() as daemon:
            monkeypatch.setattr("pylvs.daemon.leftovers.save_addresses", full_twice)
            host.write(service(server(1)), routers=["VI_1"])
            await daemon.reload()
            await until(lambda: len(saved) > 2 and not daemon.saving)
            assert [each for each in daemon.problems() if each.kind == "state"] == []
            assert saved == [["VI_1"]] * len(saved)

    run(scenario())


def test_a_reload_does_not_wait_for_files_for_monitoring_that_hang(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pylvs.daemon.supervisor.DUMP_S", 0.05)

    async def hang(_: object) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        async with host.daemon() as daemon:
            with pytest.raises(PylvsError, match=r"the files for monitoring are not written within 0\.05 s"):
                await daemon._dump(hang)
            await daemon.reload()

    run(scenario())


def test_events_that_take_long_are_reported_until_they_are_written(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    monkeypatch.setattr("pylvs.daemon.state.history.SLOW_S", 0.05)
    monkeypatch.setattr("pylvs.daemon.supervisor.PROBLEMS_POLL_S", 0.01)
    late = f"{host.state}/events.jsonl: not written within 0.05 s: events would be lost at a restart"
    answers, append = threading.Event(), History._append

    def slowly(history: History, data: bytes) -> None:
        answers.wait(HANG_S)
        append(history, data)

    async def scenario() -> None:
        async with host.daemon() as daemon:
            await until(lambda: not daemon.history.unwritten)
            monkeypatch.setattr(History, "_append", slowly)
            daemon.engine.disable(FIRST)
            await until(lambda: late in [each.text for each in daemon.problems() if each.kind == "history"])
            await until(lambda: late in log_output.getvalue())
            answers.set()
            await until(lambda: not [each for each in daemon.problems() if each.kind == "history"])

    run(scenario())


def test_the_stop_does_not_wait_for_events_that_hang(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    monkeypatch.setattr("pylvs.daemon.state.history.END_S", 0.05)
    answers, ended = threading.Event(), list[bool]()

    def write(_: History) -> None:
        ended.append(answers.wait(HANG_S))

    async def scenario() -> None:
        async with host.daemon() as daemon:
            await until(lambda: not daemon.history.unwritten)
            monkeypatch.setattr(History, "write", write)
        assert not ended
        answers.set()

    run(scenario())
    assert f"{host.state}/events.jsonl: the disk does not answer; the last events are lost" in log_output.getvalue()
