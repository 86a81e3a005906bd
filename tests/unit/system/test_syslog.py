"""Logs in syslog and in files: identities, facilities, and a syslog daemon that does not read."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylvs.system import logs, syslog
from pylvs.system.logs import get_logger
from pylvs.system.syslog import Syslog, facility_of, is_destination

# A process keeps the destinations of its log to its end.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Return the socket of a syslog daemon."""
    path = str(tmp_path / "log")
    monkeypatch.setattr(syslog, "DEVICE", path)
    monkeypatch.setattr(Syslog.__init__, "__defaults__", (path,))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(path)
        listener.settimeout(10)
        yield listener


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Restore the log of the tests."""
    before = logs.write_with(lambda level, fields: None)
    logs.write_with(before)
    yield
    logs.write_with(before)


def test_a_line_has_facility_severity_and_keepalived_s_identity(daemon: socket.socket) -> None:
    logs.set_up("syslog:local3:_blue", process="vrrp")
    get_logger().warning("server down", server="192.0.2.1:80")
    get_logger().error("a\nb")
    prefix = rf"[A-Z][a-z]{{2}} [ \d]\d \d\d:\d\d:\d\d Keepalived_vrrp_blue\[{os.getpid()}\]: "
    assert re.fullmatch(rf"<156>{prefix}warning: server down \(server=192\.0\.2\.1:80\)", daemon.recv(1000).decode())
    assert re.fullmatch(rf"<155>{prefix}error: a b", daemon.recv(1000).decode())


def test_a_daemon_that_does_not_read_delays_nothing_and_lost_lines_are_counted(daemon: socket.socket) -> None:
    log = Syslog("syslog:daemon:", "healthcheckers")
    sent = 5000
    for number in range(sent):
        log.write(6, str(number))
    daemon.setblocking(False)
    received = []
    while True:
        try:
            received.append(daemon.recv(1000).decode())
        except BlockingIOError:
            break
    assert 0 < len(received) < sent
    log.write(6, "again")
    daemon.settimeout(10)
    assert (
        daemon.recv(1000).decode().endswith(f"warning: {sent - len(received)} lines lost: syslog did not accept more")
    )
    assert daemon.recv(1000).decode().endswith(f"Keepalived_healthcheckers[{os.getpid()}]: again")


def test_a_restarted_daemon_gets_the_next_line(daemon: socket.socket, tmp_path: Path) -> None:
    log = Syslog("syslog:daemon:", "vrrp")
    log.write(6, "one")
    assert daemon.recv(1000).endswith(b"one")
    daemon.close()
    log.write(6, "two")
    (tmp_path / "log").unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second:
        second.bind(str(tmp_path / "log"))
        second.settimeout(10)
        log.write(6, "three")
        assert second.recv(1000).endswith(b"warning: 1 line lost: syslog did not accept more")
        assert second.recv(1000).endswith(b"three")


def test_a_log_file_has_the_process_in_its_name(tmp_path: Path) -> None:
    logs.set_up(f"file:{tmp_path}/kee.log|file:{tmp_path}/plain", process="vrrp")
    get_logger().info("ready", number=1)
    for name in ("kee_vrrp.log", "plain_vrrp"):
        assert (tmp_path / name).read_text().endswith("info: ready (number=1)\n")


def test_a_log_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "k_vrrp.log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="k_vrrp"):
        logs.set_up(f"file:{tmp_path}/k.log", process="vrrp")
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    ("text", "name"), [("0", "local0"), ("local7", "local7"), ("user", "user"), ("daemon", "daemon")]
)
def test_a_facility_is_named_as_in_keepalived(text: str, name: str) -> None:
    assert facility_of(text) == name
    assert is_destination(f"syslog:{name}:|text")


@pytest.mark.parametrize("text", ["", "8", "local8", "kern", "01"])
def test_another_facility_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no syslog facility: write 0 to 7"):
        facility_of(text)
    assert not is_destination(f"syslog:{text}:")
