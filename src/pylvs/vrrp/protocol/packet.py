"""Advertisements as bytes: version 2 (RFC 3768, with the authentication of RFC 2338) and version 3 (RFC 9568).

Pure functions of a packet's payload and of the addresses that it travels between. What is wrong with a packet has a
name, under which it is counted; a packet with anything wrong decides nothing.
"""

from __future__ import annotations

import hmac
import struct
from enum import Enum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import Authentication

PROTOCOL = 112
TTL = 255  # anything less came through a router
TRAFFIC_CLASS = 0xC0  # internetwork control (RFC 791)
PASSWORD_BYTES = 8
MAX_ADDRESSES = 255
MAX_INTERVAL_S = {2: 255.0, 3: 40.95}
_ADVERTISEMENT = 1  # the only type there is
_HEAD = struct.Struct("!BBBBHH")  # version and type, VRID, priority, count; two that differ; checksum
_ADDRESS_BYTES = {4: 4, 6: 16}
_AUTHENTICATIONS = (None, Authentication.PASS, Authentication.AH)  # by their numbers in version 2


class AdvertError(Enum):
    """Why a packet is dropped."""

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
    """A packet that decides nothing; never reaches a user."""

    def __init__(self, flaw: AdvertError, detail: str = "") -> None:
        super().__init__(f"{flaw.value}: {detail}" if detail else flaw.value)
        self.flaw = flaw


@dataclass(frozen=True, slots=True)
class Advertisement:
    """What one says. `priority` 0 gives the addresses up; `interval_s` is in whole seconds (2) or hundredths (3)."""

    version: int
    vrid: int
    priority: int
    interval_s: float
    addresses: tuple[Address, ...]
    authentication: Authentication | None = None
    password: bytes = b""  # as it is in the packet, without zeros at its end


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071): 0 of data that holds its own."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(source: Address, destination: Address, length: int) -> bytes:
    """What version 3's checksum covers besides the payload (RFC 9568, 5.2.8)."""
    if source.version == 4:
        return struct.pack("!4s4sBBH", source.packed, destination.packed, 0, PROTOCOL, length)
    return struct.pack("!16s16sI3xB", source.packed, destination.packed, length, PROTOCOL)


def encode(advertisement: Advertisement, source: Address, destination: Address, *, pseudo: bool = True) -> bytes:
    """The payload. `pseudo` False leaves the pseudo-header out of version 3's checksum over IPv4, as old routers do."""
    told = b"".join(address.packed for address in advertisement.addresses)
    first = advertisement.version << 4 | _ADVERTISEMENT
    if advertisement.version == 2:
        middle = _AUTHENTICATIONS.index(advertisement.authentication) << 8 | round(advertisement.interval_s)
        told += advertisement.password.ljust(PASSWORD_BYTES, b"\0")
        before = b""
    else:
        middle = round(advertisement.interval_s * 100)
        length = _HEAD.size + len(told)
        before = pseudo_header(source, destination, length) if pseudo or source.version == 6 else b""
    fields = (first, advertisement.vrid, advertisement.priority, len(advertisement.addresses), middle)
    total = checksum(before + _HEAD.pack(*fields, 0) + told)
    return _HEAD.pack(*fields, total) + told


def decode(payload: bytes, source: Address, destination: Address) -> Advertisement:
    """What a payload says. Raises Dropped.

    Of version 3 over IPv4 both checksums are taken, with and without the pseudo-header: `has_pseudo_header` tells.
    """
    if len(payload) < _HEAD.size:
        raise InvalidAdvert(AdvertError.TRUNCATED, f"{len(payload)} bytes")
    first, vrid, priority, count, middle, _ = _HEAD.unpack_from(payload)
    version, kind = first >> 4, first & 0xF
    if version not in (2, 3) or (version == 2 and source.version == 6):
        raise InvalidAdvert(AdvertError.VERSION, str(version))
    if kind != _ADVERTISEMENT:
        raise InvalidAdvert(AdvertError.TYPE, str(kind))
    width = _ADDRESS_BYTES[source.version]
    end = _HEAD.size + count * width
    whole = end + (PASSWORD_BYTES if version == 2 else 0)
    if len(payload) < whole:
        raise InvalidAdvert(AdvertError.TRUNCATED, f"{len(payload)} of {whole} bytes")
    if len(payload) > whole:
        raise InvalidAdvert(AdvertError.TRAILING, f"{len(payload)} instead of {whole} bytes")
    if version == 2:
        if checksum(payload):
            raise InvalidAdvert(AdvertError.CHECKSUM)
    elif not has_pseudo_header(payload, source, destination) and (source.version == 6 or checksum(payload)):
        raise InvalidAdvert(AdvertError.CHECKSUM)
    addresses = _addresses(payload[_HEAD.size : end], width)
    if version == 3:
        return Advertisement(3, vrid, priority, (middle & 0x0FFF) / 100, addresses)
    if middle >> 8 >= len(_AUTHENTICATIONS):
        raise InvalidAdvert(AdvertError.AUTHENTICATION, str(middle >> 8))
    authentication = _AUTHENTICATIONS[middle >> 8]
    password = payload[end:whole].rstrip(b"\0")
    return Advertisement(2, vrid, priority, float(middle & 0xFF), addresses, authentication, password)


