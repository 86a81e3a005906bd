"""Advertisements as bytes: version 2 (RFC 3768, with the authentication of RFC 2338) and version 3 (RFC 9568).

Pure functions of a packet's payload and of the addresses that it travels between. What is wrong with a packet has a
name, under which it is counted; a packet with anything wrong decides nothing.
"""

from __future__ import annotations

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
MOST_ADDRESSES = 255
MOST_INTERVAL_S = {2: 255.0, 3: 40.95}
_ADVERTISEMENT = 1  # the only type there is
_HEAD = struct.Struct("!BBBBHH")  # version and type, VRID, priority, count; two that differ; checksum
_ADDRESS_BYTES = {4: 4, 6: 16}
_AUTHENTICATIONS = (None, Authentication.PASS, Authentication.AH)  # by their numbers in version 2


class Flaw(Enum):
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


class Dropped(Exception):
    """A packet that decides nothing; never reaches a user."""

    def __init__(self, flaw: Flaw, detail: str = "") -> None:
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
        raise Dropped(Flaw.TRUNCATED, f"{len(payload)} bytes")
    first, vrid, priority, count, middle, _ = _HEAD.unpack_from(payload)
    version, kind = first >> 4, first & 0xF
    if version not in (2, 3) or (version == 2 and source.version == 6):
        raise Dropped(Flaw.VERSION, str(version))
    if kind != _ADVERTISEMENT:
        raise Dropped(Flaw.TYPE, str(kind))
    width = _ADDRESS_BYTES[source.version]
    end = _HEAD.size + count * width
    whole = end + (PASSWORD_BYTES if version == 2 else 0)
    if len(payload) < whole:
        raise Dropped(Flaw.TRUNCATED, f"{len(payload)} of {whole} bytes")
    if len(payload) > whole:
        raise Dropped(Flaw.TRAILING, f"{len(payload)} instead of {whole} bytes")
    if version == 2:
        if checksum(payload):
            raise Dropped(Flaw.CHECKSUM)
    elif not has_pseudo_header(payload, source, destination) and (source.version == 6 or checksum(payload)):
        raise Dropped(Flaw.CHECKSUM)
    addresses = _addresses(payload[_HEAD.size : end], width)
    if version == 3:
        return Advertisement(3, vrid, priority, (middle & 0x0FFF) / 100, addresses)
    if middle >> 8 >= len(_AUTHENTICATIONS):
        raise Dropped(Flaw.AUTHENTICATION, str(middle >> 8))
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


def comparable(address: Address) -> tuple[int, int]:
    """For "the greater address wins" among equals; of one family, in network order (RFC 9568, 6.4.3)."""
    assert isinstance(address, IPv4Address | IPv6Address)
    return address.version, int(address)
