"""Find a host's processes by network namespace, and end them by file descriptor, never by name."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path

TERM_S = 2.0  # between SIGTERM and SIGKILL

Identity = tuple[int, int]  # device and inode of a namespace


def identity(path: str | Path) -> Identity | None:
    """Return the identity of the namespace of a file; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def living_in(namespaces: Iterable[Identity]) -> list[int]:
    """Return the processes of these network namespaces, except this one."""
    wanted = set(namespaces)
    others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    return [pid for pid in others if identity(f"/proc/{pid}/ns/net") in wanted]


def end_all(namespaces: Iterable[Identity]) -> None:
    """End every process in these namespaces, and wait for it."""
    wanted = set(namespaces)
    if not wanted:
        return
    deadline = time.monotonic() + TERM_S
    signals = {signal.SIGTERM, signal.SIGHUP}  # interactive shells ignore SIGTERM
    while pids := living_in(wanted):
        if time.monotonic() > deadline:
            signals = {signal.SIGKILL}
        descriptors = [each for pid in pids if (each := _signal(pid, wanted, signals)) is not None]
        _wait(descriptors, 0.5)


def kill_all(namespace: Identity) -> None:
    """Kill every process in a namespace. SIGSTOP comes first, so that none reacts to the end of another."""
    for pid in living_in([namespace]):
        if (descriptor := _signal(pid, {namespace}, {signal.SIGSTOP})) is not None:
            os.close(descriptor)
    while pids := living_in([namespace]):
        _wait([each for pid in pids if (each := _signal(pid, {namespace}, {signal.SIGKILL})) is not None], 0.5)


def _signal(pid: int, wanted: set[Identity], signals: set[signal.Signals]) -> int | None:
    """Signal a process if it still is in the lab; return a descriptor that becomes readable at its end."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    if identity(f"/proc/{pid}/ns/net") not in wanted:  # the number belongs to a new process
        os.close(descriptor)
        return None
    for each in signals:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, each)
    return descriptor


def _wait(descriptors: list[int], seconds: float) -> None:
    """Wait until all have ended, or for the time."""
    deadline = time.monotonic() + seconds
    waiting = set(descriptors)
    while waiting and (left := deadline - time.monotonic()) > 0:
        ended, _, _ = select.select(list(waiting), [], [], left)
        waiting -= set(ended)
    for descriptor in descriptors:
        os.close(descriptor)
