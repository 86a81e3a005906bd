"""Real-time priority, CPU affinity, locked memory and no garbage collection: advertisements leave on time.

What the machine does not allow is skipped with a warning; none of it is needed for correctness.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
from collections.abc import Iterator

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy
from pylvs.model.vrrp import VrrpSettings
from pylvs.system import lock, syscalls

REALTIME = 1  # default priority: above every ordinary process


@dataclass(frozen=True, slots=True)
class RealtimeStatus:
    """What the kernel granted."""

    realtime: int  # priority; 0: ordinary
    locked: bool
    warnings: tuple[str, ...] = ()


def enable_realtime(settings: VrrpSettings) -> RealtimeStatus:
    """Apply the settings. Child processes do not inherit the priority."""
    warnings: list[str] = []
    realtime = _set_scheduler(settings, warnings)
    if settings.cpus:
        try:
            os.sched_setaffinity(0, settings.cpus)
        except OSError as error:
            warnings.append(f"vrrp_cpu_affinity {' '.join(map(str, settings.cpus))}: {error.strerror}")
    locked = _lock_memory(warnings)
    return RealtimeStatus(realtime, locked, tuple(warnings))


@contextlib.contextmanager
def single_instance(path: str) -> Iterator[None]:
    """Hold the PID file. Raises Busy with the PID of the process that holds it."""
    try:
        descriptor = lock.claim(path)
    except lock.Held as other:
        raise Busy(f"virtual routers run here already, process {other}; stop it first") from None
    try:
        yield
        os.unlink(path)
    finally:
        os.close(descriptor)


def freeze_gc() -> None:
    """Disable the collector, whose pauses would delay timers; reference counts free what this process allocates."""
    gc.collect()
    gc.freeze()
    gc.disable()


def _set_scheduler(settings: VrrpSettings, warnings: list[str]) -> int:
    wanted = settings.realtime_priority or (0 if settings.nice else REALTIME)
    if wanted:
        try:
            os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(wanted))
            return wanted
        except OSError as error:
            if settings.realtime_priority:
                warnings.append(f"vrrp_rt_priority {wanted}: {error.strerror}")
    nice = settings.nice or -20
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER | os.SCHED_RESET_ON_FORK, os.sched_param(0))
        os.setpriority(os.PRIO_PROCESS, 0, nice)
    except OSError as error:
        warnings.append(f"neither a real-time priority nor niceness {nice}: {error.strerror}")
    return 0


def _lock_memory(warnings: list[str]) -> bool:
    most = resource.RLIM_INFINITY
    with contextlib.suppress(OSError, ValueError):  # the present limit may be enough
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (most, most))
    try:
        syscalls.mlockall(syscalls.MCL_CURRENT | syscalls.MCL_FUTURE)
    except OSError as error:
        warnings.append(f"memory is not locked: {error.strerror}")
        return False
    return True
