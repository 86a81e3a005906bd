"""Namespaces and mounts: the system calls that Python 3.11 lacks."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from enum import IntFlag
from pathlib import Path

NAMED = Path("/run/netns")  # where `ip netns` keeps named network namespaces
SO_NETNS_COOKIE = 71  # asm-generic/socket.h

_libc = ctypes.CDLL(None, use_errno=True)


class Kind(IntFlag):
    """Kinds of namespace, by the CLONE_NEW* flag of each."""

    MOUNT = 0x00020000
    NAME = 0x04000000
    NETWORK = 0x40000000


class Mount(IntFlag):
    """The MS_* flags that are used here."""

    BIND = 4096
    RECURSIVE = 16384
    PRIVATE = 1 << 18
    SLAVE = 1 << 19


MNT_DETACH = 2
NO_FLAGS = Mount(0)


def _checked(result: int, subject: str) -> None:
    """Raise what the last system call complained of."""
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), subject)


def unshare(kinds: Kind) -> None:
    """New namespaces for this process. Raises OSError."""
    _checked(_libc.unshare(int(kinds)), f"unshare {kinds!r}")


def join(path: str | Path, kind: Kind) -> None:
    """Enter the namespace that a file under /proc/PID/ns or /run/netns stands for. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.setns(descriptor, int(kind)), str(path))
    finally:
        os.close(descriptor)


def mount(source: str, target: str | Path, kind: str = "", flags: Mount = NO_FLAGS, options: str = "") -> None:
    """mount(2). Raises OSError."""
    _checked(
        _libc.mount(
            os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(int(flags)), options.encode()
        ),
        str(target),
    )


def unmount(target: str | Path) -> None:
    """Detach a mount now; it ends when nobody uses it any more. Raises OSError."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), str(target))


def set_hostname(name: str) -> None:
    """Of this process's UTS namespace. Raises OSError."""
    socket.sethostname(name)


@contextlib.contextmanager
def inside_network(path: str | Path) -> Iterator[None]:
    """Do something in another network namespace and come back; sockets opened there stay there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        join(path, Kind.NETWORK)
        try:
            yield
        finally:
            _checked(_libc.setns(home, int(Kind.NETWORK)), "the former network namespace")
    finally:
        os.close(home)


def network_cookie() -> int:
    """The identity of this process's network namespace, never used again while the machine runs."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        raw = probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
    return int(struct.unpack("=Q", raw)[0])
