"""What makes a process punctual: a real-time or nice priority, memory that is never paged out, no collector.

Whatever the machine does not allow is left out and said; nothing of it is needed for being right.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
from collections.abc import Iterator

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy
from pylvs.model.vrrp import VrrpSettings
from pylvs.system import pid_files

REALTIME = 1  # where the configuration says nothing: before everything that is not real-time
_MCL_CURRENT, _MCL_FUTURE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Punctuality:
    """What was reached."""

    realtime: int  # priority; 0: ordinary
    locked: bool
    troubles: tuple[str, ...] = ()


def be_punctual(settings: VrrpSettings) -> Punctuality:
    """Ask for all of it, as the configuration has it. Scripts and other children do not inherit the priority."""
    troubles: list[str] = []
    realtime = _be_realtime(settings, troubles)
    if settings.cpus:
        try:
            os.sched_setaffinity(0, settings.cpus)
        except OSError as error:
            troubles.append(f"vrrp_cpu_affinity {' '.join(map(str, settings.cpus))}: {error.strerror}")
    locked = _lock_memory(troubles)
    return Punctuality(realtime, locked, tuple(troubles))


@contextlib.contextmanager
def alone(path: str) -> Iterator[None]:
    """Only one process at a time holds this file. Raises Busy naming the other."""
    try:
        descriptor = pid_files.claim(path)
    except pid_files.Held as other:
        raise Busy(f"virtual routers run here already, process {other}; stop it first") from None
    try:
        yield
        os.unlink(path)
    finally:
        os.close(descriptor)


def stop_collecting() -> None:
    """Reference counts free what this process makes; what lives now lives to the end."""
    gc.collect()
    gc.freeze()
    gc.disable()


def _be_realtime(settings: VrrpSettings, troubles: list[str]) -> int:
    wanted = settings.realtime_priority or (0 if settings.nice else REALTIME)
    if wanted:
        try:
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(wanted))
            return wanted
        except OSError as error:
            if settings.realtime_priority:
                troubles.append(f"vrrp_rt_priority {wanted}: {error.strerror}")
    nice = settings.nice or -20
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError as error:
        troubles.append(f"neither a real-time priority nor niceness {nice}: {error.strerror}")
    return 0


def _lock_memory(troubles: list[str]) -> bool:
    most = resource.RLIM_INFINITY
    with contextlib.suppress(OSError, ValueError):  # the limit there is may be enough
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE):
        troubles.append(f"memory is not locked: {os.strerror(ctypes.get_errno())}")
        return False
    return True
