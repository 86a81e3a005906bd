"""Announce a master's addresses: encode, schedule, rate-limit and send gratuitous ARP and neighbour advertisements.

Gratuitous ARP (RFC 5227, 3) and unsolicited neighbour advertisements (RFC 4861, 7.2.6) equal keepalived's byte for
byte. The parser accepts frames of any sender.

The scheduler and the limit are pure. A round announces each address a number of times: all addresses once, then all of
them again, as keepalived does. A round that begins while another waits for a limit adds only what is not queued.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.model.vrrp import Announcements, SendingLimit
from pylvs.system import proc
from pylvs.vrrp.protocol.adverts import checksum

ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD
BROADCAST_MAC = bytes.fromhex("ffffffffffff")
ALL_NODES = IPv6Address("ff02::1")
ALL_NODES_MAC = bytes.fromhex("333300000001")
ARP_ETHERNET_IPV4 = bytes.fromhex("000108000604")  # types and lengths of both addresses
REQUEST, REPLY = 1, 2
ICMPV6, NEIGHBOUR_ADVERTISEMENT, HOP_LIMIT = 58, 136, 255
ROUTER, OVERRIDE = 0x80, 0x20
TARGET_LINK_ADDRESS = 2

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!6sH6s4s6s4s")  # types and lengths, operation, sender's MAC and address, target's
_IPV6 = struct.Struct("!IHBB16s16s")
_ADVERTISEMENT = struct.Struct("!BBHB3x16s")  # type, code, checksum, flags, target
_PSEUDO = struct.Struct("!16s16sI3xB")


@dataclass(frozen=True, slots=True)
class AddressBinding:
    """An address and the link address that a received frame binds it to."""

    address: Address
    mac: bytes
    device: str = ""


@lru_cache(maxsize=1024)  # each address is announced several times
def gratuitous_arp(address: IPv4Address, mac: bytes) -> bytes:
    """Return a broadcast ARP request for the sender's own address."""
    arp = _ARP.pack(ARP_ETHERNET_IPV4, REQUEST, mac, address.packed, BROADCAST_MAC, address.packed)
    return _ETHERNET.pack(BROADCAST_MAC, mac, ETH_P_ARP) + arp


@lru_cache(maxsize=1024)
def neighbour_advertisement(address: IPv6Address, mac: bytes, *, router: bool) -> bytes:
    """Return an unsolicited advertisement to all nodes that overrides their caches; `router`: this host forwards."""
    option = bytes((TARGET_LINK_ADDRESS, 1)) + mac
    fields = (OVERRIDE | (ROUTER if router else 0), address.packed)
    length = _ADVERTISEMENT.size + len(option)
    pseudo = _PSEUDO.pack(address.packed, ALL_NODES.packed, length, ICMPV6)
    total = checksum(pseudo + _ADVERTISEMENT.pack(NEIGHBOUR_ADVERTISEMENT, 0, 0, *fields) + option)
    return (
        _ETHERNET.pack(ALL_NODES_MAC, mac, ETH_P_IPV6)
        + _IPV6.pack(6 << 28, length, ICMPV6, HOP_LIMIT, address.packed, ALL_NODES.packed)
        + _ADVERTISEMENT.pack(NEIGHBOUR_ADVERTISEMENT, 0, total, *fields)
        + option
    )


def parse_binding(frame: bytes, device: str = "") -> AddressBinding | None:
    """Return the binding in a frame; None for other frames, and for those that a host must ignore.

    ARP of either operation binds its sender's address, unless that is zero (a probe).
    """
    if len(frame) < _ETHERNET.size:
        return None
    _, sender, ethertype = _ETHERNET.unpack_from(frame)
    body = frame[_ETHERNET.size :]
    if ethertype == ETH_P_IPV6:
        return _parse_advertisement(body, sender, device)
    if ethertype != ETH_P_ARP or len(body) < _ARP.size:
        return None
    types, operation, mac, address, _, _ = _ARP.unpack_from(body)
    if types != ARP_ETHERNET_IPV4 or operation not in (REQUEST, REPLY) or not any(address):
        return None
    return AddressBinding(IPv4Address(address), mac, device)


