"""The sub-agent: a session with snmpd, the answers to its requests, and the traps.

It reads the status of the virtual routers at a request, at most once in STATUS_AGE_S, and subscribes to their
transitions. A sub-agent that loses snmpd tries again each RETRY_S. It never delays a virtual router: it is a process of
its own, and one that does not read loses its connection to pylvs-vrrp.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pylvs.model.errors import PylvsError
from pylvs.model.vrrp import VrrpInstance
from pylvs.model.wanted import Configuration
from pylvs.snmp import agentx
from pylvs.snmp.agentx import BadMessage, Decoder, Message, Oid, Pdu
from pylvs.snmp.keepalived_mib import GLOBAL, VRRP, RouterStatus, objects, trap
from pylvs.snmp.tree import Tree
from pylvs.system.logs import get_logger
from pylvs.vrrp.ipc import SOCKET_NAME, Client

DESCRIPTION = b"pylvs"
STATUS_AGE_S = 1.0
RETRY_S = 15.0  # as net-snmp's sub-agents
PING_S = 120.0  # as keepalived
CONNECT_TIMEOUT_S = 5.0
REQUESTS = (Pdu.GET, Pdu.GET_NEXT, Pdu.GET_BULK)
SETS = (Pdu.TEST_SET, Pdu.COMMIT_SET, Pdu.UNDO_SET)


class Lost(Exception):
    """snmpd closed the session, or refused it; the text is the reason."""


def connect(address: str) -> socket.socket:
    """Connect to the master agent: unix:PATH, tcp:HOST:PORT, a path, or HOST:PORT. Raises OSError."""
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


class Session:
    """One session with the master agent. Raises Lost."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._decoder = Decoder()
        self._packet = 0
        self._id = 0

    def fileno(self) -> int:
        return self._end.fileno()

    def open(self, subtrees: list[Oid]) -> None:
        """Open the session and register the subtrees."""
        self._id = self._request(lambda packet: agentx.open_session(packet, DESCRIPTION)).session
        for subtree in subtrees:
            self._request(lambda packet, subtree=subtree: agentx.register(self._id, packet, subtree))  # type: ignore[misc]

    def ping(self) -> None:
        """Send a message; its answer is read as any other."""
        self._send(agentx.ping(self._id, self._next_packet()))

    def notify(self, binds: list[agentx.VarBind]) -> None:
        """Send a trap."""
        self._send(agentx.notify(self._id, self._next_packet(), binds))

    def serve(self, answer: Callable[[Message], bytes | None]) -> None:
        """Read what has come, and answer requests."""
        for message in self._receive():
            if message.pdu == Pdu.CLOSE:
                raise Lost("it closed the session")
            reply = answer(message)
            if reply is not None:
                self._send(reply)

    def close(self) -> None:
        with contextlib.suppress(Lost):
            self._send(agentx.close_session(self._id, self._next_packet()))
        self._end.close()

    def _next_packet(self) -> int:
        self._packet += 1
        return self._packet

    def _request(self, made: Callable[[int], bytes]) -> Message:
        packet = self._next_packet()
        self._send(made(packet))
        while True:
            for message in self._receive():
                if message.pdu == Pdu.RESPONSE and message.packet == packet:
                    if message.error:
                        raise Lost(f"it refused a message with error {message.error}")
                    return message

    def _send(self, data: bytes) -> None:
        try:
            self._end.sendall(data)
        except OSError as error:
            raise Lost(str(error.strerror or error)) from None

    def _receive(self) -> list[Message]:
        try:
            data = self._end.recv(1 << 16)
            if not data:
                raise Lost("it closed the connection")
            return self._decoder.feed(data)
        except OSError as error:
            raise Lost(str(error.strerror or error)) from None
        except BadMessage as bad:
            raise Lost(f"it sent no AgentX: {bad}") from None


