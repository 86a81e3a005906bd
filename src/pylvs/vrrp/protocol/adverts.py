"""Advertisements: version 2 (RFC 3768, authentication of RFC 2338) and version 3 (RFC 9568). Pure.

Encode and decode are functions of a payload and the addresses of its IP header. An invalid packet raises InvalidAdvert
with an AdvertError, under which it is counted. Each virtual router has an AdvertEncoder that builds its advertisements,
and an AdvertValidator for those of others.
"""

from __future__ import annotations

import struct
from collections import Counter
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import Authentication, OldChecksum, Peer, VrrpInstance

PROTOCOL = 112
TTL = 255  # a lower value means that a router forwarded the packet (RFC 9568, 5.1.1.3)
TRAFFIC_CLASS = 0xC0  # internetwork control (RFC 791)
PASSWORD_BYTES = 8
MAX_ADDRESSES = 255
ADVERTISEMENT = 1  # the only type (RFC 9568, 5.2.2)
_HEAD = struct.Struct("!BBBBHH")  # version and type, VRID, priority, count; differs by version; checksum
HEAD_BYTES, ADDRESS_BYTES = _HEAD.size, {4: 4, 6: 16}
AUTHENTICATIONS = (None, Authentication.PASS, Authentication.AH)  # indexed by the type field of version 2

AH_PROTOCOL = 51
DIGEST_BYTES = 12
_AH = struct.Struct("!BBH4sI12s")  # next header, length in words - 2, reserved, SPI, sequence number, digest
AH_BYTES = _AH.size
MAX_SEQUENCE = 0xFFFFFFFF
_MUTABLE = ((1, 1), (6, 2), (10, 2))  # TOS, fragment offset, checksum: offset and bytes
_TTL_AT, _MULTICAST_TTL = 8, 255
_DESTINATION_AT, _MULTICAST = 16, 0xE  # the first 4 bits of the address

MTU = 1500
MAX_SENDERS = 256
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_HEADER_BYTES = {4: _IPV4.size, 6: 40}
_SPARE_BYTES = 16  # keepalived leaves this many free


class AdvertError(Enum):
    """Why a packet is dropped; the values appear in status, events and the documentation."""

    TRUNCATED = "truncated"
    TRAILING = "longer than its addresses"
    VERSION = "another version"
    TYPE = "not an advertisement"
    CHECKSUM = "wrong checksum"
    TTL = "wrong TTL"
    VRID = "another virtual router"
    AUTHENTICATION = "another kind of authentication"
    PASSWORD = "wrong password"
    DIGEST = "wrong digest"
    REPLAYED = "a sequence number that was there before"
    INTERVAL = "another advertisement interval"
    SOURCE = "not from a peer"
    DESTINATION = "to another address (multicast instead of unicast, or the other way round)"


class InvalidAdvert(Exception):
    """A received packet is dropped. Internal: it never reaches a user."""

    def __init__(self, error: AdvertError, detail: str = "") -> None:
        super().__init__(f"{error.value}: {detail}" if detail else error.value)
        self.error = error


@dataclass(frozen=True, slots=True)
class Advertisement:
    """The fields of an advertisement. Version 2 sends `interval_s` in whole seconds, version 3 in hundredths."""

    version: int
    vrid: int
    priority: int
    interval_s: float
    addresses: tuple[Address, ...]
    authentication: Authentication | None = None
    password: bytes = b""  # without the zeros that pad it in the packet


@dataclass(frozen=True, slots=True)
class Datagram:
    """A packet. `payload` follows the IP header; it begins with the authentication header if there is one."""

    source: Address
    destination: Address
    ttl: int  # or hop limit
    protocol: int  # PROTOCOL or AH_PROTOCOL
    header: bytes  # the IPv4 header; b"" for IPv6
    payload: bytes


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071); 0 for data that contains its own correct checksum."""
    if len(data) % 2:
        data += b"\0"
    number = int.from_bytes(data)  # with carries added, its 16-bit words sum up to its remainder
    return 0xFFFF - (number % 0xFFFF or (0xFFFF if number else 0))


def pseudo_header(source: Address, destination: Address, length: int) -> bytes:
    """Return what version 3's checksum covers in addition to the payload (RFC 9568, 5.2.8)."""
    if source.version == 4:
        return struct.pack("!4s4sBBH", source.packed, destination.packed, 0, PROTOCOL, length)
    return struct.pack("!16s16sI3xB", source.packed, destination.packed, length, PROTOCOL)


