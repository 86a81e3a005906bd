"""A process that is started, restarted, killed and reaped; and how much may wait until it reads."""

from __future__ import annotations

import errno
import math
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pylvs.system.processes import child
from pylvs.system.processes.channel import MAX_PACKET, BadMessage, Link
from pylvs.system.processes.child import (
    KILLED_S,
    LEASE_S,
    MAX_RESTART_S,
    OFTEN,
    OFTEN_S,
    RESTART_S,
    START_S,
    STEADY_S,
    Backoff,
    Child,
    Parent,
    environment,
)
from tests.fake_processes import FakeProcesses
from tests.unit.vrrp.fake_loop import FakeTimeLoop
from tests.waiting import until, until_reaped

SENT = 3000  # descriptors: as many PING_CHECKs that begin at once
AT_ONCE = 50  # in a packet
DEFINITIONS = "x" * 16_000  # of the checks: few such packets fit into the socket


class Opened:
    """A descriptor that is sent and closed, and whose file stays open."""

    closed = 0

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number

    def close(self) -> None:
        Opened.closed += 1


class Recorder:
    """A child with what it called."""

    def __init__(self, loop: FakeTimeLoop, **more: Any) -> None:
        self.calls: list[str] = []
        self.messages: list[dict[str, Any]] = []
        self.lines: list[tuple[str, str]] = []
        self.child = Child(
            loop,
            "the process",
            "pylvs.some_program",
            self._receive,
            lambda: self.calls.append("up"),
            lambda: self.calls.append("down"),
            log=lambda level, text, **_: self.lines.append((level, text)),
            **more,
        )

    def _receive(self, message: dict[str, Any]) -> None:
        if "invalid" in message:
            raise BadMessage("no such message")
        self.messages.append(message)


@pytest.fixture
def loop() -> Iterator[FakeTimeLoop]:
    loop = FakeTimeLoop()
    yield loop
    loop._selector.close()


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProcesses]:
    processes = FakeProcesses(monkeypatch)
    yield processes
    processes.close()


@pytest.fixture
def running(loop: FakeTimeLoop, processes: FakeProcesses) -> Recorder:
    """A child that has greeted."""
    recorder = Recorder(loop)
    recorder.child.start("an argument")
    processes.last.greet()
    loop.pass_(0)
    return recorder


def test_a_process_is_up_after_its_greeting(loop: FakeTimeLoop, processes: FakeProcesses) -> None:
    recorder = Recorder(loop)
    recorder.child.send({"early": 1})
    recorder.child.start("an argument", descriptors=[7])
    assert (processes.last.program, processes.last.arguments) == ("pylvs.some_program", ("an argument",))
    assert processes.last.descriptors == (7,)
    recorder.child.send({"early": 2})
    assert (recorder.child.up, recorder.child.started) == (False, True)
    processes.last.greet(["capabilities: not permitted"])
    processes.last.send({"first": 1})
    loop.pass_(0)
    assert (recorder.child.up, recorder.calls, recorder.messages) == (True, ["up"], [{"first": 1}])
    assert recorder.lines == [("warning", "the process keeps a privilege")]
    recorder.child.send({"late": 1})
    assert processes.last.received() == [({"late": 1}, [])]


def test_a_process_of_another_version_is_not_used(loop: FakeTimeLoop, processes: FakeProcesses) -> None:
    recorder = Recorder(loop)
    recorder.child.start()
    processes.last.send({"hello": "0.0.1", "left": []})
    loop.pass_(0)
    assert processes.last.killed
    assert recorder.child.problem == "the process is of version 0.0.1, which was installed since: restart pylvs run"


@pytest.mark.parametrize("message", [b"{", b"[]", b'{"invalid":1}'])
def test_an_invalid_message_ends_the_process(
    loop: FakeTimeLoop, processes: FakeProcesses, running: Recorder, message: bytes
) -> None:
    processes.last.its_end.send(message)
    loop.pass_(0)
    assert processes.last.killed
    assert running.child.problem.startswith("the process sent an invalid message (")
    assert running.calls == ["up", "down"]


def test_a_process_without_a_greeting_is_killed_after_a_minute(loop: FakeTimeLoop, processes: FakeProcesses) -> None:
    recorder = Recorder(loop)
    recorder.child.start()
    loop.pass_(START_S - 1)
    assert [each.killed for each in processes.started] == [False]
    loop.pass_(1)
    assert [each.killed for each in processes.started] == [True]
    assert recorder.child.problem == "the process has been silent for 60 s"


def test_a_silent_process_is_killed_after_its_lease(loop: FakeTimeLoop, processes: FakeProcesses) -> None:
    recorder = Recorder(loop)
    recorder.child.start()
    processes.last.greet()
    for _ in range(3 * int(LEASE_S)):
        loop.pass_(1)
        processes.last.send({"pong": True})
    assert (recorder.child.up, recorder.messages) == (True, [])
    loop.pass_(LEASE_S - 1)
    assert [each.killed for each in processes.started] == [False], "the lease begins with the last message"
    loop.pass_(1)
    assert [each.killed for each in processes.started] == [True]
    assert recorder.child.problem == "the process has been silent for 5 s"


