"""The edge process: its tasks share it, and what it sends is bounded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pylvs.system import logs
from pylvs.system.processes import edge as edge_module
from pylvs.system.processes.channel import BadMessage
from pylvs.system.processes.edge import MOST_LINES, Edge
from tests.fake_processes import FakeProcesses
from tests.unit.health.clock import FakeTimeLoop


class Task:
    """A task that records what happens."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls: list[Any] = []

    def up(self) -> None:
        self.calls.append("up")

    def down(self) -> None:
        self.calls.append("down")

    def receive(self, message: dict[str, Any]) -> None:
        self.calls.append(message)


def play(monkeypatch: pytest.MonkeyPatch, scenario: Callable[[Edge, FakeProcesses], Awaitable[None]]) -> None:
    """Run a scenario in simulated time."""
    processes = FakeProcesses(monkeypatch)

    async def whole() -> None:
        edge = Edge()
        await scenario(edge, processes)
        await edge.close()

    loop = FakeTimeLoop()
    loop.run_until_complete(whole())
    loop.close()
    processes.close()


def test_tasks_that_begin_together_share_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(edge: Edge, processes: FakeProcesses) -> None:
        dbus, metrics, snmp = Task("dbus"), Task("metrics"), Task("snmp")
        edge.begin(dbus)
        edge.begin(metrics)
        await asyncio.sleep(1)
        assert [each.arguments for each in processes.started] == [("services", "dbus")]
        processes.last.greet()
        processes.last.send({"task": "dbus", "bus": ""})
        await asyncio.sleep(1)
        assert (dbus.calls, metrics.calls) == (["up", {"bus": ""}], ["up"])
        edge.end(metrics)
        edge.begin(metrics)
        await asyncio.sleep(1)
        assert metrics.calls == ["up", "up"], "the process has the modules of this small task"
        edge.begin(snmp)
        await asyncio.sleep(1)
        assert processes.last.arguments == ("services", "dbus", "snmp")
        assert dbus.calls[2:] == ["down"]
        for each in (dbus, metrics, snmp):
            edge.end(each)
        await asyncio.sleep(60)
        assert (len(processes.started), edge.problem) == (2, "")
        assert processes.last.killed

    play(monkeypatch, scenario)


def test_a_task_gets_messages_between_its_begin_and_its_end_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process fails with a task that it does not know, and would begin one that has ended."""

    async def scenario(edge: Edge, processes: FakeProcesses) -> None:
        dbus, metrics = Task("dbus"), Task("metrics")
        edge.begin(metrics)
        await asyncio.sleep(1)
        processes.last.greet()
        await asyncio.sleep(1)
        edge.send(metrics, {"page": True})
        edge.send(dbus, {"path": "/a"})
        edge.begin(dbus)
        edge.send(dbus, {"path": "/b"})  # the process that knows it starts a moment later
        edge.end(dbus)
        late = os.fdopen(os.open(os.devnull, os.O_RDONLY))
        edge.send(dbus, {"path": "/c"}, [late])
        assert late.closed
        sent = [message for message, _ in processes.last.received()]
        assert sent == [{"task": "metrics", "page": True}]

    play(monkeypatch, scenario)


@pytest.mark.parametrize(
    "message",
    [{}, {"task": 1}, {"task": "snmp"}, {"log": "shout", "event": "x"}, {"log": "info", "event": 1}, {"log": ["info"]}],
)
def test_a_message_of_no_task_is_invalid(monkeypatch: pytest.MonkeyPatch, message: dict[str, Any]) -> None:
    async def scenario(edge: Edge, _: FakeProcesses) -> None:
        edge.begin(Task("dbus"))
        await asyncio.sleep(1)
        with pytest.raises(BadMessage):
            edge._receive(message)

    play(monkeypatch, scenario)


def test_lines_for_the_log_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    former = logs.write_with(lambda _, fields: lines.append(fields["event"]))

    async def scenario(edge: Edge, _: FakeProcesses) -> None:
        edge.begin(Task("dbus"))
        for number in range(3 * MOST_LINES):
            edge._receive({"log": "warning", "event": f"line\n{number}"})
        assert len(lines) == MOST_LINES
        assert lines[1] == "line 1"
        await asyncio.sleep(edge_module.LOG_PERIOD_S)
        edge._receive({"log": "warning", "event": "x" * 100_000})
        assert len(lines[-1]) == 4096

    try:
        play(monkeypatch, scenario)
    finally:
        logs.write_with(former)
