"""Raw sockets for advertisements, which never block.

Multicast is received and sent on a device, and so is unicast with `interface`, as in keepalived. Other unicast follows
the routes: its device is a VRF, or "", any device.
Some advertisements of unknown VRIDs are received, too, because status counts them. The kernel drops a flood of any VRID
(`advert_filter`).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from pylvs.model.addresses import ANY_V4, Address
from pylvs.model.vrrp import Authentication, VrrpInstance
from pylvs.system.sockets import DROP, attach, closed_on_error, enlarge
from pylvs.vrrp import advert_filter
from pylvs.vrrp.advert_filter import PRIORITY_AT, VRID_AT, Admission, FloodGuard, Relevant
from pylvs.vrrp.loop import Loop, Timer
from pylvs.vrrp.protocol.adverts import AH_BYTES, AH_PROTOCOL, PROTOCOL, TRAFFIC_CLASS, Datagram

_PRIORITY = 7  # TC_PRIO_CONTROL: first in the device's queue
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_MOST_BYTES = 1 << 16
_IPV4_BYTES = 20

# linux/in.h, linux/in6.h: absent from Python's socket module
_IP_MULTICAST_ALL = 49
_IPV6_MULTICAST_ALL = 29
_JOIN = socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP
_LEAVE = socket.IP_DROP_MEMBERSHIP, socket.IPV6_LEAVE_GROUP
_MREQN = struct.Struct("=4s4si")  # struct ip_mreqn: group, address, ifindex
_MREQ6 = struct.Struct("=16si")  # struct ipv6_mreq
_PKTINFO6 = struct.Struct("=16si")  # struct in6_pktinfo
_INT = struct.Struct("=i")

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
        self._vrids: Mapping[int, Admission] = {}
        self._foreign = True
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
            self._drain()
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

    def admit(self, vrids: Mapping[int, Admission], foreign: bool) -> None:
        """Receive what these rules admit; `foreign` are other VRIDs. Without a call, everything is received."""
        self._vrids, self._foreign = vrids, foreign
        if self._index or not self.device:
            self._accept()

    def admits(self, vrid: int, datagram: Datagram) -> bool:
        """Return whether the filter that is attached now passes this datagram."""
        admission = self._vrids.get(vrid, self._foreign)
        if not isinstance(admission, Relevant):
            return admission
        at = PRIORITY_AT + (AH_BYTES if datagram.protocol == AH_PROTOCOL else 0)
        priority = datagram.payload[at] if len(datagram.payload) > at else 0
        return not 0 < priority < admission.priority or datagram.source in admission.masters

    def _accept(self) -> None:
        offset = AH_BYTES if self.protocol == AH_PROTOCOL else 0
        multicast = bool(self.groups)  # IPv6 raw sockets receive it without membership
        attach(self._socket, advert_filter.program(self.family, offset, self._vrids, self._foreign, multicast))

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

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._socket.recv(1)


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


SocketKey = tuple[str, int, int]  # device, family, protocol
ReceiverSettings = tuple[frozenset[Address], int, frozenset[int]]  # of its instances: groups, buffer in bytes, VRIDs
WhatMatters = Callable[[str, int, int], Relevant]  # to the routers of a device, family and VRID
OnAdvert = Callable[[str, int, Datagram], None]  # device, VRID


def family_of(instance: VrrpInstance) -> int:
    """Return the address family of its packets."""
    return (instance.peers[0].address if instance.peers else instance.multicast).version


def protocol_of(instance: VrrpInstance) -> int:
    """Return the IP protocol of its packets."""
    return AH_PROTOCOL if instance.authentication is Authentication.AH else PROTOCOL


def vrid_of(datagram: Datagram) -> int:
    """Return the VRID, or -1 if the packet is truncated."""
    at = VRID_AT + (AH_BYTES if datagram.protocol == AH_PROTOCOL else 0)
    return datagram.payload[at] if len(datagram.payload) > at else -1


class AdvertReceivers:
    """One AdvertReceiver for each device, family and protocol, shared by all virtual routers."""

    def __init__(self, loop: Loop, on_advert: OnAdvert, matters: WhatMatters = lambda *_: Relevant(0)) -> None:
        """`matters` returns what the kernel still passes while there is a flood."""
        self._loop = loop
        self._on_advert = on_advert
        self._matters = matters
        self._open: dict[SocketKey, tuple[AdvertReceiver, ReceiverSettings]] = {}
        self._guards: dict[AdvertReceiver, FloodGuard] = {}
        self._timers: dict[AdvertReceiver, Timer] = {}

    def configure(self, instances: Iterable[tuple[VrrpInstance, str]]) -> list[str]:
        """Receive for these instances, each on its device; return error messages."""
        wanted: dict[SocketKey, ReceiverSettings] = {}
        for instance, device in instances:
            key = device, family_of(instance), protocol_of(instance)
            groups, buffer_bytes, vrids = wanted.get(key, (frozenset(), 0, frozenset()))
            own = () if instance.peers else (instance.multicast,)
            wanted[key] = groups.union(own), buffer_bytes + instance.receive_buffer, vrids | {instance.vrid}
        for key in [key for key, (_, known) in self._open.items() if wanted.get(key) != known]:
            self._close(key)
        errors = []
        for key, settings in wanted.items():
            if key not in self._open:
                try:
                    self._start(key, settings)
                except OSError as error:
                    errors.append(f"advertisements cannot be received on {key[0]}: {error.strerror}")
        return errors

    def rejoin(self, device: str) -> None:
        """Join the groups again after a device was replaced or got another index."""
        for (name, _, _), (receiver, _) in self._open.items():
            if name == device:
                receiver.rejoin()

    def close(self) -> None:
        for key in list(self._open):
            self._close(key)

    def _start(self, key: SocketKey, settings: ReceiverSettings) -> None:
        device, family, protocol = key
        groups, buffer_bytes, vrids = settings
        receiver = AdvertReceiver(device, family, protocol, groups, buffer_bytes)
        self._open[key] = receiver, settings
        self._guards[receiver] = FloodGuard(vrids)
        self._loop.watch(receiver.fileno(), lambda: self._receive(device, receiver))

    def _close(self, key: SocketKey) -> None:
        receiver, _ = self._open.pop(key)
        self._loop.forget(receiver.fileno())
        receiver.close()
        del self._guards[receiver]
        if timer := self._timers.pop(receiver, None):
            timer.cancel()

    def _receive(self, device: str, receiver: AdvertReceiver) -> None:
        guard, now = self._guards[receiver], self._loop.now
        for datagram in receiver.receive():
            vrid = vrid_of(datagram)
            if receiver.admits(vrid, datagram):  # else it was in the queue before the filter was restricted
                self._on_advert(device, vrid, datagram)
            if guard.count(vrid, now):
                self._restrict(device, receiver)

    def _restrict(self, device: str, receiver: AdvertReceiver) -> None:
        """Let the kernel drop what the guard says, until it is due."""
        guard = self._guards[receiver]
        vrids: dict[int, Admission] = {
            vrid: False if level > 1 else self._matters(device, receiver.family, vrid)
            for vrid, level in guard.levels.items()
        }
        own = next(settings[2] for each, settings in self._open.values() if each is receiver)
        receiver.admit({vrid: vrids.get(vrid, True) for vrid in own}, guard.foreign)
        if timer := self._timers.pop(receiver, None):
            timer.cancel()
        if guard.due is not None:
            self._timers[receiver] = self._loop.at(guard.due, lambda: self._relax(device, receiver))

    def _relax(self, device: str, receiver: AdvertReceiver) -> None:
        if receiver in self._guards:
            self._guards[receiver].wake(self._loop.now)
            self._restrict(device, receiver)
