"""Sockets, messages and attributes of netlink(7), in a module that is fast to import.

A socket belongs to the network namespace of the thread that opened it. The kernel executes a request of rtnetlink or
nf_tables within send(2), so its replies are ready afterwards. A request still waits for the kernel's locks, as in any
program. Formats: linux/netlink.h, rtnetlink.h.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address

from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.errors import NotPermitted, PylvsError
from pylvs.system import syscalls

NETLINK_ROUTE, NETLINK_NETFILTER, NETLINK_GENERIC = 0, 12, 16
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300  # NLM_F_*
REPLACE, EXCL, CREATE, APPEND = 0x100, 0x200, 0x400, 0x800
NEWLINK, DELLINK, GETLINK, NEWADDR, DELADDR, GETADDR, NEWROUTE, DELROUTE, GETROUTE = 16, 17, 18, 20, 21, 22, 24, 25, 26
NEWRULE, DELRULE, GETRULE = 32, 33, 34  # RTM_*
IFINFOMSG, IFADDRMSG, RTMSG = struct.Struct("=BxHiII"), struct.Struct("=BBBBI"), struct.Struct("=8BI")
IFF_UP, IFF_LOOPBACK, IFF_RUNNING = 0x1, 0x8, 0x40

_ERROR, _DONE = 2, 3  # NLMSG_*
_MULTI, _DUMP_INTERRUPTED, _CAPPED, _ACK_ATTRIBUTES = 0x2, 0x10, 0x100, 0x200
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_RECEIVE = 1 << 17
_MSG_DONTWAIT = 0x40
_AT_ONCE = 64  # requests: their replies fit into the smallest receive buffer in use
NO_ANSWER = errno.EIO, "the kernel did not answer"

Request = tuple[int, bytes, int]  # type, body, and flags besides REQUEST and ACK
Reply = tuple[int, str]  # errno (0: done), and the kernel's message or ""


class NetlinkError(Exception):
    """The kernel refused a request; `number` is its errno, `reason` its message or ""."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"{os.strerror(number)}: {reason}" if reason else os.strerror(number))
        self.number = number
        self.reason = reason

    def as_failure(self, doing: str) -> PylvsError:
        """Return this as an error for the user; `doing` names the failed operation."""
        error = syscalls.failure(self.number, doing, needed=("CAP_NET_ADMIN",))
        if self.reason and not isinstance(error, NotPermitted):
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


