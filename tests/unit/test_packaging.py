"""The unit files in packaging/: systemd accepts them, and rates how restricted they are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = {"pylvs.service": 6.0, "pylvs-watch.service": 4.0}  # and the highest exposure level
WITHOUT = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
pytestmark = [pytest.mark.may_be_skipped, WITHOUT]


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", "--no-pager", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={"PATH": "/usr/bin:/bin"})


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_the_unit(unit: str, repository: Path, tmp_path: Path) -> None:
    text = (repository / "packaging" / unit).read_text()
    installed = tmp_path / unit
    installed.write_text(text.replace("/usr/local/bin/pylvs", "/bin/true"))  # verify looks for the program
    done = analyze("verify", "--man=no", "--recursive-errors=one", str(installed))
    assert (done.returncode, done.stderr) == (0, "")
    installed.write_text(text.replace("/usr/local/bin/pylvs", "/bin/true") + "ProtectEverything=yes\n")
    assert "ProtectEverything" in analyze("verify", "--man=no", str(installed)).stderr, "verify finds errors"


@pytest.mark.parametrize(("unit", "most"), UNITS.items())
def test_the_unit_is_restricted(unit: str, most: float, repository: Path) -> None:
    done = analyze("security", "--offline=yes", str(repository / "packaging" / unit))
    levels = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert len(levels) == 1, done.stdout + done.stderr
    assert float(levels[0]) <= most
    page = (repository / "docs/reference/run.md").read_text()
    assert re.search(rf"\b{re.escape(levels[0])}\b", page), "the page has the rating"
