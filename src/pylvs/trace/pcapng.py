"""Write traced packets to a pcapng file: both sides of each packet, with the verdict as comment.

The format is draft-ietf-opsawg-pcapng: a Section Header Block, an Interface Description Block before the first packet
of each device, and Enhanced Packet Blocks. Each packet is flushed, so the file is readable at any moment.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import IO

from pylvs import __version__
from pylvs.trace.headers import decoded
from pylvs.trace.packet import TracedPacket

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6  # types of blocks
_BYTE_ORDER, _MAJOR, _MINOR, _UNKNOWN_LENGTH = 0x1A2B3C4D, 1, 0, -1
_LINKTYPE_ETHERNET = 1
_END, _COMMENT = 0, 1  # options of every block
_USER_APPLICATION = 4  # shb_userappl
_NAME, _RESOLUTION = 2, 9  # if_name, if_tsresol
_FLAGS, _PACKET_ID = 2, 5  # epb_flags, epb_packetid
_INBOUND, _OUTBOUND = 1, 2
_NANOSECONDS = 9
_LONGEST_OPTION = 0xFFFF


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _options(pairs: Iterable[tuple[int, bytes]]) -> bytes:
    found = b"".join(struct.pack("<HH", code, len(value)) + _padded(value) for code, value in pairs)
    return found + struct.pack("<HH", _END, 0)


def _block(kind: int, content: bytes) -> bytes:
    length = len(content) + 12
    return struct.pack("<II", kind, length) + content + struct.pack("<I", length)


def _text(text: str) -> bytes:
    """Return UTF-8 of at most the length of an option; a name from the kernel may be no UTF-8."""
    return text.encode("utf-8", "replace")[:_LONGEST_OPTION].decode("utf-8", "ignore").encode()


class PacketFile:
    """A pcapng file that grows by packets; the caller closes the stream."""

    def __init__(self, stream: IO[bytes], snap: int) -> None:
        """Write the start of the section. `snap` is the most bytes of a packet."""
        self._stream, self._snap = stream, snap
        self._interfaces = dict[str, int]()
        program = (_USER_APPLICATION, _text(f"pylvs {__version__}"))
        head = struct.pack("<IHHq", _BYTE_ORDER, _MAJOR, _MINOR, _UNKNOWN_LENGTH)
        self._write(_block(_SECTION, head + _options([program])))

    def add(self, packet: TracedPacket, comment: str) -> None:
        """Append the packet as it came, and as it left if it did. Both have the comment."""
        blocks = self._packet(packet, packet.device, _INBOUND, packet.before, packet.length, comment)
        if packet.after:
            sent = packet.sent_length or length_of(packet.after)
            blocks += self._packet(packet, packet.output or packet.device, _OUTBOUND, packet.after, sent, comment)
        self._write(blocks)

    def _packet(
        self, packet: TracedPacket, device: str, direction: int, frame: bytes, length: int, comment: str
    ) -> bytes:
        blocks = b""
        if device not in self._interfaces:
            self._interfaces[device] = len(self._interfaces)
            head = struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, self._snap)
            blocks = _block(_INTERFACE, head + _options([(_NAME, _text(device)), (_RESOLUTION, bytes([_NANOSECONDS]))]))
        moment = max(round(packet.time * 1e6), 0) * 1000  # a float of this size has no nanoseconds
        interface = self._interfaces[device]
        head = struct.pack("<5I", interface, moment >> 32, moment & 0xFFFFFFFF, len(frame), max(length, len(frame)))
        options = _options(
            [
                (_COMMENT, _text(comment)),
                (_FLAGS, struct.pack("<I", direction)),
                (_PACKET_ID, struct.pack("<Q", packet.number)),
            ]
        )
        return blocks + _block(_PACKET, head + _padded(frame) + options)

    def _write(self, data: bytes) -> None:
        while data:  # a stream without a buffer may take a part
            data = data[self._stream.write(data) :]
        self._stream.flush()


def length_of(frame: bytes) -> int:
    """Return the length of a frame of which the start was captured, by its first IP header."""
    for layer in decoded(frame):
        if layer.name == "IPv4":
            return max(len(frame), layer.start + int(layer.text("total length")))
        if layer.name == "IPv6":
            return max(len(frame), layer.end + int(layer.text("payload length")))
    return len(frame)
