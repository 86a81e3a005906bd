"""What a virtual router says: its advertisements as packets, ready to be sent, the same bytes as keepalived's.

Pure. What does not change is built once, for each priority; an advertisement costs microseconds.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Hashable

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import Authentication, OldChecksum, Peer, VrrpInstance
from pylvs.vrrp.protocol.packet import (
    AH_BYTES,
    AH_PROTOCOL,
    MAX_ADDRESSES,
    MAX_SEQUENCE,
    PASSWORD_BYTES,
    PROTOCOL,
    TRAFFIC_CLASS,
    TTL,
    AdvertError,
    Advertisement,
    InvalidAdvert,
    ReplayWindow,
    add_ah,
    address_order,
    checksum,
    decode,
    encode,
    has_pseudo_header,
    verify_ah,
)
from pylvs.vrrp.sockets import Datagram

MTU = 1500
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_NUMBER = struct.Struct("!H")
_NUMBER_AT, _CHECKSUM_AT = 4, 10  # in an IPv4 header
_HEADER_BYTES = {4: _IPV4.size, 6: 40}
_ADDRESS_BYTES = {4: 4, 6: 16}
_FIXED_BYTES = 8  # of an advertisement
_SPARE_BYTES = 16  # keepalived leaves so many free


@dataclass(frozen=True, slots=True)
class OutgoingPacket:
    """A packet: with its IP header if that is IPv4, without if IPv6."""

    packet: bytes
    source: Address
    destination: Address
    hops: int = TTL


def advertised_addresses(router: VrrpInstance, mtu: int = MTU) -> tuple[Address, ...]:
    """The virtual addresses that fit into an advertisement; the rest is held, but not told."""
    room = mtu - _HEADER_BYTES[router.family] - _FIXED_BYTES - _SPARE_BYTES
    if router.version == 2:
        room -= PASSWORD_BYTES
        if router.authentication is Authentication.AH:
            room -= AH_BYTES
    most = max(0, min(MAX_ADDRESSES, room // _ADDRESS_BYTES[router.family]))
    addresses = (held.interface.ip for held in router.addresses)
    return tuple(address for address in addresses if address.version == router.family)[:most]


def socket_device(router: VrrpInstance, device: str) -> str:
    """By which it speaks and listens: of unicast "", by the routes, unless a link-local peer needs `device`."""
    return "" if router.peers and not any(peer.address.is_link_local for peer in router.peers) else device


class AdvertEncoder:
    """One virtual router's, from one address.

    `before` is its former self, whose numbers go on: packets from another address, or after another configuration.
    """

    def __init__(
        self,
        router: VrrpInstance,
        source: Address,
        mtu: int = MTU,
        sequence: int = 0,
        before: AdvertEncoder | None = None,
    ) -> None:
        """`sequence` is the last number that was used with AH. The seconds of the clock do: no restart repeats one."""
        self.router = router
        self.source = source
        self.advertised = advertised_addresses(router, mtu)
        self.sequence: int = max(sequence, before.sequence) if before else sequence
        detected = before is not None and before.old_checksum and router.old_checksum is OldChecksum.DETECT
        self.old_checksum: bool = detected or router.old_checksum is OldChecksum.ALWAYS
        self._identification: int = before._identification if before else 0
        self._sealed = router.version == 2 and router.authentication is Authentication.AH
        self._destinations = [peer.address for peer in router.peers] or [router.multicast]
        self._hops = router.unicast_ttl if router.peers else TTL
        self._bodies: dict[tuple[int, float, Address], bytes] = {}
        self._heads: dict[tuple[int, Address], tuple[bytes, int]] = {}

    def follow(self, sequence: int) -> None:
        """Another router used this number: keepalived takes only greater ones, whoever sends them."""
        self.sequence = max(self.sequence, sequence)

    def speak_old(self) -> None:
        """A peer was heard with the checksum of keepalived 1.3.6 or older: from now on, that is used."""
        if not self.old_checksum:
            self.old_checksum = True
            self._bodies.clear()

    def packets(self, priority: int, interval_s: float | None = None) -> list[OutgoingPacket]:
        """An advertisement for everyone who should have it."""
        interval = self.router.advert_interval_s if interval_s is None else interval_s
        self._identification = self._identification % 0xFFFF + 1
        if self._sealed:
            self.sequence = self.sequence % MAX_SEQUENCE + 1
        return [
            OutgoingPacket(self._packet(priority, interval, destination), self.source, destination, self._hops)
            for destination in self._destinations
        ]

    def _packet(self, priority: int, interval_s: float, destination: Address) -> bytes:
        body = self._bodies.get((priority, interval_s, destination))
        if body is None:
            if len(self._bodies) > 64:  # priorities that were
                self._bodies.clear()
            body = self._body(priority, interval_s, destination)
            self._bodies[priority, interval_s, destination] = body
        if self.source.version == 6:
            return body
        head = self._head(len(body), destination)
        return head + (add_ah(head, body, self.router.password, self.sequence) if self._sealed else body)

    def _body(self, priority: int, interval_s: float, destination: Address) -> bytes:
        router = self.router
        authentication = router.authentication if router.version == 2 else None
        password = router.password if authentication is Authentication.PASS else b""
        told = Advertisement(
            router.version,
            router.vrid,
            priority,
            interval_s,
            self.advertised,
            authentication,
            password[:PASSWORD_BYTES],
        )
        covered = router.multicast if self.old_checksum and router.peers and self.source.version == 4 else destination
        return encode(told, self.source, covered)

    def _head(self, body_bytes: int, destination: Address) -> bytes:
        """The IPv4 header; only its number and checksum change from one packet to the next."""
        known = self._heads.get((body_bytes, destination))
        if known is None:
            protocol, sealed_bytes = (AH_PROTOCOL, AH_BYTES) if self._sealed else (PROTOCOL, 0)
            length = _IPV4.size + sealed_bytes + body_bytes
            ends = self.source.packed, destination.packed
            plain = _IPV4.pack(0x45, TRAFFIC_CLASS, length, 0, 0, self._hops, protocol, 0, *ends)
            known = self._heads[body_bytes, destination] = plain, ~checksum(plain) & 0xFFFF
        plain, total = known
        total += self._identification
        total = (total & 0xFFFF) + (total >> 16)
        numbered = bytearray(plain)
        _NUMBER.pack_into(numbered, _NUMBER_AT, self._identification)
        _NUMBER.pack_into(numbered, _CHECKSUM_AT, ~total & 0xFFFF)
        return bytes(numbered)


# --- screening -------------------------------------------------------------------------------------------------------
# Which advertisements count: each that comes is looked at before it decides anything, the cheapest looks first.
#
# Pure. keepalived drops an advertisement whose virtual addresses are not its own, and then there are two masters; here
# that is a warning, and the advertisement counts.


MAX_SENDERS = 256  # that are remembered


@dataclass(frozen=True, slots=True)
class AddressMismatch:
    """A router that has other virtual addresses than ours; with neither, it has the same again."""

    sender: Address
    missing: tuple[Address, ...]  # ours, not told by it
    surplus: tuple[Address, ...]  # told by it, not ours

    def __str__(self) -> str:
        if not self.missing and not self.surplus:
            return f"{self.sender} has the same virtual addresses again"
        parts = []
        for what, addresses in (("lacks", self.missing), ("has besides", self.surplus)):
            if addresses:
                parts.append(f"{what} {', '.join(map(str, addresses))}")
        return f"{self.sender} has other virtual addresses: it {' and '.join(parts)}"


class AdvertValidator:
    """What one virtual router takes from others. `before` is its former self, whose counters and memory it takes on."""

    def __init__(self, router: VrrpInstance, voice: AdvertEncoder, before: AdvertValidator | None = None) -> None:
        self.counters: Counter[AdvertError] = before.counters if before else Counter()
        self.mismatches: dict[Address, AddressMismatch] = (
            dict(before.mismatches) if before else {}
        )  # as it is now, by sender
        self._news: list[AddressMismatch] = []
        self._router = router
        self._voice = voice
        self._own = voice.source
        self._destination = voice.source if router.peers else router.multicast
        self._peers: dict[Address, Peer] = {peer.address: peer for peer in router.peers}
        self._password = router.password[:PASSWORD_BYTES].rstrip(b"\0")
        self._sealed = router.version == 2 and router.authentication is Authentication.AH
        self._addresses = frozenset(voice.advertised)
        self._windows: dict[Address, ReplayWindow] = before._windows if before else {}
        self._latest: tuple[bytes, Address, Advertisement] | None = None

    def screen(self, datagram: Datagram, now: float) -> Advertisement | None:
        """What it says, or None if it is one of our own that came back. Raises Dropped, which is counted."""
        if datagram.source == self._own:
            return None
        try:
            return self._screened(datagram)
        except InvalidAdvert as dropped:
            self.counters[dropped.flaw] += 1
            raise

    def take_news(self) -> list[AddressMismatch]:
        """What is to be told of other routers' virtual addresses: once for each router and change."""
        news, self._news = self._news, []
        return news

    def _screened(self, datagram: Datagram) -> Advertisement:
        self._look_at_journey(datagram)
        payload = datagram.payload
        if (datagram.protocol == AH_PROTOCOL) is not self._sealed:
            raise InvalidAdvert(
                AdvertError.AUTHENTICATION, "with AH" if datagram.protocol == AH_PROTOCOL else "without AH"
            )
        if self._sealed:
            sequence, payload = verify_ah(datagram.header, payload, self._password)
            self._window(datagram.source).take(sequence)
            self._voice.follow(sequence)
        elif self._latest is not None and self._latest[:2] == (payload, datagram.source):
            return self._latest[2]
        told = self._read(payload, datagram.source, datagram.destination)
        self._compare(told, datagram.source)
        self._latest = payload, datagram.source, told
        return told

    def _look_at_journey(self, datagram: Datagram) -> None:
        """From whom, to whom, and through how many routers."""
        if datagram.destination != self._destination:
            raise InvalidAdvert(AdvertError.DESTINATION, f"to {datagram.destination}")
        if not self._peers:
            if datagram.ttl != TTL:
                raise InvalidAdvert(AdvertError.TTL, f"{datagram.ttl} instead of {TTL}")
            return
        peer = self._peers.get(datagram.source)
        if peer is None:
            if self._router.check_source:
                raise InvalidAdvert(AdvertError.SOURCE, str(datagram.source))
        elif not peer.least_ttl <= datagram.ttl <= peer.most_ttl:
            raise InvalidAdvert(AdvertError.TTL, f"{datagram.ttl}, not {peer.least_ttl} to {peer.most_ttl}")

    def _read(self, payload: bytes, source: Address, destination: Address) -> Advertisement:
        router = self._router
        if len(payload) > 1:
            if payload[0] >> 4 != router.version:
                raise InvalidAdvert(AdvertError.VERSION, f"{payload[0] >> 4} instead of {router.version}")
            if payload[1] != router.vrid:
                raise InvalidAdvert(AdvertError.VRID, str(payload[1]))
        told = self._decoded(payload, source, destination)
        if router.version == 3:
            if not told.interval_s:
                raise InvalidAdvert(AdvertError.INTERVAL, "0")
            return told
        if told.authentication is not router.authentication:
            kind = told.authentication.value if told.authentication else "none"
            raise InvalidAdvert(AdvertError.AUTHENTICATION, kind)
        if router.authentication is Authentication.PASS and told.password != self._password:
            raise InvalidAdvert(AdvertError.PASSWORD)
        if told.interval_s != router.advert_interval_s:
            raise InvalidAdvert(AdvertError.INTERVAL, f"{told.interval_s:g} instead of {router.advert_interval_s:g} s")
        return told

    def _decoded(self, payload: bytes, source: Address, destination: Address) -> Advertisement:
        """Version 3 over unicast IPv4: routers as old as keepalived 1.3.6 sum up the multicast group instead."""
        router = self._router
        if router.version == 2 or source.version == 6 or not self._peers:
            return decode(payload, source, destination)
        if router.old_checksum is OldChecksum.NEVER:
            told = decode(payload, source, destination)
            if not has_pseudo_header(payload, source, destination):
                raise InvalidAdvert(AdvertError.CHECKSUM)
            return told
        try:
            return decode(payload, source, destination)
        except InvalidAdvert as dropped:
            if dropped.flaw is not AdvertError.CHECKSUM:
                raise
        told = decode(payload, source, router.multicast)
        if source in self._peers:
            self._voice.speak_old()
        return told

    def _window(self, sender: Address) -> ReplayWindow:
        window = self._windows.get(sender)
        if window is None:  # it had the key: there are not many of them
            window = self._windows[sender] = ReplayWindow()
        return window

    def _compare(self, told: Advertisement, sender: Address) -> None:
        latest = self._latest[2] if self._latest is not None and self._latest[1] == sender else None
        if latest is not None and (self._router.skip_address_check or latest.addresses is told.addresses):
            return
        theirs = frozenset(told.addresses)
        missing = tuple(sorted(self._addresses - theirs, key=address_order))
        surplus = tuple(sorted(theirs - self._addresses, key=address_order))
        mismatch, known = AddressMismatch(sender, missing, surplus), self.mismatches.pop(sender, None)
        if missing or surplus:
            if len(self.mismatches) >= MAX_SENDERS:
                del self.mismatches[next(iter(self.mismatches))]
            self.mismatches[sender] = mismatch
        if (known or AddressMismatch(sender, (), ())) != mismatch and len(self._news) < MAX_SENDERS:
            self._news.append(mismatch)


class LogRateLimiter:
    """Keeps the log short: of each kind, one line in so many seconds, and of so many kinds at most."""

    def __init__(self, interval_s: float = 60.0, most_kinds: int = 1024) -> None:
        self._interval_s = interval_s
        self._most_kinds = most_kinds
        self._said: dict[Hashable, float] = {}
        self._held_back: Counter[Hashable] = Counter()

    def may(self, kind: Hashable, now: float) -> int | None:
        """How many were kept back since the last line of this kind, or None: this one is kept back, too."""
        if kind in self._said and now - self._said[kind] < self._interval_s:
            self._held_back[kind] += 1
            return None
        if kind not in self._said and len(self._said) >= self._most_kinds:
            self._said = {each: at for each, at in self._said.items() if now - at < self._interval_s}
            self._held_back = Counter({each: count for each, count in self._held_back.items() if each in self._said})
            if len(self._said) >= self._most_kinds:
                return None
        self._said[kind] = now
        return self._held_back.pop(kind, 0)
