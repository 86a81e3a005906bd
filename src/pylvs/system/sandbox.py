"""Give up the privileges of this process for good, before it parses what other hosts send.

Afterwards it has no capability, no file system and no way to get them back. It keeps its network namespace, its open
descriptors and, if it needs that, the file system as an ordinary user. Calls that it never needs are refused
(`pylvs.system.processes.seccomp`).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import os
import pwd
import resource
import signal
import struct
from collections.abc import Callable

from pylvs.system import syscalls
from pylvs.system.processes import seccomp

USER = "pylvs"  # where the machine has it
# Without one: the first of these numbers that no account has. Neither systemd (UIDS-GIDS.md) nor Debian's policy
# (9.2.2) gives them to anything, and a user namespace of 65536 users has them. 65534 is shared with other services,
# which could signal these processes.
NUMBERS = range(65520, 65534)
UNPRIVILEGED = 65534  # the kernel's overflow user, where none of them is possible
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
_PR_LIMITS_OF_PROGRAMS = (39, 27)  # PR_GET_NO_NEW_PRIVS, PR_GET_SECUREBITS
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h
_CAPABILITY_SETS = struct.Struct("=6I")  # effective, permitted, inheritable: the low halves, then the high ones
_FOLDERS = ("/run", "/tmp", "/dev/shm")  # where a directory can be made, which is removed at once


def confine(descriptors: int, memory: int, file_system: bool = False, named: bool = False) -> list[str]:
    """Give up everything; return what could not be given up.

    `descriptors` and `memory` (bytes of data) become limits. Import everything before: afterwards no file can be read,
    unless `file_system`. Then the process reads what every user may, and connects to sockets, but writes no file. With
    `named` its user has an account.
    """
    left: list[str] = []
    syscalls.prctl(_PR_SET_NO_NEW_PRIVS, 1)
    for kind, most in (
        (resource.RLIMIT_NOFILE, descriptors),
        (resource.RLIMIT_DATA, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _limit(kind, most)
    steps: list[tuple[Callable[[], None], str]] = [
        (_drop_capabilities, "capabilities"),
        (_die_with_the_parent, "its life without the parent"),
        (seccomp.refuse_calls, "system calls"),
    ]
    if os.geteuid() == 0:
        user, group = account(named)  # reads /etc/passwd
        steps.insert(0, (lambda: _become(user, group), "the user root"))
        if not file_system:
            steps.insert(0, (_leave_file_system, "the file system"))
    for step, what in steps:
        try:
            step()
        except OSError as error:  # the service manager forbids it
            left.append(f"{what}: {error.strerror}")
    return left


def keep_only(*capabilities: str) -> None:
    """Give up all capabilities but these, such as "CAP_NET_ADMIN", in this thread and those that it will start.

    Programs that it executes get what root has: scripts that an operator runs as root must work. Where the service
    manager has arranged that they would not, all are kept. Raises OSError.
    """
    if os.geteuid() or any(syscalls.call("prctl", "prctl", each, 0, 0, 0, 0) for each in _PR_LIMITS_OF_PROGRAMS):
        return
    wanted = sum(1 << syscalls.CAPABILITIES[each] for each in capabilities)
    header, sets = _capability_header(), ctypes.create_string_buffer(_CAPABILITY_SETS.size)
    syscalls.call("capget", "capget", header, sets)
    effective, permitted, _, more_effective, more_permitted, _ = _CAPABILITY_SETS.unpack(sets)
    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    kept = effective & low, permitted & low, 0, more_effective & high, more_permitted & high, 0
    syscalls.call("capset", "capset", _capability_header(), _CAPABILITY_SETS.pack(*kept))


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(kind, (most, most))


def _leave_file_system() -> None:
    """Make a removed directory the root. It is empty, and nothing can be made in it."""
    for folder in _FOLDERS:
        try:
            path = f"{folder}/pylvs-{os.urandom(8).hex()}"
            os.mkdir(path, 0o700)
        except OSError:
            continue
        os.chdir(path)
        os.rmdir(path)
        os.chroot(".")
        return
    raise OSError(errno.EROFS, f"no directory can be made in {', '.join(_FOLDERS)}")


def account(named: bool = False) -> tuple[int, int]:
    """Return user and group of confined processes: those of the user pylvs, else a number that no account has.

    With `named` it is 65534 instead, which has an account: dbus-daemon refuses clients without one.
    """
    with contextlib.suppress(KeyError):
        entry = pwd.getpwnam(USER)
        if entry.pw_uid:
            return entry.pw_uid, entry.pw_gid
    number = UNPRIVILEGED if named else next((each for each in NUMBERS if _is_free(each)), UNPRIVILEGED)
    return number, number


def _is_free(number: int) -> bool:
    for look_up in (pwd.getpwuid, grp.getgrgid):
        with contextlib.suppress(KeyError):
            look_up(number)
            return False
    return True


def _become(user: int, group: int) -> None:
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            syscalls.prctl(_PR_CAPBSET_DROP, capability)
        except OSError:  # the kernel has no more
            break
    os.setgroups([])
    try:
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    except OSError as error:
        if error.errno != errno.EINVAL or user == UNPRIVILEGED:
            raise
        _become(UNPRIVILEGED, UNPRIVILEGED)  # a small user namespace does not map the other number


def _drop_capabilities() -> None:
    """Drop all, also those of a process that could not leave the user root."""
    with contextlib.suppress(OSError):  # there are none
        syscalls.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    syscalls.call("capset", "capset", _capability_header(), _CAPABILITY_SETS.pack(0, 0, 0, 0, 0, 0))


def _capability_header() -> ctypes.Array[ctypes.c_char]:
    """Return a struct __user_cap_header for this thread."""
    return ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)


def _die_with_the_parent() -> None:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)  # a change of the user clears it
