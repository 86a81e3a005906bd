"""PID files: keepalived's paths, and the files of other daemons, which stay as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pylvs.daemon.keepalived import pid_files
from pylvs.daemon.keepalived.pid_files import PidFiles, PidPaths
from pylvs.model.errors import PylvsError
from pylvs.model.wanted import Placement
from pylvs.system.files import replace
from tests.waiting import until


@pytest.mark.parametrize(
    ("placement", "daemon", "vrrp"),
    [
        (Placement(), "keepalived.pid", "vrrp.pid"),
        (Placement(use_pid_dir=True), "keepalived/keepalived.pid", "keepalived/vrrp.pid"),
        (Placement(instance="foo"), "keepalived/keepalived_foo.pid", "keepalived/vrrp_foo.pid"),
        (Placement("blue"), "keepalived/blue/keepalived.pid", "keepalived/blue/vrrp.pid"),
    ],
)
def test_the_paths_are_those_of_keepalived(placement: Placement, daemon: str, vrrp: str) -> None:
    paths = PidPaths.of(placement)
    assert (paths.daemon, paths.vrrp) == (Path("/run", daemon), Path("/run", vrrp))


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PidPaths:
    """Return the default paths, below a directory of the test."""
    monkeypatch.setattr(pid_files, "RUN", tmp_path)
    return PidPaths.of(Placement(use_pid_dir=True))


def test_the_files_exist_as_long_as_the_daemon(paths: PidPaths) -> None:
    files = PidFiles(paths)
    files.claim()
    files.write_checkers(os.getpid())
    files.write_vrrp(77)
    assert [path.read_text() for path in (paths.daemon, paths.checkers)] == [f"{os.getpid()}\n"] * 2
    assert paths.vrrp.read_text() == "77\n"
    files.write_vrrp(0)
    assert not paths.vrrp.exists()
    files.release()
    assert list(paths.daemon.parent.iterdir()) == []


def test_a_stale_file_is_replaced(paths: PidPaths) -> None:
    paths.daemon.parent.mkdir()
    paths.daemon.write_text("999999999\n")
    files = PidFiles(paths)
    files.claim()
    assert paths.daemon.read_text() == f"{os.getpid()}\n"
    files.release()


def test_another_daemon_keeps_its_files(paths: PidPaths) -> None:
    first, second = PidFiles(paths), PidFiles(paths)
    first.claim()
    second.claim()
    assert second.refused.startswith(f"{paths.daemon}: process {os.getpid()} has this file; stop it, or choose")
    second.write_vrrp(78)
    second.release()
    assert paths.daemon.read_text() == f"{os.getpid()}\n"
    assert not paths.vrrp.exists()
    first.release()


def test_a_named_file_of_another_daemon_is_refused(tmp_path: Path) -> None:
    paths = PidPaths.of(Placement(), daemon=str(tmp_path / "mine.pid"))
    first = PidFiles(paths)
    first.claim()
    with pytest.raises(PylvsError, match=rf"mine\.pid: process {os.getpid()} has this file; stop it, or choose"):
        PidFiles(paths).claim()
    first.release()


def test_the_file_of_a_running_keepalived_is_kept(tmp_path: Path, paths: PidPaths) -> None:
    paths.daemon.parent.mkdir()
    program = tmp_path / "bin" / "keepalived"
    program.parent.mkdir()
    program.symlink_to(sys.executable)
    with subprocess.Popen([program, "-c", "input()"], stdin=subprocess.PIPE) as process:
        until(Path(f"/proc/{process.pid}/cmdline").read_bytes, "the kernel has its arguments")
        paths.daemon.write_text(f"{process.pid}\n")
        files = PidFiles(paths)
        files.claim()
        files.release()
        assert paths.daemon.read_text() == f"{process.pid}\n"
        process.communicate(b"\n")


def test_no_link_is_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "link.pid").symlink_to(victim)
    with pytest.raises(PylvsError, match=r"link\.pid: .*choose another file with -p"):
        PidFiles(PidPaths.of(Placement(), daemon=str(tmp_path / "link.pid"))).claim()
    replace(tmp_path / "link.pid", "new")
    assert victim.read_text() == "precious"
    assert (tmp_path / "link.pid").read_text() == "new"
