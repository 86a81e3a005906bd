"""Namespaces and mounts: the system calls that Python 3.11 lacks."""

from __future__ import annotations

import contextlib
import ctypes
import errno
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


_FILES = {Kind.MOUNT: "mnt", Kind.NAME: "uts", Kind.NETWORK: "net"}  # under /proc/PID/ns

# Linux 6.18 numbers namespaces from batches, one batch for each CPU (include/linux/cookie.h).
ID_BATCH = 4096

MNT_DETACH = 2
NO_FLAGS = Mount(0)


def _checked(result: int, subject: str) -> None:
    """Raise the error of the last system call."""
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), subject)


def unshare(kinds: Kind) -> None:
    """Move this process into new namespaces. Raises OSError."""
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
    """Detach a mount now (MNT_DETACH); it ends with its last use. Raises OSError."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), str(target))


def bind_new(kind: Kind, path: str | Path) -> None:
    """Make a namespace and bind it to a file. The calling process must have one thread; it keeps its namespace.

    Later mounts of this namespace propagate into a new mount namespace, and not the reverse. Raises OSError.
    """
    home = _open_own(kind)
    try:
        try:
            _bind_new(kind, path, home)
        except OSError as error:
            if kind is not Kind.MOUNT or error.errno != errno.EINVAL:
                raise
            _bind_younger(path, home)
    finally:
        os.close(home)


def _bind_new(kind: Kind, path: str | Path, home: int) -> None:
    unshare(kind)
    try:
        if kind is Kind.MOUNT:
            mount("", "/", flags=Mount.SLAVE | Mount.RECURSIVE)
        made = _open_own(kind)
    finally:
        _checked(_libc.setns(home, int(kind)), "the former namespace")
    try:
        mount(f"/proc/self/fd/{made}", path, flags=Mount.BIND)
    finally:
        os.close(made)


def _bind_younger(path: str | Path, home: int) -> None:
    """Bind a mount namespace with a greater id than that of the one we are in.

    The kernel refuses to bind any other: it would find a loop (mnt_ns_loop in fs/namespace.c). Linux 6.18 compares the
    ids. If the present namespace was made on another CPU, a new one may come from an older batch, with a smaller id.
    Each namespace of any kind takes one id, and UTS namespaces cost least. So use up this CPU's batch: the next batch
    is younger than all ids that any CPU has given out.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    names = _open_own(Kind.NAME)
    try:
        for _ in range(ID_BATCH):
            unshare(Kind.NAME)
        _bind_new(Kind.MOUNT, path, home)
    finally:
        _checked(_libc.setns(names, int(Kind.NAME)), "the former UTS namespace")
        os.close(names)
        os.sched_setaffinity(0, allowed)


def _open_own(kind: Kind) -> int:
    return os.open(f"/proc/thread-self/ns/{_FILES[kind]}", os.O_RDONLY | os.O_CLOEXEC)


def set_hostname(name: str) -> None:
    """Set the host name of this process's UTS namespace. Raises OSError."""
    socket.sethostname(name)


@contextlib.contextmanager
def inside_network(path: str | Path) -> Iterator[None]:
    """Enter another network namespace and return at the end; sockets that are opened within stay in it."""
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
    """Return the cookie of this process's network namespace; the kernel does not reuse it before the next boot."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        raw = probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
    return int(struct.unpack("=Q", raw)[0])
