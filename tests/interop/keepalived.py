"""The real `keepalived -t`, in a session of its own: it is known to send signals to whoever started it."""

from __future__ import annotations

import re
import shutil
import subprocess
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
