"""With a full or a read-only disk the daemon continues, finishes or refuses each change, and reports the reason."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop.full_disk import SCENARIOS


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_daemon_survives_a_full_or_read_only_disk(scenario: str, tmp_path: Path, repository: Path) -> None:
    command = ["unshare", "--mount", "--propagation", "private", sys.executable]
    command += ["-W", "error", "-m", "tests.interop.full_disk", scenario, str(tmp_path)]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "this is a bug" not in done.stdout
    assert done.stderr == ""
