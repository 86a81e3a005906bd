"""Sockets of checks: made for a `Target`, and used without blocking.

A probe is one socket, one registration with the event loop and one timer; asyncio's streams would cost several times as
much. Connections are closed without SO_LINGER: a reset would cost the director no less (measured), and some servers
would log an error. A socket in TIME_WAIT costs no CPU time. It occupies a port towards one server only. Connections
from a configured source port are reset, because the next probe needs the port.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable

from pylvs.health.outcome import NoSocket, ProbeFailed, errno_failure
from pylvs.model.addresses import Address, family_of
from pylvs.model.checks import Target

_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: choose the source port at connect(2)
_IP_RECVERR, _IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h: report all ICMP errors, "host unreachable" too

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # struct linger
_LOWEST_EPHEMERAL_PORT = 1024  # net.ipv4.ip_local_port_range may begin here
_MAX_DATAGRAM = 1 << 16
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

SocketAddress = tuple[str, int] | tuple[str, int, int, int]


class Deadline:
    """The end of a probe's timeout, by the event loop's clock."""

    __slots__ = ("at", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = asyncio.get_running_loop().time() + seconds

    def expired(self, where: str = "") -> ProbeFailed:
        """Return the failure of a probe that timed out; `where` describes what it waited for."""
        return ProbeFailed(f"timed out after {self.seconds:g} s {where}".rstrip())


def _settle(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)


async def ready(sock: socket.socket, deadline: Deadline, *, writing: bool = False) -> bool:
    """Wait until the socket is readable, or writable. Return False at the deadline."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()
    number = sock.fileno()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    add(number, _settle, future, True)
    timer = loop.call_at(deadline.at, _settle, future, False)
    try:
        return await future
    finally:
        timer.cancel()
        remove(number)


class Endpoint:
    """A target, and the settings that all sockets to it share."""

    __slots__ = ("_device", "_mark", "_may_self_connect", "_options", "_source", "_target", "address", "family")

    def __init__(self, target: Target) -> None:
        self._target = target
        self._device = target.device.encode()
        self._mark = target.mark
        self._source = _source_address(target)
        self._options = bool(self._device or self._mark or self._source)
        self._may_self_connect = target.port >= _LOWEST_EPHEMERAL_PORT
        self.family = family_of(target.address)
        self.address: SocketAddress = _socket_address(target.address, target.port)

    async def connected(self, deadline: Deadline) -> socket.socket:
        """Return a TCP connection, which the caller closes. Raises ProbeFailed."""
        made = self._new_socket(socket.SOCK_STREAM)
        try:
            code = made.connect_ex(self._connect_address())
            if code == errno.EINPROGRESS:
                if not await ready(made, deadline, writing=True):
                    raise deadline.expired()
                code = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise self._connect_failure(code)
            # If no process listens on a port of this host, the kernel may choose that port as source, too.
            if self._may_self_connect and made.getsockname()[:2] == made.getpeername()[:2]:
                raise errno_failure(errno.ECONNREFUSED)
        except BaseException:
            made.close()
            raise
        return made

    def connected_datagram(self, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
        """Return a socket for datagrams to and from the target, which reports ICMP errors.

        Raises ProbeFailed, NoSocket.
        """
        made = self._new_socket(kind, protocol)
        try:
            if self.family == socket.AF_INET:
                made.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            else:
                made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
            if code := made.connect_ex(self._connect_address()):
                raise self._connect_failure(code)
        except BaseException:
            made.close()
            raise
        return made

    def _new_socket(self, kind: int, protocol: int = 0) -> socket.socket:
        """Return a non-blocking socket with the target's source, device and mark. Raises ProbeFailed, NoSocket."""
        source = self._target.source
        if source is not None and family_of(source) != self.family:
            raise ProbeFailed(f"the source address {source} is of another family than {self._target.address}")
        try:
            made = socket.socket(self.family, kind | socket.SOCK_NONBLOCK, protocol)
        except OSError as error:
            raise NoSocket(error.errno or 0) from None
        if self._options:
            try:
                self._prepare(made, kind)
            except BaseException:
                made.close()
                raise
        return made

    def _connect_address(self) -> SocketAddress:
        """Return the target's address; look up the device of a link-local one each time. Raises ProbeFailed."""
        if not self._needs_scope():
            return self.address
        try:
            return (*self.address[:2], 0, socket.if_nametoindex(self._target.device))
        except OSError:
            raise ProbeFailed(f"there is no device {self._target.device}") from None

    def _needs_scope(self) -> bool:
        return self.family == socket.AF_INET6 and bool(self._device) and self._target.address.is_link_local

    def _connect_failure(self, code: int) -> ProbeFailed:
        if code != errno.EADDRNOTAVAIL:
            return errno_failure(code)
        if self._target.source_port:
            return ProbeFailed(f"source port {self._target.source_port} is still taken by the check before")
        if self.family == socket.AF_INET:
            return ProbeFailed("no free port on this machine", inconclusive=True)
        return ProbeFailed("no address on this machine to connect from, or no free port")

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
            raise errno_failure(error.errno or 0, where) from None

    def _bind(self, made: socket.socket, kind: int, source: SocketAddress) -> None:
        if kind == socket.SOCK_STREAM and source[1]:
            # Otherwise the port would be in TIME_WAIT for a minute.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        elif kind == socket.SOCK_STREAM:
            made.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        if self._needs_scope() and self._target.source is not None and self._target.source.is_link_local:
            source = (*source[:2], 0, self._connect_address()[-1])
        made.bind(source)


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
    return None


def _datagram_failure(error: OSError, where: str) -> ProbeFailed:
    text = _ICMP_TEXTS.get(error.errno or 0)
    return ProbeFailed(text) if text else errno_failure(error.errno or 0, where)
