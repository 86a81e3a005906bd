"""pylvs-vrrp as a fork of the daemon, before that imports most of itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pylvs.daemon import Options
from pylvs.daemon.keepalived.pid_files import PidFiles, PidPaths
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.saved import OwnedServices, save_owned
from pylvs.daemon.virtual_routers import first, process
from pylvs.model.service import DestinationKey, ServiceKey
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
SERVICE = "virtual_server 192.0.2.1 80 {\n}\n"
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
    assert _status(tmp_path, FILE % words) == expected


@pytest.mark.parametrize(
    ("services", "left", "waits"),
    [("", False, False), (SERVICE, False, True), (SERVICE, True, False), (f"# {SERVICE}", False, False)],
)
def test_it_waits_for_the_first_table_unless_there_is_none_or_one_was_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, services: str, left: bool, waits: bool
) -> None:
    monkeypatch.setattr(process, "run", lambda *given: round(given[-1]))
    monkeypatch.setattr(first, "TABLES", tmp_path)
    saved = {ServiceKey.of_mark(1): frozenset[DestinationKey]()} if left else None
    assert _status(tmp_path, FILE % "" + services, saved) == (first.TABLE_WAIT_S if waits else 0)


def _status(folder: Path, text: str, left: OwnedServices | None = None) -> int | None:
    """Return the exit status of the process for this file, where a killed daemon has left these services."""
    (folder / "keepalived.conf").write_text(text)
    options = Options(file=str(folder / "keepalived.conf"), state_dir=folder / "state")
    state = StateDirectory(options.state_dir)
    state.acquire()
    try:
        if left is not None:
            save_owned(state, left)
        pids = PidFiles(PidPaths(folder / "pid", folder / "checkers.pid", folder / "vrrp.pid"))
        started = first.start(options, first.parse_without_services(options), state, pids)
        assert started is not None
        started.process.wait(PATIENCE_S)
        return started.process.poll()
    finally:
        state.release()
