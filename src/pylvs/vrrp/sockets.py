"""Raw sockets for advertisements, which never block.

Multicast is received and sent on a device, and so is unicast with `interface`, as in keepalived. Other unicast follows
the routes: its device is a VRF, or "", any device.
Each receiver has two sockets: of advertisements that the kernel has verified, and of others (`advert_filter`). Status
counts some of these. The kernel drops what is too many (`flood_guard`).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from pylvs.model.addresses import ANY_V4, Address
from pylvs.model.vrrp import Authentication, VrrpInstance
from pylvs.system.sockets import DROP, Instruction, attach, closed_on_error, enlarge
from pylvs.vrrp import advert_filter
from pylvs.vrrp.advert_filter import PRIORITY_AT, VRID_AT, Detail
from pylvs.vrrp.protocol.adverts import AH_BYTES, AH_PROTOCOL, PROTOCOL, TRAFFIC_CLASS, Datagram

_PRIORITY = 7  # TC_PRIO_CONTROL: first in the device's queue
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_MOST_BYTES = 1 << 16
_IPV4_BYTES = 20
_TOO_LARGE = (errno.ENOMEM, errno.EINVAL)  # a filter: net.core.optmem_max, BPF_MAXINSNS

# linux/in.h, linux/in6.h: absent from Python's socket module
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
_JOIN = socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP
_LEAVE = socket.IP_DROP_MEMBERSHIP, socket.IPV6_LEAVE_GROUP
_MREQN = struct.Struct("=4s4si")  # struct ip_mreqn: group, address, ifindex
_MREQ6 = struct.Struct("=16si")  # struct ipv6_mreq
_PKTINFO6 = struct.Struct("=16si")  # struct in6_pktinfo
_INT = struct.Struct("=i")

Build = Callable[[Detail], list[Instruction]]

_ipv6_address = lru_cache(maxsize=1024)(IPv6Address)


class AdvertReceiver:
    """Receive on one device while it exists."""

    def __init__(
        self, device: str, family: int, protocol: int, groups: Iterable[Address], buffer_bytes: int = 0
    ) -> None:
        """Raises OSError without privileges, but not for a missing device."""
        self.device = device
        self.family = family
        self.protocol = protocol
        self.groups = tuple(groups)
        self._buffer = bytearray(_MOST_BYTES)
        self._index = 0
        everything = advert_filter.everything(family, bool(self.groups))  # IPv6 needs no membership for multicast
        self._build: Build = lambda _: everything
        self._socket = socket.socket(_FAMILIES[family], socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        with closed_on_error(self._socket):
            attach(self._socket, [DROP])  # until it is bound, it would receive from all devices
            if buffer_bytes:
                enlarge(self._socket, buffer_bytes)
            if family == 4:
                self._socket.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)
            else:
                self._socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
            self.rejoin()

    def fileno(self) -> int:
        return self._socket.fileno()

    def rejoin(self) -> bool:
        """Bind and join the groups again, if the device was replaced; return whether everything is received."""
        if not self.device:
            self._accept()
            return True
        try:
            index = socket.if_nametoindex(self.device)
        except OSError:
            index = 0
        if index != self._index:
            self._leave()
            attach(self._socket, [DROP])
            if not index or not _bind(self._socket, self.device):
                return False
            self.drain()
            self._index = index
            self._accept()
        joined = [self._join(group) for group in self.groups]
        return index != 0 and all(joined)

    def receive(self, most: int = 64) -> list[Datagram]:
        """Return the next datagrams; none if the device is down or gone."""
        received = []
        with contextlib.suppress(OSError):  # the queue is empty, or ENETDOWN, which the kernel reports once
            for _ in range(most):
                datagram = self._receive4() if self.family == 4 else self._receive6()
                if datagram is not None:
                    received.append(datagram)
        return received

    def close(self) -> None:
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
        count, ancillary, _, source = self._socket.recvmsg_into([self._buffer], 128)
        destination, hops = None, None
        for level, kind, data in ancillary:
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                destination = IPv6Address(data[:16])
            elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_HOPLIMIT:
                (hops,) = _INT.unpack(data)
        if destination is None or hops is None:
            return None
        return Datagram(_ipv6_address(source[0]), destination, hops, self.protocol, b"", bytes(self._buffer[:count]))

    def _join(self, group: Address) -> bool:
        try:
            self._set_membership(_JOIN, group)
        except OSError as error:
            return error.errno == errno.EADDRINUSE  # already a member
        return True

    def accept(self, build: Build) -> None:
        """Receive what a filter passes, in the most detail that the kernel allows. Raises OSError."""
        self._build = build
        if self._index or not self.device:
            self._accept()

    def drain(self) -> None:
        """Drop what is in the queue."""
        with contextlib.suppress(OSError):
            while True:
                self._socket.recv(1)

    def _accept(self) -> None:
        for detail in Detail:
            program = self._build(detail)
            try:
                attach(self._socket, program)
                return
            except OSError as error:
                if error.errno not in _TOO_LARGE:
                    raise
            with contextlib.suppress(OSError):  # the former filter counts until it is replaced
                attach(self._socket, [advert_filter.accepting(program)])
                attach(self._socket, program)
                return
        raise OSError(errno.ENOMEM, "the filter of advertisements is larger than net.core.optmem_max allows")

    def _leave(self) -> None:
        """Leave all groups: memberships outlive their device, and a socket has at most twenty."""
        for group in self.groups:
            with contextlib.suppress(OSError):
                self._set_membership(_LEAVE, group)
        self._index = 0

    def _set_membership(self, options: tuple[int, int], group: Address) -> None:
        if group.version == 4:
            request = _MREQN.pack(group.packed, ANY_V4.packed, self._index)
            self._socket.setsockopt(socket.IPPROTO_IP, options[0], request)
        else:
            self._socket.setsockopt(socket.IPPROTO_IPV6, options[1], _MREQ6.pack(group.packed, self._index))


class AdvertSender:
    """Send on one device, without multicast loopback to this host."""

    def __init__(self, device: str, family: int) -> None:
        """`device` "" follows the routes. Raises OSError, also for a missing device."""
        self.device = device
        self.family = family
        self._index = socket.if_nametoindex(device) if device else 0
        protocol = socket.IPPROTO_RAW if family == 4 else PROTOCOL
        self._socket = socket.socket(_FAMILIES[family], socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        with closed_on_error(self._socket):
            attach(self._socket, [DROP])  # it only sends
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

    def send(self, packet: Datagram) -> None:
        """Send a packet; the kernel makes the header of IPv6. Raises OSError."""
        destination = str(packet.destination)
        if self.family == 4:
            self._socket.sendto(packet.header + packet.payload, (destination, 0))
        else:
            info = _PKTINFO6.pack(packet.source.packed, self._index)
            ancillary = [
                (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, info),
                (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT, _INT.pack(packet.ttl)),
            ]
            self._socket.sendmsg([packet.payload], ancillary, 0, (destination, 0, 0, self._index))

    def close(self) -> None:
        self._socket.close()


def _bind(bound: socket.socket, device: str) -> bool:
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return False
    return True


def family_of(instance: VrrpInstance) -> int:
    """Return the address family of its packets."""
    return (instance.peers[0].address if instance.peers else instance.multicast).version


def protocol_of(instance: VrrpInstance) -> int:
    """Return the IP protocol of its packets."""
    return AH_PROTOCOL if instance.authentication is Authentication.AH else PROTOCOL


def vrid_of(datagram: Datagram) -> int:
    """Return the VRID, or -1 if the packet is truncated."""
    return _octet(datagram, VRID_AT)


def priority_of(datagram: Datagram) -> int:
    """Return the priority, or -1 if the packet is truncated."""
    return _octet(datagram, PRIORITY_AT)


def _octet(datagram: Datagram, at: int) -> int:
    at += AH_BYTES if datagram.protocol == AH_PROTOCOL else 0
    return datagram.payload[at] if len(datagram.payload) > at else -1
