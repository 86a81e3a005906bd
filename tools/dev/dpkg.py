"""dpkg: the state of packages, its lock, and other processes that use it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tools.dev.report import Stopped, say

FRONTEND = Path("/var/lib/dpkg/lock-frontend")
CONFIGURATION = "config-files"  # the state of a removed package whose configuration is still there
LOCK_S = 600  # how long to wait for the locks of apt-get and dpkg
PAUSE_S = 2
_FLOCK = struct.Struct("hhqqi4x")  # struct flock, of fcntl(2): type, whence, start, length, process


def status(package: str) -> str:
    """Return the state of a package; "" if dpkg does not know it."""
    command = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def run(*arguments: str, log: IO[str]) -> None:
    """Run dpkg, which asks nothing. Append its output to the log."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    subprocess.run(["dpkg", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, check=False)


def user() -> int:
    """Return the process that holds dpkg's lock; 0 if there is none."""
    try:
        with FRONTEND.open("rb") as file:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, process = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, asked))
    except FileNotFoundError:
        return 0
    return 0 if kind == fcntl.F_UNLCK else int(process)


def wait() -> None:
    """Wait until no other process uses dpkg: apt-get waits, too, but prints nothing; dpkg does not wait.

    Raises Stopped after LOCK_S.
    """
    for waited in range(0, LOCK_S + PAUSE_S, PAUSE_S):
        process = user()
        if not process:
            return
        if waited == 0:
            say(f"waiting for process {process}, which uses dpkg")
        if waited < LOCK_S:
            pause()
    raise Stopped(f"process {process} has used dpkg for {LOCK_S} s; try again when it has ended")


def pause() -> None:
    """Sleep, by a program, so that tests can do without."""
    subprocess.run(["sleep", str(PAUSE_S)], check=False)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock of dev's own."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
