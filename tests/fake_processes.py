"""Processes that `Child` starts, without a program: a test acts as each of them."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from pylvs.system.processes import channel, child
from pylvs.system.processes.edge import Edge, Task
from pylvs.system.processes.event_loop import Loop


class FakeProcess:
    """One process. The test uses its end of the socket pair."""

    def __init__(self, number: int, program: str, arguments: Sequence[str], descriptors: Sequence[int]) -> None:
        self.pid = number
        self.program, self.arguments, self.descriptors = program, tuple(arguments), tuple(descriptors)
        self.end, self.its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.its_end.setblocking(False)
        self.written = ""  # to stderr
        self.killed = False
        self.lingers = False  # a killed process is not gone before `leave`
        self._on_gone: Callable[[], None] = lambda: None

    def output(self) -> str:
        return self.written

    def kill(self, on_gone: Callable[[], None]) -> None:
        self.killed = True
        self._on_gone = on_gone
        if not self.lingers:
            self.leave()

    def leave(self) -> None:
        """Be gone, after `kill`."""
        self.its_end.close()
        self._on_gone()

    def greet(self, left: Sequence[str] = ()) -> None:
        self.send(channel.greeting(left))

    def send(self, message: Mapping[str, Any]) -> None:
        self.its_end.send(channel.encode(message))

    def received(self) -> list[tuple[dict[str, Any], list[int]]]:
        """Return the messages that the parent has sent, with their descriptors, without pings."""
        found = []
        with contextlib.suppress(BlockingIOError, EOFError):
            while True:
                message, descriptors = channel.receive(self.its_end)
                if message != {"ping": True}:
                    found.append((message, descriptors))
        return found


class FakeProcesses:
    """All that were started, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[FakeProcess] = []
        self.refusal: OSError | None = None  # why none can be started
        monkeypatch.setattr(child, "launch", self._launch)

    def close(self) -> None:
        """Close the sockets that are still open."""
        for process in self.started:
            process.end.close()
            process.its_end.close()

    @property
    def last(self) -> FakeProcess:
        return self.started[-1]

    def _launch(
        self, _: Loop, program: str, arguments: Sequence[str], descriptors: Sequence[int], *__: object
    ) -> FakeProcess:
        if self.refusal is not None:
            raise self.refusal
        self.started.append(FakeProcess(len(self.started) + 1, program, arguments, descriptors))
        return self.last


class FakeEdge(Edge):
    """The edge process, without one: it records what its tasks send."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []  # tasks
        self.ended: list[str] = []
        self.sent: list[dict[str, Any]] = []
        self.files: list[bytes] = []  # the content of files among the descriptors

    def begin(self, task: Task) -> None:
        self.begun.append(task.name)
        self._tasks[task.name] = task
        task.up()

    def end(self, task: Task) -> None:
        if self._tasks.pop(task.name, None):
            self.ended.append(task.name)

    def send(self, task: Task, message: Mapping[str, Any], descriptors: Sequence[channel.Descriptor] = ()) -> None:
        self.sent.append(dict(message))
        for descriptor in descriptors:
            about = os.fstat(descriptor.fileno())
            if stat.S_ISREG(about.st_mode):
                self.files.append(os.pread(descriptor.fileno(), about.st_size, 0))
            descriptor.close()
