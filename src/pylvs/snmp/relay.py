"""Both ends of the socket between the sub-agent, which has no privileges, and the process that connects for it.

The sub-agent parses what snmpd sends, and a client of snmpd chooses part of that. So it runs confined
(`pylvs.system.sandbox`), and can request what `Relay` executes. Requests are JSON in packets; the replies, which come
from a process with more rights, are pickled.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

from pylvs.model.errors import PylvsError
from pylvs.snmp import timeouts
from pylvs.snmp.checker_mib import ServerStatus
from pylvs.snmp.connections import Connections, Ended, Events
from pylvs.snmp.keepalived_mib import RouterStatus
from pylvs.snmp.servers import Services
from pylvs.snmp.session import CONNECT_TIMEOUT_S, Lost
from pylvs.system.logs import get_logger, one_line
from pylvs.system.processes import channel
from pylvs.system.processes.channel import BadMessage

RETRY_S = 15.0  # between two attempts to subscribe
END_S = 1.5  # for the last traps; then the sub-agent is killed
FOREVER = float("inf")
LOG_PERIOD_S, MOST_LINES = 60.0, 60  # lines of the sub-agent in the log in each period
_LEVELS = ("debug", "info", "warning", "error")
_MAX_LINE = 4096  # characters
_UNREAD = 1 << 13  # bytes of packets that the sub-agent has not read: some ten, each with a file in memory
_SEND_S = 30.0
_WHAT = "the SNMP sub-agent"


class Relay:
    """The end with privileges. `end` is readable when the sub-agent shall end; `kill` sends it a signal."""

    def __init__(
        self, channel_end: socket.socket, connections: Connections, kill: Callable[[signal.Signals], None], end: int
    ) -> None:
        self._channel = channel_end
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNREAD)
        self._channel.settimeout(_SEND_S)
        self._connections = connections
        self._kill = kill
        self._end = end
        self._subscribed = False
        self._lines, self._period_until = 0, 0.0
        self._log = get_logger()
        self._requests: Mapping[str, Callable[[dict[str, Any], float], object]] = {
            "routers": lambda _, deadline: connections.routers(deadline),
            "servers": lambda _, deadline: connections.servers(deadline),
            "services": lambda _, deadline: connections.services(deadline),
            "subscribe": lambda _, deadline: self._subscribe(deadline),
            "set_weight": self._set_weight,
        }

    def run(self) -> None:
        """Execute requests and pass events until the sub-agent has ended."""
        try:
            self._serve([self._end], RETRY_S, FOREVER)
            self._kill(signal.SIGTERM)  # behind the last events
            self._serve([], END_S, time.monotonic() + END_S)
            self._kill(signal.SIGKILL)
        except EOFError:
            pass
        except ConnectionError:  # it ended without reading all
            self._log_last_lines()
        except TimeoutError:
            self._log.error(f"{_WHAT} does not read")
            self._kill(signal.SIGKILL)
        except BadMessage as error:
            self._log.error(f"{_WHAT} sent an invalid message ({error})")
            self._kill(signal.SIGKILL)
        finally:
            self._connections.unsubscribe()

    def _serve(self, ends: list[int], pause_s: float, until: float) -> None:
        """Execute requests and pass events until one of `ends` is readable, or this time has come."""
        watched = [*ends, self._channel.fileno()]
        while time.monotonic() < until:
            if self._subscribed:
                self._connections.subscribe(timeouts.deadline())
            ready, _, _ = select.select([*watched, *self._connections.filenos()], [], [], pause_s)
            self._pass_events()
            if self._channel.fileno() in ready:
                self._receive()
            if any(each in ready for each in ends):
                return

    def _pass_events(self) -> None:
        events = self._connections.events()
        if events.routers or events.servers:
            self._send({}, events)

    def _send(self, message: channel.Message, content: object = None) -> None:
        descriptor = channel.sealed(pickle.dumps(content))
        try:
            socket.send_fds(self._channel, [channel.encode(message)], [descriptor])
        finally:
            os.close(descriptor)

    def _next_message(self) -> dict[str, Any]:
        """Return the next message; the sub-agent has no descriptor to send. Raises what `channel.receive` raises."""
        message, descriptors = channel.receive(self._channel)
        for each in descriptors:
            os.close(each)
        return message

    def _receive(self) -> None:
        message = self._next_message()
        if "log" in message:
            self._log_line(message)
            return
        match message.get("request"):
            case "report_alive":
                self._connections.report_alive()
            case "unsubscribe":
                self._subscribed = False
                self._connections.unsubscribe()
            case _:
                self._reply(message)

    def _reply(self, message: dict[str, Any]) -> None:
        number, request, until = message.get("id"), message.get("request"), message.get("until")
        if not isinstance(number, int) or not isinstance(request, str) or not isinstance(until, float):
            raise BadMessage("a request without its fields")
        latest = timeouts.deadline()
        begin = self._connections.cpu_s()
        answer: dict[str, Any] = {"id": number}
        content: object = None
        try:
            if request == "master":
                with self._connections.master() as master:
                    socket.send_fds(self._channel, [channel.encode(answer)], [master.fileno()])
                return
            if request not in self._requests:
                raise BadMessage("an unknown request")
            content = self._requests[request](message, until if until < latest else latest)
        except (PylvsError, Lost, OSError) as error:
            answer["error"] = str(error)[:_MAX_LINE]
        self._send(answer | {"cpu_s": self._connections.cpu_s() - begin}, content)

    def _subscribe(self, deadline: float) -> None:
        self._subscribed = True
        self._connections.subscribe(deadline)

    def _set_weight(self, message: dict[str, Any], deadline: float) -> None:
        service, server, weight = message.get("service"), message.get("server"), message.get("weight")
        if not isinstance(service, str) or not isinstance(server, str) or type(weight) not in (int, type(None)):
            raise BadMessage("a weight without its fields")
        self._connections.set_weight(service, server, weight, deadline)

    def _log_line(self, message: dict[str, Any]) -> None:
        level, event, now = message["log"], message.get("event"), time.monotonic()
        if level not in _LEVELS or not isinstance(event, str):
            raise BadMessage("a line of the log without its fields")
        if now >= self._period_until:
            self._lines, self._period_until = 0, now + LOG_PERIOD_S
        self._lines += 1
        if self._lines <= MOST_LINES:
            self._log.log(level, one_line(event)[:_MAX_LINE])

    def _log_last_lines(self) -> None:
        with contextlib.suppress(EOFError, OSError, BadMessage):
            while True:
                message = self._next_message()
                if "log" in message:
                    self._log_line(message)


class RelayedConnections:
    """The end without privileges: connections that the relay makes and uses."""

    def __init__(self, channel_end: socket.socket) -> None:
        self._channel = channel_end
        self._number = 0
        self._subscribed = False
        self._events = Events()
        self._relay_cpu_s = 0.0

    def master(self) -> socket.socket:
        try:
            end = socket.socket(fileno=self._ask("master", timeouts.deadline()))
        except PylvsError as error:
            raise Lost(str(error)) from None
        end.settimeout(CONNECT_TIMEOUT_S)  # a descriptor has no timeout
        return end

    def routers(self, deadline: float) -> RouterStatus:
        found: RouterStatus = self._ask("routers", deadline)
        return found

    def servers(self, deadline: float) -> ServerStatus:
        found: ServerStatus = self._ask("servers", deadline)
        return found

    def services(self, deadline: float) -> Services:
        found: Services = self._ask("services", deadline)
        return found

    def set_weight(self, service: str, server: str, weight: int | None, deadline: float) -> None:
        self._ask("set_weight", deadline, service=service, server=server, weight=weight)

    def subscribe(self, deadline: float) -> None:
        if not self._subscribed:
            self._subscribed = True  # the relay tries again until it succeeds
            self._ask("subscribe", deadline)

    def unsubscribe(self) -> None:
        self._subscribed = False
        self._events = Events()
        self._send({"request": "unsubscribe"})

    def report_alive(self) -> None:
        self._send({"request": "report_alive"})

    def filenos(self) -> list[int]:
        return [self._channel.fileno()]

    def events(self) -> Events:
        while select.select([self._channel], [], [], 0)[0]:
            self._receive()
        found, self._events = self._events, Events()
        return found

    def cpu_s(self) -> float:
        return time.process_time() + self._relay_cpu_s

    def log(self, level: str, fields: dict[str, Any]) -> None:
        """Write a line to the daemon's log; its own descriptors may be files, which it cannot write."""
        text = f"{fields['event']} {fields.get('exception', '')}"
        self._send({"log": level, "event": text[-_MAX_LINE:]})

    def _send(self, message: channel.Message) -> None:
        """Send a message that has no reply. The end of the relay shows when something is received."""
        with contextlib.suppress(OSError):
            self._channel.send(channel.encode(message))

    def _ask(self, request: str, deadline: float, **fields: Any) -> Any:
        """Return the content of the reply; of the request "master" a descriptor. Raises PylvsError."""
        self._number += 1
        message = {"id": self._number, "request": request, "until": deadline, **fields}
        try:
            self._channel.send(channel.encode(message))
        except OSError:
            raise Ended from None
        while True:
            reply, content = self._receive()
            if reply.get("id") != self._number:
                continue
            self._relay_cpu_s += reply.get("cpu_s", 0.0)
            if "error" in reply:
                raise PylvsError(reply["error"])
            return content

    def _receive(self) -> tuple[channel.Message, Any]:
        """Return the next message and its content; keep events for `events`. Raises Ended."""
        try:
            message, (descriptor,) = channel.receive(self._channel)
        except (EOFError, OSError):
            raise Ended from None
        if "id" in message and "cpu_s" not in message:
            return message, descriptor
        with open(descriptor, "rb") as file:
            file.seek(0)
            content = pickle.load(file)
        if "id" not in message and self._subscribed:  # else they came before the end of the subscription
            self._events.routers.extend(content.routers)
            self._events.servers.extend(content.servers)
        return message, content
