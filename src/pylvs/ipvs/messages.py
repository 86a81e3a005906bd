"""Generic netlink messages of the family IPVS: services, destinations, timeouts, sync daemons. Pure.

Formats: linux/ip_vs.h (IPVS-SEMANTICS 11.1, 11.2). A message begins with its command.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address

from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    Tunnel,
    TunnelFlag,
    TunnelKind,
    VirtualService,
)
from pylvs.model.sync.connection import METHOD_MASK
from pylvs.netlink.codec import attribute, attributes, name, nested, number, text, u32

FAMILY = "IPVS"
NEW_SERVICE, GET_SERVICE, NEW_DEST, GET_DEST = 1, 4, 5, 8
NEW_DAEMON, DEL_DAEMON, GET_DAEMON, SET_CONFIG, GET_CONFIG, FLUSH = 9, 10, 11, 12, 13, 17
MASTER, BACKUP = 1, 2  # states of a sync daemon
_HEADER = struct.Struct("=BBH")
_VERSION = 1
_SERVICE, _DEST, _DAEMON, _TCP, _TCP_FIN, _UDP = 1, 2, 3, 4, 5, 6  # attributes of a message
_ALL_FLAGS = 0xFFFFFFFF
_KEPT_FLAGS = int(ServiceFlag.PERSISTENT | ServiceFlag.ONE_PACKET)
_SCHEDULER_FLAGS = int(ServiceFlag.SCHED_1 | ServiceFlag.SCHED_2 | ServiceFlag.SCHED_3)


@dataclass(frozen=True, slots=True)
class KernelService:
    """A service as the kernel has it. `flags` are the kernel's, of which pylvs knows those of `service`."""

    service: VirtualService
    flags: int

    @property
    def unknown_flags(self) -> int:
        """Return the flags that pylvs does not know; 0x2 is the kernel's own, of a service in its table."""
        return self.flags & ~(_KEPT_FLAGS | _SCHEDULER_FLAGS | 0x2)


@dataclass(frozen=True, slots=True)
class KernelDestination:
    """A destination as the kernel has it, with its connections. `method` is the kernel's number."""

    destination: Destination
    method: int
    tunnel_kind: int
    active: int
    inactive: int
    persistent: int


@dataclass(frozen=True, slots=True)
class SyncDaemon:
    """A sync daemon of the kernel."""

    state: int
    interface: str
    syncid: int


def request(command: int, *members: bytes) -> bytes:
    """Return the body of a message."""
    return _HEADER.pack(command, _VERSION, 0) + b"".join(members)


def _address(raw: bytes, family: int) -> Address:
    return IPv4Address(raw[:4]) if family == socket.AF_INET else IPv6Address(raw[:16])


def _u16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=H", value))


def _port(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("!H", value))


def _service_key(key: ServiceKey) -> list[bytes]:
    if key.mark:
        return [_u16(1, key.family), u32(5, key.mark)]
    address = attribute(3, key.address.packed.ljust(16, b"\0"))
    return [_u16(1, key.family), _u16(2, key.protocol), address, _port(4, key.port)]


def service_named(key: ServiceKey) -> bytes:
    """Return the attribute that names a service."""
    return nested(_SERVICE, *_service_key(key))


def service_whole(service: VirtualService) -> bytes:
    """Return the attribute of a service to add."""
    is_ipv4 = service.key.family == socket.AF_INET
    netmask = struct.pack("!I" if is_ipv4 else "=I", service.mask)
    members = [
        *_service_key(service.key),
        text(6, service.scheduler),
        attribute(7, struct.pack("=II", int(service.flags), _ALL_FLAGS)),
        u32(8, service.timeout_s),
        attribute(9, netmask),
    ]
    if service.engine:
        members.append(text(11, service.engine))
    return nested(_SERVICE, *members)


def destination_whole(destination: Destination) -> bytes:
    """Return the attribute of a destination to add."""
    key, tunnel = destination.key, destination.tunnel
    members = [
        attribute(1, key.address.packed.ljust(16, b"\0")),
        _port(2, key.port),
        u32(3, destination.method),
        u32(4, destination.weight),
        u32(5, destination.upper),
        u32(6, destination.lower),
        _u16(11, socket.AF_INET if key.address.version == 4 else socket.AF_INET6),
    ]
    if destination.method is Method.TUNNEL:
        members += [attribute(13, bytes((tunnel.kind,))), _port(14, tunnel.port), _u16(15, int(tunnel.flags))]
    return nested(_DEST, *members)


def timeouts_whole(timeouts: Timeouts) -> bytes:
    """Return the attributes of timeouts, in seconds; the kernel leaves those that are 0."""
    return b"".join(u32(kind, value) for kind, value in zip((_TCP, _TCP_FIN, _UDP), timeouts, strict=True))


def daemon_whole(state: int, interface: str, syncid: int) -> bytes:
    """Return the attribute of a sync daemon to start, or to stop."""
    return nested(_DAEMON, u32(1, state), text(2, interface), u32(3, syncid))


def parse_service(body: bytes) -> KernelService:
    """Parse a service of the kernel's table. Raises KeyError, ValueError for what no kernel sends."""
    found = attributes(attributes(body, _HEADER.size)[_SERVICE])
    family, mark = number(found[1]), number(found.get(5))
    if mark:
        key = ServiceKey.of_mark(mark, family)
    else:
        protocol, port = Protocol(number(found[2])), int.from_bytes(found[4], "big")
        key = ServiceKey(protocol, _address(found[3], family), port)
    flags = struct.unpack_from("=I", found[7])[0]
    is_persistent = bool(flags & ServiceFlag.PERSISTENT)
    netmask = int.from_bytes(found[9], "big") if family == socket.AF_INET else number(found[9])
    service = VirtualService(
        key,
        name(found[6]),
        ServiceFlag(flags & (_KEPT_FLAGS | _SCHEDULER_FLAGS)),
        number(found[8]) if is_persistent else 0,
        netmask if is_persistent else -1,
        name(found.get(11)),
    )
    return KernelService(service, flags)


def parse_destination(body: bytes, family: int) -> KernelDestination:
    """Parse a destination of a service of this address family. Raises KeyError, ValueError as `parse_service`."""
    found = attributes(attributes(body, _HEADER.size)[_DEST])
    own_family = number(found[11]) if 11 in found else family
    method, kind = number(found[3]) & METHOD_MASK, number(found.get(13))
    tunnel = Tunnel()
    if method == Method.TUNNEL and kind in set(TunnelKind):
        flags = TunnelFlag(number(found.get(15)) & 0x3)
        tunnel = Tunnel(TunnelKind(kind), int.from_bytes(found.get(14, b""), "big"), flags)
    destination = Destination(
        DestinationKey(_address(found[1], own_family), int.from_bytes(found[2], "big")),
        Method(method) if method in set(Method) else Method.ROUTE,
        number(found[4]),
        number(found[5]),
        number(found[6]),
        tunnel,
    )
    return KernelDestination(
        destination, method, kind, number(found.get(7)), number(found.get(8)), number(found.get(9))
    )


def parse_timeouts(body: bytes) -> Timeouts:
    """Parse the timeouts. Raises KeyError."""
    found = attributes(body, _HEADER.size)
    return Timeouts(*(number(found[kind]) for kind in (_TCP, _TCP_FIN, _UDP)))


def parse_daemon(body: bytes) -> SyncDaemon:
    """Parse a sync daemon. Raises KeyError."""
    found = attributes(attributes(body, _HEADER.size)[_DAEMON])
    return SyncDaemon(number(found[1]), name(found[2]), number(found[3]))
