"""Track scripts: the first end decides, then rise and fall; timing; what a reload keeps."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.scripts import Script
from pylvs.system.processes import tree
from pylvs.system.processes.scripts import Ended, Processes
from pylvs.vrrp.aide.messages import Configure, ScriptWell
from pylvs.vrrp.aide.scripts import SLACK_S, TrackScripts, Verdict
from tests.unit.health.clock import START_S, FakeTimeLoop
from tests.unit.vrrp.aide.aides import aide, scripts, tracked
from tests.waiting import until


@given(st.lists(st.booleans(), min_size=1), st.integers(1, 4), st.integers(1, 4))
def test_it_changes_after_so_many_ends_in_a_row(ends: list[bool], rise: int, fall: int) -> None:
    verdict = Verdict()
    for at, end in enumerate(ends):
        before = verdict.well
        changed = verdict.take(end, rise, fall)
        assert changed == (verdict.well != before)
        if at == 0:
            assert verdict.well == end
        elif changed:
            needed = rise if end else fall
            assert ends[at - needed + 1 : at + 1] == [end] * needed
        else:
            against = rise if not verdict.well else fall
            assert ends[max(0, at - against + 1) : at + 1] != [not verdict.well] * against


class Programs(Processes):
    """Whose runs are imagined: each lasts so long, and ends well or not; one beyond its timeout is killed later."""

    GRACE_S = 2.0

    def __init__(self, loop: FakeTimeLoop) -> None:
        super().__init__()
        self.loop = loop
        self.turns: list[tuple[float, bool]] = []  # seconds, success; without one it succeeds at once
        self.log: list[tuple[float, str]] = []

    def note(self, what: str) -> None:
        self.log.append((round(self.loop.time() - START_S, 6), what))

    async def run(self, script: Script, timeout_s: float, environment: Mapping[str, str] | None = None) -> Ended:
        seconds, success = self.turns.pop(0) if self.turns else (0, True)
        self.note("begins")
        await asyncio.sleep(min(seconds, timeout_s + self.GRACE_S))
        self.note("ends")
        late = seconds > timeout_s
        return Ended(0 if success else 3, timed_out=late, seconds=timeout_s if late else seconds)


@pytest.fixture
def programs() -> Iterator[Programs]:
    loop = FakeTimeLoop()
    yield Programs(loop)
    loop.close()


def play(programs: Programs, seconds: float, *turns: tuple[float, bool], **fields: Any) -> list[tuple[float, str]]:
    """What happens to a script that is tracked for so long, its first runs being these."""
    programs.turns = list(turns)
    watched = TrackScripts(programs, lambda told: programs.note(f"well: {told.well}, {told.words}"))

    async def begin() -> None:
        watched.configure([tracked("s", "", **fields)])

    programs.loop.run_until_complete(begin())
    programs.loop.pass_(seconds)
    return programs.log


def told(log: list[tuple[float, str]]) -> list[tuple[float, str]]:
    return [(when, what) for when, what in log if what.startswith("well")]


def test_a_script_is_run_every_interval(programs: Programs) -> None:
    log = play(programs, 11, (1.5, True), (0.1, True), interval_s=3)
    assert [when for when, what in log if what == "begins"] == [0, 3, 6, 9]


def test_a_run_that_is_not_over_at_its_next_turn_costs_it_that_turn(programs: Programs) -> None:
    log = play(programs, 12, (3.5, True), interval_s=3, timeout_s=5)
    assert [when for when, what in log if what == "begins"] == [0, 6, 9, 12]


def test_the_first_end_is_told_and_then_each_change(programs: Programs) -> None:
    turns = [(0.5, end) for end in (True, False, True, False, False, True, False, True, True, True)]
    log = play(programs, 20, *turns, interval_s=1, rise=3, fall=2)
    assert told(log) == [
        (0.5, "well: True, exit status 0"),
        (4.5, "well: False, exit status 3"),
        (9.5, "well: True, exit status 0"),
    ]


def test_one_that_hangs_has_failed_before_it_is_killed_and_never_runs_twice_at_once(programs: Programs) -> None:
    log = play(programs, 3.5, (600, True), interval_s=1, timeout_s=1)
    assert log == [
        (0, "begins"),
        (1 + SLACK_S, "well: False, timed out after 1 s"),
        (1 + programs.GRACE_S, "ends"),
        (3, "begins"),
        (3, "ends"),
        (3, "well: True, exit status 0"),
    ]


def test_a_script_is_run_again_and_again_and_its_end_is_told(tmp_path: Path) -> None:
    flag, runs = tmp_path / "flag", tmp_path / "runs"
    words = f"echo run >>{runs}; [ ! -e {flag} ] || exit 3"
    with aide(tmp_path) as one:
        one.tell(scripts(tracked("s", words, interval_s=0.05, timeout_s=60, rise=2, fall=2)))
        one.until(lambda: one.last("s") == ScriptWell("s", True, "exit status 0"))
        flag.touch()
        one.until(lambda: one.last("s") == ScriptWell("s", False, "exit status 3"))
        flag.unlink()
        one.until(lambda: one.last("s") == ScriptWell("s", True, "exit status 0"))
        assert len(one.heard) == 3
        assert len(runs.read_text().split()) >= 5
    assert "track script s is ill (end=exit status 3)" in one.log.read_text()


def test_one_that_hangs_is_killed_before_it_runs_again(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    words = f"trap '' TERM; echo $$ >>{runs}; while :; do sleep 0.05; done"
    with aide(tmp_path) as one:
        one.tell(scripts(tracked("s", words, interval_s=0.5)))
        one.until(lambda: runs.exists() and len(runs.read_text().split()) == 2)
        assert one.heard == [ScriptWell("s", False, "timed out after 0.5 s")]
        first, _ = map(int, runs.read_text().split())
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)


def test_a_reload_keeps_what_is_known_of_the_same_program(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    words = f"echo run >>{runs}"
    other = tracked("other", "exit 1")
    with aide(tmp_path) as one:
        one.tell(scripts(tracked("s", words, interval_s=3600)))
        one.until(lambda: one.last("s") is not None)
        one.tell(scripts(tracked("s", words, interval_s=3600, fall=7), other))
        one.until(lambda: one.last("other") is not None)
        assert runs.read_text().split() == ["run"]
        one.tell(scripts(tracked("s", f"{words}; exit 4", interval_s=3600), other))
        one.until(lambda: one.last("s") == ScriptWell("s", False, "exit status 4"))
        assert [each for each in one.heard if each.name == "other"] == [ScriptWell("other", False, "exit status 1")]


def test_a_program_that_cannot_run_is_ill(tmp_path: Path) -> None:
    told = scripts(tracked("s", "true"))
    (script,) = told.routers.scripts
    nowhere = Script((str(tmp_path / "nowhere"),))
    with aide(tmp_path) as one:
        routers = replace(told.routers, scripts=(replace(script, script=nowhere),))
        one.tell(Configure(told.settings, routers))
        one.until(lambda: one.last("s") is not None)
        assert not one.last("s").well
        assert "No such file" in one.last("s").words


def test_a_script_that_nobody_tracks_is_not_run(tmp_path: Path) -> None:
    told = scripts(tracked("used", "true"))
    ran = tmp_path / "ran"
    unused = tracked("unused", f"touch {ran}")
    with aide(tmp_path) as one:
        one.tell(Configure(told.settings, replace(told.routers, scripts=(unused, *told.routers.scripts))))
        one.until(lambda: one.last("used") is not None)
        assert not ran.exists()


def test_with_the_router_process_everything_ends(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with aide(tmp_path) as one:
        one.tell(scripts(tracked("s", f"trap '' TERM; echo $$ >{pid}; while :; do sleep 0.05; done", timeout_s=600)))
        one.until(lambda: pid.exists() and bool(pid.read_text()))
        number = int(pid.read_text())
        one.pipe.close()
        assert one.ended() == 0
        until(lambda: (found := tree.process(number)) is None or not tree.alive(found))
