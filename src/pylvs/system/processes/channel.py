"""Messages between the daemon and a confined process: JSON objects in packets, with descriptors for the process.

JSON can only become plain values, and the receiver checks each of them. So a process in an attacker's hands has no more
power over the daemon than what its messages can express.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from pylvs import __version__
from pylvs.system.logs import one_line
from pylvs.system.processes import other_version

MAX_PACKET = 1 << 17  # bytes; below the default of net.core.wmem_default
MAX_DESCRIPTORS = 200  # in one packet; the kernel allows 253
MAX_REASON = 300  # characters of a text that a process sent
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

Message = Mapping[str, Any]


class BadMessage(Exception):
    """The peer sent something that is no valid message."""


def greeting(protocol: int, left: Sequence[str]) -> Message:
    """Return the first message of a process: its version, and the privileges that it could not give up."""
    return {"hello": __version__, "protocol": protocol, "left": list(left)}


def greeting_problem(message: Message, protocol: int) -> str:
    """Return why the process of this greeting cannot be used, "" if it can."""
    if (message.get("hello"), message.get("protocol")) == (__version__, protocol):
        return ""
    return other_version(message.get("hello"))


def privileges_left(message: Message) -> list[str]:
    """Return what the process of this greeting could not give up. Raises BadMessage."""
    left = message.get("left")
    if not isinstance(left, list):
        raise BadMessage("a greeting without its fields")
    return [one_line(str(each))[:MAX_REASON] for each in left]


def encode(message: Message) -> bytes:
    """Return a packet. Raises BadMessage if it would be too long."""
    data = json.dumps(message, separators=(",", ":")).encode()
    if len(data) > MAX_PACKET:
        raise BadMessage(f"a message of {len(data)} bytes")
    return data


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
    """Return the next message with its descriptors, in the confined process.

    Raises EOFError at the end, BlockingIOError, OSError, BadMessage.
    """
    data, descriptors, _, _ = socket.recv_fds(end, MAX_PACKET, MAX_DESCRIPTORS)
    if not data:
        raise EOFError
    return decode(data), descriptors
