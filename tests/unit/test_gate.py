"""The gate: what fails a run, what runs a second time, and the ledger."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests import gate, ledger

Gate = Callable[..., tuple[int, list[str]]]
HEADER = "import os, pathlib, pytest\n"
BURNT_S = 1
GOOD = "def test_good(): pass\n"
BAD = "def test_bad(): assert 1 == 2\n"
FAILS_ONCE = """\
@pytest.mark.real_clock("counts its runs")
def test_{name}():
    path = pathlib.Path(__file__).with_name("{name}")
    path.write_text(path.read_text() + "x" if path.exists() else "x")
    assert len(path.read_text()) > {times}
"""
BREAKS_WORKER = '@pytest.mark.real_clock("ends its process")\ndef test_ends(): os._exit(3)\n'


@pytest.fixture
def run_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Gate:
    """Return a function that runs the gate over files of tests, a phase each.

    It returns status and the gate's lines.
    """
    repository = Path(gate.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # loading them takes two thirds of such a run
    for name in (ledger.LEDGER, "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gate, "ROOT", tmp_path)
    monkeypatch.setattr(gate, "FOLDER", tmp_path / "folder")
    monkeypatch.setattr(gate, "ISOLATED", sys.executable)
    tainted = tmp_path / "tainted"
    tainted.write_text("0\n")
    monkeypatch.setattr(gate, "TAINTED", tainted)

    def run(*files: str, extra: Sequence[str] = ()) -> tuple[int, list[str]]:
        made = []
        for number, text in enumerate(files):
            path = tmp_path / f"test_{number}.py"
            path.write_text(HEADER + text)
            command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", *extra, path.name]
            made.append(gate.Phase(f"phase {number}", command, pytest=True))
        monkeypatch.setattr(gate, "phases", lambda: made)
        status = gate.main([])
        lines = capfd.readouterr().out.splitlines()
        return status, [line for line in lines if line.startswith(("gate: ", "total: "))]

    return run


def test_a_run_without_failures_reports_no_repetitions(run_gate: Gate) -> None:
    status, lines = run_gate(GOOD, GOOD)
    assert status == 0
    assert lines[-3:] == [
        "gate: ledger: nothing was repeated",
        "total: 2 passed, 0 failed, 0 skipped",
        "gate: all tests passed",
    ]


def test_tests_that_were_not_played_again_are_counted(run_gate: Gate) -> None:
    text = "def test_known(request): request.node.user_properties.append(('passed_before', 'yes'))\n"
    status, lines = run_gate(text + GOOD)
    assert status == 0
    assert "gate:   1 of them passed with the same code before, and were not played again" in lines


@pytest.mark.usefixtures("run_gate")
def test_a_phase_prints_its_cost_with_that_of_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    burn = f"import time\nwhile time.process_time() < {BURNT_S}: pass\n"
    (tmp_path / "burn.py").write_text(burn)
    (tmp_path / "test_0.py").write_text(GOOD)
    made = [
        gate.Phase("burns", ["sh", "-c", f"{shlex.quote(sys.executable)} burn.py; true"]),
        gate.Phase("tests", [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_0.py"], pytest=True),
    ]
    monkeypatch.setattr(gate, "phases", lambda: made)
    assert gate.main([]) == 0
    text = capfd.readouterr().out
    first = re.search(r"^gate: burns: took \d+ s and (\d+) CPU s$", text, re.MULTILINE)
    assert first
    assert int(first[1]) >= BURNT_S
    assert re.search(r"^gate: tests: took \d+ s and \d+ CPU s; the tests of test_0\.py 0 s$", text, re.MULTILINE)
    assert re.search(rf"^gate: burns +\d+ +{first[1]}$", text, re.MULTILINE), "the table"


@pytest.mark.usefixtures("run_gate")
def test_a_phase_in_the_background_counts_and_is_shown_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    (tmp_path / "test_0.py").write_text(GOOD)
    (tmp_path / "test_1.py").write_text(BAD)
    first = gate.Phase("long", [*command, "test_1.py"], pytest=True, background=True)
    second = gate.Phase("short", [*command, "test_0.py"], pytest=True)
    monkeypatch.setattr(gate, "phases", lambda: [first, second])
    assert gate.main([]) == 1
    text = capfd.readouterr().out
    assert text.index("gate: long: ") < text.index("gate: short: ") < text.index("assert 1 == 2")
    assert "gate: failed: test_1.py::test_bad: assert 1 == 2" in text
    assert "total: 1 passed, 1 failed, 0 skipped" in text


@pytest.mark.usefixtures("run_gate")
def test_a_phase_that_runs_alone_begins_after_those_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = gate.Phase("waits", ["sh", "-c", "until [ -e begun ]; do sleep 0.1; done; touch ended"], background=True)
    beside = gate.Phase("beside", ["touch", "begun"])
    alone = gate.Phase("alone", ["test", "-e", "ended"], alone=True)
    monkeypatch.setattr(gate, "phases", lambda: [waits, beside, alone])
    assert gate.main([]) == 0


@pytest.mark.usefixtures("run_gate")
def test_a_phase_that_runs_alone_begins_after_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = gate.Phase("alone", ["touch", "begun"], alone=True)
    other = gate.Phase("other", ["test", "!", "-e", "begun"])
    monkeypatch.setattr(gate, "phases", lambda: [alone, other])
    assert gate.main([]) == 0


def test_each_phase_can_be_named_in_a_list() -> None:
    names = [phase.name for phase in (*gate.phases(), *gate.nightly_phases())]
    assert [name for name in names if "," in name] == []
    assert len(set(names)) == len(names)


def test_a_failed_phase_does_not_stop_the_next_one(run_gate: Gate) -> None:
    status, lines = run_gate(BAD, GOOD)
    assert status == 1
    assert "gate: failed: test_0.py::test_bad: assert 1 == 2" in lines
    assert lines[-2:] == ["total: 1 passed, 1 failed, 0 skipped", "gate: FAILED: phase 0"]


def test_a_failed_real_clock_test_runs_once_more_and_is_in_the_ledger(run_gate: Gate, tmp_path: Path) -> None:
    status, lines = run_gate(GOOD + FAILS_ONCE.format(name="slow", times=1))
    assert status == 0
    assert (tmp_path / "slow").read_text() == "xx"
    assert "total: 2 passed, 0 failed, 0 skipped" in lines
    assert "gate: ledger: 1 repeated" in lines
    (entry,) = [line for line in lines if "test_0.py::test_slow: AssertionError" in line and "then" in line]
    assert "load" in entry


def test_a_second_failure_fails_the_run(run_gate: Gate, tmp_path: Path) -> None:
    status, lines = run_gate(FAILS_ONCE.format(name="slow", times=5))
    assert status == 1
    assert (tmp_path / "slow").read_text() == "xx"
    assert "gate: ledger: 1 repeated" in lines


def test_an_unmarked_failure_is_never_repeated(run_gate: Gate) -> None:
    status, lines = run_gate(BAD + FAILS_ONCE.format(name="slow", times=1))
    assert status == 1
    assert "total: 1 passed, 1 failed, 0 skipped" in lines  # the marked one still has its second attempt


def test_more_than_two_repetitions_fail_the_run(run_gate: Gate, tmp_path: Path) -> None:
    status, lines = run_gate("".join(FAILS_ONCE.format(name=f"slow{n}", times=1) for n in range(3)))
    assert status == 1
    assert (tmp_path / "slow0").read_text() == "x"
    assert "gate: ledger: nothing was repeated" in lines


def test_nothing_is_repeated_on_a_tainted_kernel(run_gate: Gate, tmp_path: Path) -> None:
    taints = "def test_taints(): pathlib.Path(__file__).with_name('tainted').write_text('512')\n"
    status, lines = run_gate(taints + FAILS_ONCE.format(name="slow", times=1))
    assert status == 1
    assert (tmp_path / "slow").read_text() == "x"
    assert "gate: the kernel became tainted: 0 -> 512 (/proc/sys/kernel/tainted)" in lines


def test_a_crash_is_never_repeated(run_gate: Gate) -> None:
    status, lines = run_gate(BREAKS_WORKER)
    assert status == 1
    assert "gate: ledger: nothing was repeated" in lines
    assert any("pytest wrote no report" in line for line in lines)
    status, lines = run_gate(BREAKS_WORKER, extra=["-p", "xdist", "-n", "1"])
    assert status == 1
    assert "gate: ledger: nothing was repeated" in lines


def test_each_mark_needs_a_reason(run_gate: Gate) -> None:
    status, _ = run_gate("@pytest.mark.real_clock\n" + GOOD)
    assert status == 1


@pytest.mark.usefixtures("run_gate")
def test_a_phase_without_tests_fails_unless_it_may_be_empty(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_0.py").write_text(GOOD)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "real_clock", "test_0.py"]
    gate.FOLDER.mkdir()
    assert gate.run(gate.Phase("marked", command, pytest=True)).status != 0
    assert "deselected" in capfd.readouterr().out
    assert gate.run(gate.Phase("marked", command, pytest=True, may_be_empty=True)).status == 0
    assert "deselected" not in capfd.readouterr().out


@pytest.mark.usefixtures("run_gate")
def test_a_phase_that_may_be_empty_shows_the_output_of_its_tests(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_0.py").write_text(BAD)
    command = [sys.executable, "-m", "pytest", "-q", "test_0.py"]
    gate.FOLDER.mkdir()
    result = gate.run(gate.Phase("marked", command, pytest=True, may_be_empty=True))
    assert (result.status, len(result.failed)) == (1, 1)
    assert "assert 1 == 2" in capfd.readouterr().out


def test_a_program_that_a_test_starts_can_be_interrupted() -> None:
    asks = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.run([sys.executable, "-I", "-c", asks], capture_output=True, text=True).stdout == "True\n"


def test_so_it_can_if_the_tests_run_in_a_shells_background() -> None:
    """The shell makes such a job ignore SIGINT. A health checker once ran on after the test that interrupted it."""
    name = f"{__file__}::{test_a_program_that_a_test_starts_can_be_interrupted.__name__}"
    command = shlex.join([sys.executable, "-m", "pytest", "-q", name])
    done = subprocess.run(["sh", "-c", f"{command} & wait $!"], cwd=gate.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
