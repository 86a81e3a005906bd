"""The router process's end of its helper process: what the process gets, and when. `Child` supervises it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pytest

from pylvs.model.vrrp import Track, VrrpConfiguration
from pylvs.model.wanted import GlobalSettings
from pylvs.system.processes.child import KILLED_S, RESTART_S
from pylvs.vrrp.helper import link
from pylvs.vrrp.helper.link import (
    FINISH_S,
    NO_SCRIPTS,
    Configure,
    Finish,
    FromHelper,
    HelperLink,
    Late,
    LogLine,
    PriorityChanged,
    ScriptsReported,
    StateChanged,
    ToHelper,
    decoded,
    encoded,
)
from pylvs.vrrp.tracking import Key, TrackedObject
from tests.fake_processes import FakeProcesses
from tests.unit.vrrp.fake_loop import FakeTimeLoop

FIRST = Configure(GlobalSettings(), VrrpConfiguration())
CHANGED = StateChanged("INSTANCE", "VI_1", "MASTER", 100)


@pytest.fixture
def loop() -> Iterator[FakeTimeLoop]:
    loop = FakeTimeLoop()
    yield loop
    loop._selector.close()


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProcesses]:
    found = FakeProcesses(monkeypatch)
    yield found
    found.close()


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written to stderr while there is no process for the log."""
    lines: list[str] = []
    monkeypatch.setattr(link, "write_without_waiting", lambda _, data: lines.append(data.decode()))
    return lines


class Recorder:
    """A link with what it called."""

    def __init__(self, loop: FakeTimeLoop) -> None:
        self.results: list[TrackedObject] = []
        self.late: list[Collection[Key]] = []
        self.lost: list[str] = []
        self.finished = False
        self.link = HelperLink(loop, "text", self.results.append, self.lost.append, self.late.append)

    def finish(self) -> None:
        self.link.finish(lambda: setattr(self, "finished", True))


def running(loop: FakeTimeLoop, processes: FakeProcesses) -> Recorder:
    """Return a link whose process has greeted."""
    recorder = Recorder(loop)
    recorder.link.start()
    processes.last.greet()
    loop.pass_(0)
    return recorder


def received(processes: FakeProcesses) -> list[Any]:
    """Return the messages that the last process got."""
    return [decoded(message, ToHelper) for message, _ in processes.last.received()]


def test_messages_before_the_greeting_follow_the_configuration(loop: FakeTimeLoop, processes: FakeProcesses) -> None:
    helper = Recorder(loop).link
    line = LogLine("info", "one", {"device": "eth0", "count": 3})
    helper.send(line)
    helper.send(FIRST)
    helper.start()
    assert processes.last.arguments == ("text",)
    helper.send(CHANGED)
    assert received(processes) == []
    processes.last.greet()
    loop.pass_(0)
    helper.send(PriorityChanged("VI_1", "MASTER", 90))
    assert received(processes) == [FIRST, line, CHANGED, PriorityChanged("VI_1", "MASTER", 90)]


def test_each_configuration_but_the_first_is_marked_as_a_further_one(
    loop: FakeTimeLoop, processes: FakeProcesses, stderr: list[str]
) -> None:
    """So a reload resets no track_file, and neither does a helper process that is started again."""
    helper = Recorder(loop).link
    helper.start()
    processes.last.greet()
    loop.pass_(0)
    for _ in range(2):
        helper.send(FIRST)
    assert [each.again for each in received(processes)] == [False, True]
    processes.last.its_end.close()
    loop.pass_(RESTART_S)
    processes.last.greet()
    loop.pass_(0)
    line, configuration = received(processes)
    assert line.text == "the helper process of the virtual routers runs again"
    assert configuration.again


