"""System calls that Python 3.11 lacks, through libc, and failed system calls as errors for the user.

All calls raise OSError with the call's subject as its file name. `failure` turns an errno into a PylvsError, with one
line of text that names cause and remedy.
A module that is fast to import: libc is opened by the first call.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable
from ctypes import c_char_p, c_int, c_long, c_size_t, c_ulong, c_void_p

from pylvs.model.errors import Busy, NoSpace, NoSuchDevice, NotPermitted, PylvsError, Unsupported

PR_SET_PDEATHSIG, PR_SET_NAME, PR_SET_CHILD_SUBREAPER = 1, 15, 36
CLONE_FS = 0x00000200
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 2, 4, 8, 4096, 16384, 1 << 18, 1 << 19
MCL_CURRENT, MCL_FUTURE = 1, 2
MEMBARRIER_CMD_GLOBAL_EXPEDITED = 1 << 1  # Linux 4.16
_MNT_DETACH = 2
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_SYS_MEMBARRIER = {"x86_64": 324, "ppc64le": 365}  # others, and all newer machines: asm-generic/unistd.h
_SYS_MEMBARRIER_GENERIC = 283
_LOG_LINES = 30  # of the verifier's log, kept for developers
_LIBBPF_ERRORS = 4000  # libbpf's own numbers begin here
# Their numbers: linux/capability.h
CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_IPC_LOCK": 14,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_NICE": 23,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}

# This machine or this process has too few descriptors or too little memory: says nothing about a file or a peer.
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)

_libc: ctypes.CDLL | None = None


def _library() -> ctypes.CDLL:
    global _libc
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
    return _libc


def call(subject: str, name: str, *arguments: object) -> int:
    """Call a function of libc that returns a negative number if it fails."""
    result: int = getattr(_library(), name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), subject)
    return result


def prctl(option: int, value: int | bytes) -> None:
    """Set an attribute of this process: a number or a text."""
    argument = c_char_p(value) if isinstance(value, bytes) else c_ulong(value)
    call(f"prctl {option}", "prctl", c_int(option), argument, c_ulong(0), c_ulong(0), c_ulong(0))


def unshare(kinds: int) -> None:
    """Move this thread into new namespaces, or let it share no more what CLONE_FS shares."""
    call(f"unshare {kinds:#x}", "unshare", c_int(kinds))


def setns(namespace: int, kind: int, subject: str) -> None:
    """Enter the namespace of a descriptor."""
    call(subject, "setns", c_int(namespace), c_int(kind))


def mount(source: str, target: str | os.PathLike[str], kind: str = "", flags: int = 0, options: str = "") -> None:
    """Mount a file system, or bind or change a mount: mount(2)."""
    where = os.fsencode(target)
    call(str(target), "mount", os.fsencode(source), where, kind.encode(), c_ulong(flags), options.encode())


def unmount(target: str | os.PathLike[str]) -> None:
    """Detach a mount now (MNT_DETACH); it ends with its last use."""
    call(str(target), "umount2", os.fsencode(target), c_int(_MNT_DETACH))


def exchange(one: str, other: str) -> None:
    """Exchange two paths atomically: renameat2(2) with RENAME_EXCHANGE, which a bpffs has since Linux 5.17."""
    paths = (c_int(_AT_FDCWD), os.fsencode(one), c_int(_AT_FDCWD), os.fsencode(other))
    call(one, "renameat2", *paths, ctypes.c_uint32(_RENAME_EXCHANGE))


def mlockall(flags: int) -> None:
    """Lock this process's pages in memory: MCL_CURRENT, MCL_FUTURE."""
    call("mlockall", "mlockall", c_int(flags))


def membarrier(command: int) -> None:
    """membarrier(2), for which libc has no function."""
    number = _SYS_MEMBARRIER.get(os.uname().machine, _SYS_MEMBARRIER_GENERIC)
    call("membarrier", "syscall", c_long(number), c_long(command), c_long(0), c_long(0))


def vsnprintf(size: int, text_format: bytes, arguments: int) -> bytes:
    """Return at most `size` - 1 bytes of text; `arguments` is the va_list that libc gave to a callback."""
    buffer = ctypes.create_string_buffer(size)
    call("vsnprintf", "vsnprintf", buffer, c_size_t(size), c_char_p(text_format), c_void_p(arguments))
    return buffer.value


class KernelRefused(PylvsError):
    """A failure for which there is no other class; `errno` is the kernel's."""


def missing_capabilities(*names: str) -> list[str]:
    """Return those of the named capabilities that this process does not have."""
    effective = 0
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapEff:"):
                effective = int(line.split()[1], 16)
    return [name for name in names if not effective >> CAPABILITIES[name] & 1]


def lacking(missing: Iterable[str]) -> str:
    """Return that these capabilities are missing, and what to do: root may lack them in a container or a unit."""
    remedy = "run it as root"
    if os.geteuid() == 0:
        remedy = (
            "root has been deprived of it; in a container use --cap-add or --privileged, in a unit AmbientCapabilities="
        )
    return f"Operation not permitted; {' and '.join(missing)} missing: {remedy}"


def _not_permitted(doing: str, needed: tuple[str, ...]) -> NotPermitted:
    missing = missing_capabilities(*needed)
    if missing:
        return NotPermitted(f"{doing}: {lacking(missing)}", missing)
    return NotPermitted(
        f"{doing}: Operation not permitted although the process holds {' and '.join(needed)};"
        " a security module, kernel lockdown or a user namespace forbids it"
    )


def failure(
    number: int,
    doing: str,
    log: Iterable[str] = (),
    needed: tuple[str, ...] = ("CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"),
) -> PylvsError:
    """Return the error for an errno; `doing` names the failed operation, and `log` becomes the notes."""
    error: PylvsError
    if number in (errno.EPERM, errno.EACCES):
        error = _not_permitted(doing, needed)
    elif number in (errno.ENOMEM, errno.ENOSPC, errno.E2BIG):
        error = _no_space(number, doing)
    elif number == errno.EMFILE:
        error = KernelRefused(f"{doing}: Too many open files: raise this process's limit (ulimit -n) to 1024")
    elif number in (errno.EBUSY, errno.EEXIST):
        error = Busy(f"{doing}: {os.strerror(number)}")
    elif number >= _LIBBPF_ERRORS:
        error = KernelRefused(f"{doing}: this is no eBPF object that libbpf understands")
    elif number in (errno.ENODEV, errno.ENXIO):
        error = NoSuchDevice(f"{doing}: {os.strerror(number)}")
    elif number in (errno.EOPNOTSUPP, errno.ENOSYS, 524):  # 524: the kernel's internal ENOTSUPP
        error = Unsupported(f"{doing}: this kernel ({os.uname().release}) cannot do it")
    else:
        error = KernelRefused(f"{doing}: {os.strerror(number)}")
    error.errno = number
    return with_notes(error, log)


def _no_space(number: int, doing: str) -> NoSpace:
    if number == errno.ENOMEM:
        return NoSpace(
            f"{doing}: not enough memory; the tables count against the memory limit of the control group:"
            " raise it (memory.max, or MemoryMax= of the unit) or make the tables smaller"
        )
    if number == errno.E2BIG:
        return NoSpace(f"{doing}: larger than the kernel allows: make the table smaller")
    return NoSpace(f"{doing}: the table is full")


def with_notes(error: PylvsError, log: Iterable[str]) -> PylvsError:
    """Add the last lines of a log to an error, as its notes."""
    for line in list(log)[-_LOG_LINES:]:
        error.add_note(line)
    return error
