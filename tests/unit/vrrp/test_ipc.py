"""Messages between our own processes: whole ones, in their order, and nothing that only looks like one."""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Iterator

import pytest

from pylvs.vrrp.ipc import MAX_UNSENT, ConnectionClosed, MessageSocket


@pytest.fixture
def ends() -> Iterator[tuple[MessageSocket, socket.socket]]:
    ours, its = socket.socketpair()
    with ours, its:
        yield MessageSocket(ours), its


def test_messages_come_whole_and_in_their_order(ends: tuple[MessageSocket, socket.socket]) -> None:
    pipe, its = ends
    said = pickle.dumps({"one": 1})
    its.send(struct.pack("!I", len(said)) + said[:3])
    assert pipe.receive() == []
    its.send(said[3:] + struct.pack("!I", len(said)) + said)
    assert pipe.receive() == [{"one": 1}, {"one": 1}]


@pytest.mark.parametrize("said", [struct.pack("!I", 4) + b"GET ", struct.pack("!I", MAX_UNSENT + 1), b"GET / HTTP/1.1"])
def test_whoever_does_not_speak_so_is_closed_at_once(ends: tuple[MessageSocket, socket.socket], said: bytes) -> None:
    pipe, its = ends
    its.send(said)
    with pytest.raises(ConnectionClosed):
        pipe.receive()


def test_whoever_does_not_read_is_closed_in_the_end(ends: tuple[MessageSocket, socket.socket]) -> None:
    pipe, _ = ends
    for _ in range(7):
        pipe.send(b"x" * (MAX_UNSENT // 8))
    with pytest.raises(ConnectionClosed):
        pipe.send(b"x" * (MAX_UNSENT // 4))


def test_how_much_waits_may_be_less() -> None:
    ours, its = socket.socketpair()
    with ours, its, pytest.raises(ConnectionClosed):
        MessageSocket(ours, 1 << 20).send(b"x" * (1 << 21))
