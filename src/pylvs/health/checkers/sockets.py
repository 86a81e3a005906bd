"""Sockets of checks, made for a `Target` and used without blocking: connections, plain or TLS, and datagrams.

A probe is one socket, one registration with the event loop and one timer; asyncio's streams would cost several times as
much. Connections are closed without SO_LINGER: a reset would cost the director no less (measured), and some servers
would log an error. A socket in TIME_WAIT costs no CPU time. It occupies a port towards one server only. Connections
from a configured source port are reset, because the next probe needs the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

from pylvs.health.checkers.deadline import SLICE_S, Deadline, loop_share
from pylvs.health.probes import NoSocket, ProbeFailed, errno_failure, is_local, local_failure
from pylvs.model.addresses import Address, family_of
from pylvs.model.checks import Target, TlsClient
from pylvs.netlink.links import dropping_route
from pylvs.system.sockets import closed_on_error

if TYPE_CHECKING:
    from pylvs.health.checkers.tls import Tls

_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: choose the source port at connect(2)
# linux/in.h, linux/in6.h: report all ICMP errors, "host unreachable" too
_RECVERR = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # struct linger
_LOWEST_EPHEMERAL_PORT = 1024  # net.ipv4.ip_local_port_range may begin here
_MAX_DATAGRAM = 1 << 16
_READ_SIZE = 1 << 16  # bytes of a stream read at once
_TLS_READ_SIZE = 1 << 14  # the same with TLS; it bounds the work of one call of OpenSSL
_MAX_SILENT_READS = 1000  # reads in a row that OpenSSL consumes without data: renegotiations, tickets, key updates
_BATCH = 64  # datagrams received in one run of the event loop

# ICMP errors on a connected socket (net/ipv4/icmp.c, net/ipv6/icmp.c).
_ICMP_TEXTS = {
    errno.ECONNREFUSED: "connection refused (ICMP: port unreachable)",
    errno.EHOSTUNREACH: "no route to host (ICMP: host unreachable)",
    errno.ENETUNREACH: "network unreachable (ICMP)",
    errno.ENOPROTOOPT: "protocol unreachable (ICMP)",
    errno.EPROTO: "parameter problem (ICMP)",
    errno.EACCES: "administratively prohibited (ICMP)",
}

ANONYMOUS = TlsClient()  # without a certificate
Result = TypeVar("Result")
SocketAddress = tuple[str, int] | tuple[str, int, int, int]


def _settle(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)


async def ready(sock: socket.socket, deadline: Deadline, *, writing: bool = False) -> bool:
    """Wait until the socket is readable, or writable. Return False at the deadline."""
    loop = asyncio.get_running_loop()
    if deadline.passed(loop.time()):
        return False
    number = sock.fileno()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    try:
        while True:
            future: asyncio.Future[bool] = loop.create_future()
            add(number, _settle, future, True)
            timer = loop.call_at(deadline.at, _settle, future, False)
            try:
                if await future:
                    return True
            finally:
                timer.cancel()
            if deadline.passed(loop.time()):
                return _is_ready(number, writing)  # the loop may have been late: what has arrived counts
    finally:
        remove(number)


def _is_ready(number: int, writing: bool) -> bool:
    poll = select.poll()
    poll.register(number, select.POLLOUT if writing else select.POLLIN)
    return bool(poll.poll(0))


# Sockets that a process with privileges made for the running probe, in the order of their use: complete but for the
# connection. None: the probe makes its sockets itself.
GIVEN: ContextVar[deque[socket.socket] | None] = ContextVar("GIVEN", default=None)


class Endpoint:
    """A target, and the settings that all sockets to it share."""

    __slots__ = (
        "_device",
        "_mark",
        "_may_self_connect",
        "_needs_scope",
        "_options",
        "_source",
        "_target",
        "address",
        "family",
    )

    def __init__(self, target: Target) -> None:
        self._target = target
        self._device = target.device.encode()
        self._mark = target.mark
        self._source = _source_address(target)
        self._options = bool(self._device or self._mark or self._source)
        self._may_self_connect = target.port >= _LOWEST_EPHEMERAL_PORT
        self.family = family_of(target.address)
        self._needs_scope = self.family == socket.AF_INET6 and bool(self._device) and target.address.is_link_local
        self.address: SocketAddress = _socket_address(target.address, target.port)

    async def connected(self, deadline: Deadline) -> socket.socket:
        """Return a TCP connection, which the caller closes. Raises ProbeFailed."""
        made = self.new_or_given(socket.SOCK_STREAM)
        with closed_on_error(made):
            if not self.begin(made):
                if not await ready(made, deadline, writing=True):
                    raise deadline.expired()
                self.finish(made)
        return made

    def begin(self, made: socket.socket) -> bool:
        """Begin to connect; return whether it is connected already. Raises ProbeFailed."""
        code = made.connect_ex(self._connect_address() if self._needs_scope else self.address)
        if code == errno.EINPROGRESS:
            return False
        if code:
            raise self._connect_failure(code)
        self._reject_self_connect(made)
        return True

    def finish(self, made: socket.socket) -> None:
        """Check the connection of a socket that has become writable. Raises ProbeFailed."""
        if code := made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise errno_failure(code)
        self._reject_self_connect(made)

    def _reject_self_connect(self, made: socket.socket) -> None:
        # If no process listens on a port of this host, the kernel may choose that port as source, too.
        if self._may_self_connect and made.getsockname()[:2] == _peer_of(made)[:2]:
            raise errno_failure(errno.ECONNREFUSED)

    def connected_datagram(self) -> socket.socket:
        """Return a socket for datagrams to and from the target, which reports ICMP errors.

        Raises ProbeFailed, NoSocket.
        """
        return self.connect_datagram(self.new_or_given(socket.SOCK_DGRAM))

    def connect_datagram(self, made: socket.socket) -> socket.socket:
        """Connect such a socket and return it; close it if that fails. Raises ProbeFailed."""
        with closed_on_error(made):
            made.setsockopt(*_RECVERR[self._target.address.version], 1)
            if code := made.connect_ex(self._connect_address()):
                raise self._connect_failure(code)
        return made

    def new_or_given(self, kind: int, protocol: int = 0) -> socket.socket:
        """Return a new socket, or the next one of `GIVEN`. Raises ProbeFailed, NoSocket."""
        given = GIVEN.get()
        return self.unconnected(kind, protocol) if given is None else _take(given)

    def unconnected(self, kind: int, protocol: int = 0) -> socket.socket:
        """Return a non-blocking socket with the target's source, device and mark. Raises ProbeFailed, NoSocket."""
        source = self._target.source
        if source is not None and family_of(source) != self.family:
            text = f"the source address {source} is of another family than {self._target.address}"
            raise ProbeFailed(text, inconclusive=True)
        try:
            made = socket.socket(self.family, kind | socket.SOCK_NONBLOCK, protocol)
        except OSError as error:
            raise NoSocket(error.errno or 0) from None
        if self._options:
            with closed_on_error(made):
                self._prepare(made, kind)
        return made

    def _connect_address(self) -> SocketAddress:
        """Return the target's address; look up the device of a link-local one each time. Raises ProbeFailed."""
        if not self._needs_scope:
            return self.address
        try:
            return (*self.address[:2], 0, socket.if_nametoindex(self._target.device))
        except OSError:
            raise ProbeFailed(f"there is no device {self._target.device}", inconclusive=True) from None

    def _connect_failure(self, code: int) -> ProbeFailed:
        """Return the failure for an errno of connect(2).

        EINVAL and EACCES are mistakes or policies of this machine, with one exception: a route drops all packets to the
        server, those of clients too.
        """
        if code in (errno.EINVAL, errno.EACCES):
            with contextlib.suppress(OSError):
                if kind := dropping_route(self._target.address):
                    return ProbeFailed(f"a {kind} route of this machine leads to {self._target.address}")
        if code != errno.EADDRNOTAVAIL:
            return local_failure(code) if is_local(code) else errno_failure(code)
        if self._target.source_port:
            text = f"source port {self._target.source_port} is still taken by the check before"
        elif self.family == socket.AF_INET:
            text = "no free port on this machine"
        else:
            text = "no address on this machine to connect from, or no free port"
        return ProbeFailed(text, inconclusive=True)

    def _prepare(self, made: socket.socket, kind: int) -> None:
        where = ""
        try:
            if self._mark:
                where = f"while setting firewall mark {self._mark}"
                made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            if self._device:
                where = f"while binding to device {self._target.device}"
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._device)
            if self._source:
                where = f"while binding to {_endpoint_text(self._source)}"
                self._bind(made, kind, self._source)
        except OSError as error:
            raise local_failure(error.errno or 0, where) from None

    def _bind(self, made: socket.socket, kind: int, source: SocketAddress) -> None:
        if kind == socket.SOCK_STREAM and source[1]:
            # Otherwise the port would be in TIME_WAIT for a minute.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        elif kind == socket.SOCK_STREAM:
            made.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        if self._needs_scope and self._target.source is not None and self._target.source.is_link_local:
            source = (*source[:2], 0, self._connect_address()[-1])
        made.bind(source)


