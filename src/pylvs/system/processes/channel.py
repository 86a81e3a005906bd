"""Messages between pylvs's processes: JSON objects in packets of a socket, with descriptors for the child.

JSON can only become plain values, and the receiver checks each of them. So a process in an attacker's hands has no more
power over its parent than what its messages can express. A message that is longer than a packet is in a sealed file.
A parent sends such files, and takes none of a process without privileges.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from pylvs import __version__
from pylvs.model.dataclass import dataclass
from pylvs.system.logs import one_line
from pylvs.system.processes import other_version
from pylvs.system.processes.event_loop import Loop

MAX_PACKET = 1 << 17  # bytes; below the default of net.core.wmem_default
MAX_DESCRIPTORS = 200  # in one packet; the kernel allows 253
MAX_REASON = 300  # characters of a text that a process sent
MAX_CONTENT = 64 << 20  # bytes of a message in a file; far more than a configuration takes
_MAX_UNSENT = 64 << 20  # bytes
_OVERHEAD = 512  # bytes of a packet that waits, besides its content
_PACKETS_AT_ONCE = 8  # received in one run of the event loop
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
ENDED = "has ended"  # a reason of `on_lost`
_SEALED = b'{"sealed":true}'  # a packet whose last descriptor is the file with the message

Message = Mapping[str, Any]


class BadMessage(Exception):
    """The peer sent something that is no valid message."""


class Descriptor(Protocol):
    """A socket or a file."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


def greeting(left: Sequence[str] = ()) -> Message:
    """Return the first message of a process: its version, and the privileges that it could not give up."""
    return {"hello": __version__, "left": list(left)}


def greeting_problem(message: Message) -> str:
    """Return why the process of this greeting cannot be used, "" if it can."""
    return "" if message.get("hello") == __version__ else other_version(message.get("hello"))


def privileges_left(message: Message) -> list[str]:
    """Return what the process of this greeting could not give up. Raises BadMessage."""
    left = message.get("left")
    if not isinstance(left, list):
        raise BadMessage("a greeting without its fields")
    return [one_line(str(each))[:MAX_REASON] for each in left]


def encode(message: Message) -> bytes:
    """Return a packet. Raises BadMessage if it would be too long."""
    return packet(message, may_be_long=False)[0]


def decode(data: bytes) -> dict[str, Any]:
    """Return the message of a packet. Raises BadMessage."""
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise BadMessage("not JSON") from None
    if not isinstance(message, dict):
        raise BadMessage("not a JSON object")
    return message


