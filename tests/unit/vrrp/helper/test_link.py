"""Supervision of a helper process that hangs or exits repeatedly."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from pylvs.model.vrrp import VrrpConfiguration
from pylvs.model.wanted import GlobalSettings
from pylvs.system import processes as programs
from pylvs.system.processes import other_version
from pylvs.vrrp.helper.link import (
    FINISH_S,
    MAX_RESTART_S,
    NO_SCRIPTS,
    PING_S,
    RESTART_S,
    SILENT_S,
    START_S,
    STEADY_S,
    Configure,
    HelperLink,
    LogLine,
    Ping,
    Pong,
    PriorityChanged,
    ScriptsReported,
    StateChanged,
)
from pylvs.vrrp.ipc import ConnectionClosed, MessageSocket, WatchedSocket
from pylvs.vrrp.tracking import Key
from tests.unit.vrrp.fake_loop import FakeTimeLoop
from tests.unit.vrrp.helper.running_helper import run_helper, scripts, tracked
from tests.waiting import until

HANGS = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
LEAVES_A_CHILD = (
    f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {HANGS!r}], close_fds=False); {HANGS}"
)


@pytest.fixture
def loop() -> Iterator[FakeTimeLoop]:
    loop = FakeTimeLoop()
    yield loop
    loop._selector.close()


@pytest.mark.parametrize(("program", "processes"), [(HANGS, 1), (LEAVES_A_CHILD, 2)])
def test_finish_ends_although_the_helper_or_its_child_hangs(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, processes: int
) -> None:
    started = tmp_path / "started"  # one line of each process
    finished: list[bool] = []
    with open(started, "wb") as out:
        code = f"import os; os.dup2({out.fileno()}, 1); {program}"
        monkeypatch.setattr(programs, "command", lambda *_: [sys.executable, "-c", code])
        children = _children(monkeypatch, pass_fds=[out.fileno()])
        link = HelperLink(loop, "text", lambda message: None)
        link.start()
    (child,) = children
    try:
        until(lambda: len(started.read_bytes()) == processes)
        link.finish(lambda: finished.append(True))
        loop.pass_(FINISH_S - 0.1)
        assert (finished, link.connected, child.poll()) == ([], True, None)
        loop.pass_(0.2)
        assert (finished, link.connected) == ([True], False)
        until(lambda: child.poll() == -signal.SIGKILL)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def _children(monkeypatch: pytest.MonkeyPatch, pass_fds: list[int]) -> list[subprocess.Popen[bytes]]:
    """Record the processes that are started, and pass them more descriptors."""
    found: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def recorded(*given: Any, **more: Any) -> Any:
        more["pass_fds"] = [*more["pass_fds"], *pass_fds]
        found.append(popen(*given, **more))
        return found[-1]

    monkeypatch.setattr(subprocess, "Popen", recorded)
    return found


class FakeChildren:
    """Replaces subprocess.Popen: each process lives for a time, during which it answers on its socket."""

    def __init__(
        self, loop: FakeTimeLoop, *lives_s: float, hangs_after_s: float = 1e9, answers_after_s: float = 0.0
    ) -> None:
        self.loop = loop
        self.lives_s = list(lives_s)
        self.started: list[float] = []  # seconds since the first
        self.killed = 0
        self.late: tuple[Key, ...] = ()
        self.scripts: dict[str, int] | None = None
        self._hangs_at = loop.now + hangs_after_s
        self._answers_from = loop.now + answers_after_s

    def __call__(self, command: list[str], *, pass_fds: list[int], **_: object) -> FakeChildren:
        self.started.append(self.loop.now - 1000.0)
        end = WatchedSocket(
            self.loop.watch,
            MessageSocket(socket.socket(fileno=os.dup(pass_fds[0]))),
            lambda message: self._receive(end, message),
            lambda: None,
        )
        self.loop.at(self.loop.now + (self.lives_s.pop(0) if self.lives_s else 0.0), end.close)
        return self

    def _receive(self, end: WatchedSocket, message: object) -> None:
        if isinstance(message, Ping) and self._answers_from <= self.loop.now < self._hangs_at:
            end.send(Pong(self.late))
            if self.scripts is not None:
                end.send(ScriptsReported(self.scripts))

    def kill(self) -> None:
        self.killed += 1

    def poll(self) -> int:
        return -signal.SIGKILL


def test_repeated_exits_double_the_delay_of_the_restart(loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    children = FakeChildren(loop)
    monkeypatch.setattr(subprocess, "Popen", children)
    HelperLink(loop, "text", lambda message: None).start()
    loop.pass_(300)
    assert (RESTART_S, MAX_RESTART_S) == (1, 60)
    assert children.started == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_a_long_run_resets_the_delay(loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    children = FakeChildren(loop, 0, 0, STEADY_S, STEADY_S / 2, 1000)
    monkeypatch.setattr(subprocess, "Popen", children)
    link = HelperLink(loop, "text", lambda message: None)
    link.start()
    loop.pass_(300)
    assert children.started == [0, 1, 3, 3 + 60 + 1, 64 + 30 + 2]
    link.finish(lambda: None)
    loop.pass_(FINISH_S)
    loop.pass_(1000)  # the last one closes its end


def test_a_helper_that_does_not_answer_is_killed_and_another_one_started(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = FakeChildren(loop, 1000, 1000, hangs_after_s=100.5)
    monkeypatch.setattr(subprocess, "Popen", children)
    lost: list[tuple[float, str]] = []
    link = HelperLink(loop, "text", lambda message: None, lambda reason: lost.append((loop.now - 1000.0, reason)))
    link.start()
    loop.pass_(100)
    assert (children.killed, link.connected) == (0, True)
    loop.pass_(SILENT_S + 2 * PING_S)
    assert children.killed == 1
    ((at, reason),) = lost
    assert at == pytest.approx(100.5 + SILENT_S, abs=PING_S)
    assert reason == "it did not answer for 5 s and was killed"
    assert children.started == [0, at + RESTART_S]
    assert link.lost == 1
    loop.pass_(4000)


def test_late_results_are_passed_on(loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    children = FakeChildren(loop, 1000)
    monkeypatch.setattr(subprocess, "Popen", children)
    late: list[Collection[Key]] = []
    link = HelperLink(loop, "text", lambda message: pytest.fail(str(message)), on_late=late.append)
    link.start()
    loop.pass_(PING_S)
    children.late = (("script", "s"),)
    loop.pass_(PING_S)
    assert late == [(), (("script", "s"),)]
    loop.pass_(4000)


def test_reported_scripts_are_those_of_the_process_that_runs(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = FakeChildren(loop, 2.5, 1000)
    monkeypatch.setattr(subprocess, "Popen", children)
    link = HelperLink(loop, "text", lambda message: pytest.fail(str(message)))
    children.scripts = {"running": 1}
    link.start()
    loop.pass_(2 * PING_S)
    assert link.scripts == {"running": 1}
    children.scripts = None
    loop.pass_(2 * PING_S)
    assert (link.lost, link.scripts) == (1, NO_SCRIPTS)
    loop.pass_(4000)


@pytest.mark.parametrize(("answers_after_s", "killed"), [(START_S - 2 * PING_S, 0), (START_S + PING_S, 1)])
def test_a_helper_has_longer_for_its_start(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch, answers_after_s: float, killed: int
) -> None:
    children = FakeChildren(loop, 1000, 1000, answers_after_s=answers_after_s)
    monkeypatch.setattr(subprocess, "Popen", children)
    link = HelperLink(loop, "text", lambda message: None)
    link.start()
    loop.pass_(START_S + 3 * PING_S)
    assert (children.killed, link.connected) == (killed, True)
    loop.pass_(4000)


def test_a_router_process_that_was_stopped_does_not_blame_its_helper(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = FakeChildren(loop, 4000)
    monkeypatch.setattr(subprocess, "Popen", children)
    link = HelperLink(loop, "text", lambda message: None)
    link.start()
    loop.pass_(10)
    loop._now += 3600  # neither timers nor descriptors were handled
    loop.pass_(10)
    assert (children.killed, children.started) == (0, [0])
    loop.pass_(4000)


NAMES = """
import select, socket, sys
from pylvs.vrrp.ipc import MessageSocket
end = MessageSocket(socket.socket(fileno=int(sys.argv[1])))
with open(sys.argv[2], "a") as out:
    while select.select([end], [], []):
        for each in end.receive():
            print(type(each).__name__, file=out, flush=True)