class RouterClient:
    """The connections to pylvs-vrrp: one for its status, one for transitions."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / SOCKET_NAME
        self._events: Client | None = None
        self._status = RouterStatus()
        self._read_at = float("-inf")

    def status(self) -> RouterStatus:
        """Return a recent status; without the process, one of no virtual router."""
        now = time.monotonic()
        if now - self._read_at >= STATUS_AGE_S:
            self._read_at = now
            try:
                with Client(self._path) as client:
                    self._status = router_status(client.ask("status"))
            except PylvsError:
                self._status = RouterStatus()
        return self._status

    def subscribe(self) -> None:
        """Connect for transitions, unless that is done. Without the process, a later call may succeed."""
        if self._events is not None:
            return
        with contextlib.suppress(PylvsError):
            client = Client(self._path)
            try:
                client.ask("subscribe_states")
            except PylvsError:
                client.close()
                raise
            self._events = client

    def fileno(self) -> int:
        """Return the descriptor of the subscription, -1 without one."""
        return -1 if self._events is None else self._events.fileno()

    def transitions(self) -> list[dict[str, Any]]:
        """Return the transitions that have come."""
        if self._events is None:
            return []
        try:
            return [each for each in self._events.events() if isinstance(each, dict) and "kind" in each]
        except PylvsError:
            self._events.close()
            self._events = None
            return []


def router_status(found: dict[str, Any]) -> RouterStatus:
    """Return the status that pylvs-vrrp reports."""
    devices = {each["name"]: each["device"] for each in found["instances"]}

    def device_of(instance: VrrpInstance) -> str:
        return str(devices.get(instance.name, instance.interface))

    instances = {each["name"]: each for each in found["instances"]}
    groups = {each["name"]: each["state"] for each in found["groups"]}
    return RouterStatus(instances, groups, index_of, device_of)


def index_of(device: str) -> int:
    """Return the index of a device, 0 if it does not exist."""
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return 0


class Agent:
    """The sub-agent of one configuration."""

    def __init__(self, configuration: Configuration, state_dir: Path) -> None:
        self._configuration = configuration
        self._routers = RouterClient(state_dir)
        self._log = get_logger()
        self._last_reason = ""

    def run(self) -> None:
        """Serve for ever, in one session after the other."""
        while True:
            try:
                self._serve()
            except (Lost, OSError) as error:
                reason = str(error)
                if reason != self._last_reason:
                    address = self._configuration.settings.snmp.socket
                    self._log.warning(f"SNMP: no session with the master agent at {address}: {reason}")
                self._last_reason = reason
            time.sleep(RETRY_S)

    def _serve(self) -> None:
        session = Session(connect(self._configuration.settings.snmp.socket))
        try:
            session.open([GLOBAL, *([VRRP] if self._configuration.settings.snmp.vrrp else [])])
            self._log.info("SNMP: snmpd accepted the session")
            self._last_reason = ""
            self._loop(session)
        finally:
            session.close()

    def _loop(self, session: Session) -> None:
        ping_at = time.monotonic() + PING_S
        while True:
            if self._configuration.settings.snmp.traps:
                self._routers.subscribe()
            watched = [each for each in (session.fileno(), self._routers.fileno()) if each >= 0]
            ready, _, _ = select.select(watched, [], [], min(RETRY_S, max(0.0, ping_at - time.monotonic())))
            if self._routers.fileno() in ready:
                for each in self._routers.transitions():
                    if binds := trap(each["kind"], each["instance"], each["state"], self._configuration):
                        session.notify(binds)
            if session.fileno() in ready:
                session.serve(self._answer)
            if time.monotonic() >= ping_at:
                session.ping()
                ping_at = time.monotonic() + PING_S

    def _answer(self, message: Message) -> bytes | None:
        if message.pdu in REQUESTS:
            tree = Tree(objects(self._configuration, self._routers.status()))
            return agentx.response(message, tree.answer(message))
        if message.pdu in SETS:  # nothing is writable
            return agentx.response(message, error=agentx.NOT_WRITABLE, index=1)
        return None  # responses to pings and traps; CleanupSet has none
