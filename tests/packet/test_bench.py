"""The bench runs, prints every row, and leaves nothing behind. How fast things are is measured, never asserted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

from pylvs.bench.guard import read
from pylvs.bench.rows import ROWS, SCHEDULER_FLOOR, SCHEDULER_ROWS
from pylvs.bench.site import PREFIX


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "pylvs.bench", *words]


def _namespaces(bench: subprocess.Popen[str]) -> set[str]:
    """Those of this one: others may measure meanwhile."""
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in done.stdout.splitlines() if line.startswith(f"{PREFIX}{bench.pid}-")}


def test_a_quick_bench_measures_every_row(tmp_path: Path) -> None:
    running = subprocess.Popen(
        _command("--quick", "--json", str(tmp_path / "bench.json")),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    output, errors = running.communicate(timeout=240)
    assert running.returncode == 0, errors
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    schedulers = [row.name for each in SCHEDULER_ROWS.values() for row in each]
    assert [row["name"] for row in rows] == [*(row.name for row in ROWS), SCHEDULER_FLOOR, *schedulers]
    assert [row["name"] for row in rows if not row["samples"] or row["measured"] is None] == []
    sizes = json.loads((tmp_path / "bench.json").read_text())["sizes"]
    for row in ROWS:
        assert row.label.format(**sizes) in output
    assert {line.split()[0] for line in output.splitlines() if line} >= set(SCHEDULER_ROWS)
    assert ElementTree.parse(tmp_path / "bench.svg").getroot().get("role") == "img"
    assert not _namespaces(running)


def test_an_interrupted_bench_leaves_nothing(tmp_path: Path) -> None:
    running = subprocess.Popen(
        _command("--only", "packets", "--json", str(tmp_path / "bench.json")),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - background jobs ignore it
    )
    mine = f"{PREFIX}{running.pid}-packets"
    end = time.monotonic() + 60
    while mine not in _namespaces(running) and time.monotonic() < end:
        time.sleep(0.05)
    assert mine in _namespaces(running)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=120)
    assert (running.returncode, errors) == (130, "")
    assert not _namespaces(running)
    assert not os.path.exists(tmp_path / "bench.json")


def test_the_guard_names_what_became_dearer(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    words = [sys.executable, "-m", "pylvs.bench.guard", "--quick", "--baseline", str(path)]

    def guard(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*words, *more], capture_output=True, text=True, timeout=240)

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
