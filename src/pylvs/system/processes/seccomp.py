"""A filter of system calls for processes that parse what others send: what such a process never needs is refused.

It is a list of what is denied, so it does not depend on the versions of CPython, OpenSSL and the C library. An
attacker in such a process starts no program, attacks no other process, and reaches fewer parts of the kernel.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from collections.abc import Iterable
from ctypes import c_int, c_ulong

from pylvs.system import syscalls
from pylvs.system.sockets import EQUALS, LOAD_4, RETURN, Instruction, described

KILL_PROCESS, REFUSE, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000  # SECCOMP_RET_*; REFUSE has the errno in its low half
_AT_LEAST, _ANY_BIT = 0x35, 0x45  # BPF_JMP | BPF_JGE and BPF_JSET, with a constant
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; both machines are little-endian
_X32 = 0x40000000  # of the numbers of that interface of x86-64
_CLONE_THREAD = 0x10000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)  # of sockets that may be made

_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}  # AUDIT_ARCH_*, and the column of numbers below
# Numbers on x86-64 and on aarch64 (asm/unistd_64.h, asm-generic/unistd.h); -1: there is none.
_CLONE, _CLONE3, _SOCKET, _TGKILL = (56, 220), (435, 435), (41, 198), (234, 131)
DENIED = {
    # programs and processes; threads are made by clone
    "execve": (59, 221),
    "execveat": (322, 281),
    "fork": (57, -1),
    "vfork": (58, -1),
    # other processes
    "kcmp": (312, 272),
    "kill": (62, 129),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "tkill": (200, 130),
    # namespaces and mounts
    "chroot": (161, 51),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "pivot_root": (155, 41),
    "setns": (308, 268),
    "umount2": (166, 39),
    "unshare": (272, 97),
    # parts of the kernel with a large surface
    "add_key": (248, 217),
    "bpf": (321, 280),
    "fanotify_init": (300, 262),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, -1),
    "move_pages": (279, 239),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "request_key": (249, 218),
    "syslog": (103, 116),
    "userfaultfd": (323, 282),
    # the machine
    "acct": (163, 89),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "init_module": (175, 105),
    "ioperm": (173, -1),
    "iopl": (172, -1),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
}


def program(machine: str, process: int) -> list[Instruction]:
    """Return the filter for a process of a machine; both are those of `os`. Raises KeyError for another machine."""
    architecture, column = _MACHINES[machine]
    refuse = _returned(REFUSE | errno.EPERM)
    code: list[Instruction] = [
        (LOAD_4, 0, 0, _ARCHITECTURE),
        (EQUALS, 1, 0, architecture),
        _returned(KILL_PROCESS),
        (LOAD_4, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_AT_LEAST, 0, 1, _X32), refuse]
    # The C library makes threads by clone where there is no clone3, whose flags no filter sees.
    code += [(EQUALS, 0, 1, _CLONE3[column]), _returned(REFUSE | errno.ENOSYS)]
    code += _where(_CLONE[column], [(_ANY_BIT, 1, 0, _CLONE_THREAD), refuse])
    code += _where(_SOCKET[column], _one_of(FAMILIES))
    code += _where(_TGKILL[column], _one_of([process]))  # abort(3) signals its own thread
    denied = [numbers[column] for numbers in DENIED.values() if numbers[column] >= 0]
    code += [(EQUALS, len(denied) - at, 0, number) for at, number in enumerate(denied)]
    return [*code, _returned(ALLOW), refuse]


def _returned(result: int) -> Instruction:
    return RETURN, 0, 0, result


def _where(number: int, checks: list[Instruction]) -> list[Instruction]:
    """Return the code for one call, whose checks of the first argument leave the code behind them where it may pass."""
    return [(EQUALS, 0, len(checks) + 2, number), (LOAD_4, 0, 0, _FIRST_ARGUMENT), *checks, _returned(ALLOW)]


def _one_of(values: Iterable[int]) -> list[Instruction]:
    known = list(values)
    checks = [(EQUALS, len(known) - at, 0, value) for at, value in enumerate(known)]
    return [*checks, _returned(REFUSE | errno.EPERM)]


def refuse_calls() -> None:
    """Refuse these calls to this thread, and those that it will start, for good. Raises OSError.

    `no_new_privs` must be set.
    """
    machine = os.uname().machine
    if machine not in _MACHINES:
        raise OSError(errno.ENOSYS, f"there is no filter for {machine}")
    made = described(program(machine, os.getpid()))
    address = c_ulong(ctypes.addressof(made))
    # Not seccomp(2): @system-service, which a unit may have as SystemCallFilter=, lacks it in systemd 252.
    syscalls.call("seccomp", "prctl", c_int(_PR_SET_SECCOMP), c_ulong(_MODE_FILTER), address, c_ulong(0), c_ulong(0))
