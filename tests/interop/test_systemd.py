"""packaging/pylvs.service under a real systemd, which is PID 1 of a PID namespace in a guest."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.interop import guests

GUEST_S = 2400  # on a quiet machine without KVM some minutes
STEPS = ["start", "reload", "restart", "crash", "out_of_memory", "stop", "start again", "hang", "journal"]
SYSTEMD = Path("/lib/systemd/systemd")


@pytest.mark.nightly("emulated guests are slow; the gate checks the unit, and plays pylvs stop with a false systemctl")
@pytest.mark.may_be_skipped
@pytest.mark.skipif(not SYSTEMD.exists() or not shutil.which("systemctl"), reason="no systemd here")
@pytest.mark.timeout(GUEST_S + guests.FETCHING_S + 30)
def test_start_reload_restart_crash_and_stop() -> None:
    """Each step has its assertions in `systemd_in_guest.py`; a connection lasts from the first to `out_of_memory`."""
    command = ("env", f"PATH={Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin", sys.executable)
    words = (*command, "-m", "tests.interop.systemd_in_guest")
    options = ("--smp", "2", "--mem", "1500M")
    done = guests.run_or_skip("6.1", *words, options=options, seconds=GUEST_S)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == STEPS, done.stdout
