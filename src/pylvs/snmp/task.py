"""The task "snmp": the sub-agent, in a thread. snmpd may keep it waiting, and many objects take long.

| to the task | "configuration": true, with a file: a configuration as `pylvs.model.plain` has it |
| | "routers": [event], "servers": [[event, up, total]]: events of virtual routers and of services |
| | "id", "error" or a descriptor: the reply, a file with JSON; of "master" a connection to snmpd |
| from it | "id", "method": "master", "routers", "services", "counters"; "set_weight" with its fields |
| | "subscribe": whether it takes events |
"""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pylvs.model.plain import from_plain
from pylvs.model.wanted import Configuration
from pylvs.snmp.agent import Agent
from pylvs.snmp.connections import RemoteConnections, Reply
from pylvs.system.lease import Lease
from pylvs.system.processes.channel import Message
from pylvs.system.processes.event_loop import Loop

TICK_S = 1.0
LEASE_S = 60.0  # of the thread: it may wait for snmpd, or make very many objects
END_S = 1.5  # for the last traps


class Mailbox:
    """Items for another thread; the descriptor is readable when there are any."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._event

    def put(self, item: Any) -> None:
        self._items.append(item)
        os.eventfd_write(self._event, 1)

    def take(self) -> list[Any]:
        """Return what has come."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return []
        return [self._items.popleft() for _ in range(len(self._items))]

    def close(self) -> None:
        os.close(self._event)


class _Running:
    """The thread of one configuration."""

    def __init__(self, content: int) -> None:
        self.inbox, self.outbox, self.end = Mailbox(), Mailbox(), Mailbox()
        self.connections = RemoteConnections(self.inbox, self.outbox, self.end.fileno())
        self.failure: BaseException | None = None
        self._content = content
        self.thread = threading.Thread(target=self._run, name="pylvs-agentx", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with open(self._content, "rb") as file:
                file.seek(0)
                configuration = from_plain(Configuration, json.load(file))
            Agent(configuration, self.connections, self.end.fileno()).run()
        except BaseException as error:
            self.failure = error

    def close(self) -> None:
        for reply in self.inbox.take():
            if reply.descriptor >= 0:
                os.close(reply.descriptor)
        for each in (self.inbox, self.outbox, self.end):
            each.close()


class AgentTask:
    """The sub-agent of the last configuration."""

    def __init__(self, loop: Loop, send: Callable[[Message], None]) -> None:
        self._loop, self._send = loop, send
        self._running: _Running | None = None
        self._lease = Lease(LEASE_S, TICK_S)

    def receive(self, message: dict[str, Any], descriptors: Sequence[int]) -> None:
        """Take a configuration, or pass events and replies to the thread."""
        if "configuration" in message:
            self.close()
            self._running = running = _Running(descriptors[0])
            self._lease = Lease(LEASE_S, TICK_S)
            self._loop.watch(running.outbox.fileno(), lambda: self._pass(running))
            self._loop.at(self._loop.now + TICK_S, partial(self._watch, running))
        elif self._running is not None:
            self._running.inbox.put(Reply(message, descriptors[0] if descriptors else -1))

    def close(self) -> None:
        """End the thread, after its last traps. One that waits for snmpd ends by itself later."""
        running, self._running = self._running, None
        if running is None:
            return
        running.end.put(None)
        running.thread.join(END_S)
        self._loop.watch(running.outbox.fileno(), None)
        if not running.thread.is_alive():
            running.close()

    def _pass(self, running: _Running) -> None:
        for message in running.outbox.take():
            self._send(message)

    def _watch(self, running: _Running) -> None:
        """End the process if the thread has failed, or makes no progress."""
        if running is not self._running:
            return
        if running.failure is not None:
            raise running.failure
        if self._lease.follow(running.connections.progress):
            raise RuntimeError(f"the SNMP sub-agent was silent for {LEASE_S:g} s")
        self._loop.at(self._loop.now + TICK_S, partial(self._watch, running))
