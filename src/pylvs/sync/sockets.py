"""The sockets of sync daemons: multicast in one network device (IPVS-SEMANTICS 10.1). Raises OSError.

Root makes them. The process that receives has no privileges, and gets their descriptors.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

from pylvs.model.addresses import family_of
from pylvs.model.errors import NoSuchDevice, PylvsError
from pylvs.model.sync.daemons import MASTER, SyncDaemon
from pylvs.netlink import links
from pylvs.sync import request
from pylvs.system.sockets import (
    DROP,
    EQUALS,
    LOAD_1,
    LOAD_2,
    LOAD_4,
    TAKE,
    Instruction,
    attach,
    closed_on_error,
    enlarge,
)

RECEIVE_BUFFER = 4 << 20  # bytes: 2,800 messages of 1,472 bytes, while the receiver waits for the tables
_IP_MTU_DISCOVER, _PMTUDISC_DONT = 10, 0  # linux/in.h
_SO_MEMINFO, _DROPS = 55, 8  # asm-generic/socket.h, linux/sock_diag.h: the element of dropped packets
_SO_SNDBUFFORCE = 32
_SO_DETACH_FILTER = 27
_MREQN, _MREQ6 = struct.Struct("=4s4si"), struct.Struct("=16si")
_UDP_HEADER = 8
_REQUESTS_BUFFER = 1 << 14  # some dozens of requests
_LOAD_LENGTH, _TO_X, _SUBTRACT, _EQUALS_X = 0x80, 0x07, 0x14, 0x1D  # BPF_LD|LEN, TAX, SUB|K, JEQ|X


def sender(daemon: SyncDaemon, thread: int, buffer: int) -> socket.socket:
    """Return a socket that sends to the group, without multicast loopback; `buffer` is its size, 0 for the default."""
    device = links.device(daemon.interface)
    made = socket.socket(family_of(daemon.group), socket.SOCK_DGRAM)
    with closed_on_error(made):
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.name.encode())
        if buffer:
            _enlarge_sending(made, buffer)
        if daemon.group.version == 4:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, _MREQN.pack(bytes(4), bytes(4), device.index))
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, daemon.ttl)
            made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
            own = next((each for each in device.addresses if each.version == 4), None)
            if own is not None:
                made.bind((str(own), 0))
            made.connect((str(daemon.group), daemon.port + thread))
        else:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, device.index)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, daemon.ttl)
            made.connect((str(daemon.group), daemon.port + thread, 0, device.index))
    return made


def receiver(daemon: SyncDaemon, thread: int, buffer: int) -> socket.socket:
    """Return a socket that receives what comes for the group on the device."""
    device = links.device(daemon.interface)
    made = socket.socket(family_of(daemon.group), socket.SOCK_DGRAM)
    with closed_on_error(made):
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.name.encode())
        enlarge(made, buffer or RECEIVE_BUFFER)
        if daemon.group.version == 4:
            made.bind((str(daemon.group), daemon.port + thread))
            membership = _MREQN.pack(daemon.group.packed, bytes(4), device.index)
            made.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        else:
            made.bind((str(daemon.group), daemon.port + thread, 0, device.index))
            membership = _MREQ6.pack(daemon.group.packed, device.index)
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
    return made


def opened(daemon: SyncDaemon, ports: int, buffer: int) -> list[socket.socket]:
    """Return the sockets of a daemon, one for each port. Raises NoSuchDevice, PylvsError."""
    make = sender if daemon.role == MASTER else receiver
    with contextlib.ExitStack() as after_an_error:
        made = []
        for thread in range(ports):
            with _named(daemon, thread):
                made.append(after_an_error.enter_context(make(daemon, thread, buffer)))
        after_an_error.pop_all()
    return made


def for_requests(daemon: SyncDaemon) -> socket.socket:
    """Return the socket by which a backup requests whole tables, or a master receives requests and nothing else.

    Raises NoSuchDevice, PylvsError.
    """
    with _named(daemon, 0):
        if daemon.role != MASTER:
            return sender(daemon, 0, 0)
        made = receiver(daemon, 0, _REQUESTS_BUFFER)
        with closed_on_error(made):
            _take_requests_alone(made, daemon.syncid)
        return made


@contextlib.contextmanager
def _named(daemon: SyncDaemon, thread: int) -> Iterator[None]:
    """Raise an OSError of the block as PylvsError."""
    try:
        yield
    except OSError as error:
        where = f"{daemon.group}, port {daemon.port + thread}, on {daemon.interface}"
        raise PylvsError(f"the {daemon.role} sync daemon cannot use {where}: {error.strerror}") from None


def mtu_of(interface: str) -> int:
    """Return the MTU of a device. Raises NoSuchDevice."""
    try:
        return links.device(interface).mtu
    except OSError:
        raise NoSuchDevice(f"{interface}: no such device") from None


def _enlarge_sending(made: socket.socket, octets: int) -> None:
    try:
        made.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, octets)
    except PermissionError:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, octets)


def refuse_useless(received: socket.socket, syncid: int) -> None:
    """Let the kernel drop messages of another size than they say, or of another syncid, unless that is 0."""
    program: list[Instruction] = [
        (_LOAD_LENGTH, 0, 0, 0),
        (_SUBTRACT, 0, 0, _UDP_HEADER),
        (_TO_X, 0, 0, 0),
        (LOAD_2, 0, 0, _UDP_HEADER + 2),
        (_EQUALS_X, 1, 0, 0),
        DROP,
    ]
    if syncid:
        program += [(LOAD_1, 0, 0, _UDP_HEADER + 1), (EQUALS, 1, 0, syncid), DROP]
    attach(received, [*program, TAKE])


def _take_requests_alone(received: socket.socket, syncid: int) -> None:
    """Let the kernel drop all but requests: a master is root, and parses nothing else of other hosts."""
    name = int.from_bytes(request.NAME[:4], "big")
    program: list[Instruction] = [
        (_LOAD_LENGTH, 0, 0, 0),
        (EQUALS, 1, 0, _UDP_HEADER + request.SIZE),
        DROP,
        (LOAD_4, 0, 0, _UDP_HEADER + request.NAME_AT),
        (EQUALS, 1, 0, name),
        DROP,
        (LOAD_1, 0, 0, _UDP_HEADER + request.KIND_AT),
        (EQUALS, 1, 0, request.Kind.WANTED),
        DROP,
    ]
    program += [
        (LOAD_1, 0, 0, _UDP_HEADER + 1),
        (EQUALS, 2, 0, syncid),
        (EQUALS, 1, 0, 0),  # of a backup that takes the messages of all
        DROP,
    ]
    attach(received, [*program, TAKE])


def take_all(received: socket.socket) -> None:
    """Remove that filter."""
    with contextlib.suppress(FileNotFoundError):
        received.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def dropped(received: socket.socket) -> int:
    """Return how many packets the kernel has dropped at this socket: its buffer was full, or by the filter."""
    values = received.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_DROPS + 1))
    return int(struct.unpack_from("=I", values, 4 * _DROPS)[0]) if len(values) >= 4 * (_DROPS + 1) else 0
