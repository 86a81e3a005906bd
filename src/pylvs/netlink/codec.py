"""Messages, dumps and attributes of rtnetlink and generic netlink, in a module that is fast to import.

A socket belongs to the network namespace of the calling thread. Formats: linux/netlink.h, rtnetlink.h.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator

from pylvs.model import sockets as socket
from pylvs.system import kernel_errors

REQUEST, ACK, ROOT_DUMP = 0x1, 0x4, 0x300
REPLACE, EXCL, CREATE = 0x100, 0x200, 0x400
_ERROR, _DONE = 2, 3
_MULTI, _DUMP_INTERRUPTED, _CAPPED, _ACK_ATTRIBUTES = 0x2, 0x10, 0x100, 0x200
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_RECEIVE = 1 << 17
ROUTE, GENERIC = 0, 16


class NetlinkError(Exception):
    """The kernel refused a request; `number` is its errno, `reason` its message or ""."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"{os.strerror(number)}: {reason}" if reason else os.strerror(number))
        self.number = number
        self.reason = reason

    def as_failure(self, doing: str) -> kernel_errors.PylvsError:
        """Return this as an error for the user; `doing` names the failed operation."""
        error = kernel_errors.failure(self.number, doing, needed=("CAP_NET_ADMIN",))
        if self.reason and not isinstance(error, kernel_errors.NotPermitted):
            explained = type(error)(f"{error} ({self.reason})")
            explained.errno = error.errno
            return explained
        return error


def attribute(kind: int, value: bytes) -> bytes:
    """Return one attribute, padded to 4 bytes."""
    return _ATTRIBUTE.pack(len(value) + 4, kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *members: bytes) -> bytes:
    """Return an attribute of attributes."""
    return attribute(kind | _NESTED, b"".join(members))


def u32(kind: int, value: int) -> bytes:
    """Return an attribute with a number in host order."""
    return attribute(kind, struct.pack("=I", value))


def octets(name: str) -> bytes:
    """Encode a name: UTF-8, with other octets as Python keeps them (PEP 383)."""
    return name.encode(errors="surrogateescape")


def text(kind: int, value: str) -> bytes:
    """Return an attribute with a name, ending in a zero byte."""
    return attribute(kind, octets(value) + b"\0")


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return the attributes of a message by number; of several with one number the last."""
    found = {}
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & _TYPE_MASK] = data[offset + 4 : offset + length]
        offset += length + 3 & ~3
    return found


def number(value: bytes | None) -> int:
    """Decode an unsigned number in host order; 0 when the attribute is missing."""
    return int.from_bytes(value or b"", "little" if struct.pack("=H", 1)[0] else "big")


def name(value: bytes | None) -> str:
    """Decode a text; empty when the attribute is missing."""
    return (value or b"").rstrip(b"\0").decode(errors="replace")


class Netlink:
    """A netlink socket that waits for the kernel's replies."""

    def __init__(self, protocol: int = ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        if protocol == ROUTE:
            self._socket.setsockopt(_SOL_NETLINK, _STRICT, 1)
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; twice is harmless."""
        self._socket.close()

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)

    def _answers(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield type, flags and body of each reply to the last request."""
        while True:
            data = self._socket.recv(_RECEIVE)
            at = 0
            while at + _HEADER.size <= len(data):
                length, kind, flags, sequence, _port = _HEADER.unpack_from(data, at)
                body = data[at + _HEADER.size : at + length]
                at += length + 3 & ~3
                if sequence == self._sequence:
                    yield kind, flags, body

    def request(self, kind: int, body: bytes, flags: int = 0) -> list[bytes]:
        """Send a request and wait for the acknowledgement; return the replies before it. Raises NetlinkError."""
        self._send(kind, REQUEST | ACK | flags, body)
        found = []
        for answer, answer_flags, content in self._answers():
            if answer == _ERROR:
                _raise_if_error(content, answer_flags)
                break
            found.append(content)
        return found

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Return all objects of a kind; repeat a dump that a change interrupted. Raises NetlinkError."""
        while True:
            self._send(kind, REQUEST | ROOT_DUMP, body)
            found = []
            interrupted = False
            for answer, flags, content in self._answers():
                interrupted = interrupted or bool(flags & _DUMP_INTERRUPTED)
                if answer == _ERROR:
                    _raise_if_error(content, flags)
                    break
                if answer == _DONE:
                    _raise_if_error(content, flags & ~_CAPPED, body_length=0)
                    break
                found.append(content)
                if not flags & _MULTI:
                    break
            if not interrupted:
                return found


def _raise_if_error(content: bytes, flags: int, body_length: int = _HEADER.size) -> None:
    (code,) = struct.unpack_from("=i", content) if len(content) >= 4 else (0,)
    if not code:
        return
    reason = ""
    if flags & _ACK_ATTRIBUTES:
        start = 4 + body_length
        if body_length and not flags & _CAPPED:
            start = 4 + (_HEADER.unpack_from(content, 4)[0] + 3 & ~3)
        reason = name(attributes(content, start).get(1))  # NLMSGERR_ATTR_MSG
    raise NetlinkError(-code, reason)


def generic_family(link: Netlink, wanted: str) -> int | None:
    """Return the number of a generic netlink family; None when this kernel does not have it."""
    body = struct.pack("=BBH", 3, 1, 0) + text(2, wanted)  # CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME
    try:
        answers = link.request(16, body)  # GENL_ID_CTRL
    except NetlinkError as error:
        if error.number == errno.ENOENT:
            return None
        raise
    return number(attributes(answers[0], 4)[1]) if answers else None  # CTRL_ATTR_FAMILY_ID
