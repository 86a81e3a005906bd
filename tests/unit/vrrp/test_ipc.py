"""The socket of pylvs-vrrp: answers, events, and the end of connections with other data or without an answer."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pylvs.model.errors import PylvsError
from pylvs.system.processes import channel
from pylvs.vrrp import SOCKET_NAME
from pylvs.vrrp.client import Client
from pylvs.vrrp.control.server import MAX_UNREAD, ControlServer
from pylvs.vrrp.ipc import GREETING, KIND, NoRouters, connected
from pylvs.vrrp.loop import Loop
from tests.unit.vrrp.fake_loop import FakeTimeLoop


class Served:
    """A control server, and what it logged."""

    def __init__(self, loop: Loop) -> None:
        self.lines: list[str] = []
        self.requests: list[Any] = []
        verbs = {"ping": self._ping, "yield": self._ping, "status": lambda _: {"text": "x" * (channel.MAX_PACKET)}}
        self.server = ControlServer(loop, verbs, lambda level, text: self.lines.append(f"{level}: {text}"))
        self.server.open()

    def _ping(self, request: Any) -> dict[str, Any]:
        self.requests.append(request)
        return {}


@pytest.fixture
def loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTimeLoop]:
    monkeypatch.chdir(tmp_path)
    loop = FakeTimeLoop()
    yield loop
    loop._selector.close()


@pytest.fixture
def served(loop: FakeTimeLoop) -> Iterator[Served]:
    found = Served(loop)
    yield found
    found.server.close()


@pytest.fixture
def greeted(loop: FakeTimeLoop, served: Served) -> Iterator[socket.socket]:
    """A client that has exchanged greetings."""
    end, _ = connected(Path(SOCKET_NAME))
    with end:
        end.send(channel.encode(GREETING))
        loop.pass_(0)
        assert "hello" in channel.receive(end)[0]
        yield end


def test_a_client_gets_short_and_long_answers_and_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def failed(error: Exception) -> None:
        raise error

    loop = Loop(failed)
    served = Served(loop)
    thread = threading.Thread(target=loop.run)
    served.server.publish({"event": "early"})
    thread.start()
    try:
        with Client(tmp_path / SOCKET_NAME) as client:
            assert client.pid == os.getpid()
            assert client.ask("ping") == {}
            assert len(client.ask("status")["text"]) == channel.MAX_PACKET, "it is in a file"
            assert client.events() == []
            assert client.ask("subscribe") == {}
            assert client.events() == [{"event": "early"}]
            with pytest.raises(PylvsError, match=r"^other: no such verb; there are: configure, copied, data_plane, "):
                client.ask("other")
            with pytest.raises(PylvsError, match=r"the process of the virtual routers has ended \("):
                client.ask("yield", seconds="x")
    finally:
        loop.at(0, loop.stop)
        os.close(os.open(tmp_path, os.O_RDONLY))
        with socket.socket(socket.AF_UNIX, KIND) as wake:
            wake.connect(str(tmp_path / SOCKET_NAME))
            thread.join()
        served.server.close()
    (line,) = served.lines
    assert "sent an invalid message (yield: seconds: must be float or int, not str): its connection is closed" in line


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"id":1,"verb":"configure"}', "configure: Configure needs configuration"),
        (b'{"id":1,"verb":"ping","x":1}', "ping: x: Empty has no such field"),
        (b'{"id":1,"verb":"yield","seconds":NaN}', "yield: seconds: must be finite"),
    ],
)
def test_other_data_closes_the_connection_with_one_line(
    loop: FakeTimeLoop, served: Served, greeted: socket.socket, data: bytes, reason: str
) -> None:
    greeted.send(data)
    loop.pass_(0)
    with pytest.raises(EOFError):
        channel.receive(greeted)
    (line,) = served.lines
    text = f"a client of the virtual routers sent an invalid message ({reason}): its connection is closed"
    assert line == f"warning: {text}"
    assert served.requests == []


def test_a_client_that_ends_is_no_line(loop: FakeTimeLoop, served: Served, greeted: socket.socket) -> None:
    greeted.close()
    loop.pass_(0)
    assert (served.lines, served.server._connections) == ([], [])


def test_a_client_that_does_not_read_loses_its_connection(
    loop: FakeTimeLoop, served: Served, greeted: socket.socket
) -> None:
    greeted.send(channel.encode({"id": 1, "verb": "subscribe"}))
    loop.pass_(0)
    sent = 0
    while served.server._connections:
        served.server.publish({"event": "x" * 1000})
        sent += 1000
        assert sent < 2 * MAX_UNREAD
    assert sent > MAX_UNREAD / 2
    assert served.lines == ["warning: a client of the virtual routers does not read: its connection is closed"]


def test_a_full_listen_queue_is_an_error_immediately(tmp_path: Path) -> None:
    path = tmp_path / "vrrp"
    ends: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX, KIND) as listener:
        listener.bind(str(path))
        listener.listen(1)
        with pytest.raises(PylvsError, match=f"{path}: the process of the virtual routers does not answer"):
            ends.extend(connected(path)[0] for _ in range(10))
    assert ends, "the first connections succeed"
    for end in ends:
        end.close()


def test_a_missing_socket_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoRouters):
        connected(tmp_path / "vrrp")


def test_the_socket_of_a_former_build_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "vrrp"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(PylvsError, match=f"^{path}: the process at this socket is not pylvs-vrrp, or that of a"):
            connected(path)
