"""The benchmark runs, prints every row, and removes what it made. The test asserts no speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.guard import read
from bench.rows import BUDGET_RESULTS, BUDGETS, ROWS, SCHEDULER_FLOOR, SCHEDULER_ROWS
from tests.packet.interrupted import interrupted_at, namespaces_of

PATIENCE_S = 280  # for one part; all of them take several times as long
NIGHTLY_S = 1500


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "bench", *words]


def _measured(path: Path, *words: str, seconds: int = PATIENCE_S) -> tuple[str, dict[str, float], list[str]]:
    """Return the output of a quick run, its sizes, and the rows that it measured."""
    running = subprocess.Popen(
        _command("--quick", "--json", str(path), *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    output, errors = running.communicate(timeout=seconds)
    assert running.returncode == 0, errors
    assert not namespaces_of(running.pid)
    written = json.loads(path.read_text())
    rows = written["rows"]
    names = [row["name"] for row in rows if row["samples"]]
    assert [row["name"] for row in rows if row["samples"] and row["measured"] is None] == []
    for row in ROWS:
        if row.name in names:
            assert row.label.format(**written["sizes"]) in output
    return output, written["sizes"], names


def test_a_quick_bench_of_one_part_measures_its_rows(tmp_path: Path) -> None:
    output, _, names = _measured(tmp_path / "bench.json", "--only", "packets")
    assert {"floor", "one_dr", "nat_forth", "nat_back", "new_dr", "tc_one_dr", "connection_bytes"} <= set(names)
    elsewhere = "katran", "check_", "wlc_"  # needs a source tree; belong to other parts
    budgets = {row.name for row in BUDGETS if not row.floor.startswith(elsewhere)}
    assert {name for name in names if "/" in name} == budgets
    assert "katran" not in output


@pytest.mark.timeout(NIGHTLY_S + 60)
@pytest.mark.nightly("all parts of the bench take 40 s of CPU time; the gate runs that of packets")
def test_a_quick_bench_measures_every_row(tmp_path: Path) -> None:
    output, _, names = _measured(tmp_path / "bench.json", seconds=NIGHTLY_S)
    schedulers = [row.name for each in SCHEDULER_ROWS.values() for row in each]
    results = [row.name for row in BUDGET_RESULTS if not row.name.startswith("katran")]
    budgets = [row.name for row in BUDGETS if not row.floor.startswith("katran")]
    assert names == [*(row.name for row in ROWS), *results, SCHEDULER_FLOOR, *schedulers, *budgets]
    assert {line.split()[0] for line in output.splitlines() if line} >= set(SCHEDULER_ROWS)
    assert ElementTree.parse(tmp_path / "bench.svg").getroot().get("role") == "img"


def test_an_interrupted_bench_removes_what_it_made(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    ended = interrupted_at("bench: packets: making", _command("--only", "packets", "--json", str(path)))
    assert (ended.status, ended.errors) == (130, "")
    assert ended.after == set()
    assert not path.exists()


@pytest.mark.nightly("measures three times, and whether one measurement is like the next depends on the machine")
def test_the_guard_names_what_became_slower(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    words = [sys.executable, "-m", "bench.guard", "--quick", "--baseline", str(path)]

    def guard(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*words, *more], capture_output=True, text=True, timeout=PATIENCE_S)

    done = guard("--write")
    assert done.returncode == 0, done.stderr
    ratios, machine = read(path)
    assert set(ratios) >= {"no_service", "one_dr", "many_dr", "new_dr", "tc_one_dr"}
    cheap = dict.fromkeys(ratios, 1e6) | {"one_dr": -1e6}
    path.write_text(json.dumps({"machine": machine, "ratios": cheap}))
    done = guard()
    assert done.returncode == 1
    assert done.stderr == f"bench-guard: over 15% dearer than {path}: one_dr\n"
    assert "measured once more: one_dr" in done.stdout
    path.write_text(json.dumps({"machine": machine, "ratios": dict.fromkeys(ratios, 1e6)}))
    done = guard()
    assert (done.returncode, done.stderr) == (0, "")
