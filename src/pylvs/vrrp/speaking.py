"""What a virtual router says: its advertisements as packets, ready to be sent, the same bytes as keepalived's.

Pure. What does not change is built once, for each priority; an advertisement costs microseconds.
"""

from __future__ import annotations

import struct

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import Authentication, OldChecksum, VrrpInstance
from pylvs.vrrp.packet import (
    MOST_ADDRESSES,
    PASSWORD_BYTES,
    PROTOCOL,
    TRAFFIC_CLASS,
    TTL,
    Advertisement,
    checksum,
    encode,
)
from pylvs.vrrp.seal import AH_BYTES, AH_PROTOCOL, MOST_SEQUENCE, seal

MTU = 1500
_IPV4 = struct.Struct("!BBHHHBBH4s4s")
_NUMBER = struct.Struct("!H")
_NUMBER_AT, _CHECKSUM_AT = 4, 10  # in an IPv4 header
_HEADER_BYTES = {4: _IPV4.size, 6: 40}
_ADDRESS_BYTES = {4: 4, 6: 16}
_FIXED_BYTES = 8  # of an advertisement
_SPARE_BYTES = 16  # keepalived leaves so many free


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A packet: with its IP header if that is IPv4, without if IPv6."""

    packet: bytes
    source: Address
    destination: Address
    hops: int = TTL


def advertised(router: VrrpInstance, mtu: int = MTU) -> tuple[Address, ...]:
    """The virtual addresses that fit into an advertisement; the rest is held, but not told."""
    room = mtu - _HEADER_BYTES[router.family] - _FIXED_BYTES - _SPARE_BYTES
    if router.version == 2:
        room -= PASSWORD_BYTES
        if router.authentication is Authentication.AH:
            room -= AH_BYTES
    most = max(0, min(MOST_ADDRESSES, room // _ADDRESS_BYTES[router.family]))
    addresses = (held.interface.ip for held in router.addresses)
    return tuple(address for address in addresses if address.version == router.family)[:most]


def device_of(router: VrrpInstance, device: str) -> str:
    """By which it speaks and listens: of unicast "", by the routes, unless a link-local peer needs `device`."""
    return "" if router.peers and not any(peer.address.is_link_local for peer in router.peers) else device


class Voice:
    """One virtual router's, from one address.

    `before` is its former self, whose numbers go on: packets from another address, or after another configuration.
    """

    def __init__(
        self, router: VrrpInstance, source: Address, mtu: int = MTU, sequence: int = 0, before: Voice | None = None
    ) -> None:
        """`sequence` is the last number that was used with AH. The seconds of the clock do: no restart repeats one."""
        self.router = router
        self.source = source
        self.advertised = advertised(router, mtu)
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

    def packets(self, priority: int, interval_s: float | None = None) -> list[Outgoing]:
        """An advertisement for everyone who should have it."""
        interval = self.router.advert_interval_s if interval_s is None else interval_s
        self._identification = self._identification % 0xFFFF + 1
        if self._sealed:
            self.sequence = self.sequence % MOST_SEQUENCE + 1
        return [
            Outgoing(self._packet(priority, interval, destination), self.source, destination, self._hops)
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
        return head + (seal(head, body, self.router.password, self.sequence) if self._sealed else body)

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