def _parse_advertisement(body: bytes, sender: bytes, device: str) -> AddressBinding | None:
    """Check what RFC 4861, 7.1.2 demands, and take the link address from the option, else from the frame."""
    if len(body) < _IPV6.size + _ADVERTISEMENT.size:
        return None
    version, length, next_header, hop_limit, saddr, daddr = _IPV6.unpack_from(body)
    if version >> 28 != 6 or next_header != ICMPV6 or hop_limit != HOP_LIMIT:
        return None
    icmp = body[_IPV6.size : _IPV6.size + length]
    if not _ADVERTISEMENT.size <= length == len(icmp):
        return None
    icmp_type, code, _, _, target = _ADVERTISEMENT.unpack_from(icmp)
    if icmp_type != NEIGHBOUR_ADVERTISEMENT or code or checksum(_PSEUDO.pack(saddr, daddr, length, ICMPV6) + icmp):
        return None
    address = IPv6Address(target)
    if address.is_multicast or address.is_unspecified:
        return None
    options = icmp[_ADVERTISEMENT.size :]
    while options:
        size = options[1] * 8 if len(options) > 1 else 0
        if not 0 < size <= len(options):
            return None
        if options[0] == TARGET_LINK_ADDRESS:
            return AddressBinding(address, options[2:8], device)
        options = options[size:]
    return AddressBinding(address, sender, device)


DeviceAddress = tuple[str, Address]  # a device, and an address on it
LimitKey = tuple[int | str, int]  # the index of a limit, or a device under the limit of all others; and the family
TURN_TIMEOUT_S = 0.01  # after which another scheduler may use a turn that its owner missed
CONFLICT_INTERVAL_S = 1.0  # between two rounds that other masters provoke: their flood must not become ours
CONFLICT_BURST = 5  # so many rounds come at once: a split brain of several masters heals without a pause
_NEVER = {False: float("-inf"), True: float("-inf")}
BATCH_SIZE = 64  # announcements
BATCH_PAUSE_S = 0.001  # between batches, so that due timers (advertisements) run first


class GarpRateLimit:
    """garp_interval and gna_interval, shared by devices and virtual routers; several that wait take turns.

    `bases` names the device below each VMAC: limits belong to the real devices.
    """

    def __init__(self, limits: Iterable[SendingLimit] = (), bases: Mapping[str, str] | None = None) -> None:
        self._limits = tuple(limits)
        self.bases = bases or {}
        self._by_device = {device: index for index, limit in enumerate(self._limits) for device in limit.devices}
        self._default = next((limit for limit in self._limits if not limit.devices), None)
        self._free_at: dict[LimitKey, float] = {}
        self._waiting: dict[LimitKey, dict[GarpScheduler, None]] = {}  # longest waiting first

    def key_of(self, device: str, address: Address) -> LimitKey | None:
        """Return the limit that applies to an announcement; None: no limit."""
        device = self.bases.get(device, device)
        index = self._by_device.get(device)
        limit = self._default if index is None else self._limits[index]
        if limit is None or not (limit.arp_s if address.version == 4 else limit.neighbour_s):
            return None
        return (device if index is None else index, address.version)

    def wait(self, key: LimitKey, scheduler: GarpScheduler) -> None:
        """Append a scheduler to the queue."""
        self._waiting.setdefault(key, {}).setdefault(scheduler)

    def leave(self, key: LimitKey, scheduler: GarpScheduler) -> None:
        """Remove a scheduler from the queue."""
        self._waiting.get(key, {}).pop(scheduler, None)

    def ready_at(self, key: LimitKey, scheduler: GarpScheduler) -> float:
        """Return when a waiting scheduler may send."""
        free_at = self._free_at.get(key, float("-inf"))
        return free_at if next(iter(self._waiting[key])) == scheduler else free_at + TURN_TIMEOUT_S

    def sent(self, key: LimitKey, scheduler: GarpScheduler, now: float) -> None:
        """Start the interval and move the scheduler to the end of the queue."""
        which, family = key
        limit = self._default if isinstance(which, str) else self._limits[which]
        assert limit is not None
        self._free_at[key] = now + (limit.arp_s if family == 4 else limit.neighbour_s)
        self._waiting[key].pop(scheduler, None)
        self.wait(key, scheduler)


