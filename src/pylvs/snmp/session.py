"""A session of AgentX with the master agent, snmpd."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

from pylvs.snmp import agentx
from pylvs.snmp.agentx import BadMessage, Decoder, Message, Oid, Pdu

DESCRIPTION = b"pylvs"
CONNECT_TIMEOUT_S = 5.0


class Lost(Exception):
    """snmpd closed the session, or refused it; the text is the reason."""


class Session:
    """One session with the master agent. Raises Lost."""

    def __init__(self, end: socket.socket) -> None:
        end.settimeout(CONNECT_TIMEOUT_S)  # a socket of a descriptor has none
        self._end = end
        self._decoder = Decoder()
        self._packet = 0
        self._id = 0
        self.master_started_at = 0.0  # Unix time when sysUpTime was 0
        self._early: list[Message] = []  # requests that came while the session was opened

    def fileno(self) -> int:
        return self._end.fileno()

    def open(self, subtrees: list[Oid]) -> None:
        """Open the session and register the subtrees."""
        opened = self._request(lambda packet: agentx.open_session(packet, DESCRIPTION))
        self._id, self.master_started_at = opened.session, time.time() - opened.uptime / 100
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
        self._serve(self._receive(), answer)

    def serve_early(self, answer: Callable[[Message], bytes | None]) -> None:
        """Answer the requests that came while the session was opened."""
        early, self._early = self._early, []
        self._serve(early, answer)

    def _serve(self, messages: list[Message], answer: Callable[[Message], bytes | None]) -> None:
        for message in messages:
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
        found: Message | None = None
        while found is None:
            for message in self._receive():
                if found is None and message.pdu == Pdu.RESPONSE and message.packet == packet:
                    found = message
                else:
                    self._early.append(message)
        if found.error:
            raise Lost(f"it refused a message with error {found.error}")
        return found

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
