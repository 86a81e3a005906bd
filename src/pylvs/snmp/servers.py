"""A client of `pylvs run`: the status, counters and events of its services, and the weights of real servers."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pylvs.model.errors import PylvsError
from pylvs.snmp.checker_mib import Numbers, ServerStatus
from pylvs.system.sockets import address_of, closed_on_error
from pylvs.system.unix_http import UnixConnection

SOCKET_NAME = "control"  # in the state directory
READ_TIMEOUT_S = 5.0
EDIT_TIMEOUT_S = 60.0  # an edit waits for other programs' edits of the table
SUBSCRIBE = b"GET /v1/events?follow=true HTTP/1.0\r\nHost: pylvs\r\n\r\n"  # 1.0: the body has no chunks
MAX_HEADER = 1 << 16
CHUNK = 1 << 16


class ServerClient:
    """The connections to `pylvs run`: one for each request, and one for events."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / SOCKET_NAME
        self._events: socket.socket | None = None
        self._received = b""
        self._up: dict[str, dict[str, bool]] = {}  # by service and server, from the status and later events

    def status(self) -> ServerStatus:
        """Return status and counters; without the daemon, those of no service."""
        try:
            found, counted = self._ask("GET", "/v1/status"), self._ask("GET", "/v1/counters")
        except PylvsError:
            return ServerStatus()
        services = {each["name"]: each for each in found["services"]}
        return ServerStatus(services, {each["name"]: each for each in counted["services"]})

    def set_weight(self, service: str, server: str, weight: int | None) -> None:
        """Set the weight of a real server as `pylvs weight` does; None clears it. Raises PylvsError."""
        self._ask("POST", "/v1/weight", {"service": service, "server": server, "weight": weight})

    def _ask(self, method: str, path: str, content: Any = None) -> Any:
        """Return the JSON of a reply. Raises PylvsError."""
        body = None if content is None else json.dumps(content).encode()
        timeout_s = READ_TIMEOUT_S if method == "GET" else EDIT_TIMEOUT_S
        try:
            with contextlib.closing(UnixConnection(self._path, timeout_s)) as connection:
                connection.request(method, path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                found = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise PylvsError(f"{self._path}: {error}") from None
        if response.status != http.client.OK:
            raise PylvsError(str(found.get("error", response.reason)))
        return found

    def subscribe(self) -> None:
        """Connect for events, unless that is done. Without the daemon, a later call may succeed."""
        if self._events is not None:
            return
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        with contextlib.suppress(OSError), closed_on_error(end):
            end.settimeout(READ_TIMEOUT_S)
            with address_of(self._path) as address:
                end.connect(address)
            end.sendall(SUBSCRIBE)
            self._received = _body_of(end)
            end.setblocking(False)
            self._events = end
        if self._events is not None:  # the status is newer than the subscription, so no change is between them
            self._learn(self.status())

    def _learn(self, status: ServerStatus) -> None:
        for name, service in status.services.items():
            self._up[name] = {each["server"]: each["up"] for each in service["servers"]}

    def fileno(self) -> int:
        """Return the descriptor of the subscription, -1 without one."""
        return -1 if self._events is None else self._events.fileno()

    def close(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None

    def events(self) -> list[dict[str, Any]]:
        """Return the events that have come."""
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
        if lost:
            self.close()
        *lines, self._received = self._received.split(b"\n")
        found: list[dict[str, Any]] = [json.loads(line) for line in lines if line]
        if any(each["event"] == "missed" for each in found):
            self._learn(self.status())
        return found

    def numbers_after(self, event: Mapping[str, Any]) -> Numbers:
        """Apply an event of a service; return how many of its real servers are up then, and how many it has."""
        servers = self._up.setdefault(event["service"], {})
        if event["event"] in ("server_up", "server_down"):
            servers[event["server"]] = event["event"] == "server_up"
        return Numbers(sum(servers.values()), len(servers))


def _body_of(end: socket.socket) -> bytes:
    """Read the header of the response, and return what came behind it. Raises OSError if it is no success."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = end.recv(CHUNK)
        if not data or len(received) > MAX_HEADER:
            raise ConnectionError("it closed the connection")
        received += data
    header, _, body = received.partition(b"\r\n\r\n")
    if header.split(b" ", 2)[1:2] != [b"200"]:
        raise ConnectionError("it refused the subscription")
    return body
