"""Send SIGINT to a program in the middle of its work."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bench.site import PREFIX

PATIENCE_S = 200
PROGRESS = b"bench: "  # errors begin with it, too; with one the exit status is 1


class Interrupted(NamedTuple):
    """The end of a program."""

    status: int
    errors: str  # what it printed on standard error after the marker, without further progress
    before: set[str]  # its namespaces when the signal came
    after: set[str]


def namespaces_of(process: int) -> set[str]:
    """Return the namespaces that a benchmark made; others may run at the same time."""
    return {path.name for path in Path("/run/netns").glob(f"{PREFIX}{process}-*")}


def interrupted_at(marker: str, command: Sequence[str]) -> Interrupted:
    """Send SIGINT as soon as the program has printed the marker to its standard error, which is a terminal."""
    terminal, its_end = pty.openpty()
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=its_end)
    try:
        os.close(its_end)
        printed = b""
        while marker.encode() not in printed:
            printed += _read(terminal) or _fail(f"{marker!r} was never printed: {printed.decode()}")
        before = namespaces_of(running.pid)
        running.send_signal(signal.SIGINT)
        rest = printed.partition(marker.encode())[2]
        while more := _read(terminal):
            rest += more
        status = running.wait(PATIENCE_S)
    finally:
        running.kill()
        running.wait()
        os.close(terminal)
    # The program may have made progress before it received the signal.
    errors = [line for line in rest.splitlines(keepends=True)[1:] if not line.startswith(PROGRESS)]
    return Interrupted(status, b"".join(errors).decode(), before, namespaces_of(running.pid))


def _read(terminal: int) -> bytes:
    """Return what the program printed; nothing after its end."""
    with suppress(OSError):  # EIO: the other end is closed
        return os.read(terminal, 4096)
    return b""


def _fail(text: str) -> bytes:
    raise AssertionError(text)
