"""packaging/pylvs.service under a real systemd, which is PID 1 of a PID namespace, here or in a guest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop import guests

GUEST_S = 2400  # on a quiet machine without KVM some minutes
STEPS = ["start", "reload", "restart", "crash", "watchdog", "stop", "start again", "hang", "stop after crash"]
STEPS += ["instance", "refuse", "journal"]
SYSTEMD = Path("/lib/systemd/systemd")


CGROUP2 = any(Path(f"/sys/fs/cgroup{each}/cgroup.controllers").exists() for each in ("", "/unified"))
NEEDED = pytest.mark.skipif(not (SYSTEMD.exists() and shutil.which("systemctl")), reason="no systemd here")
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
CONTAINER_S = 600


@pytest.mark.may_be_skipped
@NEEDED
@pytest.mark.skipif(not CGROUP2, reason="no control groups of version 2 here")
@pytest.mark.timeout(CONTAINER_S + 60)
def test_start_reload_restart_crash_and_stop(repository: Path) -> None:
    """Each step has its assertions in `systemd_in_guest.py`; a connection lasts from the first step to the stop."""
    command = [sys.executable, "-m", "tests.interop.systemd_in_guest", "container"]
    environment = os.environ | {"PATH": PATH}
    with subprocess.Popen(command, cwd=repository, env=environment, stdout=subprocess.PIPE, text=True) as running:
        try:
            output, _ = running.communicate(timeout=CONTAINER_S)
        finally:
            running.terminate()
    assert running.returncode == 0, output
    assert [line.split(":")[0] for line in output.splitlines() if "out_of_memory" not in line] == STEPS, output


@pytest.mark.nightly("emulated guests are slow; the gate plays all other steps in a container")
@pytest.mark.may_be_skipped
@NEEDED
@pytest.mark.timeout(GUEST_S + guests.FETCHING_S + 30)
def test_a_script_that_is_killed_for_its_memory() -> None:
    words = ("env", f"PATH={PATH}", sys.executable, "-m", "tests.interop.systemd_in_guest")
    options = ("--smp", "2", "--mem", "1500M")
    done = guests.run_or_skip("6.1", *words, options=options, seconds=GUEST_S)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert "out_of_memory" in [line.split(":")[0] for line in done.stdout.splitlines()], done.stdout
