"""The metrics port: a task that no client can keep from serving others, or turn against the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address, ip_network

import pytest

from pylvs.daemon.api import metrics_port
from pylvs.daemon.api.metrics_port import SHARE, MetricsPort, Page
from pylvs.edge.metrics import HEADER_S, MAX_HEADER, MOST_CONNECTIONS, is_allowed
from pylvs.system.processes import child
from pylvs.system.processes.edge import Edge
from tests.privileges import assert_unprivileged
from tests.unit.daemon.daemons import run, until

LOCAL = ip_address("127.0.0.1")
GET = b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n"
HALF = b"GET /metrics HTTP/1.1\r\nHost: "


class Port:
    """A metrics port on loopback, with pages that are counted."""

    def __init__(self) -> None:
        self.pages = 0
        self.text = "pylvs_info 1\n"
        self.has_table = True
        self.takes_s = 0.0
        self.failure: Exception | None = None
        self.edge = Edge()
        self.port = MetricsPort(self.edge, self._make)

    async def _make(self) -> Page:
        self.pages += 1
        await asyncio.sleep(self.takes_s)
        if self.failure:
            raise self.failure
        return Page(self.text, self.has_table)

    @property
    def number(self) -> int:
        """Return the TCP port that the kernel chose: one that is only looked up may be taken by another process."""
        assert self.port._listener is not None
        return int(self.port._listener.getsockname()[1])

    @property
    def pid(self) -> int:
        return self.edge.process.pid

    async def request(self, request: bytes = GET) -> tuple[bytes, bytes]:
        """Return head and body of the response; both are empty if the connection is closed instead."""
        reader, writer = await asyncio.open_connection(str(LOCAL), self.number)
        try:
            writer.write(request)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            return head, body
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def connected(self, sent: bytes = HALF) -> socket.socket:
        sock = socket.socket()
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (str(LOCAL), self.number))
        await loop.sock_sendall(sock, sent)
        return sock


def with_port(scenario: Callable[[Port], Awaitable[None]]) -> None:
    async def whole() -> None:
        port = Port()
        port.port.follow((LOCAL, 0))
        try:
            await scenario(port)
        finally:
            port.port.close()
            await port.edge.close()

    run(whole())


def test_the_page_is_served_and_used_again() -> None:
    async def scenario(port: Port) -> None:
        port.port._fresh_until = float("inf")
        port.text = "x" * 3_000_000 + "\n"
        first = await port.request()
        assert first[0].startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4")
        assert first[1].decode() == port.text
        port.port._fresh_until = float("inf")
        assert await asyncio.gather(*(port.request() for _ in range(10))) == [first] * 10
        assert port.pages == 1
        port.port._fresh_until, port.text = 0.0, "new 1\n"
        assert (await port.request())[1] == b"new 1\n"
        assert port.port.error == ""

    with_port(scenario)


def test_a_port_that_is_left_refuses_connections_at_once() -> None:
    """Also while the process, which has the same socket, has not read that it shall serve no longer."""

    async def scenario(port: Port) -> None:
        assert (await port.request())[1] == b"pylvs_info 1\n"
        number = port.number
        os.kill(port.pid, signal.SIGSTOP)
        port.port.follow(None)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(str(LOCAL), number)

    with_port(scenario)


def test_a_page_without_the_table_is_used_again_for_the_least_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port, "FRESH_S", 0.25)

    async def scenario(port: Port) -> None:
        clock = asyncio.get_running_loop().time
        begin = clock()
        port.takes_s = 0.5
        await port.request()
        assert port.port._fresh_until > begin + SHARE * port.takes_s
        port.port._fresh_until, port.has_table = 0.0, False
        await port.request()
        assert port.port._fresh_until <= clock() + 0.25

    with_port(scenario)


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (b"GET /metrics?x=y HTTP/1.0\n\n", b"200 OK", b"pylvs_info 1\n"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"200 OK", b""),
        (b"GET / HTTP/1.1\r\n\r\n", b"404 Not Found", b"there is /metrics only\n"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 1\r\n\r\nx", b"405 Method Not Allowed", b"GET only\n"),
        (b"\x16\x03\x01\x02\r\n\r\n", b"400 Bad Request", b"this is not HTTP/1.1\n"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"y" * (MAX_HEADER + 1), b"431 ", b"the header is too long\n"),
    ],
)
def test_every_request_has_its_response(request_: bytes, status: bytes, body: bytes) -> None:
    async def scenario(port: Port) -> None:
        head, found = await port.request(request_)
        assert head.startswith(b"HTTP/1.1 " + status)
        assert found == body

    with_port(scenario)


def test_half_open_connections_keep_no_client_out_and_take_no_descriptor_of_the_daemon() -> None:
    async def scenario(port: Port) -> None:
        await port.request()
        before = len(os.listdir("/proc/self/fd"))
        half_open = [await port.connected() for _ in range(330)]
        try:
            assert (await port.request())[0].startswith(b"HTTP/1.1 200 OK")
            descriptors = len(os.listdir(f"/proc/{port.pid}/fd"))
            assert descriptors <= MOST_CONNECTIONS + 15
            assert len(os.listdir("/proc/self/fd")) - before <= len(half_open) + 5  # the clients' own
        finally:
            for each in half_open:
                each.close()

    with_port(scenario)


def test_a_request_that_does_not_end_is_given_up() -> None:
    async def scenario(port: Port) -> None:
        loop = asyncio.get_running_loop()
        begin = loop.time()
        sock = await port.connected()
        assert await loop.sock_recv(sock, 100) == b""
        assert loop.time() - begin >= HEADER_S - 0.5
        sock.close()

    with_port(scenario)


def test_clients_that_read_nothing_are_replaced_last() -> None:
    """A complete request keeps its connection while others have none."""

    async def scenario(port: Port) -> None:
        port.text = "x" * 10_000_000
        slow = [await port.connected(GET) for _ in range(MOST_CONNECTIONS - 1)]
        loop = asyncio.get_running_loop()
        firsts = [await loop.sock_recv(each, 12) for each in slow]
        assert firsts == [b"HTTP/1.1 200"] * len(slow)
        half_open = [await port.connected() for _ in range(40)]
        for connection in half_open[:-1]:
            with contextlib.suppress(ConnectionError):
                assert await loop.sock_recv(connection, 10) == b""
        assert len(await loop.sock_recv(slow[0], 100)) == 100
        for each in [*slow, *half_open]:
            each.close()

    with_port(scenario)


def test_a_page_that_cannot_be_made_is_an_error_of_this_request(log_output: io.StringIO) -> None:
    async def scenario(port: Port) -> None:
        port.failure = ValueError("no table")
        head, body = await port.request()
        assert head.startswith(b"HTTP/1.1 503 ")
        assert body == b"the page could not be made: no table\n"
        port.failure = None
        assert (await port.request())[1] == b"pylvs_info 1\n"

    with_port(scenario)
    assert "the page of metrics could not be made" in log_output.getvalue()


def test_a_process_that_ends_is_replaced_and_reported() -> None:
    async def scenario(port: Port) -> None:
        await port.request()
        first = port.pid
        os.kill(first, signal.SIGKILL)
        await until(lambda: port.port.error)
        assert port.port.error == "metrics_address: the edge process has ended"
        assert (await port.request())[1] == b"pylvs_info 1\n"  # the listener stayed
        assert port.pid != first
        assert port.port.error == ""

    with_port(scenario)


def test_a_process_that_is_silent_is_replaced_and_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP. A client that waits for the first process is served by none; the next one is."""

    async def scenario(port: Port) -> None:
        await port.request()
        first = port.pid
        os.kill(first, signal.SIGSTOP)
        with monkeypatch.context() as ticks:
            ticks.setattr(child, "PING_S", 0.01)  # those of the lease
            await until(lambda: port.port.error)
        silent = f"the edge process has been silent for {child.LEASE_S} s"
        assert port.port.error == f"metrics_address: {silent}"
        assert (await port.request())[1] == b"pylvs_info 1\n"
        assert port.pid != first
        assert port.port.error == ""

    with_port(scenario)


