"""The filter in front of those who claim addresses (`pylvs.system.socket_filter`).

It lets through ARP and neighbour advertisements that name a watched address and come from nobody of ours; of an IPv6
address it compares the last 32 bits. More addresses or MACs than have room are not compared: who reads compares again.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.system import sysctl
from pylvs.system.socket_filter import ANCILLARY, DROP, EQUALS, LOAD_1, LOAD_2, LOAD_4, TAKE, Instruction, attach
from pylvs.vrrp.loop import Loop, Timer
from pylvs.vrrp.netlink_monitor import NetlinkMonitor
from pylvs.vrrp.ports import DeviceAddress
from pylvs.vrrp.protocol import arp_ndp
from pylvs.vrrp.protocol.arp_ndp import (
    ETH_P_ARP,
    ETH_P_IPV6,
    HOP_LIMIT,
    ICMPV6,
    NEIGHBOUR_ADVERTISEMENT,
    AddressBinding,
    parse_binding,
)

PACKET_TYPE, VLAN_TAGGED = ANCILLARY + 4, ANCILLARY + 48
OUTGOING = 4
MAX_FILTERED_ADDRESSES, MAX_FILTERED_MACS = 1800, 60  # a program has 4096 instructions at most

SOURCE_MAC, ETHERTYPE = 6, 12  # offsets in a frame
ARP_SENDER_MAC, ARP_SENDER = 22, 28
NEXT_HEADER, LIMIT, ICMP_TYPE, TARGET_END = 20, 21, 54, 74


def conflict_filter(version: int, addresses: Collection[Address], own_macs: Collection[bytes]) -> list[Instruction]:
    """For ARP (version 4) or neighbour advertisements (6); without addresses it drops everything."""
    watched = sorted({int(address) & 0xFFFFFFFF for address in addresses if address.version == version})
    if not watched:
        return [DROP]
    made = [*_unless(LOAD_4, PACKET_TYPE, OUTGOING), *_only(LOAD_4, VLAN_TAGGED, 0)]
    if version == 4:
        made += _only(LOAD_2, ETHERTYPE, ETH_P_ARP)
        made += _only(LOAD_4, 14, 0x00010800)  # Ethernet, IPv4
        made += _only(LOAD_2, 18, 0x0604)  # and the bytes of an address of each
    else:
        made += _only(LOAD_2, ETHERTYPE, ETH_P_IPV6)
        made += _only(LOAD_1, NEXT_HEADER, ICMPV6)
        made += _only(LOAD_1, LIMIT, HOP_LIMIT)
        made += _only(LOAD_1, ICMP_TYPE, NEIGHBOUR_ADVERTISEMENT)
    if len(own_macs) <= MAX_FILTERED_MACS:
        for mac in sorted(own_macs):
            made += _not_from(mac, ARP_SENDER_MAC if version == 4 else SOURCE_MAC)
    if len(watched) > MAX_FILTERED_ADDRESSES:
        return [*made, TAKE]
    made.append((LOAD_4, 0, 0, ARP_SENDER if version == 4 else TARGET_END))
    for word in watched:
        made += [(EQUALS, 0, 1, word), TAKE]
    return [*made, DROP]


def _only(load: int, at: int, value: int) -> Iterator[Instruction]:
    yield from ((load, 0, 0, at), (EQUALS, 1, 0, value), DROP)


def _unless(load: int, at: int, value: int) -> Iterator[Instruction]:
    yield from ((load, 0, 0, at), (EQUALS, 0, 1, value), DROP)


def _not_from(mac: bytes, at: int) -> Iterator[Instruction]:
    first, last = struct.unpack("!IH", mac)
    yield from ((LOAD_4, 0, 0, at), (EQUALS, 0, 3, first), (LOAD_2, 0, 0, at + 4), (EQUALS, 0, 1, last), DROP)


# --- link socket -----------------------------------------------------------------------------------------------------
# Announcements go out, and the claims of others come in: packet sockets (packet(7)), never waiting for anything.
#
# Whatever the kernel can throw away before this process is woken, its filter throws away.


LONGEST_FRAME = 2048
RECEIVE_BUFFER = 64 << 10  # bytes: what does not fit is dropped by the kernel, not worked on here


class FrameSender:
    """Sends frames on any device. Raises OSError if it cannot be made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)

    def send(self, device: str, frame: bytes) -> str:
        """Why it was not sent; "" if it was."""
        try:
            self._socket.sendto(frame, (device, 0))
        except OSError as error:
            return f"{device}: {error.strerror}"
        return ""

    def close(self) -> None:
        """No more."""
        self._socket.close()


