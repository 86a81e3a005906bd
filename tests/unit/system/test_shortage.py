"""A process that lacks descriptors or memory ends with one line, but not soon after its start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pylvs.system.processes import shortage

PROGRAM = """
import asyncio, sys
from pylvs.daemon.tasks import BackgroundTasks
from pylvs.system import logs
from pylvs.system.processes import shortage

shortage.STEADY_S = float(sys.argv[1])
logs.set_up("text")

async def fail():
    raise {failure}

async def main():
    async with BackgroundTasks() as tasks:
        tasks.keep_running(fail, "a part")
        while not tasks.failures():
            await asyncio.sleep(0.01)

asyncio.run(main())
"""


def played(failure: str, steady_s: float) -> tuple[int, str]:
    """Return exit status and log of a process with a part that fails."""
    command = [sys.executable, "-c", PROGRAM.format(failure=failure), str(steady_s)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    return done.returncode, line.partition(" ")[2]  # without the time


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        ("OSError(24, 'EMFILE')", "this process has too many open files"),
        ("OSError(23, 'ENFILE')", "this machine has too many open files"),
        ("MemoryError()", "no memory on this machine"),
    ],
)
def test_a_shortage_ends_the_process_with_one_line(failure: str, text: str) -> None:
    status, log = played(failure, 0.0)
    assert (status, log) == (os.EX_TEMPFAIL, f"error: {text}: pylvs ends, and is started again (status={status})")


def test_soon_after_the_start_a_part_that_lacks_something_is_started_again() -> None:
    """The shortage may last, and a process that ends at once again would use more of the machine."""
    status, log = played("OSError(24, 'EMFILE')", 3600.0)
    assert (status, log) == (0, "error: a part failed and is restarted: [Errno 24] EMFILE")


def test_other_failures_are_no_shortage() -> None:
    status, log = played("OSError(5, 'EIO')", 0.0)
    assert (status, log) == (0, "error: a part failed and is restarted: [Errno 5] EIO")
    assert shortage.missing(ValueError()) == ""
