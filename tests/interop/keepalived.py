"""Run the real `keepalived -t` in its own session, because it may send signals to its parent."""

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
    """Return the installed version of keepalived; "" if there is none."""
    if shutil.which(PROGRAM) is None:
        return ""
    found = subprocess.run([PROGRAM, "-v"], capture_output=True, text=True)
    named = re.search(r"Keepalived v(\S+)", found.stdout + found.stderr)
    return named[1] if named else ""


def why_not() -> str:
    """Return why keepalived cannot run; "" if it can."""
    if shutil.which(PROGRAM) is None:
        return "keepalived is not installed"
    here = version()
    return (
        "" if here.startswith(MEASURED) else f"the tests know what keepalived {MEASURED}x says, here is {here or '?'}"
    )


def status_of(file: Path) -> int:
    """Return the exit status of `keepalived -t`; negative if a signal ended it."""
    done = subprocess.run(
        [PROGRAM, "-t", "-l", "-n", "-f", str(file)], capture_output=True, start_new_session=True, timeout=120
    )
    return done.returncode


@contextmanager
def running(file: Path, log: str, ready: Callable[[str], bool], patience_s: float) -> Iterator[Path]:
    """Run keepalived's virtual routers until the block ends; return the log file, once `ready` holds for it."""
    pids = file.parent / "pid", file.parent / "vrrp.pid"
    command = [PROGRAM, "-n", "-l", log, "-P", "-f", str(file), "-p", str(pids[0]), "-r", str(pids[1])]
    log_file = file.parent / "log"
    with (
        log_file.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True) as process,
    ):
        try:
            deadline = time.monotonic() + patience_s
            while not ready(log_file.read_text()):
                assert process.poll() is None, log_file.read_text()
                assert time.monotonic() < deadline, log_file.read_text()
                time.sleep(0.05)
            yield log_file
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(patience_s)
