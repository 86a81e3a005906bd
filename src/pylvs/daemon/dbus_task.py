"""`enable_dbus`: the daemon's end of the task that serves virtual routers on D-Bus.

The task gets the states of the virtual routers from here, and names methods, which are executed here. Without a bus
only the task waits.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, Protocol

from pylvs.daemon.parts import Part
from pylvs.daemon.problems import Problem
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.dbus import interface
from pylvs.model.errors import PylvsError, text_of
from pylvs.model.wanted import Configuration, DbusSettings
from pylvs.system.logs import get_logger, one_line
from pylvs.system.processes.channel import BadMessage
from pylvs.system.processes.edge import Edge

STATUS = "status"
LIBRARY = "jeepney"
NO_LIBRARY = f"enable_dbus: Python has no package {LIBRARY}: install python3-{LIBRARY}, or pylvs[dbus] with pip"
ADDRESS, DEFAULT_ADDRESS = "DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/run/dbus/system_bus_socket"
STATUS_AGE_S = 1.0  # clients can ask often, and pylvs-vrrp has more important work
LAST_SIGNAL_S = 1.0  # until the last signal is sent, as in keepalived
GARP_S = 1.0  # between two requests that a virtual router announces its addresses
MOST_REQUESTS = 1024  # at once; the task has a lower limit for each connection to the bus
MOST_FAILURES = 8  # different ones in the log
_MAX_ERROR = 4096  # characters of a reply

Message = Mapping[str, Any]
State = tuple[str, str]  # name and state of a virtual router
Served = tuple[str, str, str]  # the address of the bus, the name there, the path above the objects


class Routers(Protocol):
    """What is needed of `VirtualRouters`."""

    async def status(self) -> Mapping[str, Any]: ...

    async def request(self, verb: str, **fields: Any) -> Any: ...


class DbusTask(Part):
    """Runs the task while the configuration has virtual routers and enable_dbus.

    `methods` execute the methods of the general object by name.
    """

    name = "dbus"

    def __init__(self, edge: Edge, routers: Routers, methods: Mapping[str, Callable[[], Awaitable[None]]]) -> None:
        self._edge = edge
        self._routers = routers
        self._methods = methods
        self._known = {STATUS, interface.SEND_GARP, *methods}  # to which the task has a right
        self._settings = DbusSettings()
        self._served: Served | None = None
        self._error = ""  # why the task does not run
        self._bus_error: str | None = None  # why the task has no connection to the bus; None: not known yet
        self._states: dict[str, State] = {}  # by path: of the last read, and of the transitions since
        self._problem = ""  # why there are none
        self._fresh_until = 0.0
        self._forgotten = 0  # how often the status became old: one that was read then may be, too
        self._during_read: list[tuple[str, State]] = []  # transitions, which what is read may lack
        self._reading = asyncio.Lock()
        self._garp_at: dict[str, float] = {}  # when each virtual router may announce its addresses again
        self._failures: set[str] = set()  # which the log has
        self._executing: set[asyncio.Task[None]] = set()
        self._ended: asyncio.Future[None] | None = None
        self._log = get_logger()

    @property
    def problem(self) -> str:
        """Why nothing is served, "" if it is, or shall not be."""
        if self._error or self._served is None:
            return self._error
        return self._edge.problem or self._bus_error or ""

    async def start(self, configuration: Configuration, tasks: BackgroundTasks) -> None:
        await self.apply(configuration)

    async def apply(self, configuration: Configuration) -> None:
        """Serve this configuration from now on; report it as a reload if another one was served."""
        settings = configuration.settings.dbus
        self._settings = settings
        self._garp_at = {each.name: self._garp_at.get(each.name, 0.0) for each in configuration.vrrp.instances}
        self._forget_status()
        served = None
        if settings.enabled and configuration.vrrp.instances:
            root = interface.root_of(configuration.settings.placement)
            served = (os.environ.get(ADDRESS) or DEFAULT_ADDRESS, settings.service_name, root)
        if served is not None and served == self._served:
            self._signal(interface.RELOADED)
            return
        await self._end()
        self._error = ""
        if served is None:
            return
        if find_spec(LIBRARY) is None:
            self._error = NO_LIBRARY
            self._log.error(self._error)
            return
        self._served = served
        self._edge.begin(self)

    async def stop(self, keep: bool) -> None:
        if not keep:
            await self._end()

    async def close(self) -> None:
        self._close()

    def problems(self) -> Iterator[Problem]:
        if self.problem:
            yield Problem("dbus", "", self.problem)

    async def _end(self) -> None:
        """Report the end to clients, and end the task."""
        if self._served is not None and self._edge.process.up:
            self._ended = asyncio.get_running_loop().create_future()
            self._edge.send(self, {"signal": interface.STOPPED, "last": True})
            await asyncio.wait([self._ended], timeout=LAST_SIGNAL_S)
        self._close()

    def up(self) -> None:
        """Let the task connect to the bus."""
        if self._served is not None:
            self._edge.send(self, dict(zip(("address", "name", "root"), self._served, strict=True)))

    def down(self) -> None:
        """Know nothing of the bus, until the next process has reported it."""
        self._bus_error = None

    def state_changed(self, message: Message) -> None:
        """Report a transition that pylvs-vrrp published; those of groups have no object."""
        if self._served is None or "interface" not in message:
            return
        state, path = message["state"], self._path(message)
        change = path, (message["instance"], state)
        _apply(change, self._states)
        if self._reading.locked():
            self._during_read.append(change)
        if state == "DELETED" and not message["reports_deleted"]:
            state = "FAULT"
        self._edge.send(self, {"path": path, "state": state})

    def routers_started(self, pid: int) -> None:
        """Report another process of virtual routers; 0: it has ended."""
        self._forget_status()
        if pid:
            self._signal(interface.STARTED)

    def _forget_status(self) -> None:
        self._fresh_until = 0.0
        self._forgotten += 1

    def _close(self) -> None:
        for task in self._executing:
            task.cancel()
        self._served = self._bus_error = None
        self._edge.end(self)

    def _signal(self, name: str) -> None:
        if self._served is not None:
            self._edge.send(self, {"signal": name})

    def _path(self, instance: Message) -> str:
        assert self._served is not None
        device = instance["interface"] or self._settings.no_interface_name
        return interface.instance_path(self._served[2], device, instance["vrid"], instance["family"])

    def receive(self, message: dict[str, Any]) -> None:
        """Take a request or a report of the task. Raises BadMessage."""
        if "failed" in message:
            self._report_failure(one_line(str(message["failed"]))[: interface.MAX_REASON])
        if "id" in message:
            number, method, name = message["id"], message.get("method"), message.get("name")
            if not (isinstance(number, int) and isinstance(name, str) and isinstance(method, str)):
                raise BadMessage("a request without its fields")
            if method not in self._known:
                raise BadMessage(f"no method {method}")
            if len(self._executing) >= MOST_REQUESTS:
                raise BadMessage(f"more than {MOST_REQUESTS} requests at once")
            task = asyncio.get_running_loop().create_task(self._reply(number, method, name))
            self._executing.add(task)
            task.add_done_callback(self._executing.discard)
        elif "bus" in message:
            self._connected(one_line(str(message["bus"]))[: interface.MAX_REASON])
        elif "ended" in message and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _connected(self, reason: str) -> None:
        assert self._served is not None
        address, name, _ = self._served
        error = f"D-Bus: {address}: {reason}" if reason else ""
        if error == self._bus_error:
            return
        self._bus_error = error
        if error:
            self._edge.log("error", error)
        else:
            self._edge.log("info", f"D-Bus: virtual routers are served as {name}")

    def _report_failure(self, reason: str) -> None:
        """Log what the task could not do with one message: each reason once, as any user can send messages."""
        if reason not in self._failures and len(self._failures) < MOST_FAILURES:
            self._failures.add(reason)
            self._log.warning(f"D-Bus: {reason}")

    async def _reply(self, number: int, method: str, name: str) -> None:
        try:
            reply = await (self._read_status() if method == STATUS else self._execute(method, name))
            self._edge.send(self, {"id": number, **reply})
            return
        except (PylvsError, OSError) as error:
            text = text_of(error)
        except Exception as error:
            self._log.exception(f"D-Bus: {method} failed")
            text = f"{type(error).__name__}: {error}: this is a bug"
        self._edge.send(self, {"id": number, "error": text[:_MAX_ERROR]})

    async def _execute(self, method: str, name: str) -> Message:
        if method == interface.SEND_GARP:
            self._limit_garp(name)
            self._log.info("D-Bus: the virtual router announces its addresses", instance=name)
            await self._routers.request("garp", name=name)
        else:
            self._log.info(f"D-Bus: {method}")
            await self._methods[method]()
        return {}

    def _limit_garp(self, name: str) -> None:
        """Raise PylvsError unless this virtual router may announce its addresses now."""
        now = asyncio.get_running_loop().time()
        if name not in self._garp_at:
            raise PylvsError(f"there is no virtual router {name}")
        if now < self._garp_at[name]:
            raise PylvsError(f"{name} has announced its addresses within the last {GARP_S:g} s")
        self._garp_at[name] = now + GARP_S

    async def _read_status(self) -> Message:
        """Return a status with each transition; the rest is no older than STATUS_AGE_S."""
        clock = asyncio.get_running_loop().time
        async with self._reading:
            while clock() >= self._fresh_until:
                forgotten = self._forgotten
                self._during_read.clear()
                status = await self._routers.status()
                if forgotten != self._forgotten:
                    continue
                self._states = {}
                for each in status["instances"]:
                    self._states.setdefault(self._path(each), (each["name"], each["state"]))
                for change in self._during_read:
                    _apply(change, self._states)
                self._problem = status.get("problem", "")
                self._fresh_until = clock() + STATUS_AGE_S
        return {"routers": self._states, "error": "" if self._states else self._problem}


def _apply(change: tuple[str, State], states: dict[str, State]) -> None:
    """Apply a transition. Two virtual routers may have the same path: the first of them is served."""
    path, (name, state) = change
    if states.setdefault(path, (name, state))[0] != name:
        return
    if state == "DELETED":
        del states[path]
    else:
        states[path] = (name, state)