class ConflictSocket:
    """Hears who claims one of the watched addresses on a device; nothing, before `watch`. Raises OSError.

    One socket for each protocol, and for IPv6 only where such an address is watched: the kernel shows them nothing
    else, none of what this host sends, and none of what the data plane has already forwarded.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self._addresses: frozenset[Address] = frozenset()
        self._own: frozenset[bytes] = frozenset()
        self._sockets: dict[int, socket.socket] = {}
        self._either = select.epoll()
        try:
            self._open(ETH_P_ARP)
        except OSError:
            self.close()
            raise

    def fileno(self) -> int:
        """To be watched for reading."""
        return self._either.fileno()

    @property
    def gone(self) -> bool:
        """Whether the device was removed, or has another name now: one of this name needs an ear of its own."""
        return str(self._sockets[ETH_P_ARP].getsockname()[0]) != self.device

    def watch(self, addresses: Collection[Address], own_macs: Collection[bytes]) -> None:
        """From now on these addresses, unless one of these claims them. Raises OSError."""
        self._addresses, self._own = frozenset(addresses), frozenset(own_macs)
        if any(address.version == 6 for address in self._addresses):
            self._open(ETH_P_IPV6)
        elif ETH_P_IPV6 in self._sockets:
            self._close(ETH_P_IPV6)
        for protocol, opened in self._sockets.items():
            version = 4 if protocol == ETH_P_ARP else 6
            attach(opened, conflict_filter(version, self._addresses, self._own))

    def receive(self, most: int = 64) -> list[AddressBinding]:
        """The claims among the next frames, so many of each protocol at most; called again when there are more."""
        found = []
        for opened in self._sockets.values():
            for _ in range(most):
                try:
                    frame, (device, *_) = opened.recvfrom(LONGEST_FRAME)
                except OSError:
                    break  # there are no more, or the device is down
                claim = parse_binding(frame, device)
                if claim and device == self.device and claim.address in self._addresses and claim.mac not in self._own:
                    found.append(claim)
        return found

    def close(self) -> None:
        """No more."""
        for protocol in list(self._sockets):
            self._close(protocol)
        self._either.close()

    def _open(self, protocol: int) -> None:
        if protocol in self._sockets:
            return
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            attach(opened, conflict_filter(4, (), ()))
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
            opened.bind((self.device, protocol))
            self._either.register(opened, select.EPOLLIN)
        except OSError:
            opened.close()
            raise
        self._sockets[protocol] = opened

    def _close(self, protocol: int) -> None:
        self._sockets.pop(protocol).close()


def announcement_frame(device: str, address: Address, mac: bytes) -> bytes:
    """The frame for an address on a device: IPv6 says that this is a router where that device forwards it."""
    return arp_ndp.encode_announcement(address, mac, router=address.version == 6 and forwards_ipv6(device))


def forwards_ipv6(device: str) -> bool:
    """Whether IPv6 packets that come in on a device are forwarded."""
    try:
        return sysctl.read_number(f"net/ipv6/conf/{device}/forwarding") != 0
    except (PylvsError, OSError, ValueError):
        return False  # no IPv6 here, or no such device any more


def neighbour_ip(mac: bytes) -> str:
    """By which IPv4 address this host's neighbour table knows a link address; "" if by none. Raises nothing."""
    try:
        with open("/proc/thread-self/net/arp", encoding="ascii") as table:
            rows = [line.split() for line in table]
    except OSError:
        return ""
    return next((row[0] for row in rows if len(row) > 3 and row[3].lower() == mac.hex(":")), "")


# --- claims ----------------------------------------------------------------------------------------------------------
# Who else claims an address that is held here: what is said of it, and whether it is answered. Pure.
#
# However many claims come, little is said and less is answered: two hosts that answered each other at once would never
# end (RFC 5227, 2.4).


LOG_INTERVAL_S = 60.0  # of the same address and claimant
DEFEND_INTERVAL_S = 10.0  # between two answers for the same address (RFC 5227, 1.1)
MAX_LOGGED = 10  # claimants in TOLD_EVERY_S
MAX_REMEMBERED = 256  # addresses, and claimants: beyond it the oldest are forgotten


@dataclass(frozen=True, slots=True)
class ConflictResponse:
    """What follows from a claim."""

    words: str = ""  # for the log; "": nothing new
    answer: bool = False  # announce the address again


@dataclass(slots=True)
class _Claimant:
    told_at: float
    since: int = 0  # claims that were not told


