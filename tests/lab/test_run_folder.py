"""A lab leaves the machine's /run as it was, and each host has PID files of its own."""

from __future__ import annotations

from pathlib import Path

from pylvs.daemon import STATE_ROOT
from pylvs.daemon.keepalived.pid_files import RUN
from pylvs.lab.hosts import listed
from pylvs.lab.lab import power_off, take_down
from tests.lab.conftest import MakeLab

PID_FILES = ("keepalived.pid", "checkers.pid", "vrrp.pid")


def files_of_daemons() -> list[Path]:
    """Return the state directories and the PID files of this machine."""
    return [*listed(STATE_ROOT), *sorted(RUN.glob("*.pid"))]


def pids_in_files() -> dict[str, str]:
    """Return what keepalived's PID files of this machine have; another test's keepalived may have left some."""
    return {name: (RUN / name).read_text() for name in PID_FILES if (RUN / name).exists()}


def test_a_killed_director_leaves_no_file_in_run(make_lab: MakeLab) -> None:
    before, pids = files_of_daemons(), pids_in_files()
    lab = make_lab("ha", servers=1)
    # A keepalived of this machine refuses to start while another process has its PID file.
    assert pids_in_files() == pids
    power_off(lab, "director1")
    assert take_down(lab.name)
    assert files_of_daemons() == before


def test_each_director_has_pid_files_of_its_own(make_lab: MakeLab) -> None:
    lab = make_lab("ha", servers=1)
    files = " ".join(str(RUN / name) for name in PID_FILES)
    pids = [lab.sh(host, f"cat {files}").split() for host in ("director1", "director2")]
    assert [len(each) for each in pids] == [len(PID_FILES)] * 2
    assert not set(pids[0]) & set(pids[1])
    for host, (daemon, *_) in zip(("director1", "director2"), pids, strict=True):
        lab.sh(host, f"test $(ip netns identify {daemon} | wc -l) = 1 && test -d /proc/{daemon}")
