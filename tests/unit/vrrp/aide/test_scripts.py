"""Track scripts: the first end decides, then rise and fall; timing; what a reload keeps."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.scripts import Script
from pylvs.vrrp.aide.messages import Configure, ScriptWell
from pylvs.vrrp.aide.scripts import Verdict
from tests.unit.vrrp.aide.aides import aide, scripts, tracked


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


def test_a_script_is_run_every_interval_and_its_end_is_told(tmp_path: Path) -> None:
    flag, runs = tmp_path / "flag", tmp_path / "runs"
    words = f"echo run >>{runs}; [ ! -e {flag} ] || exit 3"
    with aide(tmp_path) as one:
        one.tell(scripts(tracked("s", words, interval_s=1, rise=2, fall=2)))
        one.until(lambda: one.last("s") == ScriptWell("s", True, "exit status 0"))
        flag.touch()
        one.until(lambda: one.last("s") == ScriptWell("s", False, "exit status 3"))
        flag.unlink()
        one.until(lambda: one.last("s") == ScriptWell("s", True, "exit status 0"))
        assert len(one.heard) == 3
        assert len(runs.read_text().split()) >= 5
    assert "track script s is ill (end=exit status 3)" in one.log.read_text()


def test_one_that_hangs_has_failed_at_its_timeout_and_never_runs_twice_at_once(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    words = f"trap '' TERM; echo $$ >>{runs}; while :; do sleep 0.05; done"
    with aide(tmp_path) as one:
        one.tell(scripts(tracked("s", words, interval_s=1, timeout_s=1)))
        one.until(runs.exists)
        begin = time.monotonic()
        one.until(lambda: bool(one.heard))
        assert one.heard == [ScriptWell("s", False, "timed out after 1 s")]
        assert time.monotonic() - begin < 1 + 2  # before it is killed
        one.until(lambda: len(runs.read_text().split()) == 2)
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
        deadline = time.monotonic() + 60
        while Path(f"/proc/{number}").exists() and " Z " not in Path(f"/proc/{number}/stat").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
