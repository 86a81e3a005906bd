"""track_process: which processes match, by keepalived's rules, and when a change is reported."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pylvs.model.vrrp import Track, TrackProcess, VrrpConfiguration
from pylvs.model.wanted import GlobalSettings
from pylvs.vrrp.helper import track_process
from pylvs.vrrp.helper.link import Configure
from pylvs.vrrp.helper.source import PROGRESS_S, RESTART_S
from pylvs.vrrp.helper.track_process import (
    MAX_INTERVAL_S,
    MIN_INTERVAL_S,
    ProcessWatch,
    TrackProcesses,
    matches,
    running_processes,
)
from pylvs.vrrp.tracking import Key, TrackedObject
from tests.shortages import SHORTAGES, failing
from tests.unit.health.clock import START_S, FakeTimeLoop
from tests.unit.vrrp.helper.fake_thread import FakeThread
from tests.unit.vrrp.helper.running_helper import run_helper


def wanted(*command: str, **fields: Any) -> TrackProcess:
    return TrackProcess(name="p", command=command, track=Track("p"), **fields)


def result(name: str, up: bool, count: int) -> TrackedObject:
    return TrackedObject("process", Track(name), up, detail=f"{count} of them")


NAME = wanted("daemon")
PATH = wanted("/bin/daemon", full_command=True)
PATH_AS_NAME = wanted("/bin/daemon")
COMMAND = wanted("daemon", full_command=True)
EXACT = wanted("daemon", "100", full_command=True, match_arguments=True)
PARTIAL = wanted("daemon", "100", full_command=True, match_arguments=True, arguments_partly=True)
INITIAL = wanted("daemon", "10", full_command=True, match_arguments=True, arguments_begin=True)
ALL_PARTIAL = wanted("daemon", match_arguments=True, arguments_partly=True)
ALL_INITIAL = wanted("daemon", match_arguments=True, arguments_begin=True)
EVERY = (NAME, PATH, PATH_AS_NAME, COMMAND, EXACT, PARTIAL, INITIAL, ALL_PARTIAL, ALL_INITIAL)


@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [  # by keepalived 2.2.7
        ("daemon", "./daemon 100", (NAME,)),
        ("daemon", "daemon 100", (NAME, COMMAND, EXACT, PARTIAL, INITIAL, ALL_PARTIAL, ALL_INITIAL)),
        ("daemon", "daemon 100 0", (NAME, COMMAND, PARTIAL, INITIAL, ALL_PARTIAL, ALL_INITIAL)),
        ("daemon", "daemon 1000", (NAME, COMMAND, INITIAL, ALL_PARTIAL, ALL_INITIAL)),
        ("daemon", "/bin/daemon 100", (NAME, PATH)),
        ("sleep", "daemon 100", (COMMAND, EXACT, PARTIAL, INITIAL, ALL_PARTIAL, ALL_INITIAL)),
        ("daemonxyz", "daemonxyz 100", ()),
        ("daemon", "", (NAME,)),
    ],
)
def test_matches(name: str, line: str, expected: tuple[TrackProcess, ...]) -> None:
    assert [each for each in EVERY if matches(name, line.split(), each)] == list(expected)


def test_a_long_name_is_truncated_as_in_the_kernel() -> None:
    assert matches("a-long-name-for", (), wanted("a-long-name-for-a-daemon"))


def test_a_zombie_does_not_run() -> None:
    child = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert child.pid not in dict(running_processes())
    assert os.getpid() in dict(running_processes())
    child.wait()


@contextlib.contextmanager
def daemon(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process with a unique name."""
    program = directory / f"pd{os.getpid()}"
    if not program.exists():
        shutil.copy("/bin/sleep", program)
    process = subprocess.Popen([program, "600"])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_processes_that_start_and_end_are_reported(tmp_path: Path) -> None:
    name = f"pd{os.getpid()}"
    one_of = TrackProcess(name="one", command=(name,), track=Track("one"), most=1)
    two_of = TrackProcess(name="two", command=(name,), track=Track("two"), least=2)
    routers = VrrpConfiguration(processes=(one_of, two_of))
    with run_helper(tmp_path) as helper, daemon(tmp_path) as first:
        helper.send(Configure(GlobalSettings(), routers))
        helper.until(lambda: helper.received == [result("one", True, 1), result("two", False, 1)])
        with daemon(tmp_path):
            helper.until(lambda: helper.received[2:] == [result("one", False, 2), result("two", True, 2)])
        helper.until(lambda: helper.received[4:] == [result("one", True, 1), result("two", False, 1)])
        first.kill()
        helper.until(lambda: helper.received[6:] == [result("one", False, 0)])


