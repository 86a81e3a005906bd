"""Commands run with pauses, and leave no control group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests import pauses
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="control groups need root")
# Ends when it did not run for half a second.
UNTIL_STOPPED = """
import time
last = time.monotonic()
while (now := time.monotonic()) - last < 0.5:
    last = now
    time.sleep(0.001)
"""
SURVIVES = "sleep 600 >/dev/null 2>&1 & echo $!"


def groups() -> list[str]:
    return [str(each) for each in pauses.hierarchy().glob(f"pylvs-pauses-{os.getpid()}")]


def test_a_command_is_stopped_and_continues() -> None:
    def is_paused() -> bool:
        """Return whether the command ended by a pause, and not because the machine was busy before."""
        status, count = pauses.run([sys.executable, "-c", UNTIL_STOPPED], longest_s=2.0, every_s=0.1, seed=1)
        assert (status, groups()) == (0, [])
        return count > 0

    until(is_paused)


def test_children_that_survive_the_command_continue() -> None:
    """A frozen process would never end, nor could its control group be removed."""
    command = [sys.executable, "-m", "tests.pauses", "--every", "0.05", "--longest", "0.1", "sh", "-c", SURVIVES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    os.kill(int(done.stdout), signal.SIGKILL)
    assert done.returncode == 0
    assert done.stderr.startswith("pauses: ")


def test_the_exit_status_is_the_commands() -> None:
    assert pauses.run(["sh", "-c", "exit 7"], 0.1, 0.1, 0)[0] == 7
