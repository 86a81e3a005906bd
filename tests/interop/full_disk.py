"""Run a daemon with a full disk, in its own mount namespace: `python -m tests.interop.full_disk SCENARIO DIRECTORY`.

The state directory is on a tmpfs of a few pages. It is filled to its last byte, so that the kernel returns ENOSPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock

from pylvs.daemon import reconciler
from pylvs.daemon.api.client import Client
from pylvs.system import logs
from tests.unit.daemon.daemons import FakeHost, address, run, server, service

NO_SPACE = "services.json: No space left on device: this state would be lost in a crash"
_SIZE = 64 * 1024


class Disk:
    """A small disk, mounted on this directory in this process's mount namespace."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=0700", "tmpfs", str(folder)]
        subprocess.run(words, check=True)
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Write until the disk is full."""
        with open(self._filler, "ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(512))

    def empty(self) -> None:
        """Delete what `fill` wrote."""
        self._filler.unlink()


async def reloading(host: FakeHost, disk: Disk, log: io.StringIO) -> None:
    """A reload over the API or by SIGHUP is refused, and nothing changes; with free space it succeeds."""
    async with host.daemon() as daemon:
        before = (host.state / "services.json").read_bytes()
        disk.fill()
        host.write(service(server(3)))
        status, reply = await asyncio.to_thread(Client(host.state).ask, "POST", "/v1/reload")
        assert status == 409, reply
        assert reply["error"].endswith(NO_SPACE), reply
        await daemon._reload_by_signal()
        assert daemon.reloads == {"refused": 2}
        assert host.servers() == {str(address(1)), str(address(2))}
        assert f"not reloaded: {reply['error']}" in log.getvalue()
        assert (host.state / "services.json").read_bytes() == before
        disk.empty()
        assert (await daemon.reload()).table is not None
        assert host.servers() == {str(address(3))}


async def editing(host: FakeHost, disk: Disk, log: io.StringIO) -> None:
    """A disk that fills up while the table is edited for the first time ends nothing."""
    keep_own = reconciler.save_owned
    kept_before: list[int] = []

    def full_after_the_first(*arguments: Any) -> None:
        if kept_before:
            disk.fill()
        kept_before.append(1)
        keep_own(*arguments)

    with mock.patch.object(reconciler, "save_owned", full_after_the_first):
        async with host.daemon():
            assert host.servers() == {str(address(1)), str(address(2))}
            assert len(kept_before) > 1
            disk.empty()
    assert NO_SPACE in log.getvalue()


SCENARIOS: dict[str, Callable[[FakeHost, Disk, io.StringIO], Awaitable[None]]] = {
    each.__name__: each for each in (reloading, editing)
}


def main(scenario: str, folder: Path) -> None:
    """Run a scenario; raise for a wrong result."""
    log = io.StringIO()
    logs.set_up("text", log, {})
    disk = Disk(folder / "disk")
    try:
        run(SCENARIOS[scenario](FakeHost(disk.folder / "state"), disk, log))
    finally:
        print(log.getvalue())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
