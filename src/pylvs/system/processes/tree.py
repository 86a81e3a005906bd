"""A process with everything that descends from it, stopped and ended as one.

A process that is a "child subreaper" (prctl(2)) keeps the descendants that fork away from it, whatever session they
make for themselves; so from such a root the tree is complete as long as the root lives.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import NamedTuple

_PASSES = 100  # of looking for descendants; a stopped process makes no more, so few are needed


class Process(NamedTuple):
    """A process for certain: numbers are used again, but not with the same start."""

    pid: int
    start: int  # in clock ticks since the machine's start


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
    """The process that has this number now."""
    found = _stat(pid)
    return Process(pid, found.start) if found else None


def alive(who: Process) -> bool:
    """Whether it still runs; one that waits to be reaped does not."""
    found = _stat(who.pid)
    return found is not None and found.start == who.start and found.state not in "ZX"


def send(who: Process, number: signal.Signals) -> None:
    """A signal to it, if it is still there."""
    if alive(who):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(who.pid, number)


def stopped_tree(root: Process) -> list[Process]:
    """Stop the process and all its descendants; those that live, the root first."""
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
        # gone; or a kernel without CONFIG_PROC_CHILDREN
        everything = [int(name) for name in os.listdir("/proc") if name.isdigit()]
        return [each for each in everything if (about := _stat(each)) and about.parent == pid]
