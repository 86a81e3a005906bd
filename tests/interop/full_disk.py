"""Run a daemon with a full or a read-only disk: `python -m tests.interop.full_disk SCENARIO DIRECTORY`.

It has a mount namespace of its own. The state directory is on a tmpfs of a few pages. It is filled to its last byte, so
that the kernel returns ENOSPC. Or another mount covers it, and is read-only, so that the kernel returns EROFS.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from pylvs.daemon import services
from pylvs.daemon.api import client as api_client
from pylvs.daemon.api.client import Client
from pylvs.daemon.state import history, overrides, saved
from pylvs.daemon.table import ownership
from pylvs.system import logs
from tests.unit.daemon.daemons import WEB, FakeHost, address, run, server, service, until
from tests.waiting import PATIENCE_S

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

    def protect(self) -> None:
        """Make it read-only. Files that are open stay writable: the daemon's lock.

        The mount is read-only before it covers the folder. The kernel refuses to make a mount read-only through which a
        thread is just writing.
        """
        aside = self.folder.with_name("read-only")
        aside.mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", str(self.folder), str(aside)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(aside)], check=True)
        subprocess.run(["mount", "--move", str(aside), str(self.folder)], check=True)

    def unprotect(self) -> None:
        """End what `protect` began."""
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@contextlib.contextmanager
def saved_again_soon() -> Iterator[None]:
    """Within the block, the daemon soon saves again what the disk refused."""
    with mock.patch.object(overrides, "RETRY_S", 0.05), mock.patch.object(history, "RETRY_S", 0.05):
        yield


async def starting(host: FakeHost, disk: Disk, log: io.StringIO) -> None:
    """A start does all but save, and says so; with free space it saves. The lock holds without its PID, too."""
    disk.fill()
    with saved_again_soon():
        async with host.daemon() as daemon:
            assert host.servers() == {str(address(1)), str(address(2))}
            assert (host.state / "pid").read_bytes() == b""
            assert "state" in {each.kind for each in daemon.problems()}
            process = os.getpid()
            code = "import pathlib, sys; from pylvs.daemon.state.directory import StateDirectory\n"
            code += "StateDirectory(pathlib.Path(sys.argv[1])).acquire()"
            other = [sys.executable, "-c", code, str(host.state)]
            done = await asyncio.to_thread(subprocess.run, other, capture_output=True, text=True)
            assert f"pylvs run is there already, process {process}" in done.stderr, done.stderr
            disk.empty()
            await until(lambda: not daemon.problems())
            saved = {name for name in ("services", "namespaces") if (host.state / f"{name}.json").exists()}
            assert saved == {"services", "namespaces"}
    assert host.servers() == set()
    for name in ("services.json", "namespaces.json"):
        assert log.getvalue().count(f"{name}: No space left on device") == 1


async def reloading(host: FakeHost, disk: Disk, log: io.StringIO) -> None:
    """A reload does all but save, and says so; one that changes nothing needs no space."""
    with saved_again_soon():
        async with host.daemon() as daemon:
            before = (host.state / "services.json").read_bytes()
            await until(lambda: not daemon.history.unwritten)
            disk.fill()
            status, reply = await asyncio.to_thread(Client(host.state).ask, "POST", "/v1/reload")
            assert status == 200, reply
            assert "state" not in {each.kind for each in daemon.problems()}
            host.write(service(server(3)))
            status, reply = await asyncio.to_thread(Client(host.state).ask, "POST", "/v1/reload")
            assert status == 200, reply
            assert host.servers() == {str(address(3))}
            assert (host.state / "services.json").read_bytes() == before
            (problem,) = [each for each in daemon.problems() if each.kind == "state"]
            assert problem.text.endswith(NO_SPACE)
            disk.empty()
            await until(lambda: not daemon.problems())
            assert (host.state / "services.json").read_bytes() != before
    assert log.getvalue().count("services.json: No space left on device") == 1


async def editing(host: FakeHost, disk: Disk, log: io.StringIO) -> None:
    """A disk that fills up while the table is edited for the first time ends nothing."""
    keep_own = saved.save_owned
    kept_before: list[int] = []

    def full_after_the_first(*arguments: Any) -> None:
        if kept_before:
            disk.fill()
        kept_before.append(1)
        keep_own(*arguments)

    with mock.patch.object(ownership, "save_owned", full_after_the_first):
        async with host.daemon():
            assert host.servers() == {str(address(1)), str(address(2))}
            assert len(kept_before) > 1
            disk.empty()
    assert NO_SPACE in log.getvalue()


async def overriding(host: FakeHost, disk: Disk, log: io.StringIO) -> None:
    """A drain takes effect and reports that it is not saved; events are written when there is space again."""
    with saved_again_soon():
        async with host.daemon() as daemon:
            await until(lambda: not daemon.history.unwritten)
            disk.fill()
            client, words = Client(host.state), {"server": "10.0.0.1:80"}
            status, reply = await asyncio.to_thread(client.ask, "POST", "/v1/drain", words)
            assert status == 200, reply
            assert "overrides.json: No space left on device" in reply["not_kept"]
            assert host.table()[str(WEB)][str(address(1))] == 0
            for _ in range(50):  # the last page of the file may have space left
                daemon.events.publish("table_not_grown", reason="x" * 200)
            await until(lambda: daemon.history.error)
            kinds = {each.kind for each in daemon.problems()}
            assert {"state", "history"} <= kinds, kinds
            await until(lambda: not daemon.saving)  # then its thread has no such file; nothing is awaited in between
            assert not list(host.state.glob(".*.new"))
            disk.empty()
            await until(lambda: not daemon.problems())
            _, reply = await asyncio.to_thread(client.ask, "POST", "/v1/drain", words)
            assert reply["not_kept"] == ""
            assert (host.state / "overrides.json").exists()
            await until(lambda: "drain_began" in (host.state / "events.jsonl").read_text())
    for line in (json.loads(each) for each in (host.state / "events.jsonl").read_text().splitlines()):
        assert line["event"]
    assert log.getvalue().count("overrides.json: No space left on device") == 1
    assert log.getvalue().count("events.jsonl: No space left on device") == 1


async def read_only(host: FakeHost, disk: Disk, log: io.StringIO) -> None:
    """Overrides, drains, events and dumps cannot be written: one problem, and one line in the log for each."""
    with saved_again_soon(), mock.patch.dict(os.environ, TMPDIR=str(disk.folder)):
        async with host.daemon() as daemon:
            await until(lambda: not daemon.history.unwritten)
            disk.protect()
            client = Client(host.state)
            for number in (1, 2):
                words = {"server": f"10.0.0.{number}:80"}
                status, reply = await asyncio.to_thread(client.ask, "POST", "/v1/drain", words)
                assert status == 200, reply
                assert "overrides.json: Read-only file system" in reply["not_kept"]
            await until(lambda: daemon.history.error)
            await until(lambda: set(host.table()[str(WEB)].values()) <= {0})
            os.kill(os.getpid(), signal.SIGUSR2)
            os.kill(os.getpid(), signal.SIGUSR1)
            await until(lambda: "keepalived.stats" in log.getvalue())
            await until(lambda: "dump.json: Read-only file system" in log.getvalue())
            assert sorted(each.kind for each in daemon.problems()) == ["history", "state"]
            disk.unprotect()
            await until(lambda: not daemon.problems())
            await until(lambda: "drain_began" in (host.state / "events.jsonl").read_text())
            os.kill(os.getpid(), signal.SIGUSR2)
            await until((disk.folder / "keepalived.stats").exists)
    assert "Traceback" not in log.getvalue()
    for name in ("overrides.json", "drains.json", "events.jsonl", "keepalived.stats", "dump.json"):
        lines = [each for each in log.getvalue().splitlines() if name in each and "Read-only file system" in each]
        assert len(lines) == 1, lines


async def read_only_at_the_end(host: FakeHost, disk: Disk, log: io.StringIO) -> None:
    """The daemon stops in good order, and the next one starts when the disk can be written."""
    async with host.daemon():
        disk.protect()
    assert host.servers() == set()
    assert "Traceback" not in log.getvalue()
    disk.unprotect()
    async with host.daemon():
        assert host.servers() == {str(address(1)), str(address(2))}


async def writing(host: FakeHost, disk: Disk, log: io.StringIO) -> None:
    """A thread that always has a file open does not keep the disk writable: its next file is refused."""
    began = threading.Event()

    def write() -> int | None:
        """Return the error of the first file that cannot be opened."""
        path, flags = disk.folder / "file", os.O_WRONLY | os.O_CREAT
        held = os.open(path, flags)
        began.set()
        try:
            while True:
                before, held = held, os.open(path, flags)
                os.close(before)
        except OSError as error:
            return error.errno
        finally:
            os.close(held)

    writer = asyncio.create_task(asyncio.to_thread(write))
    await asyncio.to_thread(began.wait)
    await asyncio.to_thread(disk.protect)
    assert await writer == errno.EROFS


SCENARIOS: dict[str, Callable[[FakeHost, Disk, io.StringIO], Awaitable[None]]] = {
    each.__name__: each for each in (starting, reloading, editing, overriding, read_only, read_only_at_the_end, writing)
}


def main(scenario: str, folder: Path) -> None:
    """Run a scenario; raise for a wrong result."""
    log = io.StringIO()
    logs.set_up("text", log, {})
    disk = Disk(folder / "disk")
    # No scenario is about a slow disk, or a daemon that hangs.
    api_client.READ_TIMEOUT_S = PATIENCE_S
    for module in services, overrides, history:
        vars(module)["SLOW_S"] = PATIENCE_S
    try:
        run(SCENARIOS[scenario](FakeHost(disk.folder / "state"), disk, log))
    finally:
        print(log.getvalue())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
