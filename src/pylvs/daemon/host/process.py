"""Settings of the daemon's own process: its name, umask, CPUs, niceness and memory."""

from __future__ import annotations

import contextlib
import os
import resource

from pylvs.model.wanted import GlobalSettings
from pylvs.system import syscalls
from pylvs.system.logs import get_logger

MAX_NAME = 15  # bytes of a process's name


def configure_process(before: GlobalSettings, settings: GlobalSettings) -> None:
    """Apply what changed of the settings of the process. Without checker_priority it keeps its niceness of the start.

    Raises OSError.
    """
    if settings.process_name != before.process_name:
        syscalls.prctl(syscalls.PR_SET_NAME, (settings.process_name or "pylvs").encode()[:MAX_NAME])
    if settings.umask is not None:
        os.umask(settings.umask)
    cpus = settings.checker_cpu_affinity
    if cpus != before.checker_cpu_affinity:
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):
                try:
                    os.sched_setaffinity(int(thread), cpus or range(os.cpu_count() or 1))
                except OSError as error:
                    get_logger().error(f"checker_cpu_affinity {' '.join(map(str, cpus))}: {error.strerror}")
                    break
    if settings.checker_no_swap and not before.checker_no_swap:
        with contextlib.suppress(OSError, ValueError):  # the present limit may be enough
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        try:
            syscalls.mlockall(syscalls.MCL_CURRENT | syscalls.MCL_FUTURE)
        except OSError as error:
            get_logger().error(f"checker_no_swap: memory is not locked: {error.strerror}")
    if settings.checker_nice != before.checker_nice:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, settings.checker_nice)
        except OSError as error:
            get_logger().error(f"checker_priority {settings.checker_nice}: {error.strerror}")
