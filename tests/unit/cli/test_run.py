"""`pylvs run` that cannot: one line that says why, and nothing done."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.privileges import AS_ORDINARY_USER
from tests.waiting import PATIENCE_S

PYLVS = [sys.executable, "-c", "from pylvs.cli.main import main; main()"]
ONE_FINDING = """
virtual_server 192.0.2.1 80 {
    colour red
    lb_algo rr
    lb_kind DR
    protocol TCP
    real_server 10.0.0.1 80 {
        weight 1
    }
}
"""


def run(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*PYLVS, "run", "--state-dir", str(tmp_path / "state"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE_S)


@pytest.mark.parametrize(
    ("text", "words", "error"),
    [
        (None, [], "the file cannot be run: "),
        ("virtual_server 192.0.2.1 80 {\n", [], "the file cannot be run: "),
        (ONE_FINDING, ["--strict"], "1 finding, and --strict runs none: "),
    ],
)
def test_a_file_that_cannot_be_run(tmp_path: Path, text: str | None, words: list[str], error: str) -> None:
    path = tmp_path / "keepalived.conf"
    if text is not None:
        path.write_text(text)
    done = run(tmp_path, "-f", str(path), *words)
    assert (done.returncode, done.stdout) == (os.EX_CONFIG, ""), done.stderr
    *_, last = done.stderr.splitlines()
    assert last.startswith(f"pylvs: {error}{path}:")
    finding = last.rpartition(f"{path}:")[2].partition(": ")[2].partition(": ")[2]
    assert done.stderr.count(finding) == (2 if "--strict" in words else 1), "it ends the start, and is named once"
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "state").exists()


def test_a_state_directory_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "keepalived.conf").write_text("# nothing yet\n")
    (tmp_path / "state").touch()
    done = run(tmp_path, "-f", str(tmp_path / "keepalived.conf"))
    assert done.returncode == 2
    assert done.stderr.startswith("pylvs: ")
    assert len(done.stderr.splitlines()) == 1


def test_wrong_words_are_wrong_usage(tmp_path: Path) -> None:
    for words in (["--colour"], ["--log-format", "xml"], ["unknown"]):
        done = run(tmp_path, *words)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user afterwards")
def test_without_permission_the_error_names_root(tmp_path: Path) -> None:
    closed = tmp_path / "closed"  # to all but root, unlike /run on some machines
    closed.mkdir(mode=0o700)
    command = [*AS_ORDINARY_USER, *PYLVS, "run", "-f", os.devnull, "--state-dir", str(closed / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE_S)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"pylvs: {tmp_path}")
    assert "Operation not permitted; run as root" in done.stderr