def sealed(content: bytes) -> int:
    """Return a file in memory that no process can change: for content longer than a packet."""
    number = os.memfd_create("pylvs", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(number, "wb", closefd=False) as file:
            file.write(content)
        fcntl.fcntl(number, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(number)
        raise
    return number


def receive(end: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the next message of the parent with its descriptors.

    Raises EOFError at the end, BlockingIOError, OSError, BadMessage.
    """
    data, descriptors, _, _ = socket.recv_fds(end, MAX_PACKET, MAX_DESCRIPTORS + 1)
    if not data:
        raise EOFError
    try:
        if data == _SEALED and descriptors:
            data = _content(descriptors.pop())
        return decode(data), descriptors
    except BaseException:
        close_all(descriptors)
        raise


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors of a message that needs none."""
    for each in descriptors:
        os.close(each)


def _content(number: int) -> bytes:
    """Return what a file in memory has, and close it. Raises BadMessage if it could change, or is too long."""
    with open(number, "rb") as file:
        try:
            seals = fcntl.fcntl(number, fcntl.F_GET_SEALS)
        except OSError:
            seals = 0
        if seals & _SEALS != _SEALS:
            raise BadMessage("a file that is not sealed")
        if os.fstat(number).st_size > MAX_CONTENT:
            raise BadMessage("a file that is too long")
        file.seek(0)
        return file.read()


@dataclass(slots=True)
class _Packet:
    data: bytes
    descriptors: list[Descriptor]
    size: int  # that counts against the limit


def packet(message: Message, may_be_long: bool) -> tuple[bytes, list[Descriptor], int]:
    """Return what to send, and the size of the message. Raises BadMessage if it would be too long."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) <= MAX_PACKET:
        return data, [], len(data)
    if not may_be_long or len(data) > MAX_CONTENT:
        raise BadMessage(f"a message of {len(data)} bytes")
    return _SEALED, [os.fdopen(sealed(data), "rb")], len(data)


class Link:
    """One end of a socket pair in an event loop. What the other end does not read at once waits here.

    `on_message` gets each message, with its descriptors if the other end is the parent; it raises BadMessage, which
    ends the link. `on_lost` gets the reason of the end, once. The socket is closed before that, unless the other end is
    the parent. It kills this process when it reads the end, so the socket stays open for the last work of this one.
    With `equal` the other end has the rights of this one, and long messages go both ways. `most_waiting` is for a
    process that requests descriptors: it must not hold more of them here by not reading. `most_unsent` limits the bytes
    that wait.
    """

    def __init__(
        self,
        loop: Loop,
        end: socket.socket,
        on_message: Callable[[dict[str, Any], list[int]], None],
        on_lost: Callable[[str], None],
        to_parent: bool = False,
        most_waiting: float = math.inf,
        equal: bool = False,
        most_unsent: int = _MAX_UNSENT,
    ) -> None:
        end.setblocking(False)
        self._loop = loop
        self._end = end
        self._on_message, self._on_lost = on_message, on_lost
        self._to_parent = to_parent
        self._takes_descriptors = to_parent or equal
        self._may_be_long = not to_parent or equal
        self._most_waiting, self._most_unsent = most_waiting, most_unsent
        self._unsent: deque[_Packet] = deque()
        self._waiting_descriptors = self._waiting_bytes = 0  # in these packets
        self._open = True
        self._ending = False
        self._writing = False  # watched for writing, too
        loop.watch(end.fileno(), self._receive)

    @property
    def waits(self) -> bool:
        """Whether messages wait until the other end reads."""
        return bool(self._unsent)

    def send(self, message: Message, descriptors: Sequence[Descriptor] = ()) -> None:
        """Send a message, with descriptors that are closed here then; none after the end.

        Raises BadMessage if one to the parent is longer than a packet.
        """
        data, files, size = packet(message, self._may_be_long)
        made = _Packet(data, [*descriptors, *files], size + _OVERHEAD)
        if not self._open or self._ending:
            _close(made)
            return
        self._unsent.append(made)
        self._waiting_descriptors += len(made.descriptors)
        self._waiting_bytes += made.size
        if len(self._unsent) == 1:
            self._flush()
        if self._waiting_bytes > self._most_unsent or self._waiting_descriptors > self._most_waiting:
            self._lose("does not read")

    def finish(self) -> None:
        """Send what waits, and then the end. The other end may send its last messages, and then `on_lost` is called."""
        self._ending = True
        if self._open:
            self._flush()

    def close(self) -> None:
        """Close this end, without a call of `on_lost`."""
        if self._open:
            self._leave()
            self._end.close()

    def _leave(self) -> None:
        self._open = False
        self._drop_unsent()
        self._loop.watch(self._end.fileno(), None)

    def _drop_unsent(self) -> None:
        for packet in self._unsent:
            _close(packet)
        self._unsent.clear()
        self._waiting_descriptors = self._waiting_bytes = 0

    def _lose(self, reason: str) -> None:
        if self._open:
            self._leave()
            if not self._to_parent:
                self._end.close()
            self._on_lost(reason)

    def _flush(self) -> None:
        """Send what waits, as far as possible."""
        while self._unsent:
            packet = self._unsent[0]
            try:
                if packet.descriptors:
                    socket.send_fds(self._end, [packet.data], [each.fileno() for each in packet.descriptors])
                else:
                    self._end.send(packet.data)
            except BlockingIOError:
                self._watch(writing=True)
                return
            except ConnectionError:  # what it sent before its end may still be unread
                self._drop_unsent()
                break
            except OSError as error:
                self._lose(f"cannot be reached: {error.strerror}")
                return
            self._waiting_descriptors -= len(packet.descriptors)
            self._waiting_bytes -= packet.size
            _close(self._unsent.popleft())
        if self._ending:
            with contextlib.suppress(OSError):
                self._end.shutdown(socket.SHUT_WR)
        self._watch(writing=False)

    def _watch(self, writing: bool) -> None:
        if writing is not self._writing:
            self._writing = writing
            self._loop.watch(self._end.fileno(), self._receive, self._flush if writing else None)

    def _receive(self) -> None:
        for _ in range(_PACKETS_AT_ONCE):
            if not self._open:
                return
            try:
                message, descriptors = receive(self._end) if self._takes_descriptors else (self._of_child(), [])
            except BlockingIOError:
                return
            except ConnectionResetError:  # it ended without reading all; its messages follow this error
                continue
            except (EOFError, OSError):
                self._lose(ENDED)
                return
            except BadMessage as error:
                self._lose(f"sent an invalid message ({error})")
                return
            try:
                self._on_message(message, descriptors)
            except BadMessage as error:
                self._lose(f"sent an invalid message ({error})")

    def _of_child(self) -> dict[str, Any]:
        """Return the next message of the child, from which nothing takes descriptors: the kernel drops them."""
        data = self._end.recv(MAX_PACKET)
        if not data:
            raise EOFError
        return decode(data)


def _close(packet: _Packet) -> None:
    for each in packet.descriptors:
        each.close()