def _peer_of(connected: socket.socket) -> SocketAddress:
    """Return the address of the peer. Raises ProbeFailed."""
    try:
        peer: SocketAddress = connected.getpeername()
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        raise errno_failure(errno.ECONNRESET) from None  # the RST arrived after SO_ERROR was read
    return peer


def _take(given: deque[socket.socket]) -> socket.socket:
    if not given:
        raise ProbeFailed("the daemon made too few sockets for this check", inconclusive=True)
    return given.popleft()


def _socket_address(address: Address, port: int) -> SocketAddress:
    return (str(address), port) if address.version == 4 else (str(address), port, 0, 0)


def _source_address(target: Target) -> SocketAddress | None:
    """Return the address to bind; None where the kernel chooses."""
    if target.source is not None:
        return _socket_address(target.source, target.source_port)
    if target.source_port:
        return ("", target.source_port) if target.address.version == 4 else ("", target.source_port, 0, 0)
    return None


def _endpoint_text(source: SocketAddress) -> str:
    host, port = source[0], source[1]
    return f"{host or 'port'} {port}".strip() if port else host


def send_datagram(sock: socket.socket, data: bytes) -> None:
    """Send one datagram. Raises ProbeFailed."""
    try:
        sock.send(data)
    except OSError as error:
        raise _datagram_failure(error, "while sending") from None


