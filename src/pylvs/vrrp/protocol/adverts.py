"""Each virtual router's side of the protocol: build its advertisements, validate those of others. Pure."""

from __future__ import annotations

import struct
from collections import Counter

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import Authentication, OldChecksum, Peer, VrrpInstance
from pylvs.vrrp.protocol.packet import (
    ADDRESS_BYTES,
    AH_BYTES,
    AH_PROTOCOL,
    HEAD_BYTES,
    MAX_ADDRESSES,
    MAX_SEQUENCE,
    PASSWORD_BYTES,
    PROTOCOL,
    TRAFFIC_CLASS,
    TTL,
    AdvertError,
    Advertisement,
    Datagram,
    InvalidAdvert,
    add_ah,
    address_order,
    checksum,
    decode,
    encode,
    has_pseudo_header,
    verify_ah,
)

MTU = 1500
MAX_SENDERS = 256
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_NUMBER = struct.Struct("!H")
_ID_AT, _CHECKSUM_AT = 4, 10  # in an IPv4 header
_HEADER_BYTES = {4: _IPV4.size, 6: 40}
_SPARE_BYTES = 16  # keepalived leaves this many free
_MAX_BODIES = 64  # cached payloads; tracked objects can produce any priority


def advertised_addresses(router: VrrpInstance, mtu: int = MTU) -> tuple[Address, ...]:
    """Return the virtual addresses that fit into an advertisement; the router holds the others without advertising."""
    space = mtu - _HEADER_BYTES[router.family] - HEAD_BYTES - _SPARE_BYTES
    if router.version == 2:
        space -= PASSWORD_BYTES
        if router.authentication is Authentication.AH:
            space -= AH_BYTES
    count = max(0, min(MAX_ADDRESSES, space // ADDRESS_BYTES[router.family]))
    addresses = (held.interface.ip for held in router.addresses)
    return tuple(address for address in addresses if address.version == router.family)[:count]


def socket_device(router: VrrpInstance, device: str) -> str:
    """Return the device to bind sockets to; "" for unicast, which follows the routes unless a peer is link-local."""
    return "" if router.peers and not any(peer.address.is_link_local for peer in router.peers) else device


class AdvertEncoder:
    """Build one virtual router's packets, byte for byte as keepalived does.

    Payloads are cached by priority. `before` is the encoder of the former address or configuration: sequence numbers
    and IP identifications continue from it.
    """

    def __init__(
        self,
        router: VrrpInstance,
        source: Address,
        mtu: int = MTU,
        sequence: int = 0,
        before: AdvertEncoder | None = None,
    ) -> None:
        """`sequence` is AH's last used number. The clock's seconds serve: no restart repeats a number."""
        self.router = router
        self.source = source
        self.advertised = advertised_addresses(router, mtu)
        self.sequence: int = max(sequence, before.sequence) if before else sequence
        detected = before is not None and before.old_checksum and router.old_checksum is OldChecksum.DETECT
        self.old_checksum: bool = detected or router.old_checksum is OldChecksum.ALWAYS
        self._identification: int = before._identification if before else 0
        self._with_ah = router.version == 2 and router.authentication is Authentication.AH
        self._destinations = [peer.address for peer in router.peers] or [router.multicast]
        self._hops = router.unicast_ttl if router.peers else TTL
        self._bodies: dict[tuple[int, Address], bytes] = {}
        self._headers: dict[tuple[int, Address], tuple[bytes, int]] = {}

    def advance_sequence(self, sequence: int) -> None:
        """Continue after another router's number: keepalived accepts only increasing ones, from any sender."""
        self.sequence = max(self.sequence, sequence)

    def use_old_checksum(self) -> None:
        """Use the checksum of keepalived 1.3.6 and older from now on, because a peer does."""
        if not self.old_checksum:
            self.old_checksum = True
            self._bodies.clear()

    def packets(self, priority: int) -> list[Datagram]:
        """Return one packet for the multicast group, or one for each peer."""
        self._identification = self._identification % 0xFFFF + 1
        if self._with_ah:
            self.sequence = self.sequence % MAX_SEQUENCE + 1
        return [self._packet(priority, destination) for destination in self._destinations]

    def _packet(self, priority: int, destination: Address) -> Datagram:
        body = self._bodies.get((priority, destination))
        if body is None:
            if len(self._bodies) > _MAX_BODIES:
                self._bodies.clear()
            body = self._bodies[priority, destination] = self._body(priority, destination)
        header, protocol = b"", PROTOCOL
        if self.source.version == 4:
            header = self._header(len(body), destination)
        if self._with_ah:
            body, protocol = add_ah(header, body, self.router.password, self.sequence), AH_PROTOCOL
        return Datagram(self.source, destination, self._hops, protocol, header, body)

    def _body(self, priority: int, destination: Address) -> bytes:
        router = self.router
        authentication = router.authentication if router.version == 2 else None
        password = router.password if authentication is Authentication.PASS else b""
        advert = Advertisement(
            router.version,
            router.vrid,
            priority,
            router.advert_interval_s,
            self.advertised,
            authentication,
            password[:PASSWORD_BYTES],
        )
        covered = router.multicast if self.old_checksum and router.peers and self.source.version == 4 else destination
        return encode(advert, self.source, covered)

    def _header(self, body_bytes: int, destination: Address) -> bytes:
        """Return the IPv4 header; only the identification and the checksum differ between packets."""
        cached = self._headers.get((body_bytes, destination))
        if cached is None:
            protocol, ah_bytes = (AH_PROTOCOL, AH_BYTES) if self._with_ah else (PROTOCOL, 0)
            length = _IPV4.size + ah_bytes + body_bytes
            ends = self.source.packed, destination.packed
            plain = _IPV4.pack(0x45, TRAFFIC_CLASS, length, 0, 0, self._hops, protocol, 0, *ends)
            cached = self._headers[body_bytes, destination] = plain, ~checksum(plain) & 0xFFFF
        plain, total = cached
        total += self._identification
        total = (total & 0xFFFF) + (total >> 16)
        header = bytearray(plain)
        _NUMBER.pack_into(header, _ID_AT, self._identification)
        _NUMBER.pack_into(header, _CHECKSUM_AT, ~total & 0xFFFF)
        return bytes(header)


@dataclass(frozen=True, slots=True)
class AddressMismatch:
    """The differences between a sender's virtual addresses and ours; both empty once they agree again."""

    sender: Address
    missing: tuple[Address, ...]  # ours, which the sender does not advertise
    surplus: tuple[Address, ...]  # advertised by the sender, not ours

    def __str__(self) -> str:
        if not self.missing and not self.surplus:
            return f"{self.sender} has the same virtual addresses again"
        parts = []
        for what, addresses in (("lacks", self.missing), ("has besides", self.surplus)):
            if addresses:
                parts.append(f"{what} {', '.join(map(str, addresses))}")
        return f"{self.sender} has other virtual addresses: it {' and '.join(parts)}"


class AdvertValidator:
    """Accept or drop what one virtual router receives, cheapest checks first.

    keepalived drops an advertisement with other virtual addresses than its own; then there are two masters. Here such
    an advertisement is valid, with a warning. `before` is the validator of the former address or configuration, whose
    counters and replay windows this one continues.
    """

    def __init__(self, router: VrrpInstance, encoder: AdvertEncoder, before: AdvertValidator | None = None) -> None:
        self.counters: Counter[AdvertError] = before.counters if before else Counter()
        self.mismatches: dict[Address, AddressMismatch] = dict(before.mismatches) if before else {}  # by sender
        self._unreported: list[AddressMismatch] = []
        self._router = router
        self._encoder = encoder
        self._own = encoder.source
        self._destination = encoder.source if router.peers else router.multicast
        self._peers: dict[Address, Peer] = {peer.address: peer for peer in router.peers}
        self._password = router.password[:PASSWORD_BYTES].rstrip(b"\0")
        self._with_ah = router.version == 2 and router.authentication is Authentication.AH
        self._addresses = frozenset(encoder.advertised)
        self._sequences: dict[Address, int] = before._sequences if before else {}  # the last one of each sender
        self._latest: tuple[bytes, Address, Advertisement] | None = None

    def validate(self, datagram: Datagram) -> Advertisement | None:
        """Return the advertisement, or None if it is our own. Raises InvalidAdvert and counts it."""
        if datagram.source == self._own:
            return None
        try:
            return self._validated(datagram)
        except InvalidAdvert as invalid:
            self.counters[invalid.error] += 1
            raise

    def take_mismatches(self) -> list[AddressMismatch]:
        """Return the changes since the last call."""
        unreported, self._unreported = self._unreported, []
        return unreported

    def _validated(self, datagram: Datagram) -> Advertisement:
        self._check_ip_header(datagram)
        payload = datagram.payload
        if (datagram.protocol == AH_PROTOCOL) is not self._with_ah:
            detail = "with AH" if datagram.protocol == AH_PROTOCOL else "without AH"
            raise InvalidAdvert(AdvertError.AUTHENTICATION, detail)
        if self._with_ah:
            sequence, payload = verify_ah(datagram.header, payload, self._password)
            last = self._sequences.get(datagram.source, -1)
            if sequence <= last:
                raise InvalidAdvert(AdvertError.REPLAYED, f"{sequence} after {last}")
            self._sequences[datagram.source] = sequence  # these senders know the key, so the table needs no limit
            self._encoder.advance_sequence(sequence)
        elif self._latest is not None and self._latest[:2] == (payload, datagram.source):
            return self._latest[2]
        advert = self._parse(payload, datagram.source, datagram.destination)
        self._compare_addresses(advert, datagram.source)
        self._latest = payload, datagram.source, advert
        return advert

    def _check_ip_header(self, datagram: Datagram) -> None:
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

    def _parse(self, payload: bytes, source: Address, destination: Address) -> Advertisement:
        router = self._router
        if len(payload) > 1:
            if payload[0] >> 4 != router.version:
                raise InvalidAdvert(AdvertError.VERSION, f"{payload[0] >> 4} instead of {router.version}")
            if payload[1] != router.vrid:
                raise InvalidAdvert(AdvertError.VRID, str(payload[1]))
        advert = self._decode(payload, source, destination)
        if router.version == 3:
            if not advert.interval_s:
                raise InvalidAdvert(AdvertError.INTERVAL, "0")
            return advert
        if advert.authentication is not router.authentication:
            name = advert.authentication.value if advert.authentication else "none"
            raise InvalidAdvert(AdvertError.AUTHENTICATION, name)
        if router.authentication is Authentication.PASS and advert.password != self._password:
            raise InvalidAdvert(AdvertError.PASSWORD)
        if advert.interval_s != router.advert_interval_s:
            detail = f"{advert.interval_s:g} instead of {router.advert_interval_s:g} s"
            raise InvalidAdvert(AdvertError.INTERVAL, detail)
        return advert

    def _decode(self, payload: bytes, source: Address, destination: Address) -> Advertisement:
        """Decode, with the checksum that the configuration allows.

        Over unicast IPv4, version 3 of keepalived 1.3.6 and older sums up the multicast group instead.
        """
        router = self._router
        if router.version == 2 or source.version == 6 or not self._peers:
            return decode(payload, source, destination)
        if router.old_checksum is OldChecksum.NEVER:
            advert = decode(payload, source, destination)
            if not has_pseudo_header(payload, source, destination):
                raise InvalidAdvert(AdvertError.CHECKSUM)
            return advert
        try:
            return decode(payload, source, destination)
        except InvalidAdvert as invalid:
            if invalid.error is not AdvertError.CHECKSUM:
                raise
        advert = decode(payload, source, router.multicast)
        if source in self._peers:
            self._encoder.use_old_checksum()
        return advert

    def _compare_addresses(self, advert: Advertisement, sender: Address) -> None:
        latest = self._latest[2] if self._latest is not None and self._latest[1] == sender else None
        if latest is not None and (self._router.skip_address_check or latest.addresses is advert.addresses):
            return
        theirs = frozenset(advert.addresses)
        missing = tuple(sorted(self._addresses - theirs, key=address_order))
        surplus = tuple(sorted(theirs - self._addresses, key=address_order))
        mismatch, known = AddressMismatch(sender, missing, surplus), self.mismatches.pop(sender, None)
        if missing or surplus:
            if len(self.mismatches) >= MAX_SENDERS:
                del self.mismatches[next(iter(self.mismatches))]
            self.mismatches[sender] = mismatch
        if (known or AddressMismatch(sender, (), ())) != mismatch and len(self._unreported) < MAX_SENDERS:
            self._unreported.append(mismatch)
