"""The loaded program and the reference decide alike about any frame, and send the same bytes.

`./dev fuzz FRAMES` runs as many as you like.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FRAMES = 200_000
SEED, JOBS = 20261120, 2  # the same frames each time; `./dev fuzz` takes others


@pytest.mark.timeout(600)
def test_the_program_and_the_reference_agree_about_random_frames() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.packet.fuzz", str(FRAMES), "--seed", str(SEED), "--jobs", str(JOBS)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    compared = int(done.stdout.splitlines()[-1].split()[0])
    assert compared >= FRAMES
