"""Messages between our own processes: whole ones, in their order, and nothing that only looks like one."""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Iterator

import pytest

from pylvs.vrrp.pipe import MOST_UNSENT, Closed, Pipe


@pytest.fixture
def ends() -> Iterator[tuple[Pipe, socket.socket]]:
    ours, its = socket.socketpair()
    with ours, its:
        yield Pipe(ours), its


def test_messages_come_whole_and_in_their_order(ends: tuple[Pipe, socket.socket]) -> None:
    pipe, its = ends
    said = pickle.dumps({"one": 1})
    its.send(struct.pack("!I", len(said)) + said[:3])
    assert pipe.receive() == []
    its.send(said[3:] + struct.pack("!I", len(said)) + said)
    assert pipe.receive() == [{"one": 1}, {"one": 1}]


@pytest.mark.parametrize(
    "said", [struct.pack("!I", 4) + b"GET ", struct.pack("!I", MOST_UNSENT + 1), b"GET / HTTP/1.1"]
)
def test_whoever_does_not_speak_so_is_closed_at_once(ends: tuple[Pipe, socket.socket], said: bytes) -> None:
    pipe, its = ends
    its.send(said)
    with pytest.raises(Closed):
        pipe.receive()


def test_whoever_does_not_read_is_closed_in_the_end(ends: tuple[Pipe, socket.socket]) -> None:
    pipe, _ = ends
    for _ in range(7):
        pipe.send(b"x" * (MOST_UNSENT // 8))
    with pytest.raises(Closed):
        pipe.send(b"x" * (MOST_UNSENT // 4))


def test_how_much_waits_may_be_less() -> None:
    ours, its = socket.socketpair()
    with ours, its, pytest.raises(Closed):
        Pipe(ours, 1 << 20).send(b"x" * (1 << 21))