async def receive_datagram(
    sock: socket.socket, deadline: Deadline, matches: Callable[[bytes], bool] = lambda data: True
) -> bytes | None:
    """Return the first datagram that matches; None at the deadline. Raises ProbeFailed for an ICMP error."""
    while await ready(sock, deadline):
        for _ in range(_BATCH):
            try:
                data = sock.recv(_MAX_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as error:
                raise _datagram_failure(error, "while waiting for the answer") from None
            if matches(data):
                return data
        else:
            await loop_share().turn()  # a flood
    return None


def _datagram_failure(error: OSError, where: str) -> ProbeFailed:
    text = _ICMP_TEXTS.get(error.errno or 0)
    return ProbeFailed(text) if text else errno_failure(error.errno or 0, where)


class TcpStream:
    """A connection to a target. All methods raise ProbeFailed, at the deadline with "timed out"."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline
        self._tls: Tls | None = None
        self._buffer = b""  # received, but not read yet
        self._clock = asyncio.get_running_loop().time
        self._resumed = self._clock()
        self._used_s = 0.0  # without letting other busy probes continue
        self.close_notify = False  # send TLS's close_notify before the end

    @classmethod
    async def open(cls, endpoint: Endpoint, deadline: Deadline) -> TcpStream:
        """Connect."""
        return cls(await endpoint.connected(deadline), deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._sock:
            if self.close_notify and self._tls is not None:
                with contextlib.suppress(OSError):  # the peer has disconnected
                    self._sock.send(self._tls.end())

    async def start_tls(self, server_name: str = "", client: TlsClient = ANONYMOUS, verify: bool = False) -> None:
        """Run the TLS handshake, with SNI if a name is given: an address is none. `verify` the server or accept any."""
        from pylvs.health.checkers.tls import Tls  # late: few checks use TLS, and OpenSSL takes 2 MB

        self._tls = Tls(server_name, client, verify)
        await self._call(self._tls, self._tls.shake_hands, "in the TLS handshake")

    async def send(self, data: bytes) -> None:
        """Send all data."""
        where = "while sending"
        if self._tls is not None:
            await self._call(self._tls, partial(self._tls.encrypt, data), where)
        else:
            await self._send(data, where)

    async def receive(self, where: str = "waiting for the answer") -> bytes:
        """Return the next bytes, at most 64 KiB; none at the end, with or without TLS's close_notify."""
        await self.share(where)
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        if self._tls is None:
            return await self._receive(_READ_SIZE, where)
        return await self._call(self._tls, partial(self._tls.decrypted, _READ_SIZE), where)

    async def share(self, where: str) -> None:
        """Fail at the deadline; after `SLICE_S` of work let other probes continue."""
        now = self._clock()
        if self._deadline.passed(now):
            raise self._deadline.expired(where)
        self._used_s += now - self._resumed
        self._resumed = now
        if self._used_s >= SLICE_S:
            await loop_share().turn()
            self._used_s, self._resumed = 0.0, self._clock()

    async def _call(self, tls: Tls, call: Callable[[], Result | None], where: str) -> Result:
        """Repeat a call of OpenSSL with more received bytes until it has a result."""
        for _ in range(_MAX_SILENT_READS):
            result = call()
            await self._send(tls.unsent(), where)
            if result is not None:
                return result
            tls.receive(await self._receive(_TLS_READ_SIZE, where))
            await self.share(where)
        raise ProbeFailed(f"TLS failed: {_MAX_SILENT_READS} messages without data {where}")

    async def _send(self, data: bytes, where: str) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                await self._wait(where, writing=True)
            except OSError as error:
                raise errno_failure(error.errno or errno.ECONNRESET, where) from None

    async def _receive(self, most: int, where: str) -> bytes:
        await self._wait(where)  # a first recv(2) would nearly always fail with EAGAIN
        while True:
            try:
                return self._sock.recv(most)
            except BlockingIOError:
                await self._wait(where)
            except OSError as error:
                raise errno_failure(error.errno or errno.ECONNRESET, where) from None

    async def line(self, longest: int, where: str) -> bytes:
        """Return the next line without CR LF or LF; the last line needs neither.

        A longer line fails, and so does the end of the connection without a line.
        """
        while (end := self._buffer.find(b"\n")) < 0 and len(self._buffer) <= longest:
            before, self._buffer = self._buffer, b""
            piece = await self.receive(where)
            self._buffer = before + piece
            if not piece:
                if not before:
                    raise ProbeFailed(f"connection closed {where}")
                end = len(before)
                break
        if not 0 <= end <= longest:
            raise ProbeFailed(f"a line of more than {longest} bytes {where}")
        found, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return found.removesuffix(b"\r")

    async def _wait(self, where: str, *, writing: bool = False) -> None:
        self._used_s += self._clock() - self._resumed
        if not await ready(self._sock, self._deadline, writing=writing):
            raise self._deadline.expired(where)
        self._resumed = self._clock()
