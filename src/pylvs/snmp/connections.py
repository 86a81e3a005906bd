"""The connections of the sub-agent: to snmpd, to `pylvs run` and to pylvs-vrrp."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any, Protocol

from pylvs.model.dataclass import dataclass, field
from pylvs.model.wanted import SnmpSettings
from pylvs.snmp import session
from pylvs.snmp.checker_mib import Numbers, ServerStatus
from pylvs.snmp.keepalived_mib import RouterStatus
from pylvs.snmp.routers import RouterClient
from pylvs.snmp.servers import ServerClient, Services

SERVER_EVENTS = ("server_up", "server_down", "quorum_gained", "quorum_lost")
STDOUT = 1
ALIVE_S = 1.0  # between two signs of life


class Ended(Exception):
    """The daemon ends the sub-agent."""


@dataclass(frozen=True, slots=True)
class Events:
    """Events of virtual routers; and SERVER_EVENTS with the numbers of their service afterwards, if they are known."""

    routers: list[dict[str, Any]] = field(default_factory=list)
    servers: list[tuple[dict[str, Any], Numbers | None]] = field(default_factory=list)


class Connections(Protocol):
    """What the sub-agent reads and changes. `deadline` is in monotonic time."""

    def master(self) -> socket.socket:
        """Connect to snmpd, the master agent. Raises OSError, session.Lost."""
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


class DirectConnections:
    """Connections of a process that has the right to make them."""

    def __init__(self, settings: SnmpSettings, state_dir: Path) -> None:
        self._settings = settings
        self._alive_at = 0.0
        self._routers = RouterClient(state_dir)
        self._servers = ServerClient(state_dir)
        self.routers, self.servers = self._routers.status, self._servers.status
        self.services, self.set_weight = self._servers.services, self._servers.set_weight

    def master(self) -> socket.socket:
        return session.connect(self._settings.socket)

    def subscribe(self, deadline: float) -> None:
        if not self._settings.traps:
            return
        if self._settings.routers:
            self._routers.subscribe(deadline)
        if self._settings.checker:
            self._servers.subscribe(deadline)

    def unsubscribe(self) -> None:
        self._routers.close()
        self._servers.close()

    def filenos(self) -> list[int]:
        return [number for number in (self._routers.fileno(), self._servers.fileno()) if number >= 0]

    def events(self) -> Events:
        servers = [each for each in self._servers.events() if each[0]["event"] in SERVER_EVENTS]
        return Events(self._routers.events(), servers)

    def cpu_s(self) -> float:
        return time.process_time()

    def report_alive(self) -> None:
        """Write a byte to standard output, where the daemon counts the seconds of silence: at most one each ALIVE_S."""
        now = time.monotonic()
        if now < self._alive_at:
            return
        self._alive_at = now + ALIVE_S
        with contextlib.suppress(OSError):  # a daemon that does not read
            os.write(STDOUT, b".")
