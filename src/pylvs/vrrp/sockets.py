"""Raw sockets for advertisements: an ear for each device, family and protocol, and a mouth for each device and family.

Multicast belongs to a device. Unicast goes where the routes lead, as keepalived's does: its device is "", all of them.

The kernel throws away what is for other virtual routers where an ear names its own: a flood of it costs nothing then.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Collection, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from pylvs.model.addresses import ANY_V4, Address
from pylvs.model.dataclass import dataclass
from pylvs.system.socket_filter import (
    DROP,
    EQUALS,
    LOAD_1,
    LOAD_1_BEHIND_X,
    LOAD_X_IP_HEADER,
    NETWORK_HEADER,
    TAKE,
    Instruction,
    attach,
    enlarge,
)
from pylvs.vrrp.packet import PROTOCOL, TRAFFIC_CLASS, TTL
from pylvs.vrrp.seal import AH_BYTES, AH_PROTOCOL

_PRIORITY = 7  # TC_PRIO_CONTROL: before everything else in the device's queue
_MOST_BYTES = 1 << 16
_IPV4_BYTES = 20

# asm-generic/socket.h, linux/in.h, linux/in6.h: what Python does not name
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
_JOIN = socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP
_LEAVE = socket.IP_DROP_MEMBERSHIP, socket.IPV6_LEAVE_GROUP
_MREQN = struct.Struct("=4s4si")  # struct ip_mreqn: group, address, ifindex
_MREQ6 = struct.Struct("=16si")  # struct ipv6_mreq
_PKTINFO6 = struct.Struct("=16si")  # struct in6_pktinfo
_INT = struct.Struct("=i")

_DESTINATION6_AT, _MULTICAST6 = 24, 0xFF  # its first byte
_VRID_AT = 1  # in an advertisement

_addressed = lru_cache(maxsize=1024)(IPv6Address)


@dataclass(frozen=True, slots=True)
class Datagram:
    """A packet as it came. Of IPv4 with its header; `payload` begins behind it, with AH's header if there is one."""

    source: Address
    destination: Address
    ttl: int  # or hop limit
    protocol: int  # packet.PROTOCOL or seal.AH_PROTOCOL
    header: bytes  # b"" of IPv6
    payload: bytes


class Ear:
    """Hears what comes in by one device, as long as that is there."""

    def __init__(
        self,
        device: str,
        family: int,
        protocol: int,
        groups: Iterable[Address],
        vrids: Collection[int] | None,
        buffer_bytes: int = 0,
    ) -> None:
        """`vrids` None hears all virtual routers. Raises OSError if this process may not; not for a missing device."""
        self.device = device
        self.family = family
        self.protocol = protocol
        self.groups = tuple(groups)
        self._vrids = vrids
        self._buffer = bytearray(_MOST_BYTES)
        self._index = 0
        self._open = False  # whether anything is let in
        self._socket = socket.socket(
            socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol
        )
        try:
            attach(self._socket, [DROP])  # it hears all devices until it is bound
            if buffer_bytes:
                enlarge(self._socket, buffer_bytes)
            if family == 4:
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            else:
                self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            self.rejoin()
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """To be watched for reading."""
        return self._socket.fileno()

    def rejoin(self) -> bool:
        """Look for the device again, after it came or its address changed: whether it is there and all is heard."""
        if not self.device:
            self._begin()
            return True
        try:
            index = socket.if_nametoindex(self.device)
        except OSError:
            index = 0
        if index != self._index:
            self._leave()
            self._open = False
            attach(self._socket, [DROP])
            if not index or not _bind(self._socket, self.device):
                return False
            self._drain()
            self._index = index
            self._begin()
        joined = [self._join(group) for group in self.groups]
        return index != 0 and all(joined)

    def admit(self, vrids: Collection[int] | None) -> None:
        """From now on, hear these virtual routers."""
        self._vrids = vrids
        if self._open:
            self._begin()

    def receive(self, most: int = 64) -> list[Datagram]:
        """What has come. Never waits, and does not mind that the device is down or gone."""
        found = []
        with contextlib.suppress(OSError):  # nothing more; or ENETDOWN, which is told once
            for _ in range(most):
                datagram = self._receive4() if self.family == 4 else self._receive6()
                if datagram is not None:
                    found.append(datagram)
        return found

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()

    def _receive4(self) -> Datagram | None:
        buffer = self._buffer
        count = self._socket.recv_into(buffer)
        header_bytes = (buffer[0] & 0xF) * 4
        if count < _IPV4_BYTES or not _IPV4_BYTES <= header_bytes <= count:
            return None
        header = bytes(buffer[:header_bytes])
        source, destination = IPv4Address(header[12:16]), IPv4Address(header[16:20])
        return Datagram(source, destination, header[8], header[9], header, bytes(buffer[header_bytes:count]))

    def _receive6(self) -> Datagram | None:
        count, words, _, source = self._socket.recvmsg_into([self._buffer], 128)
        destination, hops = None, None
        for level, kind, data in words:
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                destination = IPv6Address(data[:16])
            elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_HOPLIMIT:
                (hops,) = _INT.unpack(data)
        if destination is None or hops is None:
            return None
        return Datagram(_addressed(source[0]), destination, hops, self.protocol, b"", bytes(self._buffer[:count]))

    def _join(self, group: Address) -> bool:
        try:
            self._member(_JOIN, group)
        except OSError as error:
            return error.errno == errno.EADDRINUSE  # it is a member already
        return True

    def _begin(self) -> None:
        attach(self._socket, _filter(self.family, self.protocol, self._vrids, multicast=bool(self.device)))
        self._open = True

    def _leave(self) -> None:
        """Memberships outlive their device, and a socket has only twenty."""
        for group in self.groups:
            with contextlib.suppress(OSError):
                self._member(_LEAVE, group)
        self._index = 0

    def _member(self, options: tuple[int, int], group: Address) -> None:
        if group.version == 4:
            request = _MREQN.pack(group.packed, ANY_V4.packed, self._index)
            self._socket.setsockopt(socket.IPPROTO_IP, options[0], request)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, options[1], _MREQ6.pack(group.packed, self._index))

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._socket.recv(1)


