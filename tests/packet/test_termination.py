"""A run of the tests that `timeout` ends removes what it made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S, until

NAMESPACES = Path("/run/netns")


def namespaces_of(session: int) -> set[str]:
    """Return the namespaces of tests.packet.host of processes in a live session."""
    found = set()
    for path in NAMESPACES.glob("pylvs-pk*"):
        with suppress(ProcessLookupError):
            if os.getsid(int(path.name.removeprefix("pylvs-pk").split("-")[0])) == session:
                found.add(path.name)
    return found


@pytest.mark.timeout(4 * PATIENCE_S)
@pytest.mark.parametrize("whole_group", [True, False], ids=["as timeout does", "pytest alone"])
def test_a_run_ended_by_sigterm_removes_its_namespaces(whole_group: bool) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "tests/packet/test_fuzz.py"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until(lambda: len(namespaces_of(running.pid)) == 2 or running.poll() is not None, "two workers have begun")
    made = namespaces_of(running.pid)
    assert len(made) == 2, f"two workers have made {made}; pytest: {running.poll()}"
    (os.killpg if whole_group else os.kill)(running.pid, signal.SIGTERM)
    assert running.wait(PATIENCE_S) == pytest.ExitCode.INTERRUPTED
    until(lambda: not any((NAMESPACES / name).exists() for name in made), f"{made} are removed")