class _Round(Enum):
    """Why a round begins."""

    SECOND = "garp_master_delay after the take-over"
    REFRESH = "garp_master_refresh"
    EXTRA = "garp_extra_if"
    DEFERRED = "another master advertised, too soon after CONFLICT_BURST such rounds"
    CONFLICT = "garp_lower_prio_delay after another master advertised"


class GarpScheduler:
    """The announcements of one virtual router. Times are seconds of a monotonic clock; call `wake` at `due`.

    `device` is where the virtual router sends advertisements.
    """

    def __init__(self, settings: Announcements, limits: GarpRateLimit, device: str = "") -> None:
        self._settings = settings
        self._limits = limits
        self._device = device
        self._addresses: tuple[DeviceAddress, ...] = ()
        self._ready_at = 0.0  # nothing is sent before
        self._burst_at = dict(_NEVER)  # when CONFLICT_BURST rounds may come at once; apart for masters that gave up
        self._rounds: dict[_Round, float] = {}
        self._remaining: dict[DeviceAddress, int] = {}  # announcements
        self._queues: dict[LimitKey | None, deque[DeviceAddress]] = {}  # of _remaining, by limit

    def begin(self, now: float, addresses: Sequence[DeviceAddress]) -> None:
        """Start as master of these addresses: announce them now, after the delay, and at each refresh."""
        self.stop()
        self._ready_at = now
        if self._settings.refresh_s:
            self._rounds[_Round.REFRESH] = now + self._settings.refresh_s
        self.change(now, addresses)

    def change(self, now: float, addresses: Sequence[DeviceAddress]) -> None:
        """Replace the addresses after a reload; announce new ones as after a take-over."""
        self._ready_at = max(self._ready_at, now)
        before, self._addresses = set(self._addresses), tuple(addresses)
        for each in before.difference(self._addresses):
            self._forget(each)
        new = [each for each in self._addresses if each not in before]
        if new:
            self._enqueue(new, self._settings.repeat)
            if self._settings.delay_s:
                self._rounds[_Round.SECOND] = now + self._settings.delay_s
        if not (self._settings.extra_interval_s and self._extra()):
            self._rounds.pop(_Round.EXTRA, None)
        else:
            self._rounds.setdefault(_Round.EXTRA, now + self._settings.extra_interval_s)

    def once(self, now: float) -> None:
        """Announce each address once more, now."""
        self._ready_at = max(self._ready_at, now)
        self._enqueue(self._addresses, 1)

    def again(self, now: float, released: bool = False) -> bool:
        """Announce now and after a delay, because another master advertises, or has given up (`released`).

        False if this has no effect: there are no addresses, the configuration forbids it, or such a round waits.
        """
        settings = self._settings
        if not self._addresses or not settings.lower_priority_repeat:
            return False
        if settings.lower_priority_delay_s:
            self._rounds[_Round.CONFLICT] = now + settings.lower_priority_delay_s
        free_at = self._burst_at[released] - (CONFLICT_BURST - 1) * CONFLICT_INTERVAL_S
        if now < free_at and _Round.DEFERRED in self._rounds:
            return False
        self._ready_at = max(self._ready_at, now)
        if now < free_at:
            self._rounds[_Round.DEFERRED] = free_at
        else:
            self._answer(now, released)
        return True

    def defend(self, now: float, address: Address) -> None:
        """Announce one address now, because another host claims it; the caller limits how often."""
        self._ready_at = max(self._ready_at, now)
        claimed = [each for each in self._addresses if each[1] == address]
        self._enqueue(claimed, self._settings.lower_priority_repeat)

    def stop(self) -> None:
        """Forget everything: the virtual router is no longer master."""
        for key in self._queues:
            if key is not None:
                self._limits.leave(key, self)
        self._addresses = ()
        self._rounds.clear()
        self._remaining.clear()
        self._queues.clear()
        self._burst_at = dict(_NEVER)

    @property
    def due(self) -> float | None:
        """When to call `wake`; None: never. Other schedulers under the same limit change it."""
        times = list(self._rounds.values())
        for key in self._queues:
            limited_until = 0.0 if key is None else self._limits.ready_at(key, self)
            times.append(max(self._ready_at, limited_until))
        return min(times, default=None)

    def wake(self, now: float) -> list[DeviceAddress]:
        """Return what to announce now, in this order; at most BATCH_SIZE."""
        self._begin_rounds(now)
        batch: list[DeviceAddress] = []
        for key in list(self._queues):
            while key in self._queues and len(batch) < BATCH_SIZE:
                if key is not None:
                    if now < self._limits.ready_at(key, self):
                        break
                    self._limits.sent(key, self, now)
                batch.append(self._next(key))
        self._ready_at = now + BATCH_PAUSE_S if len(batch) == BATCH_SIZE else now
        return batch

    def _begin_rounds(self, now: float) -> None:
        settings = self._settings
        for kind, at in list(self._rounds.items()):
            if now < at:
                continue
            del self._rounds[kind]
            if kind is _Round.SECOND:
                self._enqueue(self._addresses, settings.repeat)
            elif kind is _Round.REFRESH:
                self._enqueue(self._addresses, settings.refresh_repeat)
                self._rounds[kind] = _following(at, settings.refresh_s, now)
            elif kind is _Round.EXTRA:
                self._enqueue(self._extra(), 1)
                self._rounds[kind] = _following(at, settings.extra_interval_s, now)
            elif kind is _Round.CONFLICT:
                self._enqueue(self._addresses, settings.lower_priority_repeat)
            else:
                self._answer(now)

    def _answer(self, now: float, released: bool = False) -> None:
        self._rounds.pop(_Round.DEFERRED, None)  # this one comes in its place
        self._burst_at[released] = max(self._burst_at[released], now) + CONFLICT_INTERVAL_S
        self._enqueue(self._addresses, self._settings.lower_priority_repeat)

    def _extra(self) -> list[DeviceAddress]:
        """Return one address of each other device, or each other VMAC: it refreshes the MAC tables of the switches."""
        first: dict[str, DeviceAddress] = {}
        for address in self._addresses:
            device = address[0]
            if device != self._device and (self._settings.extra_everywhere or device in self._limits.bases):
                first.setdefault(device, address)
        return list(first.values())

    def _enqueue(self, addresses: Sequence[DeviceAddress], repeat: int) -> None:
        for address in addresses if repeat > 0 else ():
            if address not in self._remaining:
                key = self._limits.key_of(*address)
                self._queues.setdefault(key, deque()).append(address)
                if key is not None:
                    self._limits.wait(key, self)
            self._remaining[address] = max(self._remaining.get(address, 0), repeat)

    def _next(self, key: LimitKey | None) -> DeviceAddress:
        queue = self._queues[key]
        address = queue.popleft()
        left = self._remaining.pop(address) - 1
        if left:
            self._remaining[address] = left
            queue.append(address)
        else:
            self._drop_if_empty(key)
        return address

    def _forget(self, address: DeviceAddress) -> None:
        if self._remaining.pop(address, 0):
            key = self._limits.key_of(*address)
            self._queues[key].remove(address)
            self._drop_if_empty(key)

    def _drop_if_empty(self, key: LimitKey | None) -> None:
        if not self._queues[key]:
            del self._queues[key]
            if key is not None:
                self._limits.leave(key, self)


def _following(at: float, interval_s: float, now: float) -> float:
    """Return the next periodic time; a late process skips those that have passed."""
    return at + interval_s if at + interval_s > now else now + interval_s


class FrameSender:
    """Send frames on any device. Raises OSError if the socket cannot be created."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)

    def send(self, device: str, frame: bytes) -> str:
        """Return an error message, "" on success."""
        try:
            self._socket.sendto(frame, (device, 0))
        except OSError as error:
            return f"{device}: {error.strerror}"
        return ""

    def close(self) -> None:
        self._socket.close()


def announcement_frame(device: str, address: Address, mac: bytes) -> bytes:
    """Return the frame for an address; for IPv6 with the router flag if the device forwards."""
    if address.version == 4:
        return gratuitous_arp(address, mac)
    return neighbour_advertisement(address, mac, router=forwards_ipv6(device))


def forwards_ipv6(device: str) -> bool:
    """Return whether the host forwards IPv6 packets received on a device."""
    try:
        return proc.read_number(f"net/ipv6/conf/{device}/forwarding") != 0
    except (PylvsError, OSError, ValueError):
        return False  # IPv6 is disabled, or the device is gone
