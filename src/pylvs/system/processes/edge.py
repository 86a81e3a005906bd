"""The parent's end of the edge process: one process without privileges, with a task for each subject that needs it.

The process exists while a task is wanted. A task that fails ends it, and all are configured again in the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pylvs.system.logs import get_logger, one_line
from pylvs.system.processes.asyncio_loop import AsyncioLoop, closed
from pylvs.system.processes.channel import BadMessage, Descriptor, Message
from pylvs.system.processes.child import Child
from pylvs.system.processes.event_loop import Timer

WHAT, ROLE = "the edge process", "services"
FINISH_S = 2.0  # for the last messages of tasks to others
LOG_PERIOD_S, MOST_LINES = 60.0, 60  # lines of the tasks in the log in each period
_LEVELS = ("debug", "info", "warning", "error")
_MAX_LINE = 4096  # characters
GATHER_S = 0.05  # in which tasks that begin share a start of the process
_ALWAYS = {"mail", "metrics"}  # small tasks, which need no restart of the process
# Files that wait until the process reads: each reply, and each page, is one. A client of its tasks decides how many.
MOST_WAITING = 2048


class Task(Protocol):
    """The parent's end of a task; `name` is that of `pylvs.edge.services`."""

    @property
    def name(self) -> str: ...

    def up(self) -> None:
        """The process is up, and knows nothing: send it what the task needs."""
        ...

    def down(self) -> None:
        """The process has ended; `Edge.problem` is the reason."""
        ...

    def receive(self, message: dict[str, Any]) -> None:
        """Take a message of the task. Raises BadMessage, which ends the process."""
        ...


class Edge:
    """One such process. It runs in the event loop of asyncio."""

    def __init__(self) -> None:
        self._loop = AsyncioLoop()
        self.process = Child(
            self._loop, WHAT, "pylvs.edge", self._receive, self._up, self._down, most_waiting=MOST_WAITING
        )
        self._tasks: dict[str, Task] = {}
        self._known: set[str] = set()  # tasks of which the process has the modules
        self._starting: Timer | None = None
        self._lines, self._period_until = 0, 0.0

    @property
    def problem(self) -> str:
        """Why the process does not run, "" if it does, or shall not."""
        return self.process.problem if self._tasks else ""

    def begin(self, task: Task) -> None:
        """Run a task, from now on or with new settings."""
        self._tasks[task.name] = task
        if self._starting is not None:
            return
        if not self.process.started or task.name not in self._known:
            self._starting = self._loop.at(self._loop.now + GATHER_S, self._start)
        elif self.process.up:
            task.up()

    def end(self, task: Task) -> None:
        """Run a task no longer; without any, the process ends."""
        if self._tasks.get(task.name) is task:
            self.send(task, {"end": True})
            del self._tasks[task.name]
            if not self._tasks:
                self._cancel_start()
                self.process.close(FINISH_S)

    async def close(self) -> None:
        """End the process, and wait for that."""
        self._tasks.clear()
        self._cancel_start()
        await closed(self.process, FINISH_S)

    def send(self, task: Task, message: Message, descriptors: Sequence[Descriptor] = ()) -> None:
        """Send a message to a task as `Child.send` does. Before its begin and after its end, drop it likewise."""
        if self._tasks.get(task.name) is task and task.name in self._known:
            self.process.send({"task": task.name, **message}, descriptors)
            return
        for each in descriptors:
            each.close()

    def log(self, level: str, text: str) -> None:
        """Write a line that a message of a task causes; clients of tasks could cause any number."""
        if self._loop.now >= self._period_until:
            self._lines, self._period_until = 0, self._loop.now + LOG_PERIOD_S
        self._lines += 1
        if self._lines <= MOST_LINES:
            get_logger().log(level, one_line(text)[:_MAX_LINE])

    def _start(self) -> None:
        self._starting = None
        self._known = {*self._tasks, *_ALWAYS}
        self.process.start(ROLE, *sorted(self._known - _ALWAYS))

    def _cancel_start(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            self._starting = None

    def _up(self) -> None:
        for task in list(self._tasks.values()):
            task.up()

    def _down(self) -> None:
        for task in list(self._tasks.values()):
            task.down()

    def _receive(self, message: dict[str, Any]) -> None:
        if "log" in message:
            level, event = message["log"], message.get("event")
            if level not in _LEVELS or not isinstance(event, str):
                raise BadMessage("a line of the log without its fields")
            self.log(level, event)
            return
        name = message.pop("task", None)
        if not isinstance(name, str) or name not in self._known:
            raise BadMessage("a message of no task")
        if name in self._tasks:  # else it has just ended
            self._tasks[name].receive(message)
