"""Encode and decode advertisements: version 2 (RFC 3768, authentication of RFC 2338) and version 3 (RFC 9568).

Pure functions of a payload and the addresses of its IP header. An invalid packet raises InvalidAdvert with an
AdvertError, under which it is counted.
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
TTL = 255  # a lower value means that a router forwarded the packet (RFC 9568, 5.1.1.3)
TRAFFIC_CLASS = 0xC0  # internetwork control (RFC 791)
PASSWORD_BYTES = 8
MAX_ADDRESSES = 255
_ADVERTISEMENT = 1  # the only type (RFC 9568, 5.2.2)
_HEAD = struct.Struct("!BBBBHH")  # version and type, VRID, priority, count; differs by version; checksum
HEAD_BYTES, ADDRESS_BYTES = _HEAD.size, {4: 4, 6: 16}
_AUTHENTICATIONS = (None, Authentication.PASS, Authentication.AH)  # indexed by the type field of version 2

AH_PROTOCOL = 51
DIGEST_BYTES = 12
_AH = struct.Struct("!BBH4sI12s")  # next header, length in words - 2, reserved, SPI, sequence number, digest
AH_BYTES = _AH.size
MAX_SEQUENCE = 0xFFFFFFFF
_MUTABLE = ((1, 1), (6, 2), (10, 2))  # TOS, fragment offset, checksum: offset and bytes
_TTL_AT, _MULTICAST_TTL = 8, 255
_DESTINATION_AT, _MULTICAST = 16, 0xE  # the first 4 bits of the address


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
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def pseudo_header(source: Address, destination: Address, length: int) -> bytes:
    """Return what version 3's checksum covers in addition to the payload (RFC 9568, 5.2.8)."""
    if source.version == 4:
        return struct.pack("!4s4sBBH", source.packed, destination.packed, 0, PROTOCOL, length)
    return struct.pack("!16s16sI3xB", source.packed, destination.packed, length, PROTOCOL)


def encode(advertisement: Advertisement, source: Address, destination: Address) -> bytes:
    """Return the payload."""
    body = b"".join(address.packed for address in advertisement.addresses)
    version_type = advertisement.version << 4 | _ADVERTISEMENT
    if advertisement.version == 2:
        middle = _AUTHENTICATIONS.index(advertisement.authentication) << 8 | round(advertisement.interval_s)
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
    if packet_type != _ADVERTISEMENT:
        raise InvalidAdvert(AdvertError.TYPE, str(packet_type))
    width = ADDRESS_BYTES[source.version]
    addresses_end = HEAD_BYTES + count * width
    _check_length(payload, addresses_end + (PASSWORD_BYTES if version == 2 else 0))
    _check_checksum(payload, version, source, destination)
    addresses = _addresses(payload[HEAD_BYTES:addresses_end], width)
    if version == 3:
        return Advertisement(3, vrid, priority, (middle & 0x0FFF) / 100, addresses)
    if middle >> 8 >= len(_AUTHENTICATIONS):
        raise InvalidAdvert(AdvertError.AUTHENTICATION, str(middle >> 8))
    authentication = _AUTHENTICATIONS[middle >> 8]
    password = payload[addresses_end:].rstrip(b"\0")
    return Advertisement(2, vrid, priority, float(middle & 0xFF), addresses, authentication, password)


def _check_length(payload: bytes, expected: int) -> None:
    if len(payload) < expected:
        raise InvalidAdvert(AdvertError.TRUNCATED, f"{len(payload)} of {expected} bytes")
    if len(payload) > expected:
        raise InvalidAdvert(AdvertError.TRAILING, f"{len(payload)} instead of {expected} bytes")


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
    spi = ip_header[12:16]
    plain = _AH.pack(PROTOCOL, AH_BYTES // 4 - 2, 0, spi, sequence, bytes(DIGEST_BYTES))
    digest = _digest(ip_header, plain, payload, key)
    return _AH.pack(PROTOCOL, AH_BYTES // 4 - 2, 0, spi, sequence, digest) + payload


def verify_ah(ip_header: bytes, packet: bytes, key: bytes) -> tuple[int, bytes]:
    """Return the sequence number and the payload behind a valid header. Raises InvalidAdvert.

    The caller checks the sequence number.
    """
    if len(packet) < AH_BYTES:
        raise InvalidAdvert(AdvertError.TRUNCATED, f"{len(packet)} bytes")
    protocol, length, reserved, spi, sequence, digest = _AH.unpack_from(packet)
    if protocol != PROTOCOL or length != AH_BYTES // 4 - 2:
        raise InvalidAdvert(AdvertError.AUTHENTICATION)
    payload = packet[AH_BYTES:]
    plain = _AH.pack(protocol, length, reserved, spi, sequence, bytes(DIGEST_BYTES))
    if not hmac.compare_digest(digest, _digest(ip_header, plain, payload, key)):
        raise InvalidAdvert(AdvertError.DIGEST)
    return sequence, payload


def _digest(ip_header: bytes, plain: bytes, payload: bytes, key: bytes) -> bytes:
    covered = bytearray(ip_header[:20])
    for at, count in _MUTABLE:
        covered[at : at + count] = bytes(count)
    covered[_TTL_AT] = _MULTICAST_TTL if covered[_DESTINATION_AT] >> 4 == _MULTICAST else 0
    digest = hmac.digest(key.ljust(PASSWORD_BYTES, b"\0"), bytes(covered) + plain + payload, "md5")
    return digest[:DIGEST_BYTES]
