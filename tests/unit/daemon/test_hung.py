"""A start or a stop in which something fails or hangs ends: virtual routers at once, the daemon in bounded time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylvs.daemon import Options
from pylvs.daemon.loading import Loaded
from pylvs.daemon.supervisor import Supervisor
from pylvs.daemon.virtual_routers.first import FirstRouters, ForkedProcess
from tests.unit.daemon.daemons import FakeHost, run, server, service
from tests.waiting import PATIENCE_S


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeHost]:
    """Return a host with one virtual router; at the end kill processes that are left."""
    found = FakeHost(tmp_path / "state")
    found.write(service(server(1)), routers=["VI_1"])
    yield found
    found.end_processes()


def test_a_start_that_fails_ends_a_process_that_does_not_listen_yet(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(_: Options) -> Loaded:
        raise OSError("no file can be read")

    monkeypatch.setattr(host, "load", unreadable)
    process = ForkedProcess(os.posix_spawnp("sleep", ["sleep", str(PATIENCE_S)], os.environ))
    first = FirstRouters(process, host.file.configuration)
    options = Options("test.conf", state_dir=host.state)

    async def scenario() -> None:
        with pytest.raises(OSError, match="no file can be read"):
            await Supervisor(options, host, first=first).run()

    run(scenario())
    assert process.poll() == -signal.SIGTERM
    assert host.left() == set()