def encode(advertisement: Advertisement, source: Address, destination: Address) -> bytes:
    """Return the payload."""
    body = b"".join(address.packed for address in advertisement.addresses)
    version_type = advertisement.version << 4 | ADVERTISEMENT
    if advertisement.version == 2:
        middle = AUTHENTICATIONS.index(advertisement.authentication) << 8 | round(advertisement.interval_s)
        body += advertisement.password.ljust(PASSWORD_BYTES, b"\0")
        covered = b""
    else:
        middle = round(advertisement.interval_s * 100)
        covered = pseudo_header(source, destination, HEAD_BYTES + len(body))
    fields = (version_type, advertisement.vrid, advertisement.priority, len(advertisement.addresses), middle)
    total = checksum(covered + _HEAD.pack(*fields, 0) + body)
    return _HEAD.pack(*fields, total) + body


def decode(payload: bytes, source: Address, destination: Address) -> Advertisement:
    """Return the fields of a payload. Raises InvalidAdvert.

    For version 3 over IPv4 a checksum without the pseudo-header is valid, too (see `has_pseudo_header`).
    """
    if len(payload) < HEAD_BYTES:
        raise InvalidAdvert(AdvertError.TRUNCATED, f"{len(payload)} bytes")
    version_type, vrid, priority, count, middle, _ = _HEAD.unpack_from(payload)
    version, packet_type = version_type >> 4, version_type & 0xF
    if version not in (2, 3) or (version == 2 and source.version == 6):
        raise InvalidAdvert(AdvertError.VERSION, str(version))
    if packet_type != ADVERTISEMENT:
        raise InvalidAdvert(AdvertError.TYPE, str(packet_type))
    width = ADDRESS_BYTES[source.version]
    addresses_end = HEAD_BYTES + count * width
    expected = addresses_end + (PASSWORD_BYTES if version == 2 else 0)
    if len(payload) < expected:
        raise InvalidAdvert(AdvertError.TRUNCATED, f"{len(payload)} of {expected} bytes")
    if len(payload) > expected:
        raise InvalidAdvert(AdvertError.TRAILING, f"{len(payload)} instead of {expected} bytes")
    _check_checksum(payload, version, source, destination)
    addresses = _addresses(payload[HEAD_BYTES:addresses_end], width)
    if version == 3:
        return Advertisement(3, vrid, priority, (middle & 0x0FFF) / 100, addresses)
    if middle >> 8 >= len(AUTHENTICATIONS):
        raise InvalidAdvert(AdvertError.AUTHENTICATION, str(middle >> 8))
    authentication = AUTHENTICATIONS[middle >> 8]
    password = payload[addresses_end:].rstrip(b"\0")
    return Advertisement(2, vrid, priority, float(middle & 0xFF), addresses, authentication, password)


def _check_checksum(payload: bytes, version: int, source: Address, destination: Address) -> None:
    if version == 3 and has_pseudo_header(payload, source, destination):
        return
    if (version == 3 and source.version == 6) or checksum(payload):
        raise InvalidAdvert(AdvertError.CHECKSUM)


@lru_cache(maxsize=64)  # each router repeats the same addresses in every advertisement
def _addresses(packed: bytes, width: int) -> tuple[Address, ...]:
    return tuple(ip_address(packed[at : at + width]) for at in range(0, len(packed), width))


def has_pseudo_header(payload: bytes, source: Address, destination: Address) -> bool:
    """Return whether a version 3 payload's checksum covers the pseudo-header."""
    return checksum(pseudo_header(source, destination, len(payload)) + payload) == 0


def virtual_mac(vrid: int, family: int) -> bytes:
    """Return the virtual router's link address (RFC 9568, 7.3)."""
    return bytes((0x00, 0x00, 0x5E, 0x00, 0x01 if family == 4 else 0x02, vrid))


def address_order(address: Address) -> tuple[int, int]:
    """Return the sort key by which the greater address wins among equal priorities (RFC 9568, 6.4.3)."""
    assert isinstance(address, IPv4Address | IPv6Address)
    return address.version, int(address)


def add_ah(ip_header: bytes, payload: bytes, key: bytes, sequence: int) -> bytes:
    """Return the payload behind the authentication header of version 2 (RFC 2402), as keepalived builds it.

    The SPI is the source address. The digest (HMAC-MD5-96, RFC 2403) covers the IP header with its mutable fields zero,
    AH with a zero digest, and the payload. keepalived covers the TTL of multicast packets unchanged. The key is the
    password.
    """
    fields = PROTOCOL, AH_BYTES // 4 - 2, 0, ip_header[12:16], sequence
    return _AH.pack(*fields, _digest(ip_header, _AH.pack(*fields, bytes(DIGEST_BYTES)), payload, key)) + payload


