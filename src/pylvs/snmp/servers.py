"""A client of `pylvs run`: its services, their counters and events, and the weights of real servers."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pylvs.model.errors import PylvsError
from pylvs.snmp import timeouts
from pylvs.snmp.checker_mib import Numbers, Report, ServerStatus
from pylvs.snmp.timeouts import BackOff, Cached, Clock
from pylvs.system.sockets import address_of, closed_on_error
from pylvs.system.unix_http import UnixConnection

SOCKET_NAME = "control"  # in the state directory
SUBSCRIBE = b"GET /v1/events?follow=true HTTP/1.0\r\nHost: pylvs\r\n\r\n"  # 1.0: the body has no chunks
MAX_HEADER = 1 << 16
CHUNK = 1 << 16


Services = Mapping[str, Report]  # by name


class NoDaemon(PylvsError):
    """No daemon listens."""


class ServerClient:
    """The connections to `pylvs run`: one for each request, and one for events."""

    def __init__(self, state_dir: Path, clock: Clock = time.monotonic) -> None:
        self._path = state_dir / SOCKET_NAME
        self._back_off = BackOff(clock)  # of a daemon that hangs
        self._counting = BackOff(clock)  # of the counters, which wait for other programs' edits of the table
        counters = partial(self._services_of, "/v1/counters")
        self._services: Cached[Services] = Cached(self.services, {}, NoDaemon, self._back_off)
        self._counters: Cached[Services] = Cached(counters, {}, NoDaemon, self._counting)
        self._events: socket.socket | None = None
        self._received = b""
        self._up: dict[str, dict[str, bool]] | None = None  # by service and server; None until it is learned

    def status(self, deadline: float) -> ServerStatus:
        """Return services and counters, the last known of what has no answer; without the daemon, no service."""
        return ServerStatus(self._services.get(deadline), self._counters.get(deadline))

    def services(self, deadline: float) -> Services:
        """Return the services. Raises PylvsError, at once if the daemon did not answer a moment ago."""
        if not self._back_off.over:
            raise PylvsError(f"{self._path}: the daemon did not answer a moment ago")
        return self._services_of("/v1/services", deadline)

    def set_weight(self, service: str, server: str, weight: int | None, deadline: float) -> None:
        """Set the weight of a real server as `pylvs weight` does; None clears it. Raises PylvsError.

        The table follows later: another program may have locked it for longer than snmpd waits.
        """
        content = {"service": service, "server": server, "weight": weight, "wait": False}
        self._ask("POST", "/v1/weight", deadline, content)

    def _services_of(self, path: str, deadline: float) -> Services:
        return {each["name"]: each for each in self._ask("GET", path, deadline)["services"]}

    def _ask(self, method: str, path: str, deadline: float, content: Any = None) -> Any:
        """Return the JSON of a reply. Raises PylvsError."""
        body = None if content is None else json.dumps(content).encode()
        read = b""
        try:
            with contextlib.closing(UnixConnection(self._path, timeouts.left(deadline))) as connection:
                connection.request(method, path, body, {"Content-Type": "application/json"})
                end = connection.sock
                end.settimeout(timeouts.left(deadline))
                response = connection.getresponse()
                while not response.isclosed():
                    end.settimeout(timeouts.left(deadline))
                    read += response.read(CHUNK)
                found = json.loads(read)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoDaemon(f"{self._path}: {error.strerror}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PylvsError(f"{self._path}: {error}") from None
        if response.status != http.client.OK:
            raise PylvsError(str(found.get("error", response.reason)))
        return found

    def subscribe(self, deadline: float) -> None:
        """Connect for events, and learn which servers are up, unless that is done. A later call may succeed."""
        if self._events is None and self._back_off.over:
            self._connect(deadline)
        if self._events is not None and self._up is None and self._back_off.over:
            self._learn(deadline)  # this is newer than the subscription, so no change is between them

    def _connect(self, deadline: float) -> None:
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with closed_on_error(end):
                end.settimeout(timeouts.left(deadline))
                with address_of(self._path) as address:
                    end.connect(address)
                end.sendall(SUBSCRIBE)
                self._received = _body_of(end, deadline)
                end.setblocking(False)
                self._events = end
        except OSError:
            self._back_off.begin()
            self._counting.begin()

    def _learn(self, deadline: float) -> None:
        try:
            services = self.services(deadline)
        except PylvsError:
            self._up = None
            self._back_off.begin()
            return
        self._up = {
            name: {each["server"]: each["up"] for each in service["servers"]} for name, service in services.items()
        }

    def fileno(self) -> int:
        """Return the descriptor of the subscription, -1 without one."""
        return -1 if self._events is None else self._events.fileno()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events, self._received, self._up = None, b"", None

    def events(self) -> list[tuple[dict[str, Any], Numbers | None]]:
        """Return the events that have come, each with the numbers of its service after it, if they are known."""
        if self._events is None:
            return []
        lost = False
        try:
            while data := self._events.recv(CHUNK):
                self._received += data
            lost = True
        except BlockingIOError:
            pass
        except OSError:
            lost = True
        *lines, self._received = self._received.split(b"\n")
        found = [(event, self._numbers_after(event)) for event in map(json.loads, filter(None, lines))]
        if lost:
            self.close()
        return found

    def _numbers_after(self, event: Mapping[str, Any]) -> Numbers | None:
        """Apply an event; return how many real servers of its service are up then, and how many it has."""
        if event["event"] == "missed":
            self._learn(timeouts.deadline())
        if self._up is None or "service" not in event:
            return None
        servers = self._up.setdefault(event["service"], {})
        if event["event"] in ("server_up", "server_down"):
            servers[event["server"]] = event["event"] == "server_up"
        return Numbers(sum(servers.values()), len(servers))


def _body_of(end: socket.socket, deadline: float) -> bytes:
    """Read the header of the response, and return what came behind it. Raises OSError if it is no success."""
    received = b""
    while b"\r\n\r\n" not in received:
        end.settimeout(timeouts.left(deadline))
        data = end.recv(CHUNK)
        if not data or len(received) > MAX_HEADER:
            raise ConnectionError("it closed the connection")
        received += data
    header, _, body = received.partition(b"\r\n\r\n")
    if header.split(b" ", 2)[1:2] != [b"200"]:
        raise ConnectionError("it refused the subscription")
    return body
