"""track_script: results by rise and fall, timing, and reloads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.checks import Script
from pylvs.model.vrrp import Track
from pylvs.system.processes import tree
from pylvs.system.processes.scripts import Ended, Processes
from pylvs.vrrp.helper.link import Configure, Late
from pylvs.vrrp.helper.source import PROGRESS_S
from pylvs.vrrp.helper.track_script import RETRY_S, Hysteresis, TrackScripts
from pylvs.vrrp.tracking import Key, TrackedObject
from tests.unit.health.clock import START_S, FakeTimeLoop
from tests.unit.vrrp.helper.running_helper import run_helper, scripts, tracked
from tests.waiting import until


def result(name: str, up: bool, detail: str) -> TrackedObject:
    return TrackedObject("script", Track(name), up, detail=detail)


@given(st.lists(st.booleans(), min_size=1), st.integers(1, 4), st.integers(1, 4))
def test_rise_and_fall(ends: list[bool], rise: int, fall: int) -> None:
    hysteresis = Hysteresis()
    for at, end in enumerate(ends):
        before = hysteresis.up
        changed = hysteresis.add(end, rise, fall)
        assert changed == (hysteresis.up != before)
        if at == 0:
            assert hysteresis.up == end
        elif changed:
            needed = rise if end else fall
            assert ends[at - needed + 1 : at + 1] == [end] * needed
        else:
            against = rise if not hysteresis.up else fall
            assert ends[max(0, at - against + 1) : at + 1] != [not hysteresis.up] * against


@given(st.lists(st.booleans(), min_size=1), st.integers(1, 4), st.integers(1, 4))
def test_a_script_with_init_fail_needs_rise_successes(ends: list[bool], rise: int, fall: int) -> None:
    hysteresis = Hysteresis(down_at_start=True)
    reported = [hysteresis.up for end in ends if hysteresis.add(end, rise, fall)]
    first = next((at for at, end in enumerate(ends) if not end), len(ends))
    if first >= rise:
        assert reported[0] is True
    elif first < len(ends):
        assert reported[0] is False
    else:
        assert reported == []


Run = tuple[float, bool | None]  # seconds, success; None: this machine could not make it


class Programs(Processes):
    """Fake runs with a duration and a result; a run that exceeds its timeout ends GRACE_S later."""

    GRACE_S = 2.0

    def __init__(self, loop: FakeTimeLoop) -> None:
        super().__init__()
        self.loop = loop
        self.planned: list[Run] = []  # the default succeeds immediately
        self.log: list[tuple[float, str]] = []

    def note(self, what: str) -> None:
        self.log.append((round(self.loop.time() - START_S, 6), what))

    async def run(
        self,
        script: Script,
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        on_timeout: Callable[[], None] = lambda: None,
    ) -> Ended:
        seconds, success = self.planned.pop(0) if self.planned else (0, True)
        self.note("begins")
        late = seconds > timeout_s
        await asyncio.sleep(min(seconds, timeout_s))
        if late and success is not None:
            on_timeout()
        if late:
            await asyncio.sleep(min(seconds - timeout_s, self.GRACE_S))
        self.note("ends")
        if success is None:
            return Ended(None, problem="the process that runs scripts has ended", unable=True)
        return Ended(0 if success else 3, timed_out=late, seconds=timeout_s if late else seconds)


@pytest.fixture
def programs() -> Iterator[Programs]:
    loop = FakeTimeLoop()
    yield Programs(loop)
    loop.close()


def track(programs: Programs, *runs: Run, **fields: Any) -> TrackScripts:
    """Track a script with these first runs."""
    programs.planned = list(runs)
    watched = TrackScripts(programs, lambda result: programs.note(f"up: {result.up}, {result.detail}"))

    async def begin() -> None:
        watched.configure([tracked("s", "", **fields)])

    programs.loop.run_until_complete(begin())
    return watched


def play(programs: Programs, seconds: float, *runs: Run, **fields: Any) -> list[tuple[float, str]]:
    """Track a script for some seconds with these first runs, and return the log."""
    track(programs, *runs, **fields)
    programs.loop.pass_(seconds)
    return programs.log


def results(log: list[tuple[float, str]]) -> list[tuple[float, str]]:
    return [(when, what) for when, what in log if what.startswith("up")]


def test_a_script_is_run_every_interval(programs: Programs) -> None:
    log = play(programs, 11, (1.5, True), (0.1, True), interval_s=3)
    assert [when for when, what in log if what == "begins"] == [0, 3, 6, 9]


def test_a_run_longer_than_the_interval_skips_the_next_one(programs: Programs) -> None:
    log = play(programs, 12, (3.5, True), interval_s=3, timeout_s=5)
    assert [when for when, what in log if what == "begins"] == [0, 6, 9, 12]


def test_the_first_result_and_each_change_are_reported(programs: Programs) -> None:
    runs = [(0.5, end) for end in (True, False, True, False, False, True, False, True, True, True)]
    log = play(programs, 20, *runs, interval_s=1, rise=3, fall=2)
    assert results(log) == [
        (0.5, "up: True, exit status 0"),
        (4.5, "up: False, exit status 3"),
        (9.5, "up: True, exit status 0"),
    ]


def test_a_run_that_hangs_fails_at_its_timeout_and_runs_never_overlap(programs: Programs) -> None:
    log = play(programs, 3.5, (600, True), interval_s=1, timeout_s=1)
    assert log == [
        (0, "begins"),
        (1, "up: False, timed out after 1 s"),
        (1 + programs.GRACE_S, "ends"),
        (3, "begins"),
        (3, "ends"),
        (3, "up: True, exit status 0"),
    ]


def test_a_run_that_this_machine_cannot_make_is_no_failure(programs: Programs) -> None:
    """The result stays but is late; the next run follows soon, and its result is reported again."""
    watched = track(programs, (0, True), (0, None), (0, None), (0, True), (0, False), interval_s=3)
    late: list[tuple[float, list[Key]]] = []
    for second in range(7):
        programs.loop.pass_(0.5)
        late.append((second + 0.5, list(watched.late())))
        programs.loop.pass_(0.5)
    assert [when for when, keys in late if keys == [("script", "s")]] == [3.5, 4.5]
    assert [keys for when, keys in late if when < 3 or when > 5] == [[]] * 5
    assert [when for when, what in programs.log if what == "begins"] == [0, 3, 3 + RETRY_S, 3 + 2 * RETRY_S]
    assert results(programs.log) == [(0, "up: True, exit status 0"), (5, "up: True, exit status 0")]
    programs.loop.pass_(2)
    assert results(programs.log)[2:] == [(8, "up: False, exit status 3")]


def test_a_run_whose_end_is_never_known_makes_the_result_late(programs: Programs) -> None:
    """The process that runs scripts hangs, so it reports no timeout: this is no failure of the script."""
    programs.GRACE_S = 1e6
    watched = track(programs, (0, True), (1e6, None), interval_s=1)
    programs.loop.pass_(2 + PROGRESS_S)
    assert (results(programs.log), list(watched.late())) == ([(0, "up: True, exit status 0")], [])
    programs.loop.pass_(3)
    assert list(watched.late()) == [("script", "s")]


def test_a_real_script_runs_periodically_and_its_results_are_reported(tmp_path: Path) -> None:
    flag, runs = tmp_path / "flag", tmp_path / "runs"
    command = f"echo run >>{runs}; [ ! -e {flag} ] || exit 3"
    with run_helper(tmp_path) as helper:
        helper.send(scripts(tracked("s", command, interval_s=0.05, timeout_s=60, rise=2, fall=2)))
        helper.until(lambda: helper.last("s") == result("s", True, "exit status 0"))
        flag.touch()
        helper.until(lambda: helper.last("s") == result("s", False, "exit status 3"))
        flag.unlink()
        helper.until(lambda: helper.last("s") == result("s", True, "exit status 0"))
        assert len(helper.received) == 3
        assert len(runs.read_text().split()) >= 5
    assert "track script s is down (end=exit status 3)" in helper.log.read_text()


def test_a_run_that_hangs_is_killed_before_the_next_one(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    command = f"trap '' TERM; echo $$ >>{runs}; while :; do sleep 0.05; done"
    with run_helper(tmp_path) as helper:
        helper.send(scripts(tracked("s", command, interval_s=0.5)))
        helper.until(lambda: runs.exists() and len(runs.read_text().split()) >= 2)
        assert helper.received == [result("s", False, "timed out after 0.5 s")]
        first = int(runs.read_text().split()[0])
        with pytest.raises(ProcessLookupError):
            os.kill(first, 0)


def test_a_process_that_runs_scripts_and_hangs_is_replaced(tmp_path: Path) -> None:
    """SIGSTOP: this is no failure of its script, which succeeds in another process."""
    first, again = tmp_path / "first", tmp_path / "again"
    command = f"[ ! -e {again} ] || exit 0; echo $PPID >{first}.new; mv {first}.new {first}; exec sleep 600"
    constants = {"system.processes.scripts.LEASE_S": 3.0}
    with run_helper(tmp_path, constants=constants) as helper:
        helper.send(scripts(tracked("s", command, interval_s=0.1, timeout_s=600)))
        helper.until(first.exists)
        with contextlib.suppress(ProcessLookupError):  # on a busy machine it was late, and has been replaced already
            os.kill(int(first.read_text()), signal.SIGSTOP)
        again.touch()
        helper.until(lambda: helper.last("s") == result("s", True, "exit status 0"))
        assert helper.received == [result("s", True, "exit status 0")]
        assert "the process that runs scripts has been silent for " in helper.log.read_text()
        number = int(first.read_text())
        until(lambda: (found := tree.process(number)) is None or not tree.alive(found))


def test_a_reload_keeps_the_result_of_the_same_command(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    command = f"echo run >>{runs}"
    other = tracked("other", "exit 1", timeout_s=60)
    with run_helper(tmp_path) as helper:
        helper.send(scripts(tracked("s", command, interval_s=3600)))
        helper.until(lambda: helper.last("s") is not None)
        helper.send(scripts(tracked("s", command, interval_s=3600, fall=7), other))
        helper.until(lambda: helper.last("other") is not None)
        assert runs.read_text().split() == ["run"]
        helper.send(scripts(tracked("s", f"{command}; exit 4", interval_s=3600), other))
        helper.until(lambda: helper.last("s") == result("s", False, "exit status 4"))
        assert [each for each in helper.received if each.track.name == "other"] == [
            result("other", False, "exit status 1")
        ]


def test_a_track_script_whose_program_cannot_run_is_down(tmp_path: Path) -> None:
    configuration = scripts(tracked("s", "true", timeout_s=60))
    (script,) = configuration.routers.scripts
    nowhere = Script((str(tmp_path / "nowhere"),))
    with run_helper(tmp_path) as helper:
        routers = replace(configuration.routers, scripts=(replace(script, script=nowhere),))
        helper.send(Configure(configuration.settings, routers))
        helper.until(lambda: helper.last("s") is not None)
        assert not helper.last("s").up
        assert "No such file" in helper.last("s").detail


def test_the_helper_process_names_late_results(tmp_path: Path) -> None:
    configuration = scripts(tracked("s", "true"))
    (script,) = configuration.routers.scripts
    unable = replace(script, script=replace(script.script, user="no-such-user"))

    with run_helper(tmp_path) as helper:
        helper.send(replace(configuration, routers=replace(configuration.routers, scripts=(unable,))))
        helper.until(lambda: Late((("script", "s"),)) in helper.reports)
    log = helper.log.read_text()
    assert "track script s could not be run: its result stays (end=user no-such-user: this machine has none" in log
    assert log.count("no current result, the last one will expire: script s") == 1


def test_a_script_that_is_not_tracked_does_not_run(tmp_path: Path) -> None:
    configuration = scripts(tracked("used", "true"))
    ran = tmp_path / "ran"
    unused = tracked("unused", f"touch {ran}")
    with run_helper(tmp_path) as helper:
        helper.send(
            Configure(
                configuration.settings, replace(configuration.routers, scripts=(unused, *configuration.routers.scripts))
            )
        )
        helper.until(lambda: helper.last("used") is not None)
        assert not ran.exists()


def test_everything_ends_with_the_router_process(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with run_helper(tmp_path) as helper:
        helper.send(scripts(tracked("s", f"trap '' TERM; echo $$ >{pid}; while :; do sleep 0.05; done", timeout_s=600)))
        helper.until(lambda: pid.exists() and bool(pid.read_text()))
        number = int(pid.read_text())
        helper.socket.close()
        assert helper.ended() == 0
        until(lambda: (found := tree.process(number)) is None or not tree.alive(found))
