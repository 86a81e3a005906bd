"""Labs inside a mount namespace: Linux 6.18 compares the ids of both, and each CPU allocates its own ids."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from tests.lab.support import PYLVS
from tests.waiting import PATIENCE_S

CPUS = sorted(os.sched_getaffinity(0))[:4]
PAIRINGS = list(product(CPUS, CPUS))
BIND = """
import sys
from pylvs.system.namespaces import Kind, bind_new
for name in ("one", "two"):
    path = f"/run/{name}"
    open(path, "w").close()
    bind_new(Kind.MOUNT, path)
"""
LAB = """
set -e
python=$0 code=$2
pylvs() { "$python" -c "$code" "$@"; }
pylvs lab up dr --bare --servers 2 --name nested
pylvs lab exec nested client -- curl -s http://rs2/
pylvs lab down nested
"""


def nested(made_on: int, used_on: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a mount namespace that was made on another CPU."""
    program = [sys.executable, "-m", "tests.lab.nested", str(made_on), str(used_on)]
    repository = Path(__file__).parents[2]
    return subprocess.run([*program, *command], capture_output=True, text=True, timeout=PATIENCE_S, cwd=repository)


@pytest.mark.parametrize(("made_on", "used_on"), PAIRINGS)
def test_a_mount_namespace_is_bound_inside_one_of_any_cpu(made_on: int, used_on: int) -> None:
    done = nested(made_on, used_on, sys.executable, "-c", BIND)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("made_on", "used_on"), PAIRINGS)
def test_a_lab_is_made_inside_a_namespace_of_any_cpu(made_on: int, used_on: int) -> None:
    done = nested(made_on, used_on, "sh", "-c", LAB, *PYLVS)
    assert (done.returncode, done.stderr) == (0, "")
    assert "This is rs2 server!\n" in done.stdout
