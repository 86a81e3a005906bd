"""End a host's processes, and defer signals while a lab is made or removed.

Processes are found by network namespace, and ended by file descriptor, never by name. Signals are handled between
steps. An exception between the start of a command and the record of it would leave a process or a namespace behind.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType

TERM_S = 2.0  # between SIGTERM and SIGKILL
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STEP_S = 0.05

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
    for number in signals:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)
    return descriptor


def _wait(descriptors: list[int], seconds: float) -> None:
    """Wait until all have ended, or for the time; close the descriptors."""
    deadline = time.monotonic() + seconds
    for descriptor in descriptors:
        select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        os.close(descriptor)


class Interrupted(KeyboardInterrupt):
    """A signal came; clean up."""


class DeferredSignals:
    """Signals that came and are not handled yet."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.ignored = False

    def record(self, signum: int, frame: FrameType | None) -> None:
        """Handle a signal by recording it."""
        self.received.append(signum)

    def ignore(self) -> None:
        """Let this process ignore those that came, and all later ones, also after `defer_signals`."""
        self.ignored = True

    def check(self) -> None:
        """Raise Interrupted if a signal came, and count it as handled."""
        if self.received:
            signum = self.received[0]
            self.received.clear()
            raise Interrupted(signum)

    def sleep(self, seconds: float) -> None:
        """Wait, unless a signal comes. Raises Interrupted."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(STEP_S, left))
        self.check()


@contextlib.contextmanager
def defer_signals() -> Iterator[DeferredSignals]:
    """Defer signals. Those that are still unhandled are sent again at the end, or ignored after `ignore`."""
    signals = DeferredSignals()
    if threading.current_thread() is not threading.main_thread():
        yield signals  # Python runs signal handlers in the main thread alone
        return
    former = {signum: signal.signal(signum, signals.record) for signum in SIGNALS}
    try:
        yield signals
    finally:
        for signum, handler in former.items():
            signal.signal(signum, signal.SIG_IGN if signals.ignored else handler)
        for received in dict.fromkeys([] if signals.ignored else signals.received):
            os.kill(os.getpid(), received)