class Mouth:
    """Sends by one device; nothing of it comes back to this host."""

    def __init__(self, device: str, family: int) -> None:
        """`device` "" goes by the routes. Raises OSError, also if the device is not there."""
        self.device = device
        self.family = family
        self._index = socket.if_nametoindex(device) if device else 0
        self._socket = (
            socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_RAW)
            if family == 4
            else socket.socket(socket.AF_INET6, socket.SOCK_RAW | socket.SOCK_NONBLOCK, PROTOCOL)
        )
        self._told: dict[tuple[Address, int], list[tuple[int, int, bytes]]] = {}
        try:
            attach(self._socket, [DROP])  # it does not listen
            if device:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _PRIORITY)
            if family == 4:
                self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
                self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
                request = _MREQN.pack(ANY_V4.packed, ANY_V4.packed, self._index)
                self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
            else:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, self._index)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, TRAFFIC_CLASS)
        except BaseException:
            self._socket.close()
            raise

    def send(self, packet: bytes, source: Address, destination: Address, hops: int = TTL) -> None:
        """Of IPv4 `packet` has its header and says the hops itself. Raises OSError; never waits."""
        if self.family == 4:
            self._socket.sendto(packet, (str(destination), 0))
        else:
            self._socket.sendmsg([packet], self._ancillary(source, hops), 0, (str(destination), 0, 0, self._index))

    def close(self) -> None:
        """Say no more."""
        self._socket.close()

    def _ancillary(self, source: Address, hops: int) -> list[tuple[int, int, bytes]]:
        told = self._told.get((source, hops))
        if told is None:
            info = _PKTINFO6.pack(source.packed, self._index)
            told = self._told[source, hops] = [
                (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info),
                (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, _INT.pack(hops)),
            ]
        return told


def _bind(bound: socket.socket, device: str) -> bool:
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return False
    return True


def _filter(family: int, protocol: int, vrids: Collection[int] | None, multicast: bool) -> list[Instruction]:
    """Lets these virtual routers in; the kernel shows it IPv4 with its header and IPv6 without."""
    made: list[Instruction] = []
    if family == 6 and not multicast:  # which of IPv6 a socket hears without membership; of IPv4 it does not
        made += [(LOAD_1, 0, 0, NETWORK_HEADER + _DESTINATION6_AT), (EQUALS, 0, 1, _MULTICAST6), DROP]
    if vrids is None:
        return [*made, TAKE]
    at = _VRID_AT + (AH_BYTES if protocol == AH_PROTOCOL else 0)
    if family == 4:
        made += [(LOAD_X_IP_HEADER, 0, 0, 0), (LOAD_1_BEHIND_X, 0, 0, at)]
    else:
        made += [(LOAD_1, 0, 0, at)]
    for vrid in sorted(vrids):
        made += [(EQUALS, 0, 1, vrid), TAKE]
    return [*made, DROP]