def test_a_process_that_was_stopped_with_this_one_is_not_silent(
    loop: FakeTimeLoop, processes: FakeProcesses, running: Recorder
) -> None:
    loop._now += 60  # no timer ran
    loop.pass_(0)
    assert not processes.last.killed


def test_restarts_have_a_growing_pause(loop: FakeTimeLoop, processes: FakeProcesses, running: Recorder) -> None:
    pause = RESTART_S
    for restarts in range(1, 9):
        processes.last.written = "a traceback"
        processes.last.its_end.close()
        loop.pass_(0)
        assert (running.child.problem, running.child.restarts) == ("the process has ended", restarts)
        loop.pass_(pause - 0.01)
        assert len(processes.started) == restarts
        loop.pass_(0.01)
        assert len(processes.started) == restarts + 1
        pause = min(2 * pause, MAX_RESTART_S)
    assert running.child.unsteady == "the process has ended; restarted more than 2 times within 5 min"
    processes.last.greet()
    loop.pass_(0)
    assert running.child.problem == ""
    assert running.lines[-1] == ("info", "the process runs again")
    for _ in range(int(STEADY_S)):
        loop.pass_(1)
        processes.last.send({"pong": True})
    processes.last.its_end.close()
    loop.pass_(RESTART_S)
    assert len(processes.started) == 10, "after a minute the first pause is the shortest again"
    for _ in range(int(OFTEN_S)):
        processes.last.greet()
        loop.pass_(1)
    assert running.child.unsteady == ""
    assert OFTEN == 3


def test_a_process_that_cannot_be_started_is_tried_again(loop: FakeTimeLoop, processes: FakeProcesses) -> None:
    recorder = Recorder(loop)
    processes.refusal = OSError(errno.EAGAIN, "Resource temporarily unavailable")
    recorder.child.start()
    assert recorder.child.problem == "the process cannot be started: Resource temporarily unavailable"
    processes.refusal = None
    loop.pass_(RESTART_S)
    assert len(processes.started) == 1


def test_other_arguments_replace_the_process(loop: FakeTimeLoop, processes: FakeProcesses, running: Recorder) -> None:
    running.child.start("another argument")
    assert [each.arguments for each in processes.started] == [("an argument",), ("another argument",)]
    assert [each.killed for each in processes.started] == [True, False]
    assert running.calls == ["up", "down"]
    assert (running.child.restarts, running.child.launches) == (0, 2)


def test_a_long_message_is_a_sealed_file(loop: FakeTimeLoop, processes: FakeProcesses, running: Recorder) -> None:
    running.child.send({"text": "x" * MAX_PACKET})
    ((message, descriptors),) = processes.last.received()
    assert (message, descriptors) == ({"text": "x" * MAX_PACKET}, [])


def test_a_child_sends_no_longer_message_than_a_packet(loop: FakeTimeLoop, processes: FakeProcesses) -> None:
    Recorder(loop).child.start()
    parent = Parent(loop, processes.last.its_end, lambda *_: None, lambda: None)
    with pytest.raises(BadMessage):
        parent.send({"text": "x" * MAX_PACKET})


def test_both_ends_work_together(loop: FakeTimeLoop, processes: FakeProcesses) -> None:
    received: list[tuple[dict[str, Any], list[int]]] = []
    recorder = Recorder(loop)
    recorder.child.start()
    ended: list[bool] = []
    its = processes.last.its_end
    parent = Parent(loop, its, lambda *each: received.append(each), lambda: ended.append(True))
    loop.pass_(10 * LEASE_S)
    assert recorder.child.up, "it answers pings"
    parent.send({"last": True})
    with open(os.devnull, "rb") as file:
        recorder.child.send({"file": True}, [os.fdopen(os.dup(file.fileno()), "rb")])
        loop.pass_(0)
        ((message, (number,)),) = received
        assert (message, os.fstat(number).st_rdev) == ({"file": True}, os.fstat(file.fileno()).st_rdev)
        os.close(number)
    assert recorder.messages == [{"last": True}]
    recorder.child.close()
    assert processes.last.killed


def test_what_a_process_sent_before_its_end_is_received(
    loop: FakeTimeLoop, processes: FakeProcesses, running: Recorder
) -> None:
    running.child.send({"unread": 1})
    processes.last.send({"last": 1})
    processes.last.its_end.close()
    running.child.send({"unread": 2})
    loop.pass_(0)
    assert (running.messages, running.child.problem) == ([{"last": 1}], "the process has ended")


