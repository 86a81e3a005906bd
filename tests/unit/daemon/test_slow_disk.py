"""A disk that blocks delays the commands whose state it has to keep, and nothing else."""

from __future__ import annotations

import asyncio
import io
import json
import os
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.history import History
from pylvs.daemon.state.overrides import StateWriter
from pylvs.model.errors import Busy
from pylvs.model.service import DestinationKey
from tests.unit.daemon.commands import ask
from tests.unit.daemon.daemons import FakeHost, address, run, server, service, until
from tests.waiting import PATIENCE_S

FIRST = DestinationKey(address(1), 80)
HANG_S = 20.0  # a call in the event loop ends then, and the test fails


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    made = FakeHost(tmp_path / "state")
    made.write(service(server(1), server(2)))
    return made


class Disk:
    """While it is `blocked`, fsync(2) waits."""

    def __init__(self) -> None:
        self.waits, self._answers = threading.Event(), threading.Event()
        self._answers.set()

    def fsync(self, descriptor: int) -> None:
        if not self._answers.is_set():
            self.waits.set()
            self._answers.wait(HANG_S)
        os.fdatasync(descriptor)

    def block(self) -> None:
        self._answers.clear()

    def answer(self) -> None:
        self._answers.set()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    found = Disk()
    monkeypatch.setattr("pylvs.system.files.os.fsync", found.fsync)
    yield found
    found.answer()


def overrides(host: FakeHost) -> Any:
    return json.loads((host.state / "overrides.json").read_text())


@pytest.mark.parametrize(
    ("verb", "file"),
    [("disable", "overrides"), ("drain", "drains")],
)
def test_while_the_disk_blocks_an_override_other_requests_are_answered(
    host: FakeHost, disk: Disk, verb: str, file: str
) -> None:
    async def scenario() -> None:
        async with host.daemon():
            host.tables.count(service().keys[0], FIRST, active=1)
            disk.block()
            content = {"server": str(FIRST)}
            command = asyncio.create_task(asyncio.to_thread(ask, host, "POST", f"/v1/{verb}", content))
            await until(disk.waits.is_set)
            begin = time.monotonic()
            await asyncio.to_thread(ask, host, "GET", "/v1/drains")
            assert time.monotonic() - begin < HANG_S / 2
            assert not command.done(), "its reply reports what was not saved"
            assert not (host.state / f"{file}.json").exists()
            disk.answer()
            await command
            await until((host.state / f"{file}.json").exists)
            await until((host.state / "overrides.json").exists)
            assert [each["address"] for each in overrides(host)] == [str(FIRST.address)]

    run(scenario())


def test_a_write_that_takes_long_is_reported_until_it_ends(
    host: FakeHost, disk: Disk, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    monkeypatch.setattr("pylvs.daemon.state.overrides.SLOW_S", 0.05)
    monkeypatch.setattr("pylvs.daemon.supervisor.SLOW_S", 0.05)
    late = f"{host.state}/overrides.json: not written within 0.05 s: this state would be lost in a crash"

    async def scenario() -> None:
        async with host.daemon() as daemon:
            disk.block()
            daemon.engine.disable(FIRST)
            assert await daemon.saved() == late
            assert late in [each.text for each in daemon.problems() if each.kind == "state"]
            await until(lambda: f"{host.state}/overrides.json: the disk has not answered" in log_output.getvalue())
            disk.answer()
            await until(lambda: not daemon.saving)
            assert await daemon.saved() == ""

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
    assert len(overrides(host)) == 1
    assert not (host.state / "pid").exists()


def test_the_stop_does_not_wait_for_a_disk_that_hangs_and_keeps_the_lock(
    host: FakeHost, disk: Disk, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    """The thread may still write, and must not replace a file of the next daemon."""
    monkeypatch.setattr("pylvs.daemon.supervisor.DISK_END_S", 0.05)
    begin = time.monotonic()

    async def scenario() -> None:
        async with host.daemon(keep_table=True) as daemon:
            disk.block()
            daemon.engine.disable(FIRST)
            await until(disk.waits.is_set)
            monkeypatch.setattr(daemon._ownership, "after_edits", _nothing)
        with pytest.raises(Busy):
            StateDirectory(host.state).acquire()
        daemon.state.abandon()

    run(scenario())
    assert time.monotonic() - begin < HANG_S
    assert f"{host.state}: the disk does not answer; the process ends without it" in log_output.getvalue()


async def _nothing(*_: object) -> None:
    pass


def test_the_stop_does_not_wait_for_events_that_hang(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    monkeypatch.setattr("pylvs.daemon.supervisor.DISK_END_S", 0.05)
    answers = threading.Event()
    begin = time.monotonic()

    async def scenario() -> None:
        async with host.daemon() as daemon:
            await until(lambda: not daemon.history.unwritten)
            monkeypatch.setattr(History, "write", lambda _: answers.wait(HANG_S) and None)
        assert time.monotonic() - begin < HANG_S
        answers.set()

    run(scenario())
    assert f"{host.state}/events.jsonl: the disk does not answer; the last events are lost" in log_output.getvalue()
