"""The supervisor of a sync daemon starts the worker again, and kills one that hangs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

import pytest

from pylvs.dataplane.state import SYNC_DAEMONS
from pylvs.model.sync.daemons import MASTER, SyncDaemon
from pylvs.sync import files, process
from pylvs.sync.files import DaemonFiles
from pylvs.sync.process import ABANDONED, Supervisor
from pylvs.system.lease import Lease

DAEMON = SyncDaemon(MASTER, "eth1", 7, 1472, ip_address("224.0.0.81"), 8848, 1)
FAILED = 9


class Scripted(Supervisor):
    """A supervisor whose first worker ends as `end` does, and the second one as the last."""

    def __init__(self, files: DaemonFiles, end: str, report: int) -> None:
        super().__init__(DAEMON, "", files, -1)
        self._files, self._end_of_first, self._reports = files, end, report

    def _work(self, announce: bool) -> NoReturn:
        if self._former:
            os.write(self._reports, f"{self._former}; announce {announce}".encode())
            os._exit(ABANDONED)
        self._files.write(self._files.parameters(MASTER), {})
        if self._end_of_first == "hang after a turn":
            self._turn()
        if self._end_of_first.startswith("hang"):
            signal.pause()
        os._exit(FAILED)


@pytest.fixture
def daemon_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DaemonFiles]:
    monkeypatch.setattr(files, "DIRECTORY", str(tmp_path))
    monkeypatch.setattr(process, "RESTART_S", 0.01)
    monkeypatch.setattr(process, "TICK_S", 0.01)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    made = DaemonFiles(7)
    made.make()
    yield made
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("end", "first_lease_s", "lease_s", "reported"),
    [
        ("hang", 0.03, 60.0, "hung for 0.03 s, and was killed"),
        ("hang after a turn", 300.0, 0.03, "hung for 0.03 s, and was killed"),
        ("fail", 300.0, 60.0, f"ended with status {FAILED}"),
    ],
)
def test_another_worker_follows(
    end: str,
    first_lease_s: float,
    lease_s: float,
    reported: str,
    daemon_files: DaemonFiles,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A lease of three ticks suits a worker that hangs as soon as it has written its parameters.
    monkeypatch.setattr(process, "FIRST_LEASE_S", first_lease_s)
    monkeypatch.setattr(process, "LEASE_S", lease_s)
    daemon_files.write(daemon_files.parameters(MASTER), {})
    read, report = os.pipe()
    assert Scripted(daemon_files, end, report).run(announce=False) == 0
    os.close(report)
    with open(read, encoding="ascii") as file:
        assert file.read() == f"{reported}; announce True"
    assert not os.path.exists(daemon_files.directory)


def test_a_worker_that_makes_progress_renews_the_lease(daemon_files: DaemonFiles) -> None:
    supervisor = Scripted(daemon_files, "hang", -1)
    lease = Lease(process.LEASE_S, process.TICK_S)
    for _ in range(3):
        supervisor._turn()
        lease.follow(supervisor._turns[:8])
        for _ in range(lease._most - 1):
            assert not lease.follow(supervisor._turns[:8])
    assert lease.follow(supervisor._turns[:8])


def test_the_data_plane_knows_the_directory_of_the_files() -> None:
    assert files.DIRECTORY == SYNC_DAEMONS
