"""The parts of `./dev test-all`: which run, and how long a record holds."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import conftest, gate, ledger, parts
from tests.parts import Part

Run = Callable[..., tuple[int, list[str]]]
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
WITHOUT_PROSE = Part(["two"], ["docs/*"])


def git(root: Path, *words: str) -> None:
    subprocess.run([*GIT, *words], cwd=root, check=True, capture_output=True)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository with two parts, each of one phase that notes its call in the file `calls`."""
    root = tmp_path / "tree"
    (root / "docs").mkdir(parents=True)
    for name in "code.py", "docs/page.md":
        (root / name).write_text("first\n")
    (root / ".gitignore").write_text("/calls\n/broken\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    made = [gate.Phase(name, ["sh", "-c", f"echo {name} >>calls; ! grep -qs {name} broken"]) for name in ("one", "two")]
    monkeypatch.setattr(gate, "ROOT", root)
    monkeypatch.setattr(gate, "FOLDER", tmp_path / "folder")
    monkeypatch.setattr(gate, "PARTS", tmp_path / "parts")
    monkeypatch.setattr(gate, "phases", lambda: made)
    monkeypatch.setattr(gate, "nightly_phases", list)
    monkeypatch.setattr(gate, "nightly_parts", lambda: [Part(["one"]), WITHOUT_PROSE])
    for name in ledger.LEDGER, conftest.EVERYTHING, conftest.SKIP_NOTHING:
        monkeypatch.setenv(name, "")  # restored behind the test
    return root


@pytest.fixture
def run(tree: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs the parts. It returns the status and the phases that ran."""

    def run_parts(*arguments: str) -> tuple[int, list[str]]:
        (tree / "calls").write_text("")
        status = gate.main(["--everything", *arguments])
        return status, (tree / "calls").read_text().split()

    return run_parts


def test_a_part_that_passed_runs_again_only_if_its_files_have_changed(
    tree: Path, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run() == (0, ["one", "two"])
    capfd.readouterr()
    assert run() == (0, [])
    lines = capfd.readouterr().out.splitlines()
    assert re.match(r"gate: part 1/2 has passed at [0-9a-f]{7,} on \S+ \S+ UTC, in \d+ s: one$", lines[0])
    (tree / "docs/page.md").write_text("changed, but not committed\n")
    assert run() == (0, ["one"])
    git(tree, "commit", "-q", "-a", "-m", "second")
    assert run() == (0, [])
    (tree / "new.py").write_text("not even added\n")
    assert run() == (0, ["one", "two"])
    git(tree, "checkout", "-q", "HEAD~")
    (tree / "new.py").unlink()
    assert run() == (0, ["one", "two"])


def test_a_part_that_failed_runs_again_and_stops_no_other(tree: Path, run: Run) -> None:
    (tree / "broken").write_text("one\n")
    assert run() == (1, ["one", "two"])
    assert run() == (1, ["one"])
    (tree / "broken").unlink()
    assert run() == (0, ["one"])
    assert run() == (0, [])
    (tree / "broken").write_text("one\n")
    assert run("--part", "1/2") == (1, ["one"])
    (tree / "broken").unlink()
    assert run() == (0, ["one"]), "its record is gone"


def test_one_part_runs_by_its_number(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--part", "2/2") == (0, ["two"])
    assert run("--part", "2/2") == (0, ["two"])
    assert run() == (0, ["one"])
    for wrong in "2", "3/2", "2/3":
        with pytest.raises(SystemExit):
            run("--part", wrong)
        assert f"no part {wrong}; there are 1/2, 2/2" in capfd.readouterr().err
    for words in ["--part", "1/2"], ["--everything", "--only", "one", "--part", "1/2"]:
        with pytest.raises(SystemExit):
            gate.main(words)
        assert "--part is for --everything, without --only" in capfd.readouterr().err


def test_files_that_change_during_the_run_are_not_recorded(
    tree: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = gate.Phase("one", ["sh", "-c", "echo one >>calls; echo x >>code.py"])
    other = gate.Phase("two", ["sh", "-c", "echo two >>calls"])
    monkeypatch.setattr(gate, "phases", lambda: [changes, other])
    assert run() == (0, ["one", "two"])
    assert run() == (0, ["one", "two"]), "the second part has seen other files in its first run"


def test_another_kernel_or_python_runs_it_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run() == (0, ["one", "two"])
    monkeypatch.setattr(sys, "version", "another")
    assert run() == (0, ["one", "two"])


def test_outside_a_repository_everything_runs(
    tree: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / ".git").rename(tmp_path / "moved")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert run() == (0, ["one", "two"])
    assert run() == (0, ["one", "two"])


def test_the_parts_have_all_phases_once() -> None:
    every = [name for part in gate.nightly_parts() for name in part.phases]
    shares = {f"{name} {n + 1}/{gate.SHARES}" for name in ("interop", "simulations") for n in range(gate.SHARES)}
    names = {phase.name for phase in (*gate.phases(), *gate.nightly_phases())}
    assert sorted(every) == sorted(names - {"interop", "simulations"} | shares)
    assert set(every) <= gate.phases_by_name().keys()
    assert len({phase.report for phase in gate.phases_by_name().values()}) == len(gate.phases_by_name())


def test_the_shares_of_a_phase_have_all_its_tests_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_0.py").write_text("".join(f"def test_{n}(): pass\n" for n in range(5)))
    monkeypatch.setenv("PYTHONPATH", str(Path(gate.__file__).parents[1]))
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    found: list[str] = []
    for share in "1/2", "2/2":
        monkeypatch.setenv(conftest.SHARE, share)
        command = [sys.executable, "-m", "pytest", "-v", "-p", "tests.conftest", "-p", "no:cacheprovider", "test_0.py"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        found += re.findall(r"::(test_\d) PASSED", done.stdout)
    assert found == ["test_0", "test_2", "test_4", "test_1", "test_3"]


def test_what_parts_ignore_does_not_decide_their_result(repository: Path) -> None:
    paths = parts.files_of(repository)
    for part in gate.nightly_parts():
        ignored = [path for path in paths if not part.depends_on(path)]
        for pattern in part.ignores:
            assert [path for path in ignored if not Part([], [pattern]).depends_on(path)], f"{pattern} matches nothing"
        assert part.depends_on("src/pylvs/__init__.py")
        assert part.depends_on("tests/unit/daemon/daemons.py")
    others = [path for path in paths if re.match(r"tests/(?!unit/).*\.py$", path)]
    imports = re.compile(r"^(?:from|import) tests\.unit[.\w]*(?:\.| import .*)\btest_", re.MULTILINE)
    assert [path for path in others if imports.search((repository / path).read_text())] == []
