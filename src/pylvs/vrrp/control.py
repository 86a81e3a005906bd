"""Where the process of the virtual routers is asked and told: a UNIX socket in the daemon's state directory.

Only root is listened to. A client says its version first; then requests are answered in their order, and who asked for
events gets them as they happen. A client that does not read is dropped, it delays nothing.
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
from pylvs.vrrp.ipc import ConnectionClosed, MessageSocket
from pylvs.vrrp.loop import Loop
from pylvs.vrrp.protocol.machine import State
from pylvs.vrrp.protocol.packet import AdvertError
from pylvs.vrrp.realtime import RealtimeStatus
from pylvs.vrrp.router import Router
from pylvs.vrrp.sync_group import SyncGroup

NAME = "vrrp"  # of the socket, in the state directory
PROTOCOL = 1
MAX_UNREAD = 8 << 20  # bytes that wait for one client, in memory that is locked
Verb = Callable[[dict[str, Any]], Any]


class Connection:
    """One who asks."""

    def __init__(self, end: socket.socket) -> None:
        self.pipe = MessageSocket(end, MAX_UNREAD)
        self.known = False  # has said its version
        self.follows = False  # events


class ControlServer:
    """The socket and its clients. `verbs` answer; what they raise as PylvsError is the answer, too."""

    def __init__(self, loop: Loop, verbs: Mapping[str, Verb]) -> None:
        self._loop = loop
        self._verbs = verbs
        self._clients: dict[int, Connection] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    def open(self) -> None:
        """Listen in the current directory, which is the state directory: a path of any length fits so."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(NAME)
        before = os.umask(0o177)
        try:
            self._listener.bind(NAME)
        finally:
            os.umask(before)
        self._listener.listen(16)
        self._loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Nobody is answered any more."""
        with contextlib.suppress(OSError):
            os.unlink(NAME)
        self._listener.close()
        for client in list(self._clients.values()):
            self._drop(client)

    def tell(self, event: dict[str, Any]) -> None:
        """To everyone who follows."""
        for client in list(self._clients.values()):
            if client.follows:
                self._say(client, event)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            end, _ = self._listener.accept()
            if peer_of(end)[1] not in (0, os.geteuid()):
                end.close()
                return
            client = Connection(end)
            self._clients[end.fileno()] = client
            self._loop.watch(end.fileno(), lambda: self._hear(client))

    def _hear(self, client: Connection) -> None:
        try:
            messages = client.pipe.receive()
        except ConnectionClosed:
            self._drop(client)
            return
        for message in messages:
            if client.known:
                self._answer(client, message)
            else:
                client.known = "hello" in message  # of another version it may only be asked to stop
                self._say(client, {"hello": pylvs.__version__, "pid": os.getpid(), "protocol": PROTOCOL})

    def _answer(self, client: Connection, request: dict[str, Any]) -> None:
        verb = request.get("verb", "")
        answer: dict[str, Any] = {"id": request.get("id")}
        if verb == "subscribe":
            client.follows = True
            answer["ok"] = {}
        elif verb not in self._verbs:
            answer["error"] = f"{verb}: no such verb; there are: {', '.join(sorted(self._verbs))}"
        else:
            try:
                answer["ok"] = self._verbs[verb](request)
            except PylvsError as error:
                answer["error"] = str(error)
            except Exception as error:
                self._say(client, answer | {"error": f"{type(error).__name__}: {error}: this is a bug"})
                raise
        self._say(client, answer)

    def _say(self, client: Connection, message: dict[str, Any]) -> None:
        try:
            client.pipe.send(message)
        except ConnectionClosed:
            self._drop(client)
            return
        self._expect(client)

    def _expect(self, client: Connection) -> None:
        """Watch for room to write as long as something waits for it."""
        write = (lambda: self._flush(client)) if client.pipe.unsent else None
        self._loop.watch(client.pipe.fileno(), lambda: self._hear(client), write)

    def _flush(self, client: Connection) -> None:
        try:
            client.pipe.flush()
        except ConnectionClosed:
            self._drop(client)
            return
        self._expect(client)

    def _drop(self, client: Connection) -> None:
        if self._clients.pop(client.pipe.fileno(), None) is not None:
            self._loop.forget(client.pipe.fileno())
            client.pipe.close()


# --- report ----------------------------------------------------------------------------------------------------------
# How the virtual routers stand, in plain dictionaries for those who ask.


class StatusSource(Protocol):
    """The process, as far as it is reported."""

    routers: dict[str, Router]
    groups: list[SyncGroup]
    punctuality: RealtimeStatus
    unknown: Counter[tuple[str, int]]
    loop: Loop
    aide: HelperLink

    @property
    def data_plane(self) -> tuple[bool, str]:
        """Whether the packet path is well, and in words."""

    @property
    def now(self) -> float:
        """Seconds."""


def service_status(core: StatusSource) -> dict[str, Any]:
    """Everything."""
    well, words = core.data_plane
    return {
        "instances": [_instance(core, router) for router in core.routers.values()],
        "groups": [
            {"name": each.group.name, "state": each.state.value, "members": [member.name for member in each.members]}
            for each in core.groups
        ],
        "process": {
            "pid": os.getpid(),
            "realtime": core.punctuality.realtime,
            "locked": core.punctuality.locked,
            "longest_gap_ms": round(core.loop.latest_s * 1000, 3),
            "aide": core.aide.lives,
        },
        "data_plane": {"well": well, "words": words},
        "unknown_vrids": [{"device": at, "vrid": vrid, "count": count} for (at, vrid), count in core.unknown.items()],
    }


def transitions_of(core: StatusSource, name: str | None) -> dict[str, Any]:
    """The last transitions of one virtual router, or of all. Raises InvalidOperation."""
    if name is not None and name not in core.routers:
        there = ", ".join(sorted(core.routers)) or "none"
        raise InvalidOperation(f"{name}: no such virtual router; there are: {there}")
    routers = [core.routers[name]] if name is not None else list(core.routers.values())
    return {router.name: [each.told() for each in router.history.transitions] for router in routers}


def _dropped(router: Router) -> Counter[AdvertError]:
    return router.screen.counters if router.screen else Counter()


def _instance(core: StatusSource, router: Router) -> dict[str, Any]:
    instance, machine, last = router.instance, router.machine, router.history.last
    held_until = None
    if machine.held_until is not None and machine.held_until > core.now:
        held_until = time.time() + machine.held_until - core.now
    preempts_at = None
    if machine.preempt_at is not None and machine.preempt_at > core.now:
        preempts_at = time.time() + machine.preempt_at - core.now
    master = str(machine.address) if machine.state is State.MASTER else str(router.heard_from or "")
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
        "master": master,
        "why": last.sentence() if last else "",
        "advert_interval_s": machine.interval_s,
        "master_down_s": round(machine.down_s, 6),
        "preempt": instance.preempt,
        "rival": router.rival,
        "preempts_at": preempts_at,
        "mismatches": [str(each) for each in router.screen.mismatches.values()] if router.screen else [],
        "tracks": [
            {
                "kind": each.kind,
                "name": each.track.name,
                "well": each.well,
                "number": each.number,
                "weight": each.track.weight,
                "words": each.words,
            }
            for each in router.watched.values()
        ],
        "faults": list(router.own_faults),
        "counters": {
            "sent": router.sent,
            "received": router.heard,
            "dropped": {flaw.value: count for flaw, count in _dropped(router).items()},
            "became_master": router.history.entered[State.MASTER],
            "became_backup": router.history.entered[State.BACKUP],
            "became_fault": router.history.entered[State.FAULT],
        },
        "group": router.group.group.name if router.group else None,
        "held_until": held_until,
    }
