"""The metrics process: `python -m pylvs.daemon.api.metrics_process FD LISTENER [NETWORK...]`. It serves /metrics over
TCP, to clients of these networks; without any, to all.

It parses requests of any host, so it has no privileges (`pylvs.system.sandbox`), and descriptors of its own. It asks
the daemon for the page, and gets it as a sealed file in memory. All connections send from one mapping of that file: the
page of a large table has tens of megabytes. It is a small HTTP/1.1 server (RFC 9112) that closes each connection after
one response. A new connection replaces the oldest one without a complete request if all `MOST_CONNECTIONS` are in use,
so half-open connections keep no Prometheus waiting.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address, ip_network

from pylvs.model.addresses import Network
from pylvs.model.dataclass import dataclass, field
from pylvs.system import sandbox, syscalls
from pylvs.system.processes import channel

NAME = b"pylvs-metrics"  # shown by ps and top
PROTOCOL = 1
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_CONNECTIONS = 16
HEADER_S, PAGE_S, SEND_S = 5.0, 15.0, 30.0  # for the request, the page from the daemon, the response
MAX_HEADER = 8192  # bytes
_ALIVE_S = 0.5
_SEND_AT_ONCE = 1 << 16
_DESCRIPTORS, _MEMORY = 64, 256 << 20
MOST_PAGES = 128 << 20  # bytes of all pages that slow clients still receive, with the newest one
Body = mmap.mmap | bytes


@dataclass(slots=True, eq=False)
class Connection:
    """One client, from its connection to the end of the response."""

    sock: socket.socket
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    waits: bool = False  # for the page
    unsent: list[memoryview] = field(default_factory=list)  # of the response
    body: Body = b""


class MetricsProcess:
    """Serves one listener, for clients of these networks; without any, for all."""

    def __init__(self, end: socket.socket, listener: socket.socket, allowed: Sequence[Network] = ()) -> None:
        self._end, self._listener, self._allowed = end, listener, allowed
        self._selector = selectors.DefaultSelector()
        self._connections: dict[Connection, None] = {}  # the oldest first
        self._page: Body = b""  # the newest one, with its inode
        self._inode = 0
        self._requested = False
        self._alive_at = 0.0

    def serve(self) -> None:
        """Run until the daemon closes its end."""
        for each in (self._end, self._listener):
            each.setblocking(False)
            self._selector.register(each, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            if now >= self._alive_at:
                self._alive_at = now + _ALIVE_S
                self._tell({"alive": True})
            for connection in [each for each in self._connections if now >= each.deadline]:
                self._late(connection, now)
            for key, _ in self._selector.select(max(self._alive_at - now, 0.0)):
                if key.fileobj is self._end:
                    self._receive()
                elif key.fileobj is self._listener:
                    self._accept()
                elif key.data in self._connections:
                    self._go_on(key.data)

    def _tell(self, message: channel.Message) -> None:
        with contextlib.suppress(BlockingIOError):  # the daemon is late
            self._end.send(channel.encode(message))

    def _accept(self) -> None:
        try:
            sock, peer = self._listener.accept()
        except OSError:  # the client has gone
            return
        if not is_allowed(peer[0], self._allowed):
            sock.close()
            return
        sock.setblocking(False)
        connection = Connection(sock, time.monotonic() + HEADER_S)
        while len(self._connections) >= MOST_CONNECTIONS:
            incomplete = (each for each in self._connections if not each.waits and not each.unsent)
            self._close(next(incomplete, next(iter(self._connections))))
        self._connections[connection] = None
        self._selector.register(sock, selectors.EVENT_READ, connection)
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
            connection.waits, connection.deadline = True, time.monotonic() + PAGE_S
            if not self._requested:
                self._requested = True
                self._tell({"page": True})

    def _receive(self) -> None:
        """Send the page, or the daemon's reason, to all that wait for it."""
        try:
            message, descriptors = channel.receive(self._end)
        except BlockingIOError:
            return
        except (EOFError, OSError, channel.BadMessage):
            os._exit(0)
        page: Body = str(message.get("error", "")).encode()
        status = "503 Service Unavailable"
        for number in descriptors:
            page, status = self._mapped(number), "200 OK"
            os.close(number)
        self._requested = False
        for connection in [each for each in self._connections if each.waits]:
            self._respond(connection, status, page)

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
        connection.waits, connection.deadline = False, time.monotonic() + SEND_S
        connection.body = body
        connection.unsent = [memoryview(f"{head}{more}Connection: close\r\n\r\n".encode())]
        if body:
            connection.unsent.append(memoryview(body))
        self._selector.modify(connection.sock, selectors.EVENT_WRITE, connection)

    def _late(self, connection: Connection, now: float) -> None:
        if connection.waits:
            self._requested = False  # the daemon may be free again when the next client asks
            self._respond(connection, "503 Service Unavailable", b"the daemon did not make the page in time\n")
        else:
            self._close(connection)

    def _close(self, connection: Connection) -> None:
        del self._connections[connection]
        self._selector.unregister(connection.sock)
        connection.sock.close()


def is_allowed(client: str, allowed: Sequence[Network]) -> bool:
    """Return whether a client may connect. A listener of IPv6 shows IPv4 addresses as mapped ones."""
    address = ip_address(client.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return not allowed or any((mapped or address) in each for each in allowed)


def main(end: socket.socket, listener: socket.socket, allowed: Sequence[Network] = ()) -> None:
    """Serve the daemon at the other end of this socket."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)  # for the daemon; this process ends with it
    syscalls.prctl(syscalls.PR_SET_NAME, NAME)
    left = sandbox.confine(_DESCRIPTORS, _MEMORY)
    end.send(channel.encode(channel.greeting(left, PROTOCOL)))
    with contextlib.suppress(ConnectionError):
        MetricsProcess(end, listener, allowed).serve()


if __name__ == "__main__":
    _end, _listener = (socket.socket(fileno=int(each)) for each in sys.argv[1:3])
    main(_end, _listener, [ip_network(each) for each in sys.argv[3:]])
