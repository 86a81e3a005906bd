"""Wait in tests for an event, as long as a busy machine may need."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tests import ledger

T = TypeVar("T")
PATIENCE_S = 120.0  # the machine may be busy; a test that waits longer fails
_POLL_S = 0.01


class Void(Exception):
    """An attempt proves nothing, for example because the machine paused; the text says why."""


def until(holds: Callable[[], T], what: object = "", patience_s: float = PATIENCE_S, pause_s: float = _POLL_S) -> T:
    """Wait until the predicate holds, and return its value. Raises AssertionError with `what`, maybe a function."""
    end = time.monotonic() + patience_s
    while not (found := holds()):
        _check_patience(end, what or str(holds), patience_s)
        time.sleep(pause_s)
    return found


def until_valid(test: str, attempt: Callable[[], T]) -> T:
    """Return the result of the first attempt that does not raise Void. The ledger lists those that do."""
    end = time.monotonic() + PATIENCE_S
    while True:
        begin = time.monotonic()
        try:
            return attempt()
        except Void as void:
            ledger.record(test, str(void), time.monotonic() - begin)
        _check_patience(end, f"an attempt that proves something: {test}", PATIENCE_S)
        time.sleep(_POLL_S)


async def until_async(holds: Callable[[], object], what: object = "", patience_s: float = PATIENCE_S) -> None:
    """Wait until it holds, while the event loop runs."""
    end = time.monotonic() + patience_s
    while not holds():
        _check_patience(end, what or str(holds), patience_s)
        await asyncio.sleep(_POLL_S)


def until_reaped(process: int | str) -> None:
    """Wait until a process that has ended is gone: its parent, which may be process 1, reaps it a moment later."""
    until(lambda: not Path(f"/proc/{process}").exists(), f"process {process} is gone")


def until_listening(path: Path) -> None:
    """Wait until a program listens at a UNIX socket: its path exists a moment before."""

    def accepts() -> bool:
        with socket.socket(socket.AF_UNIX) as end:
            return not end.connect_ex(str(path))

    until(accepts, f"{path}: a program listens")


def until_up(*devices: str, namespace: str = "") -> None:
    """Wait until devices send frames; `namespace` is a name of ip-netns(8), "" for this one.

    A veth that is set up before its other end has no carrier then. The kernel notices the carrier a moment after the
    other end is up, and until then it drops what the device sends.
    """
    command = ["ip", *(("-n", namespace) if namespace else ()), "-br", "link"]

    def up() -> bool:
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        state_of = {line.split()[0].partition("@")[0]: line.split()[1] for line in lines}
        return all(state_of.get(device) == "UP" for device in devices)

    until(up, f"{', '.join(devices)}: the kernel has noticed the carrier")


def _check_patience(end: float, what: object, patience_s: float) -> None:
    """Raise AssertionError after the end."""
    if time.monotonic() > end:
        raise AssertionError(f"not within {patience_s:g} s: {what() if callable(what) else what}")
