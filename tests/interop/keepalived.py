"""The real `keepalived -t`, in a session of its own: it is known to send signals to whoever started it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = "/usr/sbin/keepalived"
MEASURED = "2.2."  # the versions whose findings the tests know


def version() -> str:
    """Which keepalived is installed; "" if none, or one that does not say so."""
    if shutil.which(PROGRAM) is None:
        return ""
    found = subprocess.run([PROGRAM, "-v"], capture_output=True, text=True)
    named = re.search(r"Keepalived v(\S+)", found.stdout + found.stderr)
    return named[1] if named else ""


def why_not() -> str:
    """Why keepalived cannot be asked here; "" if it can."""
    if shutil.which(PROGRAM) is None:
        return "keepalived is not installed"
    here = version()
    return (
        "" if here.startswith(MEASURED) else f"the tests know what keepalived {MEASURED}x says, here is {here or '?'}"
    )


def status_of(file: Path) -> int:
    """The exit status of `keepalived -t`; negative if a signal ended it."""
    done = subprocess.run(
        [PROGRAM, "-t", "-l", "-n", "-f", str(file)], capture_output=True, start_new_session=True, timeout=120
    )
    return done.returncode


@contextmanager
def running(file: Path, log: str, ready: Callable[[str], bool], patience_s: float) -> Iterator[Path]:
    """Its virtual routers alone, once their log is `ready`; `log` says how much they tell. Gives the log's file."""
    pids = file.parent / "pid", file.parent / "vrrp.pid"
    command = [PROGRAM, "-n", "-l", log, "-P", "-f", str(file), "-p", str(pids[0]), "-r", str(pids[1])]
    said = file.parent / "log"
    with (
        said.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True) as process,
    ):
        try:
            deadline = time.monotonic() + patience_s
            while not ready(said.read_text()):
                assert process.poll() is None, said.read_text()
                assert time.monotonic() < deadline, said.read_text()
                time.sleep(0.05)
            yield said
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(patience_s)
