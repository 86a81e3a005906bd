"""UDP sockets of BFD (RFC 5881 section 4), which never block.

All sessions of a family and port share a receiver. Its filter lets only packets of configured neighbors pass, so that
other packets cost the process nothing (`flood_guard`). Each session has a sender with a source port of its own.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

from pylvs.model.addresses import Address
from pylvs.model.bfd import BfdSession
from pylvs.model.dataclass import dataclass
from pylvs.system.sockets import DROP, Instruction, attach, closed_on_error, enlarge

FIRST_SOURCE_PORT, LAST_SOURCE_PORT = 49152, 65535  # RFC 5881 section 4
RECEIVE_BUFFER = 1 << 20
TRAFFIC_CLASS = 0xC0  # CS6, network control
_PRIORITY = 7  # TC_PRIO_CONTROL: first in the device's queue
_MOST_BYTES = 1 << 12
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_ANY = {4: "0.0.0.0", 6: "::"}
_INT = struct.Struct("=i")
_PKTINFO = struct.Struct("=i4s4s")  # struct in_pktinfo: ifindex, local address, destination
_PKTINFO6 = struct.Struct("=16si")  # struct in6_pktinfo
_IP_PKTINFO, _IP_RECVTTL = 8, 12  # linux/in.h


@dataclass(frozen=True, slots=True)
class Datagram:
    """A received datagram with its addresses and TTL, or hop limit."""

    source: Address
    destination: Address
    ttl: int
    payload: bytes


class Receiver:
    """Receives the packets of one family at one port, on all addresses."""

    def __init__(self, family: int, port: int) -> None:
        """Raises OSError, such as EADDRINUSE if another program has the port."""
        self.family = family
        self._socket = socket.socket(_FAMILIES[family], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        with closed_on_error(self._socket):
            attach(self._socket, [DROP])
            enlarge(self._socket, RECEIVE_BUFFER)
            if family == 4:
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
            else:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            self._socket.bind((_ANY[family], port))

    def fileno(self) -> int:
        return self._socket.fileno()

    def accept(self, program: Sequence[Instruction]) -> None:
        """Receive what a filter passes. Raises OSError, such as ENOMEM if it is too large."""
        attach(self._socket, program)

    def receive(self, most: int = 64) -> list[Datagram]:
        """Return the next datagrams."""
        received = []
        with contextlib.suppress(OSError):  # the queue is empty
            for _ in range(most):
                payload, ancillary, _, source = self._socket.recvmsg(_MOST_BYTES, 128)
                datagram = self._datagram(payload, ancillary, source)
                if datagram is not None:
                    received.append(datagram)
        return received

    def _datagram(
        self, payload: bytes, ancillary: list[tuple[int, int, bytes]], source: tuple[str, int]
    ) -> Datagram | None:
        destination: Address | None = None
        ttl: int | None = None
        for level, kind, data in ancillary:
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                destination = IPv4Address(_PKTINFO.unpack(data)[2])
            elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                destination = IPv6Address(_PKTINFO6.unpack(data)[0])
            elif (level, kind) in ((socket.IPPROTO_IP, socket.IP_TTL), (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT)):
                (ttl,) = _INT.unpack(data)
        if destination is None or ttl is None:
            return None
        sender = IPv4Address(source[0]) if self.family == 4 else IPv6Address(source[0].partition("%")[0])
        return Datagram(sender, destination, ttl, payload)

    def close(self) -> None:
        self._socket.close()


class Sender:
    """Sends the packets of one session."""

    def __init__(self, session: BfdSession, first_port: int) -> None:
        """Bind the first free source port from `first_port` on. Raises OSError, such as for a missing source."""
        family = session.neighbor.version
        self._to = str(session.neighbor), session.port
        self._socket = socket.socket(_FAMILIES[family], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        with closed_on_error(self._socket):
            attach(self._socket, [DROP])  # it only sends
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY)
            if family == 4:
                self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, TRAFFIC_CLASS)
            else:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, TRAFFIC_CLASS)
            self._family = family
            self.set_ttl(session.ttl)
            self._bind(str(session.source) if session.source else _ANY[family], first_port)

    def _bind(self, address: str, first_port: int) -> None:
        ports = (*range(first_port, LAST_SOURCE_PORT + 1), *range(FIRST_SOURCE_PORT, first_port))
        for port in ports:
            try:
                self._socket.bind((address, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE or port == ports[-1]:
                    raise
            else:
                return

    def set_ttl(self, ttl: int) -> None:
        """Send with this TTL, or hop limit, from now on. Raises OSError."""
        if self._family == 4:
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)

    def send(self, payload: bytes) -> None:
        """Send one packet. Raises OSError."""
        self._socket.sendto(payload, self._to)

    def close(self) -> None:
        self._socket.close()