"""


def test_messages_before_the_start_follow_the_configuration(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    received = tmp_path / "received"
    received.touch()
    program = [sys.executable, "-c", NAMES]
    monkeypatch.setattr(programs, "command", lambda module, end, *_: [*program, end, str(received)])
    children = _children(monkeypatch, pass_fds=[])
    link = HelperLink(loop, "text", lambda message: None)
    link.send(LogLine("info", "one"))
    link.send(Configure(GlobalSettings(), VrrpConfiguration()))
    link.send(StateChanged("INSTANCE", "VI_1", "MASTER", 100))
    assert children == []
    link.start()
    link.send(PriorityChanged("VI_1", "MASTER", 90))
    try:
        expected = ["Configure", "LogLine", "StateChanged", "PriorityChanged"]
        until(lambda: received.read_text().split() == expected, received.read_text)
    finally:
        link.finish(lambda: None)
        link._give_up()
        children[0].wait()


def test_each_configuration_but_the_first_is_marked_as_a_further_one(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So a reload resets no track_file, and neither does a helper process that is started again."""
    received = tmp_path / "received"
    received.touch()
    program = [sys.executable, "-c", NAMES.replace("type(each).__name__", "getattr(each, 'again', '')")]
    monkeypatch.setattr(programs, "command", lambda module, end, *_: [*program, end, str(received)])
    children = _children(monkeypatch, pass_fds=[])
    link = HelperLink(loop, "text", lambda message: None)
    link.start()
    try:
        for _ in range(2):
            link.send(Configure(GlobalSettings(), VrrpConfiguration()))
        until(lambda: received.read_text().split() == ["False", "True"], received.read_text)
        children[0].kill()
        children[0].wait()
        loop.pass_(RESTART_S)
        until(lambda: received.read_text().split() == ["False", "True", "True"], received.read_text)
    finally:
        link.finish(lambda: None)
        link._give_up()
        children[-1].wait()


def test_a_helper_of_another_version_reads_nothing_and_gives_the_reason(tmp_path: Path) -> None:
    """pip replaced the files below a router process that runs, and then its helper process ended."""
    with run_helper(tmp_path, version="0.0.1") as helper:
        made = tmp_path / "made"
        with contextlib.suppress(ConnectionClosed):
            helper.send(scripts(tracked("one", f"touch {made}")))
        assert helper.ended() == 0
        assert not made.exists()
    (line,) = helper.log.read_text().splitlines()
    assert f"the helper process of the virtual routers {other_version()}" in line
