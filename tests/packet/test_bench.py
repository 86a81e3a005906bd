"""The bench runs, prints every row, and leaves nothing behind. How fast things are is measured, never asserted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pylvs.bench.rows import ROWS
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
    assert [row["name"] for row in rows] == [row.name for row in ROWS]
    assert [row["name"] for row in rows if not row["measured"] or row["measured"] <= 0] == []
    sizes = json.loads((tmp_path / "bench.json").read_text())["sizes"]
    for row in ROWS:
        assert row.label.format(**sizes) in output
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
