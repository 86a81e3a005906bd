"""A page of metrics that is as large as that of a large table ends no process, however many clients there are."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from pylvs.edge import metrics
from pylvs.edge.metrics import MOST_CONNECTIONS, MetricsServer
from pylvs.system.processes import channel
from tests.unit.daemon.daemons import until
from tests.unit.daemon.test_metrics_port import GET, Port, with_port
from tests.unit.vrrp.fake_loop import FakeTimeLoop
from tests.waiting import PATIENCE_S

LARGE = 20 << 20  # bytes; sixteen copies are more than the process may have


def test_many_clients_of_a_large_page_share_it() -> None:
    async def scenario(port: Port) -> None:
        port.port._fresh_until, port.text = 0.0, "x" * LARGE
        socks = [await port.connected(GET) for _ in range(MOST_CONNECTIONS)]
        await until(lambda: port.pages)
        port.port._fresh_until = float("inf")
        process = port.pid
        loop = asyncio.get_running_loop()
        heads = [await loop.sock_recv(sock, 15) for sock in socks]
        assert heads == [b"HTTP/1.1 200 OK"] * MOST_CONNECTIONS
        assert private_bytes(process) < 4 * LARGE
        for sock in socks:
            sock.close()
        assert len((await port.request())[1]) == LARGE
        assert (port.pid, port.port.error) == (process, "")

    with_port(scenario)


def test_a_process_that_requests_pages_and_reads_none_holds_no_descriptors_of_the_daemon() -> None:
    async def scenario(port: Port) -> None:
        await port.request()
        port.port._fresh_until = float("inf")
        os.kill(port.pid, signal.SIGSTOP)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(2000):
            port.port.receive({"page": True})
        assert len(os.listdir("/proc/self/fd")) <= before + 1

    with_port(scenario)


def test_a_process_that_does_not_read_descriptors_is_replaced() -> None:
    async def scenario(port: Port) -> None:
        await port.request()
        process = port.edge.process
        os.kill(port.pid, signal.SIGSTOP)
        while process.up:
            port.edge.send(port.port, {"page": True}, tuple(open("/dev/null", "rb") for _ in range(4)))  # noqa: SIM115
        assert process.problem.endswith("does not read")
        assert not process.waits

    with_port(scenario)


def private_bytes(process: int) -> int:
    """Return the memory of a process that no other one shares."""
    status = Path(f"/proc/{process}/status").read_text()
    return 1024 * int(status.partition("RssAnon:")[2].split()[0])


class Server:
    """A MetricsServer without a process, and its clients."""

    def __init__(self) -> None:
        self.loop = FakeTimeLoop()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.at = self.listener.getsockname()
        self.process = MetricsServer(self.loop, lambda _: None)
        self.process.receive({"allowed": []}, [self.listener.detach()])
        self.clients: list[socket.socket] = []

    def connect(self) -> socket.socket:
        """Connect a client that has sent a request, and reads nothing."""
        client = socket.create_connection(self.at, PATIENCE_S)
        self.clients.append(client)
        client.sendall(GET)
        assert self.process._listener is not None
        self.process._accept(self.process._listener)
        (*_, connection) = self.process._connections
        while not connection.waits:
            self.process._go_on(connection)
        return client

    def send_page(self, content: bytes, times: int = 1) -> None:
        number = channel.sealed(content)
        for _ in range(times):
            self.process.receive({"page": True}, [os.dup(number)])
        os.close(number)

    def send_all(self) -> None:
        for connection in list(self.process._connections):
            while connection in self.process._connections:
                self.process._go_on(connection)

    def close(self) -> None:
        self.process.close()
        for each in self.clients:
            each.close()
        self.loop._selector.close()


def read(client: socket.socket) -> bytes:
    data = b""
    while chunk := client.recv(1 << 16):
        data += chunk
    return data.partition(b"\r\n\r\n")[2]


def test_clients_that_keep_old_pages_are_disconnected_when_these_take_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_PAGES", 3000)
    server = Server()
    try:
        clients = []
        for text in (b"a", b"b", b"c", b"d"):
            clients.append(server.connect())
            server.send_page(1000 * text, times=2)
        assert len(server.process._connections) == 3, "the oldest page gives way"
        assert clients[0].recv(100) == b""
        server.send_all()
        assert [read(each) for each in clients[1:]] == [1000 * text for text in (b"b", b"c", b"d")]
        last = server.connect()
        server.send_page(b"e" * 5000)
        server.send_all()
        assert read(last) == b"e" * 5000, "the newest page is served, however long it takes"
    finally:
        server.close()
