"""What the sub-agent reads and changes: `pylvs run` connects to snmpd and to pylvs-vrrp for it."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import PylvsError
from pylvs.snmp.checker_mib import Numbers, Report, ServerStatus
from pylvs.snmp.keepalived_mib import RouterStatus
from pylvs.snmp.routers import router_status
from pylvs.snmp.session import CONNECT_TIMEOUT_S, Lost
from pylvs.snmp.timeouts import BackOff, Cached, Clock

ALIVE_S = 1.0  # between two signs of life
Services = Mapping[str, Report]  # by name


class Absent(PylvsError):
    """What is asked for does not run."""


class Ended(Exception):
    """The daemon ends the sub-agent."""


@dataclass(frozen=True, slots=True)
class Events:
    """Events of virtual routers; and of services, with the numbers of the service afterwards, if they are known."""

    routers: list[dict[str, Any]] = field(default_factory=list)
    servers: list[tuple[dict[str, Any], Numbers | None]] = field(default_factory=list)


class Connections(Protocol):
    """What the sub-agent reads and changes. `deadline` is in monotonic time."""

    def master(self) -> socket.socket:
        """Connect to snmpd, the master agent. Raises Lost, Ended."""
        ...

    def routers(self, deadline: float) -> RouterStatus:
        """Return the status of the virtual routers, the last known if there is no answer."""
        ...

    def servers(self, deadline: float) -> ServerStatus:
        """Return services and counters, the last known of what has no answer."""
        ...

    def services(self, deadline: float) -> Services:
        """Return the services. Raises PylvsError."""
        ...

    def set_weight(self, service: str, server: str, weight: int | None, deadline: float) -> None:
        """Set the weight of a real server; None clears it. Raises PylvsError."""
        ...

    def subscribe(self, deadline: float) -> None:
        """Subscribe to events, unless that is done, or the configuration has no traps. A later call may succeed."""
        ...

    def unsubscribe(self) -> None:
        """End the subscriptions."""
        ...

    def filenos(self) -> list[int]:
        """Return the descriptors that are readable when events have come."""
        ...

    def events(self) -> Events:
        """Return the events that have come. Raises Ended."""
        ...

    def cpu_s(self) -> float:
        """Return the CPU time that the sub-agent has taken."""
        ...

    def report_alive(self) -> None:
        """Report that the sub-agent works."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """A message of the daemon, and its descriptor; -1: none."""

    message: Mapping[str, Any]
    descriptor: int


class Box(Protocol):
    """The end of a queue between two threads."""

    def fileno(self) -> int: ...

    def put(self, item: Any, /) -> None: ...

    def take(self) -> list[Any]: ...


class RemoteConnections:
    """Connections through `pylvs run`, which makes them. `inbox` has each `Reply`, `outbox` takes requests.

    `end` is readable when the sub-agent shall end.
    """

    def __init__(self, inbox: Box, outbox: Box, end: int = -1, clock: Clock = time.monotonic) -> None:
        self.progress = 0  # it changes as long as the sub-agent works
        self._inbox, self._outbox, self._end = inbox, outbox, end
        self._number = 0
        self._subscribed = False
        self._events = Events()
        self._routers = Cached(self._read_routers, RouterStatus(), Absent, BackOff(clock))
        self._answers = BackOff(clock)  # of services
        self._services: Cached[Services] = Cached(partial(self._by_name, "services"), {}, Absent, self._answers)
        # The counters wait for other programs' edits of the table.
        self._counters: Cached[Services] = Cached(partial(self._by_name, "counters"), {}, Absent, BackOff(clock))

    def master(self) -> socket.socket:
        end = [] if self._end < 0 else [self._end]
        try:
            return socket.socket(fileno=self._descriptor("master", time.monotonic() + 2 * CONNECT_TIMEOUT_S, end))
        except PylvsError as error:
            raise Lost(str(error)) from None

    def routers(self, deadline: float) -> RouterStatus:
        return self._routers.get(deadline)

    def servers(self, deadline: float) -> ServerStatus:
        return ServerStatus(self._services.get(deadline), self._counters.get(deadline))

    def services(self, deadline: float) -> Services:
        if not self._answers.over:
            raise PylvsError("pylvs run did not answer a moment ago")
        return self._by_name("services", deadline)

    def set_weight(self, service: str, server: str, weight: int | None, deadline: float) -> None:
        self._ask("set_weight", deadline, service=service, server=server, weight=weight)

    def subscribe(self, deadline: float) -> None:
        if not self._subscribed:
            self._subscribed = True
            self._outbox.put({"subscribe": True})

    def unsubscribe(self) -> None:
        self._subscribed = False
        self._events = Events()
        self._outbox.put({"subscribe": False})

    def filenos(self) -> list[int]:
        return [self._inbox.fileno()]

    def events(self) -> Events:
        for reply in self._inbox.take():
            self._keep(reply)
        found, self._events = self._events, Events()
        return found

    def cpu_s(self) -> float:
        return time.thread_time()

    def report_alive(self) -> None:
        self.progress += 1

    def _read_routers(self, deadline: float) -> RouterStatus:
        return router_status(self._ask("routers", deadline))

    def _by_name(self, method: str, deadline: float) -> Services:
        return {each["name"]: each for each in self._ask(method, deadline)["services"]}

    def _ask(self, method: str, deadline: float, **fields: Any) -> Any:
        """Return the content of a reply. Raises PylvsError, Absent."""
        with open(self._descriptor(method, deadline, (), **fields), "rb") as file:
            file.seek(0)
            return json.load(file)

    def _descriptor(self, method: str, deadline: float, ends: Sequence[int], **fields: Any) -> int:
        """Return the descriptor of a reply. Raises PylvsError, Absent, Ended if one of `ends` is readable."""
        self._number += 1
        self._outbox.put({"id": self._number, "method": method, **fields})
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([self._inbox.fileno(), *ends], [], [], left)
            if any(each in ready for each in ends):
                raise Ended
            wanted = None
            for reply in self._inbox.take():
                if reply.message.get("id") == self._number:
                    wanted = reply
                else:
                    self._keep(reply)
            if wanted is None:
                continue
            if wanted.descriptor < 0:
                error = str(wanted.message.get("error"))
                raise Absent(error) if wanted.message.get("absent") else PylvsError(error)
            return int(wanted.descriptor)
        raise PylvsError("pylvs run does not answer")

    def _keep(self, reply: Reply) -> None:
        """Keep events; drop a reply that is late."""
        if reply.descriptor >= 0:
            os.close(reply.descriptor)
        if self._subscribed:  # else they came before the end of the subscription
            self._events.routers.extend(reply.message.get("routers", ()))
            self._events.servers.extend(
                (event, None if up is None else Numbers(up, total))
                for event, up, total in reply.message.get("servers", ())
            )
