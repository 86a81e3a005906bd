"""Which advertisements count: each that comes is looked at before it decides anything, the cheapest looks first.

Pure. keepalived drops an advertisement whose virtual addresses are not its own, and then there are two masters; here
that is a warning, and the advertisement counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import Authentication, OldChecksum, Peer, VrrpInstance
from pylvs.vrrp.packet import PASSWORD_BYTES, TTL, Advertisement, Dropped, Flaw, comparable, decode, has_pseudo_header
from pylvs.vrrp.seal import AH_PROTOCOL, Window, opened
from pylvs.vrrp.sockets import Datagram
from pylvs.vrrp.speaking import Voice

MOST_SENDERS = 256  # that are remembered


@dataclass(frozen=True, slots=True)
class Mismatch:
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


class Screen:
    """What one virtual router takes from others. `before` is its former self, whose counters and memory it takes on."""

    def __init__(self, router: VrrpInstance, voice: Voice, before: Screen | None = None) -> None:
        self.counters: Counter[Flaw] = before.counters if before else Counter()
        self.mismatches: dict[Address, Mismatch] = dict(before.mismatches) if before else {}  # as it is now, by sender
        self._news: list[Mismatch] = []
        self._router = router
        self._voice = voice
        self._own = voice.source
        self._destination = voice.source if router.peers else router.multicast
        self._peers: dict[Address, Peer] = {peer.address: peer for peer in router.peers}
        self._password = router.password[:PASSWORD_BYTES].rstrip(b"\0")
        self._sealed = router.version == 2 and router.authentication is Authentication.AH
        self._addresses = frozenset(voice.advertised)
        self._windows: dict[Address, Window] = before._windows if before else {}
        self._latest: tuple[bytes, Address, Advertisement] | None = None

    def screen(self, datagram: Datagram, now: float) -> Advertisement | None:
        """What it says, or None if it is one of our own that came back. Raises Dropped, which is counted."""
        if datagram.source == self._own:
            return None
        try:
            return self._screened(datagram)
        except Dropped as dropped:
            self.counters[dropped.flaw] += 1
            raise

    def take_news(self) -> list[Mismatch]:
        """What is to be told of other routers' virtual addresses: once for each router and change."""
        news, self._news = self._news, []
        return news

    def _screened(self, datagram: Datagram) -> Advertisement:
        self._look_at_journey(datagram)
        payload = datagram.payload
        if (datagram.protocol == AH_PROTOCOL) is not self._sealed:
            raise Dropped(Flaw.AUTHENTICATION, "with AH" if datagram.protocol == AH_PROTOCOL else "without AH")
        if self._sealed:
            sequence, payload = opened(datagram.header, payload, self._password)
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
            raise Dropped(Flaw.DESTINATION, f"to {datagram.destination}")
        if not self._peers:
            if datagram.ttl != TTL:
                raise Dropped(Flaw.TTL, f"{datagram.ttl} instead of {TTL}")
            return
        peer = self._peers.get(datagram.source)
        if peer is None:
            if self._router.check_source:
                raise Dropped(Flaw.SOURCE, str(datagram.source))
        elif not peer.least_ttl <= datagram.ttl <= peer.most_ttl:
            raise Dropped(Flaw.TTL, f"{datagram.ttl}, not {peer.least_ttl} to {peer.most_ttl}")

    def _read(self, payload: bytes, source: Address, destination: Address) -> Advertisement:
        router = self._router
        if len(payload) > 1:
            if payload[0] >> 4 != router.version:
                raise Dropped(Flaw.VERSION, f"{payload[0] >> 4} instead of {router.version}")
            if payload[1] != router.vrid:
                raise Dropped(Flaw.VRID, str(payload[1]))
        told = self._decoded(payload, source, destination)
        if router.version == 3:
            if not told.interval_s:
                raise Dropped(Flaw.INTERVAL, "0")
            return told
        if told.authentication is not router.authentication:
            kind = told.authentication.value if told.authentication else "none"
            raise Dropped(Flaw.AUTHENTICATION, kind)
        if router.authentication is Authentication.PASS and told.password != self._password:
            raise Dropped(Flaw.PASSWORD)
        if told.interval_s != router.advert_interval_s:
            raise Dropped(Flaw.INTERVAL, f"{told.interval_s:g} instead of {router.advert_interval_s:g} s")
        return told

    def _decoded(self, payload: bytes, source: Address, destination: Address) -> Advertisement:
        """Version 3 over unicast IPv4: routers as old as keepalived 1.3.6 sum up the multicast group instead."""
        router = self._router
        if router.version == 2 or source.version == 6 or not self._peers:
            return decode(payload, source, destination)
        if router.old_checksum is OldChecksum.NEVER:
            told = decode(payload, source, destination)
            if not has_pseudo_header(payload, source, destination):
                raise Dropped(Flaw.CHECKSUM)
            return told
        try:
            return decode(payload, source, destination)
        except Dropped as dropped:
            if dropped.flaw is not Flaw.CHECKSUM:
                raise
        told = decode(payload, source, router.multicast)
        if source in self._peers:
            self._voice.speak_old()
        return told

    def _window(self, sender: Address) -> Window:
        window = self._windows.get(sender)
        if window is None:  # it had the key: there are not many of them
            window = self._windows[sender] = Window()
        return window

    def _compare(self, told: Advertisement, sender: Address) -> None:
        latest = self._latest[2] if self._latest is not None and self._latest[1] == sender else None
        if latest is not None and (self._router.skip_address_check or latest.addresses is told.addresses):
            return
        theirs = frozenset(told.addresses)
        missing = tuple(sorted(self._addresses - theirs, key=comparable))
        surplus = tuple(sorted(theirs - self._addresses, key=comparable))
        mismatch, known = Mismatch(sender, missing, surplus), self.mismatches.pop(sender, None)
        if missing or surplus:
            if len(self.mismatches) >= MOST_SENDERS:
                del self.mismatches[next(iter(self.mismatches))]
            self.mismatches[sender] = mismatch
        if (known or Mismatch(sender, (), ())) != mismatch and len(self._news) < MOST_SENDERS:
            self._news.append(mismatch)


class Grumbler:
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
