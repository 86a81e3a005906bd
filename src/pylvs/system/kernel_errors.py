"""Failed system calls as errors, with one line of text that names cause and remedy."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from pylvs.model.errors import Busy, NoRoom, NoSuchDevice, NotPermitted, PylvsError, Unsupported

_LOG_LINES = 30  # of the verifier's log, kept for developers
_LIBBPF_ERRORS = 4000  # libbpf's own numbers begin here
# Bits of CapEff; linux/capability.h
_CAPABILITIES = {"CAP_BPF": 39, "CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_SYS_ADMIN": 21}


class KernelRefused(PylvsError):
    """A failure for which there is no other class; `errno` is the kernel's."""


def missing_capabilities(*names: str) -> list[str]:
    """Return those of the named capabilities that this process does not have."""
    effective = 0
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"CapEff:"):
                effective = int(line.split()[1], 16)
    return [name for name in names if not effective >> _CAPABILITIES[name] & 1]


def _not_permitted(doing: str, needed: tuple[str, ...]) -> NotPermitted:
    missing = missing_capabilities(*needed)
    if missing:
        return NotPermitted(f"{doing}: Operation not permitted; {' and '.join(missing)} missing: run it as root")
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
    return _with_notes(error, log)


def _no_space(number: int, doing: str) -> NoRoom:
    if number == errno.ENOMEM:
        return NoRoom(
            f"{doing}: not enough memory; the tables count against the memory limit of the control group:"
            " raise it (memory.max, or MemoryMax= of the unit) or make the tables smaller"
        )
    if number == errno.E2BIG:
        return NoRoom(f"{doing}: larger than the kernel allows: make the table smaller")
    return NoRoom(f"{doing}: the table is full")


def load_failure(number: int, name: str, log: Iterable[str]) -> PylvsError:
    """Return why an object did not load: lack of permission or memory first, then the verifier's message."""
    lines = [line for line in log if line.strip()]
    doing = f"loading {name}"
    if number == errno.EPERM or (number == errno.EACCES and missing_capabilities("CAP_BPF", "CAP_NET_ADMIN")):
        return failure(errno.EPERM, doing, lines)
    if number in (errno.ENOMEM, errno.ENODEV, errno.EMFILE) or _map_too_large(number, lines):
        return failure(number, doing, lines)
    if number == errno.ENOENT and missing_capabilities("CAP_BPF"):
        return failure(errno.EPERM, doing, lines)
    reason = _reason(lines) or os.strerror(number)
    error = Unsupported(f"{doing}: this kernel ({os.uname().release}) refuses it: {reason}")
    error.errno = number
    return _with_notes(error, lines)


def _map_too_large(number: int, lines: list[str]) -> bool:
    return number == errno.E2BIG and any("failed to create" in line for line in lines)


def _reason(lines: list[str]) -> str:
    """Return the line of the log that names the cause: the verifier's last message, or libbpf's first error."""
    noise = ("processed ", "-- END", "-- BEGIN", "verification time", "stack depth", "libbpf: failed to load object")
    if any("BEGIN PROG LOAD LOG" in line for line in lines):
        end = next((i for i, line in enumerate(lines) if "END PROG LOAD LOG" in line), len(lines))
        for line in reversed(lines[:end]):
            if not line.startswith(noise):
                return line.strip()
    errors = [line for line in lines if "Retrying" not in line]
    return errors[0].strip().removeprefix("libbpf: ") if errors else ""


def _with_notes(error: PylvsError, log: Iterable[str]) -> PylvsError:
    for line in list(log)[-_LOG_LINES:]:
        error.add_note(line)
    return error
