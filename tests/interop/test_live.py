"""Random scenarios, live in the real IPVS and in the reference: a bounded form of `./dev conformance`."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.may_be_skipped
@pytest.mark.timeout(900)
def test_the_reference_does_live_what_ipvs_does() -> None:
    if not shutil.which("linux.uml") or not Path("/usr/sbin/ipvsadm").exists():
        pytest.skip("needs Debian's user-mode-linux and ipvsadm")
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance", "--connections", "200", "--scenarios", "5", "--frames", "120"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith(": 0 differences")