@lru_cache(maxsize=64)  # routers tell the same ones again and again
def _addresses(told: bytes, width: int) -> tuple[Address, ...]:
    return tuple(ip_address(told[at : at + width]) for at in range(0, len(told), width))


def has_pseudo_header(payload: bytes, source: Address, destination: Address) -> bool:
    """Whether a version 3 payload's checksum covers the pseudo-header."""
    return checksum(pseudo_header(source, destination, len(payload)) + payload) == 0


def virtual_mac(vrid: int, family: int) -> bytes:
    """The virtual router's link address (RFC 9568, 7.3)."""
    return bytes((0x00, 0x00, 0x5E, 0x00, 0x01 if family == 4 else 0x02, vrid))


def address_order(address: Address) -> tuple[int, int]:
    """For "the greater address wins" among equals; of one family, in network order (RFC 9568, 6.4.3)."""
    assert isinstance(address, IPv4Address | IPv6Address)
    return address.version, int(address)


# --- seal ------------------------------------------------------------------------------------------------------------
# Version 2's authentication header (RFC 2402 with HMAC-MD5-96, RFC 2403), as keepalived puts it around advertisements.
#
# The digest covers the IP header with its mutable fields zero (of multicast, keepalived covers the TTL as it is), the
# authentication header with a digest of zeros, and the payload. The key is the password.


AH_PROTOCOL = 51
DIGEST_BYTES = 12
_AH = struct.Struct("!BBH4sI12s")  # next header, length in words - 2, reserved, SPI, sequence number, digest
AH_BYTES = _AH.size
MAX_SEQUENCE = 0xFFFFFFFF
_MUTABLE = ((1, 1), (6, 2), (10, 2))  # TOS, fragment offset, checksum: offset and bytes
_TTL_AT, _MULTICAST_TTL = 8, 255
_DESTINATION_AT, _MULTICAST = 16, 0xE  # its first 4 bits


def add_ah(ip_header: bytes, payload: bytes, key: bytes, sequence: int) -> bytes:
    """The authentication header and the payload behind it; the SPI is the source address, as keepalived's."""
    spi = ip_header[12:16]
    plain = _AH.pack(PROTOCOL, AH_BYTES // 4 - 2, 0, spi, sequence, bytes(DIGEST_BYTES))
    digest = _digest(ip_header, plain, payload, key)
    return _AH.pack(PROTOCOL, AH_BYTES // 4 - 2, 0, spi, sequence, digest) + payload


@dataclass(slots=True)
class ReplayWindow:
    """The last sequence number of each sender: one that is not greater was there before."""

    last: int = -1

    def take(self, sequence: int) -> None:
        """Raises Dropped."""
        if sequence <= self.last:
            raise InvalidAdvert(AdvertError.REPLAYED, f"{sequence} after {self.last}")
        self.last = sequence


def verify_ah(ip_header: bytes, sealed: bytes, key: bytes) -> tuple[int, bytes]:
    """Sequence number and payload of what `seal` made. Raises Dropped; the caller looks at the sequence number."""
    if len(sealed) < AH_BYTES:
        raise InvalidAdvert(AdvertError.TRUNCATED, f"{len(sealed)} bytes")
    protocol, words, reserved, spi, sequence, digest = _AH.unpack_from(sealed)
    if protocol != PROTOCOL or words != AH_BYTES // 4 - 2:
        raise InvalidAdvert(AdvertError.AUTHENTICATION)
    payload = sealed[AH_BYTES:]
    plain = _AH.pack(protocol, words, reserved, spi, sequence, bytes(DIGEST_BYTES))
    if not hmac.compare_digest(digest, _digest(ip_header, plain, payload, key)):
        raise InvalidAdvert(AdvertError.DIGEST)
    return sequence, payload


def _digest(ip_header: bytes, plain: bytes, payload: bytes, key: bytes) -> bytes:
    fixed = bytearray(ip_header[:20])
    for at, count in _MUTABLE:
        fixed[at : at + count] = bytes(count)
    fixed[_TTL_AT] = _MULTICAST_TTL if fixed[_DESTINATION_AT] >> 4 == _MULTICAST else 0
    made = hmac.digest(key.ljust(PASSWORD_BYTES, b"\0"), bytes(fixed) + plain + payload, "md5")
    return made[:DIGEST_BYTES]
