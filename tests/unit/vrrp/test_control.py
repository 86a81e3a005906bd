"""The control socket of the router process without a free descriptor."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from pylvs.vrrp import SOCKET_NAME
from pylvs.vrrp.control.server import ACCEPT_RETRY_S, ControlServer
from pylvs.vrrp.ipc import KIND
from tests.shortages import SHORTAGES
from tests.unit.vrrp.fake_loop import FakeTimeLoop


@pytest.mark.parametrize("number", SHORTAGES)
def test_connections_wait_while_no_descriptor_is_free(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, lines, attempts = FakeTimeLoop(), list[str](), list[float]()

    def refused(_: Any) -> Any:
        attempts.append(loop.now)
        raise OSError(number, os.strerror(number))

    monkeypatch.chdir(tmp_path)
    server = ControlServer(loop, {}, lambda level, text: lines.append(f"{level}: {text}"))
    server.open()
    with socket.socket(socket.AF_UNIX, KIND) as client:
        client.connect(SOCKET_NAME)
        with monkeypatch.context() as shortage:
            shortage.setattr(socket.socket, "accept", refused)
            loop.pass_(3.5 * ACCEPT_RETRY_S)
        assert [each - attempts[0] for each in attempts] == [0, ACCEPT_RETRY_S, 2 * ACCEPT_RETRY_S, 3 * ACCEPT_RETRY_S]
        assert lines == [f"error: connections to vrrp wait, as none can be accepted: {os.strerror(number)}"]
        assert server._connections == []
        loop.pass_(ACCEPT_RETRY_S)
        assert len(server._connections) == 1
        server.close()
    loop._selector.close()
