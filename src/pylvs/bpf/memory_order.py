"""The memory order of what Python writes and packets read (docs/architecture.md, "Memory order")."""

from __future__ import annotations

import ctypes
import os

from pylvs.model.errors import Unsupported

_GLOBAL_EXPEDITED = 1 << 1  # MEMBARRIER_CMD_GLOBAL_EXPEDITED, Linux 4.16
_NUMBERS = {"x86_64": 324, "ppc64le": 365}
_GENERIC = 283  # of membarrier(2) on arm64, riscv64 and all newer ones (asm-generic/unistd.h)
_ORDERED = ("x86_64",)  # where CPUs keep stores in order (TSO): a barrier may be missing

_libc = ctypes.CDLL(None, use_errno=True)


def full_barrier() -> None:
    """Order all accesses before against all after it, on every CPU. Raises Unsupported.

    membarrier(2) runs smp_mb() on the calling CPU; only processes that registered for it are interrupted, none of ours.
    """
    machine = os.uname().machine
    if _libc.syscall(_NUMBERS.get(machine, _GENERIC), _GLOBAL_EXPEDITED, 0, 0) and machine not in _ORDERED:
        reason = os.strerror(ctypes.get_errno())
        raise Unsupported(f"membarrier(2): {reason}: without it no edit of the tables is safe on {machine}")


__all__ = ["full_barrier"]
