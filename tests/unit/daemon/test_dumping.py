"""Files for monitoring, when the process of the virtual routers does not answer."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pylvs.daemon.dumping import Dumper
from pylvs.daemon.state.directory import StateDirectory
from pylvs.model.errors import PylvsError
from pylvs.model.wanted import Configuration
from tests.unit.daemon.daemons import FakeHost, host_of_router, run, until
from tests.unit.daemon.fake_routers import set_behaviour

NONE: Mapping[str, Any] = {"instances": [], "groups": [], "sessions": []}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeHost]:
    with host_of_router(tmp_path / "state") as found:
        yield found


@pytest.mark.parametrize("name", ["keepalived.stats", "keepalived.json"])
def test_without_an_answer_the_last_file_stays(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / name).write_text("the last counters")
    status = {**NONE, "problem": "the process of the virtual routers does not answer"}

    async def services() -> Mapping[str, Any]:
        return {}

    async def routers() -> Mapping[str, Any]:
        return status

    dumper = Dumper(StateDirectory(tmp_path), services, routers)
    write = dumper.write_statistics if name.endswith("stats") else dumper.write_json
    with pytest.raises(PylvsError, match="the counters of virtual routers are not written: the process of the virtual"):
        asyncio.run(write(Configuration()))
    assert (tmp_path / name).read_text() == "the last counters"
    status["problem"] = ""
    asyncio.run(write(Configuration()))
    assert "the last counters" not in (tmp_path / name).read_text(), "there is no virtual router"


def test_counters_that_are_not_written_are_logged(
    host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "keepalived.stats").write_text("the last counters")

    async def scenario() -> None:
        async with host.daemon() as daemon:
            set_behaviour(host.state, silent=["status"])
            monkeypatch.setattr("pylvs.daemon.virtual_routers.supervision.STATUS_TIMEOUT_S", 0.05)
            daemon._tasks.start(daemon._dump(daemon._dumper.write_statistics))
            await until(lambda: "the counters of virtual routers are not written: " in log_output.getvalue())

    run(scenario())
    assert (tmp_path / "keepalived.stats").read_text() == "the last counters"
