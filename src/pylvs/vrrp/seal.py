"""Version 2's authentication header (RFC 2402 with HMAC-MD5-96, RFC 2403), as keepalived puts it around advertisements.

The digest covers the IP header with its mutable fields zero (of multicast, keepalived covers the TTL as it is), the
authentication header with a digest of zeros, and the payload. The key is the password.
"""

from __future__ import annotations

import hmac
import struct

from pylvs.model.dataclass import dataclass
from pylvs.vrrp.packet import PASSWORD_BYTES, PROTOCOL, Dropped, Flaw

AH_PROTOCOL = 51
DIGEST_BYTES = 12
_AH = struct.Struct("!BBH4sI12s")  # next header, length in words - 2, reserved, SPI, sequence number, digest
AH_BYTES = _AH.size
MOST_SEQUENCE = 0xFFFFFFFF
_MUTABLE = ((1, 1), (6, 2), (10, 2))  # TOS, fragment offset, checksum: offset and bytes
_TTL_AT, _MULTICAST_TTL = 8, 255
_DESTINATION_AT, _MULTICAST = 16, 0xE  # its first 4 bits


def seal(ip_header: bytes, payload: bytes, key: bytes, sequence: int) -> bytes:
    """The authentication header and the payload behind it; the SPI is the source address, as keepalived's."""
    spi = ip_header[12:16]
    plain = _AH.pack(PROTOCOL, AH_BYTES // 4 - 2, 0, spi, sequence, bytes(DIGEST_BYTES))
    digest = _digest(ip_header, plain, payload, key)
    return _AH.pack(PROTOCOL, AH_BYTES // 4 - 2, 0, spi, sequence, digest) + payload


@dataclass(slots=True)
class Window:
    """The last sequence number of each sender: one that is not greater was there before."""

    last: int = -1

    def take(self, sequence: int) -> None:
        """Raises Dropped."""
        if sequence <= self.last:
            raise Dropped(Flaw.REPLAYED, f"{sequence} after {self.last}")
        self.last = sequence


def opened(ip_header: bytes, sealed: bytes, key: bytes) -> tuple[int, bytes]:
    """Sequence number and payload of what `seal` made. Raises Dropped; the caller looks at the sequence number."""
    if len(sealed) < AH_BYTES:
        raise Dropped(Flaw.TRUNCATED, f"{len(sealed)} bytes")
    protocol, words, reserved, spi, sequence, digest = _AH.unpack_from(sealed)
    if protocol != PROTOCOL or words != AH_BYTES // 4 - 2:
        raise Dropped(Flaw.AUTHENTICATION)
    payload = sealed[AH_BYTES:]
    plain = _AH.pack(protocol, words, reserved, spi, sequence, bytes(DIGEST_BYTES))
    if not hmac.compare_digest(digest, _digest(ip_header, plain, payload, key)):
        raise Dropped(Flaw.DIGEST)
    return sequence, payload


def _digest(ip_header: bytes, plain: bytes, payload: bytes, key: bytes) -> bytes:
    fixed = bytearray(ip_header[:20])
    for at, count in _MUTABLE:
        fixed[at : at + count] = bytes(count)
    fixed[_TTL_AT] = _MULTICAST_TTL if fixed[_DESTINATION_AT] >> 4 == _MULTICAST else 0
    made = hmac.digest(key.ljust(PASSWORD_BYTES, b"\0"), bytes(fixed) + plain + payload, "md5")
    return made[:DIGEST_BYTES]
