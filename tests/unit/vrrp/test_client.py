"""Connections to a process that does not answer."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pylvs.model.errors import PylvsError
from pylvs.vrrp.client import NoRouters, connected
from pylvs.vrrp.ipc import MessageSocket


def test_a_full_listen_queue_is_an_error_immediately(tmp_path: Path) -> None:
    path = tmp_path / "vrrp"
    ends: list[MessageSocket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        with pytest.raises(PylvsError, match=f"{path}: the process of the virtual routers does not answer"):
            ends.extend(connected(path) for _ in range(10))
    assert ends, "the first connections succeed"
    for end in ends:
        end.close()


def test_a_missing_socket_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NoRouters):
        connected(tmp_path / "vrrp")
