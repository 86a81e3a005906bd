"""The daemon lets the connection table grow, reports it, and does not repeat a failure at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from pylvs.daemon.notifications import EventBus
from pylvs.daemon.reconciler import TableThread
from pylvs.daemon.table_growth import FIRST_RETRY_S, LAST_RETRY_S, TableGrowth
from pylvs.model.errors import NoSpace


class Table:
    """A table that answers each call by the next of these results, and a clock that the test moves."""

    def __init__(self, *results: tuple[int, int] | Exception | None) -> None:
        self.results = list(results)
        self.calls = 0
        self.now_s = 0.0

    def grow(self) -> tuple[int, int] | None:
        self.calls += 1
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture
def thread() -> Iterator[TableThread]:
    made = TableThread("test")
    yield made
    made.close()


def events_of(table: Table, thread: TableThread, steps: list[float]) -> list[dict[str, object]]:
    """Return the events of steps at these times, without their own times."""
    events = EventBus()
    growth = TableGrowth(table.grow, thread, events, lambda: table.now_s)

    async def play() -> None:
        for table.now_s in steps:
            await growth.step()

    asyncio.run(play())
    return [{name: value for name, value in each.items() if name != "at"} for each in events.recent()]


def test_a_table_that_has_grown_is_an_event(thread: TableThread) -> None:
    table = Table(None, (1024, 2048), None)
    assert events_of(table, thread, [0, 5, 10]) == [{"event": "table_grown", "former": 1024, "capacity": 2048}]
    assert table.calls == 3


def test_a_failure_is_reported_and_repeated_after_ever_longer_pauses(thread: TableThread) -> None:
    table = Table(NoSpace("a capacity of 2048 needs 9 MB"))
    found = events_of(table, thread, [5.0 * step for step in range(24 * 3600 // 5)])
    assert set(map(str, found)) == {str({"event": "table_not_grown", "reason": "a capacity of 2048 needs 9 MB"})}
    doubled = (LAST_RETRY_S / FIRST_RETRY_S).as_integer_ratio()[0].bit_length()
    assert table.calls <= doubled + 24 * 3600 / LAST_RETRY_S + 1


def test_after_a_success_the_next_failure_pauses_for_a_short_time_again(thread: TableThread) -> None:
    refused = NoSpace("no memory")
    table = Table(refused, (1024, 2048), refused, None)
    times = [0.0, FIRST_RETRY_S, FIRST_RETRY_S + 5, 2 * FIRST_RETRY_S, 2 * FIRST_RETRY_S + 5]
    assert [each["event"] for each in events_of(table, thread, times)] == [
        "table_not_grown",
        "table_grown",
        "table_not_grown",
    ]
    assert table.calls == 4, "not before the pause is over"