@pytest.mark.parametrize(
    ("counts", "reported"),
    [  # seconds, and the number of processes
        ([(5, 0), (1.9, 1), (9, 0)], [(0, False)]),
        ([(5, 0), (9, 1)], [(0, False), (7, True)]),
        ([(5, 0), (1.9, 1), (1, 0), (9, 1)], [(0, False), (9.9, True)]),
        ([(5, 1), (599, 0), (5, 1)], [(0, True)]),
        ([(5, 1), (700, 0)], [(0, True), (605, False)]),
        ([(5, 1), (1, 0), (1, 2), (700, 0)], [(0, True), (607, False)]),
    ],
)
def test_a_change_is_reported_after_its_delay(
    counts: list[tuple[float, int]], reported: list[tuple[float, bool]]
) -> None:
    loop = FakeTimeLoop()
    changes: list[tuple[float, bool | None]] = []
    process = wanted("daemon", fork_delay_s=2.0, terminate_delay_s=600.0)
    watch = ProcessWatch(process, lambda change: changes.append((round(loop.time() - START_S, 6), change.up)))

    async def scenario() -> None:
        for seconds, count in counts:
            watch.update(count)
            await asyncio.sleep(seconds)

    loop.run_until_complete(scenario())
    watch.cancel_delayed()
    loop.close()
    assert changes == reported


def test_a_real_change_is_reported_after_its_delay(tmp_path: Path) -> None:
    name = f"pd{os.getpid()}"
    slow = TrackProcess(name="p", command=(name,), track=Track("p"), fork_delay_s=0.3)
    with run_helper(tmp_path) as helper:
        helper.send(Configure(GlobalSettings(), VrrpConfiguration(processes=(slow,))))
        helper.until(lambda: helper.received == [result("p", False, 0)])
        begin = time.monotonic()
        with daemon(tmp_path):
            helper.until(lambda: helper.received[1:] == [result("p", True, 1)])
            assert time.monotonic() - begin >= 0.3


class Tracked:
    """This process as track_process, in simulated time."""

    def __init__(self, loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.thread = FakeThread()
        monkeypatch.setattr(track_process, "DaemonThread", lambda name: self.thread)
        self.loop = loop
        self.reported: list[bool | None] = []
        self.processes = TrackProcesses(lambda result: self.reported.append(result.up))

        async def begin() -> None:
            self.processes.configure([wanted(Path("/proc/self/comm").read_text().strip())])

        loop.run_until_complete(begin())

    def after(self, seconds: float) -> tuple[list[bool | None], list[Key]]:
        """Return what was reported, and what is late, after so many seconds."""
        self.loop.pass_(seconds)
        return self.reported, list(self.processes.late())


@pytest.mark.parametrize("number", SHORTAGES)
@pytest.mark.parametrize("name", ["listdir", "open"])
def test_without_descriptors_the_last_result_stays_and_is_late(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    tracked = Tracked(loop, monkeypatch)
    assert tracked.after(0.1) == ([True], [])
    with monkeypatch.context() as shortage:
        shortage.setattr(os if name == "listdir" else track_process, name, failing(number), raising=False)
        assert tracked.after(PROGRESS_S + MAX_INTERVAL_S) == ([True], [("process", "p")])
    assert tracked.after(RESTART_S + 0.1) == ([True, True], [])
    loop.run_until_complete(tracked.processes.finish())


def test_a_late_result_is_reported_again_only_if_it_is_still_true() -> None:
    """A process that ended while /proc could not be read was never up again."""
    reported: list[tuple[bool | None, str]] = []
    watch = track_process.ProcessWatch(wanted("p"), lambda result: reported.append((result.up, result.detail)))
    watch.update(1)
    watch.update(1, again=True)
    watch.update(0, again=True)
    assert reported == [(True, "1 of them"), (True, "1 of them"), (False, "0 of them")]


def test_a_process_whose_command_line_cannot_be_read_makes_results_late(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it may wait for the memory of that process for ever."""
    tracked = Tracked(loop, monkeypatch)
    assert tracked.after(0.1) == ([True], [])
    tracked.thread.blocked = True
    assert tracked.after(PROGRESS_S + MAX_INTERVAL_S) == ([True], [("process", "p")])
    tracked.thread.release()
    assert tracked.after(0.1) == ([True, True], [])
    loop.run_until_complete(tracked.processes.finish())


def test_without_descriptors_for_pidfds_scans_continue_as_before(
    loop: FakeTimeLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans: list[float] = []

    def refused(pid: int) -> int:
        scans.append(loop.time())
        assert len(scans) < 100, "a busy loop"
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", refused)
    tracked = Tracked(loop, monkeypatch)
    assert tracked.after(2.0) == ([True], [])
    assert all(later - earlier > 0.99 * MIN_INTERVAL_S for earlier, later in itertools.pairwise(scans))
    loop.run_until_complete(tracked.processes.finish())
