"""The worker of a sync daemon: what it does until it is ready, and when it shows progress."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from pylvs.model.errors import Busy
from pylvs.model.sync.daemons import MASTER, SyncDaemon
from pylvs.sync import worker
from pylvs.sync.files import DaemonFiles
from pylvs.sync.worker import Work, Worker


@pytest.mark.parametrize("former", ["", "ended with status 1"])
def test_a_worker_shows_progress_between_the_steps_of_its_start(former: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step may load programs, and the supervisor kills a worker that is silent for too long."""
    done = list[str]()

    class Part:
        """Is refused once, as a killed worker has the lease."""

        def work(self, now_s: float) -> None:
            done.append("work")
            if done.count("work") == 1:
                raise Busy

    class Started(Worker):
        def __init__(self, work: Work, tables: object, turn: Callable[[], None]) -> None:
            self._part: Any = Part()
            self._turn = turn

        async def run(self, ready: Callable[[], None]) -> int:
            await self._begin()
            return 0

    def open_tables(make: bool) -> object:
        done.append("make" if make else "open")
        return SimpleNamespace()

    monkeypatch.setattr(worker, "DirectorTables", open_tables)
    monkeypatch.setattr(worker, "Worker", Started)
    monkeypatch.setattr(worker, "set_up", lambda *_, **__: None)
    work = Work(SyncDaemon(MASTER, "eth0"), "", DaemonFiles(1), False, former, 3)
    assert worker.run(work, lambda: None, lambda: done.append("turn")) == 0
    steps = [name for at, name in enumerate(done) if name != "turn" or done[at - 1] != "turn"]
    assert steps == ["open" if former else "make", "turn", "work", "turn", "work"]
