"""The sub-agent before a master agent that refuses, closes, or sends something else."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pylvs.daemon.snmp_task import connect
from pylvs.snmp.agentx import Message, Pdu
from pylvs.snmp.session import Lost, Session

OPENED = 42


def answer(pdu: int, packet: int, error: int = 0, session: int = OPENED) -> bytes:
    payload = struct.pack("!IHH", 0, error, 0)
    return struct.pack("!BBBxIIII", 1, pdu, 0x10, session, 0, packet, len(payload)) + payload


@contextmanager
def master(answers: Callable[[int, int], bytes]) -> Iterator[Session]:
    """Return a session whose other end answers each message by its kind and its number; b"" closes it."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with theirs:
            while header := theirs.recv(20, socket.MSG_WAITALL):
                _, pdu, _, _, _, packet, length = struct.unpack("!BBBxIIII", header)
                theirs.recv(length, socket.MSG_WAITALL)
                reply = answers(pdu, packet)
                if not reply:
                    return
                theirs.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    session = Session(ours)
    try:
        yield session
    finally:
        ours.close()
        thread.join()


def test_a_session_registers_its_subtrees() -> None:
    kinds: list[int] = []

    def answers(pdu: int, packet: int) -> bytes:
        kinds.append(pdu)
        return answer(Pdu.RESPONSE, packet)

    with master(answers) as session:
        session.open([(1, 3, 6, 1, 4, 1), (1, 3, 6, 1, 2, 1)])
    assert kinds == [Pdu.OPEN, Pdu.REGISTER, Pdu.REGISTER]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda packet: answer(Pdu.RESPONSE, packet, error=263), "it refused a message with error 263"),
        (lambda packet: b"", "it closed the connection"),
        (lambda packet: b"HTTP/1.1 400 Bad Request\r\n", "it sent no AgentX"),
    ],
)
def test_why_there_is_no_session(reply: Callable[[int], bytes], reason: str) -> None:
    with master(lambda _, packet: reply(packet)) as session, pytest.raises(Lost, match=reason):
        session.open([])


def test_a_request_right_behind_the_answer_to_the_start_is_answered() -> None:
    def answers(pdu: int, packet: int) -> bytes:
        request = struct.pack("!BBBxIIII", 1, Pdu.GET, 0x10, OPENED, 3, 77, 0)
        return answer(Pdu.RESPONSE, packet) + (request if pdu == Pdu.REGISTER else b"")

    with master(answers) as session:
        session.open([(1, 3, 6)])
        served: list[tuple[int, int]] = []

        def serve(message: Message) -> None:
            served.append((message.pdu, message.packet))

        session.serve_early(serve)
    assert served == [(Pdu.GET, 77)]


def test_a_session_that_the_master_agent_closes_is_lost() -> None:
    ours, theirs = socket.socketpair()
    with theirs, ours:
        theirs.sendall(struct.pack("!BBBxIIII", 1, Pdu.CLOSE, 0x10, OPENED, 0, 1, 4) + bytes(4))

        def nothing(message: Message) -> None:
            raise AssertionError(message)

        with pytest.raises(Lost, match="it closed the session"):
            Session(ours).serve(nothing)


def test_addresses_of_the_master_agent(tmp_path: Path) -> None:
    path = tmp_path / "agentx"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        for address in (f"unix:{path}", str(path)):
            connect(address).close()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for address in (f"tcp:127.0.0.1:{port}", f"127.0.0.1:{port}"):
            connect(address).close()
    with pytest.raises(OSError, match="No such file"):
        connect("unix:/nonexistent/agentx")
