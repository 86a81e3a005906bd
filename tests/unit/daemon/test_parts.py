"""The life of the daemon's parts: all are called, and none is left half-way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pylvs.daemon import Options
from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.supervisor import Supervisor
from pylvs.model.errors import PylvsError
from tests.unit.daemon.daemons import FakeHost, run, server, service, until


class Recorder(Part):
    """A part that notes its calls, and fails in the one that `failing` names."""

    def __init__(self, failing: str = "") -> None:
        self.calls: list[str] = []
        self.failing = failing

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.failing:
            raise PylvsError(f"{call} fails")

    def read(self) -> None:
        self._note("read")

    async def open(self, *_: Any) -> None:
        self._note("open")

    async def start(self, *_: Any) -> None:
        self._note("start")

    async def begin(self, *_: Any) -> None:
        self._note("begin")

    async def prepare(self, *_: Any) -> None:
        self._note("prepare")

    async def apply(self, *_: Any) -> None:
        self._note("apply")

    async def undo(self, *_: Any) -> None:
        self._note("undo")

    async def stop(self, *_: Any) -> None:
        self._note("stop")

    async def close(self) -> None:
        self._note("close")

    def problems(self) -> list[Problem]:
        return [Problem("failed", "a part", "it records")]


def daemon(host: FakeHost, part: Part) -> Supervisor:
    made = Supervisor(Options("test.conf", state_dir=host.state), host)
    made.parts.insert(0, part)
    return made


def test_each_part_starts_reloads_and_stops_with_the_daemon(tmp_path: Path) -> None:
    host, part = FakeHost(tmp_path / "state"), Recorder()

    async def scenario() -> None:
        made = daemon(host, part)
        running = asyncio.create_task(made.run())
        await until(lambda: made.started_at)
        assert "it records" in [each.text for each in made.problems()]
        await made.reload()
        before = host.table()
        part.failing = "prepare"
        host.write(service(server(3)))
        with pytest.raises(PylvsError, match="prepare fails"):
            await made.reload()
        assert host.table() == before
        made.stop()
        await running

    run(scenario())
    assert part.calls == ["read", "open", "start", "begin", "prepare", "apply", "prepare", "undo", "stop", "close"]


@pytest.mark.parametrize("call", ["read", "open", "start"])
def test_a_part_that_cannot_start_ends_the_daemon_and_closes_all_parts(tmp_path: Path, call: str) -> None:
    host, part = FakeHost(tmp_path / "state"), Recorder(call)

    async def scenario() -> None:
        with pytest.raises(PylvsError, match=f"{call} fails"):
            await daemon(host, part).run()

    run(scenario())
    assert part.calls[-2:] == [call, "close"]
    assert host.table() == {}
