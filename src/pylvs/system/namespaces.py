"""Network, mount and UTS namespaces: enter them, and bind new ones to files."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from enum import IntFlag
from pathlib import Path

from pylvs.system import syscalls

NAMED = Path("/run/netns")  # where `ip netns` keeps named network namespaces
SO_NETNS_COOKIE = 71  # asm-generic/socket.h


class Kind(IntFlag):
    """Kinds of namespace, by the CLONE_NEW* flag of each."""

    MOUNT = 0x00020000
    NAME = 0x04000000
    NETWORK = 0x40000000


_FILES = {Kind.MOUNT: "mnt", Kind.NAME: "uts", Kind.NETWORK: "net"}  # under /proc/PID/ns

# Linux 6.18 numbers namespaces from batches, one batch for each CPU (include/linux/cookie.h).
ID_BATCH = 4096


def join(path: str | Path, kind: Kind) -> None:
    """Enter the namespace that a file under /proc/PID/ns or /run/netns stands for. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(descriptor, kind, str(path))
    finally:
        os.close(descriptor)


def bind_new(kind: Kind, path: str | Path) -> None:
    """Make a namespace and bind it to a file. The calling process must have one thread; it keeps its namespace.

    Later mounts of this namespace propagate into a new mount namespace, and not the reverse. Raises OSError.
    """
    try:
        _bind_new(kind, path)
    except OSError as error:
        if kind is not Kind.MOUNT or error.errno != errno.EINVAL:
            raise
        _bind_younger(path)


def _bind_new(kind: Kind, path: str | Path) -> None:
    with _inside(kind, lambda: syscalls.unshare(kind)):
        if kind is Kind.MOUNT:
            syscalls.mount("", "/", flags=syscalls.MS_SLAVE | syscalls.MS_REC)
        made = _open_own(kind)
    try:
        syscalls.mount(f"/proc/self/fd/{made}", path, flags=syscalls.MS_BIND)
    finally:
        os.close(made)


def _bind_younger(path: str | Path) -> None:
    """Bind a mount namespace with a greater id than that of the one we are in.

    The kernel refuses to bind any other: it would find a loop (mnt_ns_loop in fs/namespace.c). Linux 6.18 compares the
    ids. If the present namespace was made on another CPU, a new one may come from an older batch, with a smaller id.
    Each namespace of any kind takes one id, and UTS namespaces cost least. So use up this CPU's batch: the next batch
    is younger than all ids that any CPU has given out.
    """
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        with _inside(Kind.NAME, lambda: syscalls.unshare(Kind.NAME)):
            for _ in range(ID_BATCH):
                syscalls.unshare(Kind.NAME)
            _bind_new(Kind.MOUNT, path)
    finally:
        os.sched_setaffinity(0, allowed)


def _open_own(kind: Kind) -> int:
    return os.open(f"/proc/thread-self/ns/{_FILES[kind]}", os.O_RDONLY | os.O_CLOEXEC)


@contextlib.contextmanager
def _inside(kind: Kind, enter: Callable[[], None]) -> Iterator[None]:
    """Enter another namespace of this kind, and return to the present one at the end."""
    home = _open_own(kind)
    try:
        enter()
        try:
            yield
        finally:
            syscalls.setns(home, kind, "the former namespace")
    finally:
        os.close(home)


@contextlib.contextmanager
def inside_network(path: str | Path) -> Iterator[None]:
    """Enter another network namespace and return at the end; sockets that are opened within stay in it."""
    with _inside(Kind.NETWORK, lambda: join(path, Kind.NETWORK)):
        yield


def network_name(process: int) -> str:
    """Return the name that `ip netns` gives to a process's network namespace; "" without one."""
    try:
        own = os.stat(f"/proc/{process}/ns/net")
        return next((path.name for path in sorted(NAMED.iterdir()) if os.path.samestat(path.stat(), own)), "")
    except OSError:  # there is no /run/netns, or the process has ended
        return ""


def networks() -> Iterator[Path]:
    """Yield a file for each network namespace that has a name or a process, those with names first."""
    seen = set[int]()
    for path in (*sorted(NAMED.glob("*")), *Path("/proc").glob("[0-9]*/ns/net")):
        try:
            number = path.stat().st_ino
        except OSError:  # the process has ended, or is not ours to look at
            continue
        if number not in seen:
            seen.add(number)
            yield path


def network_cookie() -> int:
    """Return the cookie of this process's network namespace; the kernel does not reuse it before the next boot."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        raw = probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
    return int(struct.unpack("=Q", raw)[0])
