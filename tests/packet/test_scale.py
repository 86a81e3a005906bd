"""A table of many connections is made, listed and expired with right counts. The test asserts no speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.expiry_timer import Pace
from bench.harness import WrongPath
from bench.large_table import DR, ready
from bench.rows import SCALE_ROWS, Measured
from bench.site import PREFIX
from tests.packet.table import shorten
from tests.waiting import until

EXACT = "scale_wrong"


@pytest.mark.nightly("takes 20 s of CPU time; the gate has the counts and the end of a table of 2,048 connections")
def test_a_quick_bench_of_many_connections_measures_every_row_and_finds_every_count_right(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "bench.scale", "--quick", "--json", str(tmp_path / "scale.json")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    output, errors = running.communicate(timeout=240)
    assert running.returncode == 0, errors
    written = json.loads((tmp_path / "scale.json").read_text())
    measured = {row["name"]: row["measured"] for row in written["rows"]}
    assert list(measured) == [row.name for row in SCALE_ROWS]
    assert measured.pop(EXACT) == 0, output
    assert [name for name, value in measured.items() if not value or value <= 0] == []
    for row in SCALE_ROWS:
        assert row.label.format(**written["sizes"]) in output
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert f"{PREFIX}{running.pid}-" not in listed


def test_connections_that_do_not_end_in_time_are_an_error_with_their_number() -> None:
    with ready(DR, 2048) as table:
        table.make(Measured(), lambda text: None)
        with pytest.raises(WrongPath, match=r"^2048 active and 0 inactive connections do not end$"):
            table.await_empty(0, lambda: None)


def test_the_expiry_timer_counts_its_runs_and_the_connections_that_it_ended() -> None:
    with ready(DR, 2048) as table:
        table.make(Measured(), lambda text: None)
        tables = table.path.director.tables
        before = Pace.read(tables)
        shorten(tables, 1)
        until(lambda: Pace.read(tables).ended - before.ended >= 2048, "the end of all connections")
        runs = Pace.read(tables).runs
        until(lambda: Pace.read(tables).runs > runs, "the expiry timer")  # a run writes its counts at its end
        assert table.counts() == (0, 0)
        passed = Pace.read(tables).since(before)
        assert passed.ended == 2048
        assert passed.runs > 0
        assert passed.runs == sum(passed.lengths)
        counts = table.path.director.packet_counts().expiry
        assert counts is not None
        assert (counts.connections, counts.runs >= passed.runs) == (2048, True)
        assert 0 < counts.longest_s <= counts.spent_s
