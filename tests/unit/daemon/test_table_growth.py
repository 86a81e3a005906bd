"""The daemon lets the connection table grow, reports it, and does not repeat a failure at once."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from pylvs.daemon.notifications import EventBus
from pylvs.daemon.table import growth
from pylvs.daemon.table.growth import FIRST_RETRY_S, LAST_RETRY_S, TableGrowth
from pylvs.model.errors import Busy, NoSpace, PylvsError
from pylvs.system.table_thread import TableThread
from tests.waiting import PATIENCE_S


class Table:
    """A table that should have each of these capacities in turn, and a clock that the test moves."""

    def __init__(self, *capacities: int | Exception) -> None:
        self.capacities = list(capacities)
        self.growth_fails = False
        self.polls = self.attempts = 0
        self.now_s = 0.0

    def larger_capacity(self) -> int:
        self.polls += 1
        found = self.capacities.pop(0) if len(self.capacities) > 1 else self.capacities[0]
        if isinstance(found, Exception):
            raise found
        return found

    async def grow(self) -> None:
        self.attempts += 1
        if self.growth_fails:
            raise PylvsError("locked")


@pytest.fixture
def thread() -> Iterator[TableThread]:
    made = TableThread("test")
    yield made
    made.close()


def events_of(table: Table, thread: TableThread, steps: list[float]) -> list[dict[str, object]]:
    """Return the events of steps at these times, without their own times."""
    events = EventBus()
    growth = TableGrowth(table.larger_capacity, table.grow, thread, events, lambda: table.now_s)

    async def play() -> None:
        for table.now_s in steps:
            await growth.step()

    asyncio.run(play())
    return [{name: value for name, value in each.items() if name != "at"} for each in events.recent()]


def test_a_table_that_has_grown_is_an_event(thread: TableThread) -> None:
    table = Table(0, 2048, 0)
    assert events_of(table, thread, [0, 5, 10]) == [{"event": "table_grown", "capacity": 2048}]
    assert (table.polls, table.attempts) == (3, 1)


@pytest.mark.parametrize("fails", ["by memory", "by a lock"])
def test_a_failure_is_reported_and_repeated_after_ever_longer_pauses(thread: TableThread, fails: str) -> None:
    table = Table(NoSpace("a capacity of 2048 needs 9 MB") if fails == "by memory" else 2048)
    table.growth_fails = fails == "by a lock"
    reason = "locked" if table.growth_fails else "a capacity of 2048 needs 9 MB"
    found = events_of(table, thread, [5.0 * step for step in range(24 * 3600 // 5)])
    assert set(map(str, found)) == {str({"event": "table_not_grown", "reason": reason})}
    doubled = int(LAST_RETRY_S / FIRST_RETRY_S).bit_length()
    assert 24 <= table.polls <= doubled + 24 * 3600 / LAST_RETRY_S + 1


def test_a_process_that_hangs_is_killed_and_is_a_failure_of_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    start = asyncio.create_subprocess_exec
    started: list[asyncio.subprocess.Process] = []

    async def noted(*words: str, **options: Any) -> asyncio.subprocess.Process:
        started.append(await start(*words, **options))
        return started[-1]

    monkeypatch.setattr(growth, "command", lambda *_: ["/bin/sleep", "600"])
    monkeypatch.setattr(growth, "GROWTH_S", 0.05)
    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)

    async def play() -> None:
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(PylvsError, match=r"it has not grown within 0\.05 s; the process was killed"):
                await growth.grow("")

    asyncio.run(play())
    assert [each.returncode for each in started] == [-signal.SIGKILL]


def test_tables_that_cannot_be_read_are_no_failure_of_growth(thread: TableThread) -> None:
    table = Table(Busy("locked"), OSError("no tables"), 2048)
    assert events_of(table, thread, [0, 5, 10]) == [{"event": "table_grown", "capacity": 2048}]


def test_after_a_success_the_next_failure_pauses_for_a_short_time_again(thread: TableThread) -> None:
    refused = NoSpace("no memory")
    table = Table(refused, 2048, refused, 0)
    times = [0.0, FIRST_RETRY_S, FIRST_RETRY_S + 5, 2 * FIRST_RETRY_S, 2 * FIRST_RETRY_S + 5]
    assert [each["event"] for each in events_of(table, thread, times)] == [
        "table_not_grown",
        "table_grown",
        "table_not_grown",
    ]
    assert table.polls == 4, "not before the pause is over"
