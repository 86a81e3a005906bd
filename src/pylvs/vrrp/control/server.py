"""The control socket of the router process: requests, events and status.

Only root, or the user of this process, may connect. A client sends its version first. Then its requests are answered in
order, and a subscriber receives events. A client that does not read loses its connection and delays nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import pylvs
from pylvs.model.errors import PylvsError
from pylvs.model.plain import Malformed, from_plain
from pylvs.system.processes import channel
from pylvs.system.processes.channel import BadMessage, Link
from pylvs.system.sockets import peer_of
from pylvs.vrrp import SOCKET_NAME
from pylvs.vrrp.control.requests import REQUESTS, Copied, Subscribe
from pylvs.vrrp.ipc import KIND, PROTOCOL
from pylvs.vrrp.loop import Loop
from pylvs.vrrp.protocol.machine import State
from pylvs.vrrp.router import Router

if TYPE_CHECKING:
    from collections import Counter

    from pylvs.bfd.sessions import Sessions
    from pylvs.vrrp.helper.link import HelperLink
    from pylvs.vrrp.loop import RealtimeStatus
    from pylvs.vrrp.router import SyncGroup
    from pylvs.vrrp.tracking import Tracking
    from pylvs.vrrp.vip_manager import VipManager

MOST_EARLY = 1000  # events before the first subscriber
MAX_UNREAD = 8 << 20  # bytes per client, in locked memory
DIFFERS = 0.05  # of a time: the clock has run on since it was computed
ACCEPT_RETRY_S = 1.0  # without descriptors or memory; as asyncio does
Verb = Callable[[Any], Any]  # with a request of `pylvs.vrrp.control.requests`


class Service(Protocol):
    """What `status` shows of the `RouterService`, which has the server."""

    loop: Loop
    host: VipManager
    helper: HelperLink
    routers: dict[str, Router]
    groups: list[SyncGroup]
    tracking: Tracking
    sessions: Sessions
    realtime_status: RealtimeStatus
    unknown: Counter[tuple[str, int]]
    data_plane_expired: int
    copied: Copied

    @property
    def now(self) -> float: ...
    def named(self, names: Sequence[str]) -> list[Router]: ...


class Connection:
    """A client."""

    link: Link
    greeted = False  # it has sent its version
    subscribed = False  # it receives events
    wants_states = False  # it receives transitions as notify scripts do


class ControlServer:
    """The socket and its clients. `verbs` return the answers; a PylvsError becomes an answer, too."""

    def __init__(self, loop: Loop, verbs: Mapping[str, Verb], log: Callable[[str, str], None]) -> None:
        self._loop = loop
        self._verbs = verbs
        self._log = log
        self._refused = False  # the kernel refused the last connection a descriptor
        self._connections: list[Connection] = []
        self._early: list[dict[str, Any]] | None = []  # events before the first subscriber
        self._listener = socket.socket(socket.AF_UNIX, KIND | socket.SOCK_NONBLOCK)

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
        self._listen()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(SOCKET_NAME)
        self._listener.close()
        for connection in self._connections:
            connection.link.close()
        self._connections.clear()

    def publish_state(self, state: dict[str, Any]) -> None:
        """Send what scripts and traps report to those who subscribed to states: a state, or a dropped advertisement."""
        for connection in list(self._connections):
            if connection.wants_states:
                connection.link.send(state)

    def publish(self, event: dict[str, Any]) -> None:
        """Send an event to all subscribers; the first one receives what happened before."""
        if self._early is not None and len(self._early) < MOST_EARLY:
            self._early.append(event)
        for connection in list(self._connections):
            if connection.subscribed:
                connection.link.send(event)

    def _listen(self) -> None:
        self._loop.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            end, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError as error:
            # The listener stays readable: without a pause this would be a busy loop at a real-time priority.
            self._loop.forget(self._listener.fileno())
            self._loop.at(self._loop.now + ACCEPT_RETRY_S, self._listen)
            if not self._refused:
                self._log("error", f"connections to {SOCKET_NAME} wait, as none can be accepted: {error.strerror}")
            self._refused = True
            return
        self._refused = False
        with contextlib.suppress(ConnectionError):
            if peer_of(end)[1] not in (0, os.geteuid()):
                end.close()
                return
            connection = Connection()
            self._connections.append(connection)
            connection.link = Link(
                self._loop,
                end,
                partial(self._receive, connection),
                partial(self._lost, connection),
                equal=True,
                most_unsent=MAX_UNREAD,
            )

    def _lost(self, connection: Connection, reason: str) -> None:
        self._connections.remove(connection)
        if reason != channel.ENDED:
            self._log("warning", f"a client of the virtual routers {reason}: its connection is closed")

    def _receive(self, connection: Connection, message: dict[str, Any], descriptors: list[int]) -> None:
        channel.close_all(descriptors)
        if connection.greeted:
            self._answer(connection, message)
        else:
            connection.greeted = "hello" in message
            connection.link.send({"hello": pylvs.__version__, "pid": os.getpid(), "protocol": PROTOCOL})

    def _answer(self, connection: Connection, message: dict[str, Any]) -> None:
        """Answer a request. Raises BadMessage for one of other fields."""
        answer = {"id": message.pop("id", None)}
        verb = message.pop("verb", "")
        if verb not in REQUESTS:
            answer["error"] = f"{verb}: no such verb; there are: {', '.join(sorted(REQUESTS))}"
            connection.link.send(answer)
            return
        try:
            request = from_plain(REQUESTS[verb], message)
        except Malformed as error:
            raise BadMessage(f"{verb}: {error}") from None
        if verb == "subscribe":
            self._subscribe(connection, request)
            answer["ok"] = {}
        else:
            try:
                answer["ok"] = self._verbs[verb](request)
            except PylvsError as error:
                answer |= {"error": str(error), "errno": error.errno}
            except Exception as error:
                connection.link.send(answer | {"error": f"{type(error).__name__}: {error}: this is a bug"})
                raise
        connection.link.send(answer)

    def _subscribe(self, connection: Connection, request: Subscribe) -> None:
        connection.subscribed = True
        connection.wants_states |= request.states
        early, self._early = self._early or [], None
        for event in early:
            connection.link.send(event)


def state_message(kind: str, name: str, state: str, router: Router | None) -> dict[str, Any]:
    """Return the message of a transition of a group, or of an instance, which may be one that a reload removes."""
    message: dict[str, Any] = {"kind": kind, "instance": name, "state": state}
    if router is not None:
        instance = router.instance
        message |= {"interface": instance.interface, "vrid": instance.vrid, "family": instance.family}
        message["reports_deleted"] = instance.notify.reports_deleted
        if state == State.MASTER.value:  # for traps, which need no status then
            message |= {"source": str(router.machine.address), "master_why": router.master_why}
    return message


def service_status(service: Service) -> dict[str, Any]:
    """Return the answer to `status`."""
    up, detail = service.tracking.data_plane
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
            "helper_running": service.helper.connected,
            "helper_lost": service.helper.lost,
        },
        "data_plane": {"up": up, "reason": detail, "expired": service.data_plane_expired},
        "notify_scripts": service.helper.scripts,
        "sessions": service.sessions.status(),
        "unknown_vrids": [
            {"device": device, "vrid": vrid, "count": count} for (device, vrid), count in service.unknown.items()
        ],
    }


def transitions_of(service: Service, name: str | None) -> dict[str, Any]:
    """Return the last transitions of one virtual router, or of all. Raises NoSuchRouter."""
    routers = service.named([] if name is None else [name])
    return {router.name: [each.as_dict() for each in router.history.transitions] for router in routers}


def _instance_status(service: Service, router: Router) -> dict[str, Any]:
    instance, machine, validator = router.instance, router.machine, router.validator
    history, last = router.history, router.history.last
    return {
        "name": instance.name,
        "interface": instance.interface,
        "device": service.host.device_of(instance),
        "vrid": instance.vrid,
        "version": instance.version,
        "family": instance.family,
        "state": machine.state.value,
        "since": last.at if last else None,
        "initialized_at": history.initialized_at,
        "source": str(machine.address) if validator else "",
        "master_why": router.master_why,
        "last_error": validator.last_error.value if validator and validator.last_error else "",
        "priority": machine.priority,
        "base_priority": instance.priority,
        "addresses": [str(each) for each in (*instance.addresses, *instance.excluded)],
        "master": str(machine.address) if machine.state is State.MASTER else str(router.master or ""),
        "master_priority": router.master_priority,
        "why": last.sentence() if last else "",
        "advert_interval_s": machine.interval_s,
        "master_down_s": round(_take_over_s(router), 6),
        "takes_over_at": _future_unix_time(machine.due if machine.state is State.BACKUP else None, service.now),
        "preempt": instance.preempt,
        "rival": router.rival,
        "preempts_at": _future_unix_time(machine.preempt_at, service.now),
        "mismatches": [str(each) for each in validator.mismatches.values()] if validator else [],
        "tracks": [
            {
                "kind": each.kind,
                "name": each.track.name,
                "up": each.up,
                "expired": each.expired,
                "number": each.number,
                "weight": each.track.weight,
                "reason": each.detail,
            }
            for each in router.tracked.values()
        ],
        "faults": list(router.own_faults),
        "counters": {
            "sent": router.sent,
            "received": router.received,
            "dropped": {error.value: count for error, count in validator.counters.items()} if validator else {},
            "zero_sent": router.zero_sent,
            "zero_received": router.zero_received,
            "released_master": router.released,
            "became_master": router.history.entered[State.MASTER],
            "became_backup": router.history.entered[State.BACKUP],
            "became_fault": router.history.entered[State.FAULT],
        },
        "group": router.group.group.name if router.group else None,
        "held_until": _future_unix_time(machine.held_until, service.now),
        "copy_awaited": service.copied.text if router.awaits_copy else "",
        "copied_by": _future_unix_time(machine.copied_by if router.awaits_copy else None, service.now),
    }


def _take_over_s(router: Router) -> float:
    """Return the time from the last advertisement that counted to the take-over.

    A master that stepped down may have had a longer interval than the present one.
    """
    usual_s = router.machine.down_s
    waits = router.state is State.BACKUP and abs(router.wait_s - usual_s) > DIFFERS * usual_s
    return router.wait_s if waits else usual_s


def _future_unix_time(at: float | None, now: float) -> float | None:
    """Convert from the monotonic clock; None for a time that has passed."""
    return time.time() + at - now if at is not None and at > now else None
