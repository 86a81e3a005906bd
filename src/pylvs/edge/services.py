"""The role "services": metrics, D-Bus, SNMP and mail, each a task that the parent configures by messages.

It has the file system as an ordinary user: the resolver reads /etc, and the bus is a socket there. A message names its
task, and {"end": true} ends one. An error that a task does not handle ends the process: its parent starts the next one.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from pylvs.edge.metrics import MetricsServer
from pylvs.notify.delivery import Delivery
from pylvs.system import logs, sandbox, syscalls
from pylvs.system.processes.asyncio_loop import AsyncioLoop
from pylvs.system.processes.channel import Message
from pylvs.system.processes.child import Parent
from pylvs.system.processes.event_loop import Loop

NAME = b"pylvs-edge"  # shown by ps and top
_DESCRIPTORS, _MEMORY = 128, 1 << 30
_MAX_LINE = 4096  # characters


class Task(Protocol):
    """A task between its first message and its end."""

    def receive(self, message: dict[str, Any], descriptors: Sequence[int], /) -> None: ...

    def close(self) -> None: ...


Make = Callable[[Loop, Callable[[Message], None]], Task]


class Services:
    """The tasks of one parent; `known` makes each by its name."""

    def __init__(self, end: socket.socket, left: Sequence[str], known: Mapping[str, Make]) -> None:
        self._end, self._left, self._known = end, left, known
        self._loop = AsyncioLoop()
        self._tasks: dict[str, Task] = {}
        self._over = asyncio.Event()

    async def serve(self) -> None:
        """Run until the parent closes its end."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_crash)

        def write(level: str, fields: dict[str, Any]) -> None:  # in any thread
            loop.call_soon_threadsafe(self._log, level, fields)

        logs.write_with(write)
        self._parent = Parent(self._loop, self._end, self._receive, self._over.set, self._left)
        await self._over.wait()
        for task in self._tasks.values():
            task.close()

    def _receive(self, message: dict[str, Any], descriptors: list[int]) -> None:
        name = message.pop("task")
        if message.get("end"):
            task = self._tasks.pop(name, None)
            if task is not None:
                task.close()
            return
        if name not in self._tasks:
            self._tasks[name] = self._known[name](self._loop, partial(self._send, name))
        self._tasks[name].receive(message, descriptors)

    def _log(self, level: str, fields: dict[str, Any]) -> None:
        """Let the parent log it."""
        text = f"{fields['event']} {fields.get('exception', '')}"
        self._parent.send({"log": level, "event": text[-_MAX_LINE:]})

    def _send(self, name: str, message: Message) -> None:
        self._parent.send({"task": name, **message})


def _crash(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """End the process; the parent logs the last line of this."""
    error = context.get("exception")
    text = "".join(traceback.format_exception(error)) if error else context["message"]
    print(text, file=sys.stderr, flush=True)
    os._exit(1)


def main(end: socket.socket, *names: str) -> None:
    """Serve the parent at the other end of this socket; `names` are tasks that not every process needs."""
    syscalls.prctl(syscalls.PR_SET_NAME, NAME)
    known: dict[str, Make] = {"metrics": MetricsServer, "mail": Delivery}
    if "dbus" in names:
        from pylvs.dbus.client import BusClient  # late: jeepney may be absent

        known["dbus"] = BusClient
    if "snmp" in names:
        from pylvs.snmp.task import AgentTask  # late: few processes serve SNMP

        known["snmp"] = AgentTask
    left = sandbox.confine(_DESCRIPTORS, _MEMORY, file_system=True, named="dbus" in names)
    with asyncio.Runner() as runner:
        runner.run(Services(end, left, known).serve())
