"""Messages between processes: complete, in order, and errors for anything else or without a reply."""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylvs.model.errors import PylvsError
from pylvs.vrrp.ipc import MAX_UNSENT, ConnectionClosed, MessageSocket, NoRouters, WatchedSocket, connected
from pylvs.vrrp.loop import Loop


@pytest.fixture
def ends() -> Iterator[tuple[MessageSocket, socket.socket]]:
    ours, its = socket.socketpair()
    with ours, its:
        yield MessageSocket(ours), its


def test_messages_are_complete_and_in_order(ends: tuple[MessageSocket, socket.socket]) -> None:
    connection, its = ends
    data = pickle.dumps({"one": 1})
    its.send(struct.pack("!I", len(data)) + data[:3])
    assert connection.receive() == []
    its.send(data[3:] + struct.pack("!I", len(data)) + data)
    assert connection.receive() == [{"one": 1}, {"one": 1}]


@pytest.mark.parametrize("data", [struct.pack("!I", 4) + b"GET ", struct.pack("!I", MAX_UNSENT + 1), b"GET / HTTP/1.1"])
def test_other_data_closes_the_connection(ends: tuple[MessageSocket, socket.socket], data: bytes) -> None:
    connection, its = ends
    its.send(data)
    with pytest.raises(ConnectionClosed):
        connection.receive()


def test_a_peer_that_does_not_read_loses_the_connection(ends: tuple[MessageSocket, socket.socket]) -> None:
    connection, _ = ends
    for _ in range(7):
        connection.send(b"x" * (MAX_UNSENT // 8))
    with pytest.raises(ConnectionClosed):
        connection.send(b"x" * (MAX_UNSENT // 4))


@pytest.mark.parametrize("unread", [b"", b"x"], ids=["broken pipe", "reset"])
def test_the_last_messages_are_received_though_a_send_finds_the_connection_closed(unread: bytes) -> None:
    def failed(error: Exception) -> None:
        raise error

    ours, its = socket.socketpair()
    loop = Loop(failed)
    received: list[str] = []

    def closed() -> None:
        received.append("closed")
        loop.stop()

    with ours:
        watched = WatchedSocket(loop.watch, MessageSocket(ours), received.append, closed)
        with its:
            ours.send(unread)
            peer = MessageSocket(its)
            peer.send("one")
            peer.send("two")
        for _ in range(2):
            watched.send("late")
        assert received == []
        loop.run()
    assert received == ["one", "two", "closed"]


def test_the_limit_of_unsent_bytes_is_a_parameter() -> None:
    ours, its = socket.socketpair()
    with ours, its, pytest.raises(ConnectionClosed):
        MessageSocket(ours, 1 << 20).send(b"x" * (1 << 21))


def test_a_full_listen_queue_is_an_error_immediately(tmp_path: Path) -> None:
    path = tmp_path / "vrrp"
    ends: list[MessageSocket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        with pytest.raises(PylvsError, match=f"{path}: the process of the virtual routers does not answer"):
            ends.extend(connected(path) for _ in range(10))
    assert ends, "the first connections succeed"
    for end in ends:
        end.close()


def test_a_missing_socket_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoRouters):
        connected(tmp_path / "vrrp")
