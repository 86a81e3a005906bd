"""SNMP: the daemon's end of the sub-agent's task.

The sub-agent has the configuration, without secrets. It requests a connection to snmpd, the status of virtual routers
and services, and weights. While it has a session, it gets the events that traps are made of.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from pylvs.daemon.notifications import encode_event
from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.health.engine import Engine
from pylvs.health.events import Event, QuorumGained, QuorumLost, ServerDown, ServerEvent, ServerUp
from pylvs.model.errors import PylvsError, text_of
from pylvs.model.plain import to_plain
from pylvs.model.service import MAX_WEIGHT
from pylvs.model.wanted import Configuration, SnmpSettings
from pylvs.snmp.session import CONNECT_TIMEOUT_S
from pylvs.system.logs import get_logger
from pylvs.system.processes.channel import BadMessage, Descriptor, sealed
from pylvs.system.processes.edge import Edge
from pylvs.system.threads import to_thread
from pylvs.vrrp.ipc import NoRouters

MOST_REQUESTS = 8  # at once; the sub-agent waits for each reply
STATUS_S = 2.0  # for pylvs-vrrp
EVENTS = (ServerUp, ServerDown, QuorumGained, QuorumLost)  # that have traps
_ROUTERS = ("instances", "groups", "unknown_vrids")  # of their status
_MAX_ERROR = 4096  # characters of a reply


class Routers(Protocol):
    """What is needed of `VirtualRouters`."""

    async def request(self, verb: str, **fields: Any) -> Any: ...


class Daemon(Protocol):
    """What is needed of the daemon. `reply` returns the content of the API's reply."""

    @property
    def engine(self) -> Engine: ...

    @property
    def routers(self) -> Routers: ...

    async def reply(self, path: str, given: Mapping[str, Any]) -> bytes: ...


