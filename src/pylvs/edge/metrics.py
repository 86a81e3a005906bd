"""The task "metrics": it serves /metrics over TCP, to clients of some networks; without any, to all.

It asks the daemon for the page, and gets it as a sealed file in memory. All connections send from one mapping of that
file: the page of a large table has tens of megabytes. It is a small HTTP/1.1 server (RFC 9112) that closes each
connection after one response. A new connection replaces the oldest one without a complete request if all
`MOST_CONNECTIONS` are in use, so half-open connections keep no Prometheus waiting.

| to the task | "allowed": [network], with the listener; "page": true, with the page; "error": text |
| from it | "page": true |
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

from pylvs.model.addresses import Network
from pylvs.model.dataclass import dataclass, field
from pylvs.system.processes.channel import Message
from pylvs.system.processes.event_loop import Loop, Timer

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_CONNECTIONS = 16
HEADER_S, PAGE_S, SEND_S = 5.0, 15.0, 30.0  # for the request, the page from the daemon, the response
MAX_HEADER = 8192  # bytes
_SEND_AT_ONCE = 1 << 16
MOST_PAGES = 128 << 20  # bytes of all pages that slow clients still receive, with the newest one
Body = mmap.mmap | bytes


@dataclass(slots=True, eq=False)
class Connection:
    """One client, from its connection to the end of the response."""

    sock: socket.socket
    deadline: Timer
    received: bytearray = field(default_factory=bytearray)
    waits: bool = False  # for the page
    unsent: list[memoryview] = field(default_factory=list)  # of the response
    body: Body = b""


class MetricsServer:
    """Serves one listener, for clients of these networks; without any, for all."""

    def __init__(self, loop: Loop, send: Callable[[Message], None]) -> None:
        self._loop, self._send_daemon = loop, send
        self._listener: socket.socket | None = None
        self._allowed: Sequence[Network] = ()
        self._connections: dict[Connection, None] = {}  # the oldest first
        self._page: Body = b""  # the newest one, with its inode
        self._inode = 0
        self._requested = False

    def receive(self, message: dict[str, Any], descriptors: Sequence[int]) -> None:
        """Listen, or send the page, or the daemon's reason, to all that wait for it."""
        if "allowed" in message:
            self._listen(socket.socket(fileno=descriptors[0]), [ip_network(each) for each in message["allowed"]])
            return
        page: Body = str(message.get("error", "")).encode()
        status = "503 Service Unavailable"
        for number in descriptors:
            page, status = self._mapped(number), "200 OK"
            os.close(number)
        self._requested = False
        for connection in [each for each in self._connections if each.waits]:
            self._respond(connection, status, page)

    def close(self) -> None:
        """Serve no longer."""
        for connection in list(self._connections):
            self._close(connection)
        if self._listener is not None:
            self._loop.watch(self._listener.fileno(), None)
            self._listener.close()
            self._listener = None

    def _listen(self, listener: socket.socket, allowed: Sequence[Network]) -> None:
        self.close()
        listener.setblocking(False)
        self._listener, self._allowed = listener, allowed
        self._loop.watch(listener.fileno(), partial(self._accept, listener))

    def _accept(self, listener: socket.socket) -> None:
        try:
            sock, peer = listener.accept()
        except OSError:  # the client has gone
            return
        if not is_allowed(peer[0], self._allowed):
            sock.close()
            return
        sock.setblocking(False)
        while len(self._connections) >= MOST_CONNECTIONS:
            incomplete = (each for each in self._connections if not each.waits and not each.unsent)
            self._close(next(incomplete, next(iter(self._connections))))
        connection = Connection(sock, self._loop.at(self._loop.now + HEADER_S, lambda: self._late(connection)))
        self._connections[connection] = None
        self._loop.watch(sock.fileno(), partial(self._go_on, connection))
        self._go_on(connection)  # a request is usually there with the connection

    def _go_on(self, connection: Connection) -> None:
        try:
            if connection.unsent:
                self._send(connection)
                return
            data = connection.sock.recv(MAX_HEADER)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close(connection)
        elif not connection.waits:
            connection.received += data
            self._request(connection)

    def _send(self, connection: Connection) -> None:
        """Send a part of the response. Raises OSError."""
        part = connection.unsent[0]
        part = part[connection.sock.send(part[:_SEND_AT_ONCE]) :]
        connection.unsent[:1] = [part] if part else []
        if not connection.unsent:
            self._close(connection)

    def _request(self, connection: Connection) -> None:
        """Respond if the header is complete. Fields do not matter, nor does a body."""
        received = bytes(connection.received)
        head, found, _ = received.replace(b"\r\n", b"\n").partition(b"\n\n")
        if not found:
            if len(received) > MAX_HEADER:
                self._respond(connection, "431 Request Header Fields Too Large", b"the header is too long\n")
            return
        line = head.partition(b"\n")[0].split(b" ")
        if len(line) != 3 or not line[2].startswith(b"HTTP/1."):
            self._respond(connection, "400 Bad Request", b"this is not HTTP/1.1\n")
        elif line[1].partition(b"?")[0] != b"/metrics":
            self._respond(connection, "404 Not Found", b"there is /metrics only\n")
        elif line[0] not in (b"GET", b"HEAD"):
            self._respond(connection, "405 Method Not Allowed", b"GET only\n", "Allow: GET, HEAD\r\n")
        elif line[0] == b"HEAD":
            self._respond(connection, "200 OK", b"")
        else:
            connection.waits = True
            self._allow(connection, PAGE_S)
            if not self._requested:
                self._requested = True
                self._send_daemon({"page": True})

    def _mapped(self, number: int) -> Body:
        """Map a file; the daemon sends the same one again for a while."""
        file = os.fstat(number)
        if file.st_ino != self._inode:
            self._make_space(file.st_size)
            # Private: before Linux 6.7 a sealed file can be mapped in no other way.
            self._page = mmap.mmap(number, file.st_size, mmap.MAP_PRIVATE, mmap.PROT_READ)
            self._inode = file.st_ino
        return self._page

    def _make_space(self, size: int) -> None:
        """Close the oldest connections that still receive former pages, until all pages take at most MOST_PAGES."""
        while sending := [each for each in self._connections if each.body]:
            if size + sum({id(each.body): len(each.body) for each in sending}.values()) <= MOST_PAGES:
                return
            self._close(sending[0])

    def _respond(self, connection: Connection, status: str, body: Body, more: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
        connection.waits, connection.body = False, body
        self._allow(connection, SEND_S)
        connection.unsent = [memoryview(f"{head}{more}Connection: close\r\n\r\n".encode())]
        if body:
            connection.unsent.append(memoryview(body))
        self._loop.watch(connection.sock.fileno(), None, partial(self._go_on, connection))

    def _allow(self, connection: Connection, seconds: float) -> None:
        connection.deadline.cancel()
        connection.deadline = self._loop.at(self._loop.now + seconds, lambda: self._late(connection))

    def _late(self, connection: Connection) -> None:
        if connection.waits:
            self._requested = False  # the daemon may be free again when the next client asks
            self._respond(connection, "503 Service Unavailable", b"the daemon did not make the page in time\n")
        else:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        del self._connections[connection]
        connection.deadline.cancel()
        self._loop.watch(connection.sock.fileno(), None)
        connection.sock.close()


def is_allowed(client: str, allowed: Sequence[Network]) -> bool:
    """Return whether a client may connect. A listener of IPv6 shows IPv4 addresses as mapped ones."""
    address = ip_address(client.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return not allowed or any((mapped or address) in each for each in allowed)