class ConflictTracker:
    """All claims of addresses that are held here. `known_as` gives a claimant's own address, or ""."""

    def __init__(self, known_as: Callable[[bytes], str] = lambda mac: "") -> None:
        self._known_as = known_as
        self._claimants: dict[tuple[Address, bytes], _Claimant] = {}
        self._answered: dict[Address, float] = {}
        self._told: list[float] = []
        self._untold = 0  # claims of claimants who were one too many

    def hear(self, now: float, claim: AddressBinding) -> ConflictResponse:
        """Somebody claimed an address that is held here at this time."""
        return ConflictResponse(self._words(now, claim), self._answer(now, claim.address))

    def _answer(self, now: float, address: Address) -> bool:
        if now < self._answered.get(address, float("-inf")) + DEFEND_INTERVAL_S:
            return False
        self._answered.pop(address, None)
        self._answered[address] = now
        if len(self._answered) > MAX_REMEMBERED:
            del self._answered[next(iter(self._answered))]
        return True

    def _words(self, now: float, claim: AddressBinding) -> str:
        who = (claim.address, claim.mac)
        known = self._claimants.get(who)
        if known and now < known.told_at + LOG_INTERVAL_S:
            known.since += 1
            return ""
        self._told = [at for at in self._told if now < at + LOG_INTERVAL_S]
        if len(self._told) >= MAX_LOGGED:
            self._untold += 1
            return ""
        self._told.append(now)
        self._claimants.pop(who, None)
        self._claimants[who] = _Claimant(now)
        if len(self._claimants) > MAX_REMEMBERED:
            del self._claimants[next(iter(self._claimants))]
        address = self._known_as(claim.mac)
        name = claim.mac.hex(":") + (f" ({address})" if address and address != str(claim.address) else "")
        words = f"{claim.address} is claimed by {name}" + (f" on {claim.device}" if claim.device else "")
        if known and known.since:
            words += f", and was {known.since} times since it was last told"
        if self._untold:
            words += f"; {self._untold} claims of others were not told"
            self._untold = 0
        return words


# --- claim ears ------------------------------------------------------------------------------------------------------
# Who else says that an address which is held here is his: one ear on each device that holds any.


LISTEN_DELAY_S = 0.005  # announcements leave first

HeldAddresses = Callable[[], Iterable[DeviceAddress]]
ReportError = Callable[[str, str], None]  # about which device, and what
OnConflict = Callable[[Address, str, bool], None]  # an address, in words if there is news, whether to announce it again


class ConflictListener:
    """All of them. `held` says what is held at this moment, `claimed` is told of claims."""

    def __init__(
        self, loop: Loop, links: NetlinkMonitor, held: HeldAddresses, claimed: OnConflict, trouble: ReportError
    ) -> None:
        self._loop = loop
        self._links = links
        self._held = held
        self._claimed = claimed
        self._trouble = trouble
        self._ears: dict[str, ConflictSocket] = {}
        self._claims = ConflictTracker(neighbour_ip)
        self._later: Timer | None = None

    def listen_soon(self) -> None:
        """To claims of what is held then."""
        if self._later is None or self._later.call is None:
            self._later = self._loop.at(self._loop.now + LISTEN_DELAY_S, self._listen)

    def forget(self, device: str) -> None:
        """It has gone, or is another one now."""
        ear = self._ears.pop(device, None)
        if ear is not None:
            self._loop.forget(ear.fileno())
            ear.close()

    def close(self) -> None:
        """All of them."""
        for device in list(self._ears):
            self.forget(device)

    def _listen(self) -> None:
        wanted: dict[str, set[Address]] = {}
        for device, address in self._held():
            wanted.setdefault(device, set()).add(address)
        for device in [device for device in self._ears if device not in wanted]:
            self.forget(device)
        for device, addresses in wanted.items():
            link = self._links.links.get(device)
            if link is None:
                continue
            try:
                self._ear(device).watch(addresses, {link.mac, *self._macs_above(link.index)})
            except OSError as error:
                self._trouble(device, f"claims of others are not heard on {device}: {error.strerror}")

    def _ear(self, device: str) -> ConflictSocket:
        if device not in self._ears:
            ear = self._ears[device] = ConflictSocket(device)
            self._loop.watch(ear.fileno(), partial(self._hear, ear))
        return self._ears[device]

    def _macs_above(self, index: int) -> set[bytes]:
        return {link.mac for link in self._links.links.values() if link.below == index}

    def _hear(self, ear: ConflictSocket) -> None:
        for claim in ear.receive():
            heard = self._claims.hear(self._loop.now, claim)
            if heard.words or heard.answer:
                self._claimed(claim.address, heard.words, heard.answer)
