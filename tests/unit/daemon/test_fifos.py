"""FIFOs get lines about services and servers."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from pylvs.daemon.notifications import Notifier, fifo_line
from pylvs.health.events import Event
from pylvs.model.checks import Script
from pylvs.model.service import Destination, ServiceKey
from pylvs.model.vrrp import Fifo, VrrpConfiguration, VrrpSettings
from pylvs.model.wanted import Configuration, GlobalSettings, WantedServer, WantedService
from tests.unit.daemon.test_notify_scripts import down, gained, lost, server_key, service, up
from tests.waiting import until_async


@pytest.mark.parametrize(
    ("event", "about", "line"),
    [
        (up(1), service(), "RS [10.0.0.1]:tcp:80 [192.0.2.1]:tcp:80 UP"),
        (down(2), service(keys=(ServiceKey.of_mark(7),)), "RS [10.0.0.2]:none:80 FWM 7 DOWN"),
        (gained(), service("group shop tcp", group_name="[shop]:1"), "VS [shop]:1 UP"),
        (lost(), service(), "VS [192.0.2.1]:tcp:80 DOWN"),
        (lost(initial=True, silent=True), service(), ""),
        (up(9), service(), ""),
    ],
)
def test_the_lines_are_keepaliveds(event: Event, about: WantedService, line: str) -> None:
    assert fifo_line(event, about) == line


def configuration(shared: Path, own: Path, reader: Script | None = None) -> Configuration:
    fifos = (Fifo(str(shared), reader=reader, services=True), Fifo(f"{shared}-of-routers"))
    settings = GlobalSettings(fifo=Fifo(str(own)))
    without_scripts = replace(service(), servers=(WantedServer(Destination(server_key(1))),))
    return Configuration((without_scripts,), settings, VrrpConfiguration(settings=VrrpSettings(fifos=fifos)))


def read(descriptor: int) -> list[str]:
    return os.read(descriptor, 1 << 16).decode().splitlines()


def test_the_shared_fifo_and_its_own_get_lines(tmp_path: Path) -> None:
    paths = tmp_path / "shared", tmp_path / "own"

    async def main() -> None:
        fifos = Notifier()
        fifos.configure(configuration(*paths), routers=False)
        pipes = [os.open(path, os.O_RDONLY | os.O_NONBLOCK) for path in paths]
        fifos.notify(up(1))
        for pipe in pipes:
            assert read(pipe) == ["RS [10.0.0.1]:tcp:80 [192.0.2.1]:tcp:80 UP"]
        fifos.configure(replace(configuration(*paths), services=()), routers=False)
        fifos.notify(down(1, ending=True))
        for pipe in pipes:
            assert read(pipe) == ["RS [10.0.0.1]:tcp:80 [192.0.2.1]:tcp:80 DOWN"]
        await fifos.finish()
        for pipe in pipes:
            assert read(pipe) == []
            os.close(pipe)

    asyncio.run(main())
    assert list(tmp_path.iterdir()) == []


def test_the_shared_pipes_reader_runs_once_and_the_pipe_stays_for_the_routers(tmp_path: Path) -> None:
    paths, ran = (tmp_path / "shared", tmp_path / "own"), tmp_path / "ran"
    reader = Script(("/bin/sh", "-c", f'touch {ran}; cat "$0"'))

    async def main(routers: bool) -> None:
        fifos = Notifier()
        fifos.configure(configuration(*paths, reader), routers=routers)
        if not routers:
            await until_async(ran.exists)
        await fifos.finish()

    asyncio.run(main(routers=True))
    assert paths[0].is_fifo()
    assert not ran.exists()
    paths[0].unlink()
    asyncio.run(main(routers=False))
    assert not paths[0].exists()


@pytest.mark.parametrize(("umask", "printed"), [(None, "0077"), (0o027, "0027")])
def test_a_reader_has_the_global_umask(umask: int | None, printed: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    reader = Script(("/bin/sh", "-c", f'umask > {ran}.new; mv {ran}.new {ran}; cat "$0"'))
    settings = GlobalSettings(fifo=Fifo(str(tmp_path / "own"), reader=reader), umask=umask)

    async def main() -> None:
        fifos = Notifier()
        fifos.configure(Configuration((), settings), routers=False)
        await until_async(ran.exists)
        await fifos.finish()

    asyncio.run(main())
    assert ran.read_text().strip() == printed