def test_results_are_passed_on(loop: FakeTimeLoop, processes: FakeProcesses) -> None:
    recorder = Recorder(loop)
    recorder.link.start()
    processes.last.greet()
    result = TrackedObject("script", Track("s"), True, detail="exit status 0")
    for each in result, Late((("script", "s"),)), ScriptsReported({"running": 1}):
        processes.last.send(encoded(each, FromHelper))
    loop.pass_(0)
    assert (recorder.results, recorder.late) == ([result], [(("script", "s"),)])
    assert recorder.link.scripts == {"running": 1}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (None, "has ended"),
        (
            {"object": ["TrackedObject", {"kind": "script", "track": {"name": 1}}]},
            "TrackedObject.track.name: must be str",
        ),
        ({"object": ["Configure", {}]}, "must be one of TrackedObject, Late, ScriptsReported"),
        ({"other": 1}, "must be list, not null"),
    ],
)
def test_without_the_process_lines_are_written_to_stderr_and_the_rest_is_lost(
    loop: FakeTimeLoop, processes: FakeProcesses, stderr: list[str], message: Any, reason: str
) -> None:
    recorder = Recorder(loop)
    recorder.link.send(FIRST)
    recorder.link.start()
    processes.last.greet()
    processes.last.send(encoded(ScriptsReported({"running": 1}), FromHelper))
    loop.pass_(0)
    if message is None:
        processes.last.its_end.close()
    else:
        processes.last.send(message)
    loop.pass_(0)
    assert processes.last.killed
    (lost,) = recorder.lost
    assert reason in lost
    assert stderr == [f"pylvs: {lost}\n"]
    assert (recorder.link.connected, recorder.link.lost, recorder.link.scripts) == (False, 1, NO_SCRIPTS)
    recorder.link.send(LogLine("info", "a\nline"))
    recorder.link.send(CHANGED)
    assert stderr[1:] == ["pylvs: a line\n"]
    loop.pass_(RESTART_S)
    processes.last.greet()
    loop.pass_(0)
    assert [type(each) for each in received(processes)] == [LogLine, Configure]


def test_the_end_waits_for_the_last_notifications_for_a_limited_time(
    loop: FakeTimeLoop, processes: FakeProcesses
) -> None:
    recorder = running(loop, processes)
    recorder.finish()
    assert received(processes) == [Finish()]
    loop.pass_(FINISH_S - 0.1)
    assert (recorder.finished, processes.last.killed) == (False, False)
    loop.pass_(0.2)
    assert (recorder.finished, processes.last.killed, recorder.link.connected) == (True, True, False)


def test_lines_after_the_request_to_finish_are_written_to_stderr(
    loop: FakeTimeLoop, processes: FakeProcesses, stderr: list[str]
) -> None:
    recorder = running(loop, processes)
    recorder.finish()
    recorder.link.send(LogLine("error", "no end of a session can be sent"))
    assert received(processes) == [Finish()]
    assert stderr == ["pylvs: no end of a session can be sent\n"]


def test_a_process_that_ends_by_itself_is_the_end(loop: FakeTimeLoop, processes: FakeProcesses) -> None:
    recorder = running(loop, processes)
    recorder.finish()
    processes.last.its_end.close()
    loop.pass_(0)
    assert (recorder.finished, recorder.lost, recorder.link.lost) == (True, [], 0)


@pytest.mark.parametrize("greets", [True, False])
def test_the_end_waits_for_a_process_that_starts(loop: FakeTimeLoop, processes: FakeProcesses, greets: bool) -> None:
    """Scripts of a state run also if the virtual routers end soon after their start."""
    recorder = Recorder(loop)
    recorder.link.start()
    recorder.link.send(CHANGED)
    recorder.finish()
    if greets:
        loop.pass_(FINISH_S - 1)
        processes.last.greet()
        loop.pass_(FINISH_S - 1)
        assert received(processes) == [CHANGED, Finish()]
    assert not recorder.finished
    loop.pass_(FINISH_S + KILLED_S)
    assert (recorder.finished, processes.last.killed) == (True, True)


@pytest.mark.parametrize("started", [True, False])
def test_the_end_without_a_process_comes_at_once(
    loop: FakeTimeLoop, processes: FakeProcesses, stderr: list[str], started: bool
) -> None:
    recorder = Recorder(loop)
    if started:
        recorder.link.start()
        processes.last.its_end.close()
        loop.pass_(0)
    recorder.finish()
    assert recorder.finished
    loop.pass_(60)
    assert len(processes.started) == int(started)
