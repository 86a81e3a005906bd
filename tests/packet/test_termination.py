"""A run of the tests that `timeout` ends removes what it made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

NAMESPACES = Path("/run/netns")
PATIENCE_S = 120


def namespaces_of(session: int) -> set[str]:
    """Return the namespaces of tests.packet.host of processes in a live session."""
    found = set()
    for path in NAMESPACES.glob("pylvs-pk*"):
        with suppress(ProcessLookupError):
            if os.getsid(int(path.name.removeprefix("pylvs-pk").split("-")[0])) == session:
                found.add(path.name)
    return found


@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.parametrize("whole_group", [True, False], ids=["as timeout does", "pytest alone"])
def test_a_run_ended_by_sigterm_removes_its_namespaces(whole_group: bool) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "tests/packet/test_fuzz.py"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    end = time.monotonic() + PATIENCE_S
    while len(made := namespaces_of(running.pid)) < 2 and running.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    assert len(made) == 2, f"two workers have made {made}; pytest: {running.poll()}"
    (os.killpg if whole_group else os.kill)(running.pid, signal.SIGTERM)
    assert running.wait(PATIENCE_S) == pytest.ExitCode.INTERRUPTED
    while (left := {name for name in made if (NAMESPACES / name).exists()}) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left