class SnmpTask(Part):
    """Runs the task while the configuration enables SNMP."""

    name = "snmp"

    def __init__(self, edge: Edge, daemon: Daemon) -> None:
        self._edge = edge
        self._daemon = daemon
        self._wanted: Configuration | None = None
        self._sending: asyncio.Task[None] | None = None  # the configuration
        self._subscribed = False
        self._up: dict[str, dict[str, bool]] = {}  # servers by service, as of the last event
        self._executing: set[asyncio.Task[None]] = set()

    @property
    def problem(self) -> str:
        """Why nothing is served, "" if it is, or shall not be."""
        return f"SNMP: {self._edge.problem}" if self._wanted is not None and self._edge.problem else ""

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        await self.apply(configuration)
        self._daemon.engine.on_event(self.happened)

    def problems(self) -> Iterator[Problem]:
        if self.problem:
            yield Problem("snmp", "", self.problem)

    async def apply(self, configuration: Configuration) -> None:
        """Serve this configuration from now on."""
        wanted = _served(configuration) if configuration.settings.snmp.enabled else None
        if wanted == self._wanted:
            return
        self._wanted = wanted
        if wanted is None:
            self._edge.end(self)
        else:
            self._edge.begin(self)

    def up(self) -> None:
        """Send the configuration. A thread encodes it: it may be large."""
        if self._sending is not None:
            self._sending.cancel()
        self._subscribed = False
        self._sending = asyncio.get_running_loop().create_task(self._send_configuration())

    def down(self) -> None:
        """Send no events before the next session."""
        self._subscribed = False

    def receive(self, message: dict[str, Any]) -> None:
        """Take a request. Raises BadMessage."""
        if "subscribe" in message:
            self._subscribe(message["subscribe"] is True)
            return
        number, execute = message.get("id"), self._request(message)
        if type(number) is not int:
            raise BadMessage("a request without its number")
        if len(self._executing) >= MOST_REQUESTS:
            raise BadMessage(f"more than {MOST_REQUESTS} requests at once")
        task = asyncio.get_running_loop().create_task(self._reply(number, execute))
        self._executing.add(task)
        task.add_done_callback(self._executing.discard)

    def router_changed(self, message: Mapping[str, Any]) -> None:
        """Pass a transition or a dropped advertisement that pylvs-vrrp published."""
        if self._subscribed and self._settings.routers:
            self._edge.send(self, {"routers": [message]})

    def happened(self, event: Event) -> None:
        """Pass an event of the health engine, with how many real servers of its service are up afterwards."""
        if not (self._subscribed and self._settings.checker and isinstance(event, EVENTS)):
            return
        servers = self._up.setdefault(event.service, {})
        if isinstance(event, ServerEvent):
            servers[str(event.server)] = isinstance(event, ServerUp)
        self._edge.send(self, {"servers": [[encode_event(event), sum(servers.values()), len(servers)]]})

    @property
    def _settings(self) -> SnmpSettings:
        return self._wanted.settings.snmp if self._wanted else SnmpSettings()

    def _subscribe(self, wanted: bool) -> None:
        self._subscribed = wanted and self._settings.traps
        if self._subscribed:
            services = self._daemon.engine.snapshot()
            self._up = {each.name: {str(one.server): one.up for one in each.servers} for each in services}

    async def _send_configuration(self) -> None:
        configuration = self._wanted
        try:
            content = await to_thread(lambda: _file(json.dumps(to_plain(configuration)).encode()))
        except OSError as error:
            get_logger().error(f"SNMP: the sub-agent gets no configuration: {error.strerror}")
            return
        self._edge.send(self, {"configuration": True}, [content])

    def _request(self, message: dict[str, Any]) -> Callable[[], Awaitable[Descriptor]]:
        """Return what executes a request. Raises BadMessage."""
        match message.get("method"):
            case "master":
                return lambda: to_thread(connect, self._settings.socket)
            case "routers":
                return self._routers
            case "services" | "counters" as name:
                return lambda: self._response(name)
            case "set_weight":
                service, server, weight = (message.get(name) for name in ("service", "server", "weight"))
                if not isinstance(service, str) or not isinstance(server, str) or not _is_weight(weight):
                    raise BadMessage("a weight without its fields")
                return lambda: self._set_weight(service, server, weight)
        raise BadMessage("an unknown request")

    async def _reply(self, number: int, execute: Callable[[], Awaitable[Descriptor]]) -> None:
        try:
            if self._edge.process.waits:  # one that requests more must not fill this process with files
                raise PylvsError("it has not read former replies")
            self._edge.send(self, {"id": number}, [await execute()])
            return
        except NoRouters as error:
            answer: dict[str, Any] = {"absent": True, "error": str(error)}
        except (PylvsError, OSError, ValueError) as error:
            answer = {"error": text_of(error)[:_MAX_ERROR]}
        except Exception as error:
            get_logger().exception("a request of the SNMP sub-agent failed")
            answer = {"error": f"{type(error).__name__}: {error}: this is a bug"[:_MAX_ERROR]}
        self._edge.send(self, {"id": number, **answer})

    async def _routers(self) -> Descriptor:
        found = await self._daemon.routers.request("status", timeout_s=STATUS_S)
        status = {name: found[name] for name in _ROUTERS}
        return _file(json.dumps(status).encode())

    async def _response(self, name: str) -> Descriptor:
        """Return the content of a reply of the API."""
        return _file(await self._daemon.reply(f"/v1/{name}", {}))

    async def _set_weight(self, service: str, server: str, weight: int | None) -> Descriptor:
        """Set a weight as `pylvs weight` does. The table follows: another program may have locked it for long."""
        given = {"service": service, "server": server, "weight": weight, "wait": False}
        return _file(await self._daemon.reply("/v1/weight", given))


def _served(configuration: Configuration) -> Configuration:
    """Remove what no MIB shows and may be secret: the settings of checks, and the passwords of virtual routers."""
    services = tuple(
        replace(each, servers=tuple(replace(server, checks=()) for server in each.servers))
        for each in configuration.services
    )
    instances = tuple(replace(each, password=b"") for each in configuration.vrrp.instances)
    settings = replace(configuration.settings, router_id=configuration.settings.router_id or socket.gethostname())
    vrrp = replace(configuration.vrrp, instances=instances)
    return replace(configuration, services=services, vrrp=vrrp, settings=settings)


def connect(address: str) -> socket.socket:
    """Connect to the master agent: unix:PATH, tcp:HOST:PORT, a path, or HOST:PORT. Raises OSError, ValueError."""
    kind, colon, rest = address.partition(":")
    where = rest if colon and kind in ("unix", "tcp") else address
    if where.startswith("/"):
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end.settimeout(CONNECT_TIMEOUT_S)
        try:
            end.connect(where)
        except OSError:
            end.close()
            raise
        return end
    host, _, port = where.rpartition(":")
    return socket.create_connection((host.strip("[]") or "localhost", int(port)), CONNECT_TIMEOUT_S)


def _is_weight(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value <= MAX_WEIGHT)


def _file(content: bytes) -> Descriptor:
    return os.fdopen(sealed(content), "rb")
