"""The sub-agent: the answers to snmpd's requests, and the traps.

It reads the status of virtual routers and services at a request, at most once in STATUS_AGE_S, and subscribes to their
events. A sub-agent that loses snmpd tries again each RETRY_S. It delays neither a virtual router nor a check: it runs
in another process, which `pylvs run` does not wait for.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pylvs.model.wanted import Configuration
from pylvs.snmp import agentx, checker_mib, keepalived_mib, rfc_mib, timeouts
from pylvs.snmp.agentx import Message, Oid, Pdu, Value, VarBind
from pylvs.snmp.checker_mib import Numbers, Service
from pylvs.snmp.connections import ALIVE_S, Connections, Ended
from pylvs.snmp.keepalived_mib import RouterStatus
from pylvs.snmp.routers import event_status
from pylvs.snmp.session import Lost, Session
from pylvs.snmp.tree import Tree
from pylvs.snmp.weights import WeightSets
from pylvs.system.logs import get_logger

STATUS_AGE_S = 1.0
REST = 10
RETRY_S = 15.0  # as net-snmp's sub-agents
PING_S = 120.0  # as keepalived
REQUESTS = (Pdu.GET, Pdu.GET_NEXT, Pdu.GET_BULK)
SETS = (Pdu.TEST_SET, Pdu.COMMIT_SET, Pdu.UNDO_SET, Pdu.CLEANUP_SET)


class Agent:
    """The sub-agent of one configuration; `end` is readable when it shall end."""

    def __init__(self, configuration: Configuration, connections: Connections, end: int) -> None:
        self._configuration = configuration
        self._settings = configuration.settings.snmp
        self._connections = connections
        self._weights = WeightSets(configuration, connections)
        self._services = checker_mib.by_name(configuration)
        self._end = end
        self._alive_at = 0.0
        self._master_started_at = 0.0
        self._tree = Tree({})
        self._tree_until = float("-inf")
        self._log = get_logger()
        self._last_reason = ""

    def run(self) -> None:
        """Serve until the end, in one session after the other."""
        with contextlib.suppress(Ended):
            self._serve_for_ever()

    def _serve_for_ever(self) -> None:
        while True:
            try:
                self._serve()
            except (Lost, OSError) as error:
                reason = str(error)
                if reason != self._last_reason:
                    self._log.warning(f"SNMP: no session with the master agent at {self._settings.socket}: {reason}")
                self._last_reason = reason
            if self._ready([], RETRY_S):
                raise Ended

    def _ready(self, watched: list[int], timeout_s: float) -> list[int]:
        """Wait for one of the descriptors, or for the end; report that this process works."""
        until = time.monotonic() + timeout_s
        while True:
            if time.monotonic() >= self._alive_at:
                self._alive_at = time.monotonic() + ALIVE_S
                self._connections.report_alive()
            left = max(0.0, until - time.monotonic())
            ready, _, _ = select.select([self._end, *watched], [], [], min(left, ALIVE_S))
            if ready or left <= ALIVE_S:
                return ready

    def subtrees(self) -> list[Oid]:
        """Return the parts that are served."""
        settings = self._settings
        parts = {
            keepalived_mib.GLOBAL: settings.vrrp or settings.checker,
            keepalived_mib.VRRP: settings.vrrp,
            checker_mib.CHECKER: settings.checker,
            rfc_mib.V2: settings.rfc_v2,
            rfc_mib.V3: settings.rfc_v3,
        }
        return [each for each, enabled in parts.items() if enabled]

    def _serve(self) -> None:
        session = Session(self._connections.master())
        try:
            session.open(self.subtrees())
            self._master_started_at = session.master_started_at
            self._log.info("SNMP: snmpd accepted the session")
            self._last_reason = ""
            self._loop(session)
        finally:
            session.close()
            self._connections.unsubscribe()  # traps would go out late, and their events fill the senders' buffers

    def _loop(self, session: Session) -> None:
        ping_at = time.monotonic() + PING_S
        connections = self._connections
        connections.subscribe(timeouts.deadline())  # before the first answer: a client that has one gets the next trap
        session.serve_early(self._answer)
        while True:
            connections.subscribe(timeouts.deadline())
            self._send_traps(session)  # those, too, that came while an answer was made
            watched = [session.fileno(), *connections.filenos()]
            ready = self._ready(watched, min(RETRY_S, max(0.0, ping_at - time.monotonic())))
            if self._end in ready:
                self._send_traps(session)
                raise Ended
            if session.fileno() in ready:
                session.serve(self._answer)
            if time.monotonic() >= ping_at:
                session.ping()
                ping_at = time.monotonic() + PING_S

    def _send_traps(self, session: Session) -> None:
        for binds in self._traps():
            session.notify(binds)

    def _traps(self) -> Iterator[list[VarBind]]:
        """Yield the traps of the events that have come."""
        events = self._connections.events()
        for event in events.routers:
            yield from router_traps(event, self._configuration, event_status(event))
        for event, numbers in events.servers:
            yield from server_traps(event, numbers, self._services, self._configuration.settings.router_id)

    def _answer(self, message: Message) -> bytes | None:
        if message.pdu in REQUESTS:
            return agentx.response(message, self._recent_tree().answer(message))
        if message.pdu in SETS:
            self._tree_until = float("-inf")
            return self._weights.answer(message)
        return None  # responses to pings and traps

    def _recent_tree(self) -> Tree:
        """Return the objects, which are made again after STATUS_AGE_S; many objects, after REST times their cost."""
        if time.monotonic() >= self._tree_until:
            begin = self._connections.cpu_s()
            self._tree = Tree(self._objects())
            cost = self._connections.cpu_s() - begin
            self._tree_until = time.monotonic() + max(STATUS_AGE_S, REST * cost)
        return self._tree

    def _objects(self) -> dict[Oid, Value]:
        configuration, settings = self._configuration, self._settings
        deadline = timeouts.deadline()
        found: dict[Oid, Value] = {}
        routers = self._connections.routers(deadline) if settings.routers else RouterStatus()
        if settings.vrrp or settings.checker:
            found |= keepalived_mib.objects(configuration, routers)
        if settings.checker:
            found |= checker_mib.objects(configuration, self._connections.servers(deadline))
        if settings.rfc_v2:
            found |= rfc_mib.objects_v2(configuration, routers, self._master_started_at)
        if settings.rfc_v3:
            found |= rfc_mib.objects_v3(configuration, routers)
        return found


def router_traps(event: dict[str, Any], configuration: Configuration, status: RouterStatus) -> Iterator[list[VarBind]]:
    """Yield the traps of an event of a virtual router or a sync group."""
    kind, name = event["kind"], event["instance"]
    if kind == "DROPPED":
        yield from rfc_mib.dropped_traps(event, configuration, status)
        return
    binds = keepalived_mib.trap(kind, name, event["state"], configuration) if configuration.settings.snmp.vrrp else []
    if binds:
        yield binds
    if kind == "INSTANCE" and event["state"] == "MASTER":
        yield from rfc_mib.new_master_traps(name, configuration, status)


def server_traps(
    event: dict[str, Any], numbers: Numbers | None, services: Mapping[str, Service], router_id: str
) -> Iterator[list[VarBind]]:
    """Yield the trap of an event, if the service is configured; `numbers` are those after it, if they are known."""
    name, service = event["event"], services.get(event["service"])
    if service is None:
        return
    if name in ("server_up", "server_down"):
        yield checker_mib.server_trap(service, event["server"], name == "server_up", numbers, router_id)
    elif not event.get("silent"):  # as in keepalived
        lost = checker_mib.SHUTDOWN if event.get("ending") else checker_mib.NOT_MET
        yield checker_mib.quorum_trap(service, checker_mib.MET if name == "quorum_gained" else lost, numbers, router_id)