def verify_ah(ip_header: bytes, packet: bytes, key: bytes) -> tuple[int, bytes]:
    """Return the sequence number and the payload behind a valid header. Raises InvalidAdvert.

    The caller checks the sequence number.
    """
    if len(packet) < AH_BYTES:
        raise InvalidAdvert(AdvertError.TRUNCATED, f"{len(packet)} bytes")
    *fields, digest = _AH.unpack_from(packet)
    if fields[:2] != [PROTOCOL, AH_BYTES // 4 - 2]:
        raise InvalidAdvert(AdvertError.AUTHENTICATION)
    payload = packet[AH_BYTES:]
    import hmac  # late: only AH needs it

    if not hmac.compare_digest(digest, _digest(ip_header, _AH.pack(*fields, bytes(DIGEST_BYTES)), payload, key)):
        raise InvalidAdvert(AdvertError.DIGEST)
    return fields[4], payload


def _digest(ip_header: bytes, plain: bytes, payload: bytes, key: bytes) -> bytes:
    covered = bytearray(ip_header[:20])
    for at, count in _MUTABLE:
        covered[at : at + count] = bytes(count)
    covered[_TTL_AT] = _MULTICAST_TTL if covered[_DESTINATION_AT] >> 4 == _MULTICAST else 0
    import hmac  # late: only AH needs it

    digest = hmac.digest(key.ljust(PASSWORD_BYTES, b"\0"), bytes(covered) + plain + payload, "md5")
    return digest[:DIGEST_BYTES]


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


class AdvertEncoder:
    """Build one virtual router's packets, byte for byte as keepalived does.

    `old_checksum` is that of keepalived 1.3.6 and older. `before` is the encoder of the former address or
    configuration: sequence numbers and IP identifications continue from it.
    """

    def __init__(
        self,
        router: VrrpInstance,
        source: Address,
        mtu: int = MTU,
        sequence: int = 0,
        before: AdvertEncoder | None = None,
    ) -> None:
        """`sequence` is the last one used with AH: the clock, so a restart repeats none unless the clock jumps back.

        With `before` it does not count, because the clock may have jumped.
        """
        self.router = router
        self.source = source
        self.advertised = advertised_addresses(router, mtu)
        self.sequence: int = before.sequence if before else sequence
        detected = before is not None and before.old_checksum and router.old_checksum is OldChecksum.DETECT
        self.old_checksum: bool = detected or router.old_checksum is OldChecksum.ALWAYS
        self._identification: int = before._identification if before else 0
        self._with_ah = router.version == 2 and router.authentication is Authentication.AH
        self._destinations = [peer.address for peer in router.peers] or [router.multicast]
        self._hops = router.unicast_ttl if router.peers else TTL
        self._latest: tuple[tuple[int, bool], list[bytes]] = (-1, False), []  # what bodies depend on, and the bodies

    def advance_sequence(self, sequence: int) -> None:
        """Continue after another router's number: keepalived accepts only increasing ones, from any sender."""
        self.sequence = max(self.sequence, sequence)

    def packets(self, priority: int) -> list[Datagram]:
        """Return one packet for the multicast group, or one for each peer."""
        self._identification = self._identification % 0xFFFF + 1
        if self._with_ah:
            self.sequence = self.sequence % MAX_SEQUENCE + 1
        ends = zip(self._destinations, self._bodies(priority), strict=True)
        return [self._packet(destination, body) for destination, body in ends]

    def _bodies(self, priority: int) -> list[bytes]:
        """Return the payload for each destination; most advertisements repeat the last one."""
        kind = priority, self.old_checksum
        if self._latest[0] != kind:
            self._latest = kind, [self._body(priority, each) for each in self._destinations]
        return self._latest[1]

    def _packet(self, destination: Address, body: bytes) -> Datagram:
        header = self._header(len(body), destination) if self.source.version == 4 else b""
        if not self._with_ah:
            return Datagram(self.source, destination, self._hops, PROTOCOL, header, body)
        payload = add_ah(header, body, self.router.password, self.sequence)
        return Datagram(self.source, destination, self._hops, AH_PROTOCOL, header, payload)

    def _body(self, priority: int, destination: Address) -> bytes:
        router = self.router
        authentication = router.authentication if router.version == 2 else None
        password = router.password[:PASSWORD_BYTES] if authentication is Authentication.PASS else b""
        fields = router.version, router.vrid, priority, router.advert_interval_s, self.advertised
        advert = Advertisement(*fields, authentication, password)
        covered = router.multicast if self.old_checksum and router.peers and self.source.version == 4 else destination
        return encode(advert, self.source, covered)

    def _header(self, body_bytes: int, destination: Address) -> bytes:
        """Return the IPv4 header."""
        protocol, ah_bytes = (AH_PROTOCOL, AH_BYTES) if self._with_ah else (PROTOCOL, 0)
        length = _IPV4.size + ah_bytes + body_bytes
        fields = 0x45, TRAFFIC_CLASS, length, self._identification, 0, self._hops, protocol
        ends = self.source.packed, destination.packed
        return _IPV4.pack(*fields, checksum(_IPV4.pack(*fields, 0, *ends)), *ends)


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
        self.last_error: AdvertError | None = before.last_error if before else None
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
            self.last_error = invalid.error
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
            self._encoder.old_checksum = True  # from now on, because a peer uses it
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
