"""Messages to the service manager."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from pylvs.daemon.host.service_manager import ServiceManager
from tests.waiting import PATIENCE_S


def sent(path: str, bound: str | bytes) -> list[str]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(bound)
        manager = ServiceManager({"NOTIFY_SOCKET": path})
        manager.ready("all checks pass")
        manager.reloading()
        manager.alive()
        manager.stopping()
        receiver.settimeout(PATIENCE_S)
        return [receiver.recv(1000).decode() for _ in range(4)]


def test_each_state_is_sent_to_a_named_or_abstract_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    name = f"pylvs-test-{os.getpid()}"
    for states in sent(path, path), sent(f"@{name}", b"\0" + name.encode()):
        assert states[0] == "READY=1\nSTATUS=all checks pass"
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", states[1])
        assert states[2:] == ["WATCHDOG=1", "STOPPING=1"]


def test_without_a_manager_or_with_one_that_went_nothing_happens(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "gone")}, {"NOTIFY_SOCKET": "vsock:2:1"}):
        ServiceManager(environment).ready("")


def test_the_watchdog_is_for_the_process_that_it_names() -> None:
    assert ServiceManager({"WATCHDOG_USEC": "2000000"}).watchdog_s == 2.0
    assert ServiceManager({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}).watchdog_s == 2.0
    assert ServiceManager({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}).watchdog_s == 0.0
    assert ServiceManager({"WATCHDOG_USEC": "soon"}).watchdog_s == 0.0
    assert ServiceManager({}).watchdog_s == 0.0