def test_a_process_may_end_by_itself(loop: FakeTimeLoop, processes: FakeProcesses, running: Recorder) -> None:
    closed: list[bool] = []
    running.child.send({"finish": True})
    running.child.close(10, lambda: closed.append(True))
    assert processes.last.received() == [({"finish": True}, [])]
    assert processes.last.its_end.recv(1) == b"", "it reads the end"
    processes.last.send({"result": 1})
    processes.last.lingers = True
    processes.last.its_end.close()
    loop.pass_(0)
    assert (running.messages, closed) == ([{"result": 1}], [])
    processes.last._on_gone()
    assert (closed, running.calls, len(processes.started)) == ([True], ["up"], 1)


def test_a_process_that_has_read_the_end_is_not_killed_before_it_has_finished(loop: FakeTimeLoop) -> None:
    """Notifications of the last states, and the last traps, take longer than the end of the messages."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read_end: list[bool] = []
    with ours, its:
        Parent(loop, its, lambda *_: None, lambda: read_end.append(True))
        lost: list[str] = []
        link = Link(loop, ours, lambda *_: None, lost.append)
        link.finish()
        loop.pass_(0)
        assert (read_end, lost) == ([True], [])
        its.close()  # as the end of the process does
        loop.pass_(0)
        assert lost == ["has ended"]


def test_a_process_that_does_not_end_is_killed(loop: FakeTimeLoop, processes: FakeProcesses, running: Recorder) -> None:
    """One that waits for a disk delays the end of this one by KILLED_S at most."""
    closed: list[bool] = []
    processes.last.lingers = True
    running.child.close(10, lambda: closed.append(True))
    loop.pass_(9.9)
    assert not processes.last.killed
    loop.pass_(0.1)
    assert (processes.last.killed, closed) == (True, [])
    loop.pass_(KILLED_S)
    assert closed == [True]
    processes.last.leave()
    assert closed == [True]
    loop.pass_(60)
    assert len(processes.started) == 1


@pytest.mark.parametrize("limit", [math.inf, 2048])
def test_descriptors_wait_for_the_process_without_a_limit_unless_it_has_one(
    loop: FakeTimeLoop, processes: FakeProcesses, limit: float
) -> None:
    Opened.closed = 0
    recorder = Recorder(loop, most_waiting=limit)
    recorder.child.start()
    processes.last.greet()
    loop.pass_(0)
    number = os.open(os.devnull, os.O_RDONLY)
    for _ in range(SENT // AT_ONCE):  # the event loop does not run between them
        recorder.child.send({"new": DEFINITIONS}, [Opened(number) for _ in range(AT_ONCE)])
    refused = limit < SENT
    assert recorder.child.problem == ("the process does not read" if refused else "")
    assert recorder.child.up is not refused
    recorder.child.close()
    assert Opened.closed == SENT
    os.close(number)


@pytest.mark.parametrize("waits", [False, True])
def test_a_real_process_is_killed_and_reaped(
    loop: FakeTimeLoop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """One that ends by itself, and one that is killed."""
    code = "import os, socket, sys; end = socket.socket(fileno=int(sys.argv[1])); os.write(2, b'a word');"
    code += "end.send(b'{}') if sys.argv[2] == 'False' else end.recv(1)"
    monkeypatch.setattr(child, "command", lambda program, *more: [sys.executable, "-c", code, *more])
    recorder = Recorder(loop)
    recorder.child.start(str(waits))
    pid = recorder.child.pid
    closed: list[bool] = []
    if waits:
        recorder.child.close(0, lambda: closed.append(True))
    else:

        def lost() -> bool:
            loop.pass_(0)
            return bool(recorder.child.problem)

        until(lost)
        assert recorder.child.problem == "the process is of version None, which was installed since: restart pylvs run"
        recorder.child.close(0, lambda: closed.append(True))

    def gone() -> bool:
        loop.pass_(0)
        return bool(closed)

    until(gone)
    until_reaped(pid)


def test_a_process_keeps_compiled_modules_where_this_one_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It would compile into the source tree, in which `./dev undo` leaves nothing."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("PYTHONPYCACHEPREFIX", str(tmp_path))
    code = "import sys; print(sys.pycache_prefix, sys.dont_write_bytecode)"
    shown = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [str(tmp_path), "False"]
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    shown = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert shown.stdout.split() == [str(tmp_path), "True"]


def test_a_child_is_imported_without_asyncio() -> None:
    """pylvs-vrrp imports it before its first advertisement."""
    code = "import sys, pylvs.system.processes.child; print(*{'asyncio', 'subprocess'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_delays_double_and_begin_again() -> None:
    backoff = Backoff(0.5, 3.0, at_once=True)
    assert [backoff.next_s() for _ in range(6)] == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]
    backoff.begin_again()
    assert [backoff.next_s() for _ in range(2)] == [0.0, 0.5]
