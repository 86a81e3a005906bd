"""The control socket of the router process: requests, events and status.

Only root, or the user of this process, may connect. A client sends its version first. Then its requests are answered in
order, and a subscriber receives events. A client that does not read loses its connection and delays nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pylvs
from pylvs.model.errors import InvalidOperation, PylvsError
from pylvs.system.unix_sockets import peer_of
from pylvs.vrrp.helper.link import HelperLink
from pylvs.vrrp.ipc import PROTOCOL, SOCKET_NAME, ConnectionClosed, MessageSocket
from pylvs.vrrp.loop import Loop
from pylvs.vrrp.protocol.machine import State
from pylvs.vrrp.realtime import RealtimeStatus
from pylvs.vrrp.router import Router
from pylvs.vrrp.sync_group import SyncGroup

MAX_UNREAD = 8 << 20  # bytes per client, in locked memory
Verb = Callable[[dict[str, Any]], Any]


class Connection:
    """A client."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = MessageSocket(end, MAX_UNREAD)
        self.greeted = False
        self.subscribed = False


class ControlServer:
    """The socket and its clients. `verbs` return the answers; a PylvsError becomes an answer, too."""

    def __init__(self, loop: Loop, verbs: Mapping[str, Verb]) -> None:
        self._loop = loop
        self._verbs = verbs
        self._connections: dict[int, Connection] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    def open(self) -> None:
        """Listen in the current directory, the state directory: so its path may exceed sun_path."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(SOCKET_NAME)
        before = os.umask(0o177)
        try:
            self._listener.bind(SOCKET_NAME)
        finally:
            os.umask(before)
        self._listener.listen(16)
        self._loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(SOCKET_NAME)
        self._listener.close()
        for connection in list(self._connections.values()):
            self._drop(connection)

    def publish(self, event: dict[str, Any]) -> None:
        """Send an event to all subscribers."""
        for connection in list(self._connections.values()):
            if connection.subscribed:
                self._send(connection, event)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            end, _ = self._listener.accept()
            if peer_of(end)[1] not in (0, os.geteuid()):
                end.close()
                return
            connection = Connection(end)
            self._connections[end.fileno()] = connection
            self._loop.watch(end.fileno(), lambda: self._receive(connection))

    def _receive(self, connection: Connection) -> None:
        try:
            messages = connection.socket.receive()
        except ConnectionClosed:
            self._drop(connection)
            return
        for message in messages:
            if connection.greeted:
                self._answer(connection, message)
            else:
                connection.greeted = "hello" in message
                self._send(connection, {"hello": pylvs.__version__, "pid": os.getpid(), "protocol": PROTOCOL})

    def _answer(self, connection: Connection, request: dict[str, Any]) -> None:
        verb = request.get("verb", "")
        answer: dict[str, Any] = {"id": request.get("id")}
        if verb == "subscribe":
            connection.subscribed = True
            answer["ok"] = {}
        elif verb not in self._verbs:
            answer["error"] = f"{verb}: no such verb; there are: {', '.join(sorted(self._verbs))}"
        else:
            try:
                answer["ok"] = self._verbs[verb](request)
            except PylvsError as error:
                answer["error"] = str(error)
            except Exception as error:
                self._send(connection, answer | {"error": f"{type(error).__name__}: {error}: this is a bug"})
                raise
        self._send(connection, answer)

    def _send(self, connection: Connection, message: dict[str, Any]) -> None:
        try:
            connection.socket.send(message)
        except ConnectionClosed:
            self._drop(connection)
            return
        self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """Watch for writing only while bytes are unsent."""
        write = (lambda: self._flush(connection)) if connection.socket.unsent else None
        self._loop.watch(connection.socket.fileno(), lambda: self._receive(connection), write)

    def _flush(self, connection: Connection) -> None:
        try:
            connection.socket.flush()
        except ConnectionClosed:
            self._drop(connection)
            return
        self._watch(connection)

    def _drop(self, connection: Connection) -> None:
        if self._connections.pop(connection.socket.fileno(), None) is not None:
            self._loop.forget(connection.socket.fileno())
            connection.socket.close()


# --- status ---


class StatusSource(Protocol):
    """What status reports about the router service."""

    routers: dict[str, Router]
    groups: list[SyncGroup]
    realtime_status: RealtimeStatus
    unknown: Counter[tuple[str, int]]
    loop: Loop
    helper: HelperLink

    @property
    def data_plane(self) -> tuple[bool, str]:
        """Whether the data plane works, and a message."""

    @property
    def now(self) -> float:
        """Seconds of a monotonic clock."""


def service_status(service: StatusSource) -> dict[str, Any]:
    """Return the answer to `status`."""
    well, detail = service.data_plane
    return {
        "instances": [_instance_status(service, router) for router in service.routers.values()],
        "groups": [
            {"name": each.group.name, "state": each.state.value, "members": [member.name for member in each.members]}
            for each in service.groups
        ],
        "process": {
            "pid": os.getpid(),
            "realtime": service.realtime_status.realtime,
            "locked": service.realtime_status.locked,
            "longest_gap_ms": round(service.loop.max_late_s * 1000, 3),
            "aide": service.helper.connected,
        },
        "data_plane": {"well": well, "words": detail},
        "unknown_vrids": [
            {"device": device, "vrid": vrid, "count": count} for (device, vrid), count in service.unknown.items()
        ],
    }


def transitions_of(service: StatusSource, name: str | None) -> dict[str, Any]:
    """Return the last transitions of one virtual router, or of all. Raises InvalidOperation."""
    if name is not None and name not in service.routers:
        raise unknown_router(name, service.routers)
    routers = [service.routers[name]] if name is not None else list(service.routers.values())
    return {router.name: [each.as_dict() for each in router.history.transitions] for router in routers}


def unknown_router(name: str, routers: Mapping[str, Router]) -> InvalidOperation:
    """Return the error for a name that no virtual router has."""
    known = ", ".join(sorted(routers)) or "none"
    return InvalidOperation(f"{name}: no such virtual router; there are: {known}")


def _instance_status(service: StatusSource, router: Router) -> dict[str, Any]:
    instance, machine, last, validator = router.instance, router.machine, router.history.last, router.validator
    return {
        "name": instance.name,
        "interface": instance.interface,
        "vrid": instance.vrid,
        "version": instance.version,
        "family": instance.family,
        "state": machine.state.value,
        "since": last.at if last else None,
        "priority": machine.priority,
        "base_priority": instance.priority,
        "addresses": [str(each) for each in (*instance.addresses, *instance.excluded)],
        "master": str(machine.address) if machine.state is State.MASTER else str(router.master or ""),
        "why": last.sentence() if last else "",
        "advert_interval_s": machine.interval_s,
        "master_down_s": round(machine.down_s, 6),
        "preempt": instance.preempt,
        "rival": router.rival,
        "preempts_at": _future_unix_time(machine.preempt_at, service.now),
        "mismatches": [str(each) for each in validator.mismatches.values()] if validator else [],
        "tracks": [
            {
                "kind": each.kind,
                "name": each.track.name,
                "well": each.well,
                "number": each.number,
                "weight": each.track.weight,
                "words": each.detail,
            }
            for each in router.tracked.values()
        ],
        "faults": list(router.own_faults),
        "counters": {
            "sent": router.sent,
            "received": router.received,
            "dropped": {error.value: count for error, count in validator.counters.items()} if validator else {},
            "became_master": router.history.entered[State.MASTER],
            "became_backup": router.history.entered[State.BACKUP],
            "became_fault": router.history.entered[State.FAULT],
        },
        "group": router.group.group.name if router.group else None,
        "held_until": _future_unix_time(machine.held_until, service.now),
    }


def _future_unix_time(at: float | None, now: float) -> float | None:
    """Convert from the monotonic clock; None for a time that has passed."""
    return time.time() + at - now if at is not None and at > now else None
