"""The ends of a captured packet, and the packet as the programs can run it. Pure."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pylvs.reference.packet import checksum

_ETHER, _IPV6_BYTES = 14, 40
_V4, _V6 = b"\x08\x00", b"\x86\xdd"
_LONGEST = 1500  # bytes of a packet that the kernel runs through a program; longer ones were merged from several
_TCP = 6
_WITH_PORTS = (_TCP, 17, 132)
_FLAGS_AT, _SYN, _RST = 13, 0x02, 0x04  # of TCP's header
_MORE_OR_OFFSET = 0x3FFF


class Ends(NamedTuple):
    """The sender and the receiver of a packet. Addresses are in network order, ports in host order."""

    protocol: int
    source: bytes
    source_port: int
    target: bytes
    target_port: int

    @property
    def reversed(self) -> tuple[int, bytes, int, bytes, int]:
        """Return the same with the ends exchanged."""
        return self.protocol, self.target, self.target_port, self.source, self.source_port


def ends_of(frame: bytes) -> Ends | None:
    """Return the ends of a frame with TCP, UDP or SCTP, without a fragment or extension headers; else None."""
    kind = frame[12:_ETHER]
    if kind == _V4 and len(frame) >= _ETHER + 20:
        at, protocol = _ETHER + 4 * (frame[_ETHER] & 0xF), frame[_ETHER + 9]
        if struct.unpack_from("!H", frame, _ETHER + 6)[0] & _MORE_OR_OFFSET:
            return None
        source, target = frame[_ETHER + 12 : _ETHER + 16], frame[_ETHER + 16 : _ETHER + 20]
    elif kind == _V6 and len(frame) >= _ETHER + _IPV6_BYTES:
        at, protocol = _ETHER + _IPV6_BYTES, frame[_ETHER + 6]
        source, target = frame[_ETHER + 8 : _ETHER + 24], frame[_ETHER + 24 : _ETHER + 40]
    else:
        return None
    if protocol not in _WITH_PORTS or len(frame) < at + 8:
        return None
    ports = struct.unpack_from("!HH", frame, at)
    return Ends(protocol, source, ports[0], target, ports[1])


def may_open(frame: bytes, protocol: int) -> bool:
    """Return whether a packet may open a connection: of TCP a SYN does; of the others each may."""
    at = _ETHER + (4 * (frame[_ETHER] & 0xF) if frame[12:_ETHER] == _V4 else _IPV6_BYTES)
    return protocol != _TCP or (len(frame) > at + _FLAGS_AT and frame[at + _FLAGS_AT] & (_SYN | _RST) == _SYN)


def shortened(frame: bytes) -> bytes:
    """Return a frame that fits a link: packets that the kernel has merged are cut, with a right IP header."""
    if len(frame) <= _ETHER + _LONGEST:
        return frame
    cut = bytearray(frame[: _ETHER + _LONGEST])
    if frame[12:_ETHER] == _V4:
        header = 4 * (frame[_ETHER] & 0xF)
        struct.pack_into("!H", cut, _ETHER + 2, _LONGEST)
        struct.pack_into("!H", cut, _ETHER + 10, 0)
        struct.pack_into("!H", cut, _ETHER + 10, checksum(bytes(cut[_ETHER : _ETHER + header])))
    else:
        struct.pack_into("!H", cut, _ETHER + 4, _LONGEST - _IPV6_BYTES)
    return bytes(cut)