def members(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the attributes of a message in their order, each with its number."""
    while offset + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        yield kind & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += length + 3 & ~3


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Return the attributes of a message by number; of several with one number the last."""
    return dict(members(data, offset))


def number(value: bytes | None) -> int:
    """Decode an unsigned number in host order; 0 when the attribute is missing."""
    return int.from_bytes(value or b"", sys.byteorder)


def address_of(value: bytes | None) -> Address | None:
    """Decode an address; None when the attribute is missing, or is no address."""
    if value is None or len(value) not in (4, 16):
        return None
    return IPv4Address(value) if len(value) == 4 else IPv6Address(value)


def name(value: bytes | None) -> str:
    """Decode a text; empty when the attribute is missing."""
    return (value or b"").rstrip(b"\0").decode(errors="replace")


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return one message to the kernel, padded to 4 bytes."""
    return _HEADER.pack(_HEADER.size + len(body), kind, REQUEST | flags, sequence, 0) + body + bytes(-len(body) % 4)


def walk(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield type, flags, sequence number and body of each whole message."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            return
        yield kind, flags, sequence, data[at + _HEADER.size : at + length]
        at += length + 3 & ~3


def receive_all(source: socket.socket) -> Iterator[bytes]:
    """Yield every datagram that is ready. Raises OSError(ENOBUFS) when some were lost."""
    while True:
        try:
            yield source.recv(_RECEIVE, _MSG_DONTWAIT)
        except BlockingIOError:
            return


def _reply(kind: int, flags: int, body: bytes) -> Reply:
    """Decode an acknowledgement, or the end of a dump."""
    (code,) = struct.unpack_from("=i", body) if len(body) >= 4 else (0,)
    if not code or not flags & _ACK_ATTRIBUTES:
        return -code, ""
    start = 4
    if kind == _ERROR:  # the request precedes the attributes, or only its header
        whole = not flags & _CAPPED and len(body) >= start + _HEADER.size
        start += _HEADER.unpack_from(body, start)[0] + 3 & ~3 if whole else _HEADER.size
    return -code, name(attributes(body, start).get(1))  # NLMSGERR_ATTR_MSG


class Netlink:
    """A netlink socket."""

    def __init__(self, protocol: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        if protocol == NETLINK_ROUTE:
            self._socket.setsockopt(_SOL_NETLINK, _STRICT, 1)
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; twice is harmless."""
        self._socket.close()

    def _exchange(self, kind: int, flags: int, body: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Send a message; wait for its replies and yield type, flags and body of each. Raises NetlinkError.

        The acknowledgement, or the end of the dump, ends it.
        """
        self._sequence += 1
        self._socket.send(message(kind, flags, self._sequence, body))
        while True:
            for answer, answer_flags, sequence, content in walk(self._socket.recv(_RECEIVE)):
                if sequence != self._sequence:
                    continue
                if answer in (_ERROR, _DONE):
                    code, reason = _reply(answer, answer_flags, content)
                    if code > 0:
                        raise NetlinkError(code, reason)
                    yield answer, answer_flags, b""
                    return
                yield answer, answer_flags, content

    def request(self, kind: int, body: bytes, flags: int = 0) -> list[bytes]:
        """Send a request and wait for the acknowledgement; return the replies before it. Raises NetlinkError."""
        return [content for answer, _, content in self._exchange(kind, ACK | flags, body) if answer != _ERROR]

    def ask(self, kind: int, bodies: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
        """Send requests that one message answers each; yield the position and the answer of those that succeed."""
        for start in range(0, len(bodies), _AT_ONCE):
            first, part = self._sequence + 1, bodies[start : start + _AT_ONCE]
            self._sequence += len(part)
            self._socket.send(b"".join(message(kind, 0, at, body) for at, body in enumerate(part, first)))
            for data in receive_all(self._socket):
                for answer, _, sequence, content in walk(data):
                    if answer != _ERROR and sequence >= first:
                        yield start + sequence - first, content

    def dump(self, kind: int, body: bytes, attempts: int = 0) -> list[bytes]:
        """Return all objects of a kind. Raises NetlinkError.

        Repeat a dump that a change interrupted; after `attempts`, if that is not 0, return it as it is.
        """
        while True:
            found, interrupted = [], False
            for answer, flags, content in self._exchange(kind, DUMP, body):
                interrupted = interrupted or bool(flags & _DUMP_INTERRUPTED)
                if answer not in (_ERROR, _DONE):
                    found.append(content)
                    if not flags & _MULTI:
                        break
            attempts -= 1
            if not interrupted or not attempts:
                return found

    def beginning(self, kind: int, body: bytes) -> Iterator[bytes]:
        """Yield objects of a kind, as long as the caller wants. The socket is of no use afterwards."""
        for answer, _, content in self._exchange(kind, DUMP, body):
            if answer not in (_ERROR, _DONE):
                yield content

    def send(self, messages: bytes) -> Iterator[tuple[int, Reply]]:
        """Send messages that want to be acknowledged; yield sequence number and reply of each, without waiting."""
        self._socket.send(messages)
        for data in receive_all(self._socket):
            for kind, flags, sequence, body in walk(data):
                if kind == _ERROR:
                    yield sequence, _reply(kind, flags, body)

    def do(self, requests: Sequence[Request]) -> list[Reply]:
        """Execute requests without waiting; return their replies in order. A failure does not stop the next."""
        found: list[Reply] = []
        for start in range(0, len(requests), _AT_ONCE):
            found += self._do(requests[start : start + _AT_ONCE])
        return found

    def _do(self, requests: Sequence[Request]) -> list[Reply]:
        first = self._sequence + 1
        self._sequence += len(requests)
        batch = b"".join(message(kind, ACK | flags, at, body) for at, (kind, body, flags) in enumerate(requests, first))
        replies: dict[int, Reply] = {}
        missing = NO_ANSWER
        try:
            replies.update(self.send(batch))
        except OSError as error:
            missing = error.errno or errno.EIO, ""
        return [replies.get(first + at, missing) for at in range(len(requests))]


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
