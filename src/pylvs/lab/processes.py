"""Processes that live in a lab's hosts: found by the namespace they are in, ended by descriptor, never by name."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path

PATIENCE_S = 2.0  # between asking a process to end and ending it

Identity = tuple[int, int]  # device and inode of a namespace


def identity(path: str | Path) -> Identity | None:
    """Of the namespace behind a file; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def living_in(namespaces: Iterable[Identity]) -> list[int]:
    """Processes whose network namespace is one of these, this process excepted."""
    wanted = set(namespaces)
    others = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != os.getpid()]
    return [pid for pid in others if identity(f"/proc/{pid}/ns/net") in wanted]


def end_all(namespaces: Iterable[Identity]) -> None:
    """End every process in these namespaces, and wait until they are gone."""
    wanted = set(namespaces)
    if not wanted:
        return
    deadline = time.monotonic() + PATIENCE_S
    signals = {signal.SIGTERM, signal.SIGHUP}  # shells ignore the first
    while pids := living_in(wanted):
        if time.monotonic() > deadline:
            signals = {signal.SIGKILL}
        descriptors = [each for pid in pids if (each := _signalled(pid, wanted, signals)) is not None]
        _wait(descriptors, 0.5)


def kill_all(namespace: Identity) -> None:
    """Kill every process in a namespace; all stand still first, so that none sees another die and answers it."""
    for pid in living_in([namespace]):
        if (descriptor := _signalled(pid, {namespace}, {signal.SIGSTOP})) is not None:
            os.close(descriptor)
    while pids := living_in([namespace]):
        _wait([each for pid in pids if (each := _signalled(pid, {namespace}, {signal.SIGKILL})) is not None], 0.5)


def _signalled(pid: int, wanted: set[Identity], signals: set[signal.Signals]) -> int | None:
    """Signal a process if it still is in the lab; a descriptor that becomes readable at its end."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    if identity(f"/proc/{pid}/ns/net") not in wanted:  # its number was given to somebody else meanwhile
        os.close(descriptor)
        return None
    for each in signals:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, each)
    return descriptor


def _wait(descriptors: list[int], seconds: float) -> None:
    """Until all have ended, or the time is up."""
    deadline = time.monotonic() + seconds
    waiting = set(descriptors)
    while waiting and (left := deadline - time.monotonic()) > 0:
        ended, _, _ = select.select(list(waiting), [], [], left)
        waiting -= set(ended)
    for descriptor in descriptors:
        os.close(descriptor)