def test_an_address_that_is_taken_is_reported() -> None:
    async def whole() -> None:
        with socket.create_server((str(LOCAL), 0)) as taken:
            port = MetricsPort(Edge(), lambda: asyncio.sleep(0, Page("")))
            number = taken.getsockname()[1]
            port.follow((LOCAL, number))
            assert port.error == f"metrics_address 127.0.0.1:{number}: Address already in use"
            port.follow(None)
            assert port.error == ""
            port.close()

    run(whole())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has privileges to give up")
def test_it_has_no_privileges() -> None:
    async def scenario(port: Port) -> None:
        await port.request()
        assert_unprivileged(port.pid)

    with_port(scenario)


@pytest.mark.parametrize(
    ("client", "networks", "allowed"),
    [
        ("192.0.2.1", [], True),
        ("192.0.2.1", ["192.0.2.0/24"], True),
        ("192.0.3.1", ["192.0.2.0/24", "2001:db8::/32"], False),
        ("2001:db8::7", ["192.0.2.0/24", "2001:db8::/32"], True),
        ("::ffff:192.0.2.1", ["192.0.2.0/24"], True),
        ("::ffff:192.0.3.1", ["192.0.2.0/24"], False),
        ("fe80::1%eth0", ["fe80::/10"], True),
    ],
)
def test_networks_name_the_clients_that_are_answered(client: str, networks: list[str], allowed: bool) -> None:
    assert is_allowed(client, [ip_network(each) for each in networks]) is allowed


def test_a_client_of_another_network_gets_no_answer_and_no_page_is_made() -> None:
    async def scenario(port: Port) -> None:
        port.port.follow((LOCAL, 0), [ip_network("192.0.2.0/24")])
        with contextlib.suppress(ConnectionError):
            assert await port.request() == (b"", b"")
        assert port.pages == 0
        port.port.follow((LOCAL, 0), [ip_network("192.0.2.0/24"), ip_network("127.0.0.0/8")])
        assert (await port.request())[0].startswith(b"HTTP/1.1 200 OK")

    with_port(scenario)
