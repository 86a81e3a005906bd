"""pylvs-vrrp as a fork of the daemon, before that imports most of itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pylvs.daemon import Options
from pylvs.daemon.keepalived.pid_files import PidFiles, PidPaths
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.virtual_routers import first, process
from tests.waiting import PATIENCE_S

FILE = """
global_defs {
    %s
}
vrrp_instance VI_1 {
    interface eth7
    virtual_router_id 51
    virtual_ipaddress { 192.0.2.1 }
}
"""
_ORDINARY, _REALTIME, _NICE = 1, 2, 3


def _priority(*_: object) -> int:
    """Stand for the process: exit with its kind of priority."""
    if os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR:
        return _REALTIME
    return _NICE if os.getpriority(os.PRIO_PROCESS, 0) == -7 else _ORDINARY


@pytest.mark.parametrize(("words", "expected"), [("", _REALTIME), ("vrrp_priority -7", _NICE)])
def test_the_fork_has_its_priority_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, expected: int
) -> None:
    """On a busy machine it would wait for a processor otherwise, and with it the first advertisement."""
    monkeypatch.setattr(process, "run", _priority)
    (tmp_path / "keepalived.conf").write_text(FILE % words)
    options = Options(file=str(tmp_path / "keepalived.conf"), state_dir=tmp_path / "state")
    state = StateDirectory(options.state_dir)
    state.acquire()
    try:
        pids = PidFiles(PidPaths(tmp_path / "pid", tmp_path / "checkers.pid", tmp_path / "vrrp.pid"))
        started = first.start(options, first.parse_without_services(options), state, pids)
        assert started is not None
        started.process.wait(PATIENCE_S)
        assert started.process.poll() == expected
    finally:
        state.release()
