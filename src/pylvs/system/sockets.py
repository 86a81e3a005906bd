"""What Python's sockets lack: filters in classic BPF, large buffers, the peer, long paths, writes that never wait.

Filters: Documentation/networking/filter.rst in the kernel.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import stat
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

Instruction = tuple[int, int, int, int]  # operation, jump if true, jump if not, operand

LOAD_4, LOAD_2, LOAD_1 = 0x20, 0x28, 0x30  # BPF_LD | BPF_ABS of that many bytes
EQUALS, RETURN = 0x15, 0x06
NETWORK_HEADER, ANCILLARY = 0xFFF00000, 0xFFFFF000  # SKF_NET_OFF, SKF_AD_OFF

TAKE: Instruction = (RETURN, 0, 0, 0xFFFFFFFF)
DROP: Instruction = (RETURN, 0, 0, 0)

MONITORS = Path("/run/pylvs/monitor")  # the sockets of daemons that the members of a group may read
MONITOR_GROUP = "pylvs"  # where the configuration names no other
LONGEST_SOCKET_PATH = 107  # bytes, sun_path without its zero

_CHUNK = 1 << 18  # bytes that are copied at a time
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33  # asm-generic/socket.h
SOL_PACKET, _PACKET_STATISTICS = 263, 6  # linux/socket.h, linux/if_packet.h
_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def described(program: Sequence[Instruction]) -> Program:
    """Return a filter as the kernel takes it, while the result exists."""
    return Program(len(program), b"".join(_INSTRUCTION.pack(*each) for each in program))


def attach(filtered: socket.socket, program: Sequence[Instruction]) -> None:
    """Attach a filter; it replaces the present one atomically. Raises OSError."""
    held = described(program)
    filtered.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(held))


def stop_capture(packets: socket.socket) -> int:
    """Let a packet socket queue no more, so that reading what waits ends under any traffic.

    Return how many packets it has lost since it was opened. Raises OSError.
    """
    attach(packets, [DROP])
    _, dropped = struct.unpack("II", packets.getsockopt(SOL_PACKET, _PACKET_STATISTICS, 8))
    return int(dropped)


def enlarge(enlarged: socket.socket, octets: int) -> None:
    """Enlarge the receive buffer; beyond net.core.rmem_max if this process has CAP_NET_ADMIN."""
    try:
        enlarged.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, octets)
    except PermissionError:
        enlarged.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, octets)


class Unsent(bytearray):
    """What a socket that never blocks has not sent yet: add to it, then `flush`."""

    def flush(self, end: socket.socket) -> None:
        """Send as far as possible. Raises OSError."""
        with contextlib.suppress(BlockingIOError):
            while self:
                del self[: end.send(self[:_CHUNK])]


@contextlib.contextmanager
def closed_on_error(opened: socket.socket) -> Iterator[None]:
    """Close a socket if the block, which prepares it, raises anything."""
    try:
        yield
    except BaseException:
        opened.close()
        raise


@contextlib.contextmanager
def address_of(path: Path) -> Iterator[str]:
    """Yield a path that fits into sun_path; it is valid within. Raises OSError if its directory does not exist."""
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def write_without_waiting(descriptor: int, data: bytes) -> bool:
    """Write to a file, pipe, terminal or socket that others share, if it takes all of it now; return whether it did.

    O_NONBLOCK on the shared descriptor would change it for the others as well.
    """
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            with socket.socket(fileno=os.dup(descriptor)) as end:
                return end.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(data)
        own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            return os.write(own, data) == len(data)
        finally:
            os.close(own)
    return False


def peer_of(end: socket.socket) -> tuple[int, int]:
    """Return process and user at the other end; the process is the one that made its socket."""
    pid, user, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, user
