"""The sockets of checks: made as a `Target` says, connected and waited for without blocking, never left open.

A check is one socket, one registration with the event loop and one timer: streams and transports would cost several
times as much. Connections are closed in the ordinary way, without SO_LINGER: a reset would cost the director no less
(measured) and would be an error in some servers' logs. What then waits in TIME_WAIT costs neither processor time nor a
port that another server needs, for ports are counted for each server by itself. Only those from a port that the
operator fixed are reset, or each would be in the way of the next.
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

_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: the port is chosen when the destination is known
_IP_RECVERR, _IPV6_RECVERR = 11, 25  # linux/in.h, linux/in6.h: ICMP errors reach a socket, "host unreachable" too

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)  # struct linger
_LOWEST_CHOSEN_PORT = 1024  # net.ipv4.ip_local_port_range can begin here

SocketAddress = tuple[str, int] | tuple[str, int, int, int]


class Deadline:
    """The moment at which a check gives up, by the event loop's clock."""

    __slots__ = ("at", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.at = asyncio.get_running_loop().time() + seconds

    def expired(self, where: str = "") -> ProbeFailed:
        """The failure of having waited too long; `where` says for what."""
        return ProbeFailed(f"timed out after {self.seconds:g} s {where}".rstrip())


def _settle(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)


async def ready(sock: socket.socket, limit: Deadline, *, writing: bool = False) -> bool:
    """Wait until the socket can be read, or written to: False if that did not come in time."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[bool] = loop.create_future()
    number = sock.fileno()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    add(number, _settle, future, True)
    timer = loop.call_at(limit.at, _settle, future, False)
    try:
        return await future
    finally:
        timer.cancel()
        remove(number)


class Endpoint:
    """A target, with all worked out that is the same for each socket to it."""

    __slots__ = ("_device", "_mark", "_may_meet_itself", "_options", "_source", "_target", "address", "family")

    def __init__(self, target: Target) -> None:
        self._target = target
        self._device = target.device.encode()
        self._mark = target.mark
        self._source = _source_address(target)
        self._options = bool(self._device or self._mark or self._source)
        self._may_meet_itself = target.port >= _LOWEST_CHOSEN_PORT
        self.family = family_of(target.address)
        self.address: SocketAddress = _socket_address(target.address, target.port)

    def fresh(self, kind: int, protocol: int = 0) -> socket.socket:
        """A socket that does not block, bound and marked as the target says. Raises CheckFailed, NoSocket."""
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

    def where(self) -> SocketAddress:
        """Where to connect; of a link-local address the device is looked up each time. Raises CheckFailed."""
        if not self._scoped():
            return self.address
        try:
            return (*self.address[:2], 0, socket.if_nametoindex(self._target.device))
        except OSError:
            raise ProbeFailed(f"there is no device {self._target.device}") from None

    async def connected(self, limit: Deadline) -> socket.socket:
        """A TCP connection, which the caller closes. Raises CheckFailed."""
        made = self.fresh(socket.SOCK_STREAM)
        try:
            code = made.connect_ex(self.where())
            if code == errno.EINPROGRESS:
                if not await ready(made, limit, writing=True):
                    raise limit.expired()
                code = made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise self._refusal(code)
            if self._may_meet_itself and made.getsockname()[:2] == made.getpeername()[:2]:
                raise errno_failure(
                    errno.ECONNREFUSED
                )  # nobody listens there: the kernel chose the same port for both ends
        except BaseException:
            made.close()
            raise
        return made

    def correspondence(self, kind: int = socket.SOCK_DGRAM, protocol: int = 0) -> socket.socket:
        """A socket for datagrams to and from the target alone, which hears ICMP errors too.

        Raises CheckFailed, NoSocket.
        """
        made = self.fresh(kind, protocol)
        try:
            if self.family == socket.AF_INET:
                made.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            else:
                made.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
            if code := made.connect_ex(self.where()):
                raise self._refusal(code)
        except BaseException:
            made.close()
            raise
        return made

    def _scoped(self) -> bool:
        return self.family == socket.AF_INET6 and bool(self._device) and self._target.address.is_link_local

    def _refusal(self, code: int) -> ProbeFailed:
        """The failure to connect that an errno means."""
        if code != errno.EADDRNOTAVAIL:
            return errno_failure(code)
        if self._target.source_port:
            return ProbeFailed(f"source port {self._target.source_port} is still taken by the check before")
        if self.family == socket.AF_INET:
            return ProbeFailed("no free port on this machine", inconclusive=True)
        return ProbeFailed("no address on this machine to connect from, or no free port")

    def _prepare(self, made: socket.socket, kind: int) -> None:
        if self._mark:
            try:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
            except OSError as error:
                raise errno_failure(error.errno or 0, f"while setting firewall mark {self._mark}") from None
        if self._device:
            try:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._device)
            except OSError as error:
                raise errno_failure(error.errno or 0, f"while binding to device {self._target.device}") from None
        if self._source:
            self._bind(made, kind, self._source)

    def _bind(self, made: socket.socket, kind: int, source: SocketAddress) -> None:
        try:
            if kind == socket.SOCK_STREAM and source[1]:
                # Else the next check would find the port in TIME_WAIT, for a minute.
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            elif kind == socket.SOCK_STREAM:
                made.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            if self._scoped() and self._target.source is not None and self._target.source.is_link_local:
                source = (*source[:2], 0, self.where()[-1])
            made.bind(source)
        except OSError as error:
            raise errno_failure(error.errno or 0, f"while binding to {_endpoint_text(source)}") from None


def _socket_address(address: Address, port: int) -> SocketAddress:
    return (str(address), port) if address.version == 4 else (str(address), port, 0, 0)


def _source_address(target: Target) -> SocketAddress | None:
    """Where a socket is bound before it connects; None where the kernel chooses."""
    if target.source is not None:
        return _socket_address(target.source, target.source_port)
    if target.source_port:
        return ("", target.source_port) if target.address.version == 4 else ("", target.source_port, 0, 0)
    return None


def _endpoint_text(source: SocketAddress) -> str:
    host, port = source[0], source[1]
    return f"{host or 'port'} {port}".strip() if port else host


# --- datagrams -------------------------------------------------------------------------------------------------------
# A question and its answer in datagrams: what name servers, UDP services and ICMP echoes have in common.


_MAX_DATAGRAM = 1 << 16
_BATCH = 64  # datagrams read before others of the event loop have their turn

# What an ICMP error becomes on a connected socket (net/ipv4/icmp.c, net/ipv6/icmp.c).
_ICMP_WORDS = {
    errno.ECONNREFUSED: "connection refused (ICMP: port unreachable)",
    errno.EHOSTUNREACH: "no route to host (ICMP: host unreachable)",
    errno.ENETUNREACH: "network unreachable (ICMP)",
    errno.ENOPROTOOPT: "protocol unreachable (ICMP)",
    errno.EPROTO: "parameter problem (ICMP)",
    errno.EACCES: "administratively prohibited (ICMP)",
}


def icmp_failure(error: OSError, where: str) -> ProbeFailed:
    """The failure that a connected socket for datagrams tells of."""
    words = _ICMP_WORDS.get(error.errno or 0)
    return ProbeFailed(words) if words else errno_failure(error.errno or 0, where)


def send_datagram(sock: socket.socket, data: bytes) -> None:
    """Send one datagram. Raises CheckFailed."""
    try:
        sock.send(data)
    except OSError as error:
        raise icmp_failure(error, "while sending") from None


async def receive_datagram(sock: socket.socket, limit: Deadline, is_mine: Callable[[bytes], bool]) -> bytes | None:
    """The first datagram that is mine; None when none came in time. An ICMP error raises CheckFailed."""
    while await ready(sock, limit):
        for _ in range(_BATCH):
            try:
                data = sock.recv(_MAX_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as error:
                raise icmp_failure(error, "while waiting for the answer") from None
            if is_mine(data):
                return data
    return None
