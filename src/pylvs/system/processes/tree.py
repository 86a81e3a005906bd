"""A process and all its descendants, for stopping and ending them together.

A "child subreaper" (prctl(2)) remains the ancestor of processes that lose their parent or make a session of their own.
From such a root, the tree is complete as long as the root lives.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import NamedTuple

_PASSES = 100  # of the search for descendants; stopped processes do not fork, so few are needed


class Process(NamedTuple):
    """A process, identified by PID and start time: the kernel reuses PIDs, but not with the same start time."""

    pid: int
    start: int  # in clock ticks since boot


class _Stat(NamedTuple):
    state: str
    parent: int
    start: int


def _stat(pid: int) -> _Stat | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
        return _Stat(fields[0].decode(), int(fields[1]), int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None


def process(pid: int) -> Process | None:
    """Return the process that has this PID now."""
    found = _stat(pid)
    return Process(pid, found.start) if found else None


def alive(who: Process) -> bool:
    """Return whether a process still runs; a zombie does not."""
    found = _stat(who.pid)
    return found is not None and found.start == who.start and found.state not in "ZX"


def send(who: Process, number: signal.Signals) -> None:
    """Send a signal to a process if it still runs."""
    if alive(who):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(who.pid, number)


def stopped_tree(root: Process) -> list[Process]:
    """Stop a process and all its descendants; return those that live, the root first."""
    found = {root.pid: root}
    for _ in range(_PASSES):
        for each in found.values():
            send(each, signal.SIGSTOP)
        settled = all(_is_still(each) for each in found.values())
        before = len(found)
        _add_descendants(found)
        if settled and len(found) == before:
            break
    return [each for each in found.values() if alive(each)]


def _is_still(who: Process) -> bool:
    found = _stat(who.pid)
    return found is None or found.start != who.start or found.state in "TtZX"


def _add_descendants(found: dict[int, Process]) -> None:
    waiting = list(found)
    while waiting:
        parent = waiting.pop()
        for pid in _children(parent):
            about = _stat(pid)
            if pid not in found and about and about.parent == parent:
                found[pid] = Process(pid, about.start)
                waiting.append(pid)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        return found
    except OSError:
        # The process has ended, or the kernel lacks CONFIG_PROC_CHILDREN.
        everything = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [each for each in everything if (about := _stat(each)) and about.parent == pid]
