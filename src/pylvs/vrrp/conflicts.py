"""Detect address conflicts (RFC 5227; RFC 4862, 5.4): other hosts that announce an address which this host holds.

Conflicts are logged and, at a limited rate, answered by announcing the address again. Two hosts that answered each
other immediately would never stop (RFC 5227, 2.4).
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Collection, Iterable
from functools import partial

from pylvs.model.addresses import Address
from pylvs.system import sockets
from pylvs.system.sockets import ANCILLARY, DROP, EQUALS, LOAD_1, LOAD_2, LOAD_4, TAKE, Instruction, attach
from pylvs.vrrp import garp
from pylvs.vrrp.garp import AddressBinding, DeviceAddress, parse_binding
from pylvs.vrrp.loop import Loop, RateLimiter, Timer
from pylvs.vrrp.netlink_monitor import NetlinkMonitor

LOG_INTERVAL_S = 60.0  # of the same address and host
DEFEND_INTERVAL_S = 10.0  # between two answers for the same address (RFC 5227, 1.1)
MAX_LOGGED = 10  # hosts in LOG_INTERVAL_S
MAX_ANSWERED = 4096  # addresses in DEFEND_INTERVAL_S


class ConflictTracker:
    """The conflicts of all held addresses. `ip_of` returns the usual address of a MAC address, or ""."""

    def __init__(self, ip_of: Callable[[bytes], str] = lambda mac: "") -> None:
        self._ip_of = ip_of
        self._logged = RateLimiter(LOG_INTERVAL_S, MAX_LOGGED)
        self._answered = RateLimiter(DEFEND_INTERVAL_S, MAX_ANSWERED)

    def respond(self, now: float, binding: AddressBinding) -> tuple[str, bool]:
        """Handle a frame in which another host announces a held address.

        Return a text for the log, "" if there is nothing new, and whether to announce the address again.
        """
        return self._text(now, binding), self._answered.allow(binding.address, now) is not None

    def _text(self, now: float, binding: AddressBinding) -> str:
        suppressed = self._logged.allow((binding.address, binding.mac), now)
        if suppressed is None:
            return ""
        ip = self._ip_of(binding.mac)
        name = binding.mac.hex(":") + (f" ({ip})" if ip and ip != str(binding.address) else "")
        text = f"{binding.address} is claimed by {name}" + (f" on {binding.device}" if binding.device else "")
        if suppressed:
            text += f"; {suppressed} more like it since the last line"
        if self._logged.surplus:
            text += f"; {self._logged.surplus} claims of other hosts are not logged"
            self._logged.surplus = 0
        return text


def neighbour_ip(mac: bytes) -> str:
    """Return the IPv4 address of a MAC address in the neighbour table, "" if there is none."""
    try:
        with open("/proc/thread-self/net/arp", encoding="ascii") as table:
            rows = [line.split() for line in table]
    except OSError:
        return ""
    return next((row[0] for row in rows if len(row) > 3 and row[3].lower() == mac.hex(":")), "")


PACKET_TYPE, VLAN_TAGGED = ANCILLARY + 4, ANCILLARY + 48
OUTGOING = 4
MAX_FILTERED_ADDRESSES, MAX_FILTERED_MACS = 1800, 60  # a program has at most 4096 instructions

SOURCE_MAC, ETHERTYPE = 6, 12  # offsets in a frame
ARP_TYPES, ARP_LENGTHS, ARP_SENDER_MAC, ARP_SENDER = 14, 18, 22, 28
NEXT_HEADER_AT, HOP_LIMIT_AT, ICMP_TYPE_AT, TARGET_END = 20, 21, 54, 74
ARP_FIELDS = (  # how to load each, its offset and its value
    (LOAD_2, ETHERTYPE, garp.ETH_P_ARP),
    (LOAD_4, ARP_TYPES, 0x00010800),  # Ethernet, IPv4
    (LOAD_2, ARP_LENGTHS, 0x0604),
)
ADVERTISEMENT_FIELDS = (
    (LOAD_2, ETHERTYPE, garp.ETH_P_IPV6),
    (LOAD_1, NEXT_HEADER_AT, garp.ICMPV6),
    (LOAD_1, HOP_LIMIT_AT, garp.HOP_LIMIT),
    (LOAD_1, ICMP_TYPE_AT, garp.NEIGHBOUR_ADVERTISEMENT),
)


def conflict_filter(version: int, addresses: Collection[Address], own_macs: Collection[bytes]) -> list[Instruction]:
    """Return a filter that accepts ARP (version 4) or neighbour advertisements (6) of other hosts for these addresses.

    Of an IPv6 address it compares the last 32 bits. Too many addresses or MACs are not compared: the reader compares
    again. Without addresses it drops everything.
    """
    watched = sorted({int(address) & 0xFFFFFFFF for address in addresses if address.version == version})
    if not watched:
        return [DROP]
    program = [(LOAD_4, 0, 0, PACKET_TYPE), (EQUALS, 0, 1, OUTGOING), DROP]
    for load, at, value in (LOAD_4, VLAN_TAGGED, 0), *(ARP_FIELDS if version == 4 else ADVERTISEMENT_FIELDS):
        program += [(load, 0, 0, at), (EQUALS, 1, 0, value), DROP]
    mac_at = ARP_SENDER_MAC if version == 4 else SOURCE_MAC
    for mac in sorted(own_macs) if len(own_macs) <= MAX_FILTERED_MACS else ():
        first, last = struct.unpack("!IH", mac)
        program += [(LOAD_4, 0, 0, mac_at), (EQUALS, 0, 3, first)]
        program += [(LOAD_2, 0, 0, mac_at + 4), (EQUALS, 0, 1, last), DROP]
    if len(watched) > MAX_FILTERED_ADDRESSES:
        return [*program, TAKE]
    program.append((LOAD_4, 0, 0, ARP_SENDER if version == 4 else TARGET_END))
    for value in watched:
        program += [(EQUALS, 0, 1, value), TAKE]
    return [*program, DROP]


MAX_FRAME = 2048
RECEIVE_BUFFER = 64 << 10  # bytes; under a flood the kernel drops what exceeds it, at no cost to this process
LISTEN_DELAY_S = 0.005  # announcements leave first
BATCH = 64  # frames; a socket that has more is flooded
PAUSE_S = 0.1  # without reading a flooded socket: its queue is short, and the kernel drops the rest

SocketKey = tuple[str, int]  # device, version of IP
HeldAddresses = Callable[[], Iterable[DeviceAddress]]
ReportError = Callable[[str, str], None]  # a device, and a message
OnConflict = Callable[[Address, str, bool], None]  # an address, a message or "", whether to announce it again


class ConflictSocket:
    """Receive other hosts' frames about watched addresses of one version of IP on a device; nothing before `watch`.

    The kernel delivers neither what this host sends nor what the data plane has already forwarded.
    """

    def __init__(self, device: str, version: int) -> None:
        """Raises OSError."""
        self.flooded = False
        self._device = device
        self._version = version
        self._addresses: frozenset[Address] = frozenset()
        self._own_macs: frozenset[bytes] = frozenset()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        with sockets.closed_on_error(self._socket):
            attach(self._socket, [DROP])
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            self._socket.bind((device, garp.ETH_P_ARP if version == 4 else garp.ETH_P_IPV6))

    def fileno(self) -> int:
        return self._socket.fileno()

    def watch(self, addresses: Collection[Address], own_macs: Collection[bytes]) -> None:
        """Replace the watched addresses and the MAC addresses that may hold them. Raises OSError."""
        self._addresses, self._own_macs = frozenset(addresses), frozenset(own_macs)
        attach(self._socket, conflict_filter(self._version, self._addresses, self._own_macs))

    def receive(self, most: int = BATCH) -> list[AddressBinding]:
        """Return the conflicts among the next frames, at most so many; if there are as many, `flooded` is true."""
        conflicts = []
        self.flooded = False
        with contextlib.suppress(OSError):  # the queue is empty, or the device is down
            for _ in range(most):
                frame, (device, *_) = self._socket.recvfrom(MAX_FRAME)
                binding = parse_binding(frame, device)
                if binding is None or device != self._device or binding.mac in self._own_macs:
                    continue
                if binding.address in self._addresses:
                    conflicts.append(binding)
            self.flooded = True
        return conflicts

    def close(self) -> None:
        self._socket.close()


class ConflictListener:
    """A ConflictSocket on each device that holds a virtual address, for each version of IP."""

    def __init__(
        self, loop: Loop, links: NetlinkMonitor, held: HeldAddresses, on_conflict: OnConflict, report: ReportError
    ) -> None:
        self._loop = loop
        self._links = links
        self._held = held
        self._on_conflict = on_conflict
        self._report = report
        self._sockets: dict[SocketKey, ConflictSocket] = {}
        self._tracker = ConflictTracker(neighbour_ip)
        self._timer: Timer | None = None

    def listen_soon(self) -> None:
        """Watch, after a delay, the addresses that are held then."""
        if self._timer is None or self._timer.call is None:
            self._timer = self._loop.at(self._loop.now + LISTEN_DELAY_S, self._listen)

    def forget(self, device: str) -> None:
        """Close the sockets of a device that is gone, or was replaced by another of its name."""
        self._close([key for key in self._sockets if key[0] == device])

    def close(self) -> None:
        self._close(list(self._sockets))

    def _close(self, keys: Iterable[SocketKey]) -> None:
        for key in keys:
            closing = self._sockets.pop(key)
            self._loop.forget(closing.fileno())
            closing.close()

    def _listen(self) -> None:
        wanted: dict[SocketKey, set[Address]] = {}
        for device, address in self._held():
            wanted.setdefault((device, address.version), set()).add(address)
        self._close([key for key in self._sockets if key not in wanted])
        for (device, version), addresses in wanted.items():
            link = self._links.links.get(device)
            if link is None:
                continue
            above = {each.mac for each in self._links.links.values() if each.below == link.index}
            try:
                self._socket(device, version).watch(addresses, {link.mac, *above})
            except OSError as error:
                self._report(device, f"address conflicts on {device} are not detected: {error.strerror}")

    def _socket(self, device: str, version: int) -> ConflictSocket:
        if (device, version) not in self._sockets:
            opened = self._sockets[device, version] = ConflictSocket(device, version)
            self._loop.watch(opened.fileno(), partial(self._receive, opened))
        return self._sockets[device, version]

    def _receive(self, receiving: ConflictSocket) -> None:
        for binding in receiving.receive():
            text, answer = self._tracker.respond(self._loop.now, binding)
            if text or answer:
                self._on_conflict(binding.address, text, answer)
        if receiving.flooded:
            self._loop.forget(receiving.fileno())
            self._loop.at(self._loop.now + PAUSE_S, partial(self._resume, receiving))

    def _resume(self, receiving: ConflictSocket) -> None:
        if receiving in self._sockets.values():
            self._loop.watch(receiving.fileno(), partial(self._receive, receiving))
