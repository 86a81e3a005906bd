"""`.ci/run` runs the gate from a path that depends on the commit, and only its own processes see the clone there."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.privileges import ORDINARY_USER

PATHS = {"here": None, "home": Path("/home", "ci"), "tmp": Path("/tmp/pylvs"), "blank": Path("/srv/py lvs")}
THERE = [path for path in PATHS.values() if path]
GATE = f"""#!/bin/sh
pwd
stat -c %a ..
setpriv --reuid={ORDINARY_USER} --clear-groups cat "$PWD/marker" 2>/dev/null || echo closed
mktemp -u
exit 3
"""


@pytest.fixture
def clone(public_path: Path) -> Path:
    """Return a tree that has `.ci/run`, and a `dev` that prints where it is."""
    run = Path(__file__).parents[2] / ".ci" / "run"
    (public_path / ".ci").mkdir()
    shutil.copy(run, public_path / ".ci" / "run")
    (public_path / "dev").write_text(GATE)
    (public_path / "dev").chmod(0o755)
    (public_path / "marker").write_text("open\n")
    return public_path


def run(clone: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYLVS_CI", "TMPDIR"))}
    command = [clone / ".ci" / "run"]
    return subprocess.run(command, env=inherited | environment, cwd="/", capture_output=True, text=True)


def traces() -> tuple[str, list[bool]]:
    """Return this machine's mounts, and which of the paths exist: the clone of this test may have one of them."""
    return Path("/proc/self/mountinfo").read_text(), [path.exists() for path in THERE]


@pytest.mark.parametrize("kind", PATHS)
def test_the_gate_runs_from_a_path_of_that_kind(clone: Path, kind: str) -> None:
    before = traces()
    done = run(clone, PYLVS_CI_PATH=kind)
    found, mode, access, temporary = done.stdout.splitlines()
    assert (done.returncode, found) == (3, str(PATHS[kind] or clone)), done.stderr
    assert access == ("closed" if kind == "home" else "open")
    if kind != "here":
        assert mode == {"home": "700", "tmp": "1777", "blank": "755"}[kind]
        assert f"PYLVS_CI_PATH={kind} .ci/run" in done.stderr
    assert temporary.startswith("/tmp/")
    assert traces() == before


def test_the_commit_decides_the_path(clone: Path) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    dated = os.environ | {"GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z"}
    subprocess.run([*git, "init", "-q"], cwd=clone, check=True)
    found: set[str] = set()
    for number in range(16):
        command = [*git, "commit", "-q", "--allow-empty", "-m", f"{number}"]
        subprocess.run(command, cwd=clone, check=True, env=dated)
        paths = {run(clone).stdout.splitlines()[0] for _ in range(2)}
        assert len(paths) == 1, "of one commit"
        found |= paths
    assert found == {str(path or clone) for path in PATHS.values()}


def test_an_unknown_kind_is_refused(clone: Path) -> None:
    done = run(clone, PYLVS_CI_PATH="moon")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == ".ci/run: PYLVS_CI_PATH is here, home, tmp or blank, not moon\n"
