"""A daemon is killed after any of its edits; the next one makes the configured table, and nothing is left over."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pylvs.daemon.state import directory, drains, saved
from pylvs.model.checks import Target, TcpCheck
from pylvs.model.errors import NoSpace
from pylvs.model.service import Destination, DestinationKey, ServiceKey, VirtualService
from pylvs.model.wanted import WantedServer
from tests.memory import MemoryDirector
from tests.unit.daemon.daemons import FOREIGN, OTHER, QUICK, WEB, FakeHost, address, run, server, service, until


class Killed(BaseException):
    """Stands for SIGKILL."""


class Mortal(MemoryDirector):
    """Kills the daemon after so many edits."""

    left = 1 << 30
    last_words: Callable[[], object] = int

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            self.last_words()
            raise Killed

    def add_service(self, service: VirtualService) -> None:
        self._count()
        super().add_service(service)

    def edit_service(self, service: VirtualService) -> None:
        self._count()
        super().edit_service(service)

    def delete_service(self, key: ServiceKey) -> None:
        self._count()
        super().delete_service(key)

    def add_destination(self, key: ServiceKey, destination: Destination) -> None:
        self._count()
        super().add_destination(key, destination)

    def edit_destination(self, key: ServiceKey, destination: Destination) -> None:
        self._count()
        super().edit_destination(key, destination)

    def delete_destination(self, key: ServiceKey, destination: DestinationKey) -> None:
        self._count()
        super().delete_destination(key, destination)


THIRD = ServiceKey(WEB.protocol, WEB.address, 8080)
BEFORE = (service(server(1), server(2), server(3)), service(server(1), server(2), key=OTHER))
AFTER = (
    service(server(1, weight=5), server(3), server(4), scheduler="rr"),
    service(server(5), server(6), server(7), key=THIRD),
)
WANTED = {
    "FWM 7": {},
    "TCP 192.0.2.1:80": {"10.0.0.1": 5, "10.0.0.3": 1, "10.0.0.4": 1},
    "TCP 192.0.2.1:8080": {"10.0.0.5": 1, "10.0.0.6": 1, "10.0.0.7": 1},
}
EDITS = 9  # from BEFORE to AFTER


def mortal_world(folder: Path, left: int) -> tuple[FakeHost, Mortal]:
    host, tables = FakeHost(folder / "state"), Mortal()
    host.tables = tables
    tables.add_service(VirtualService(FOREIGN))
    tables.left = left
    return host, tables


SLOW = replace(QUICK, warmup_s=3600)  # no probe has a result in the test


def noted(host: FakeHost) -> set[str]:
    """Return the servers that the next daemon does not take for new ones."""
    owned = saved.load_owned(directory.StateDirectory(host.state))
    return {str(each.address) for servers in owned.values() for each in servers}


def unprobed(number: int) -> WantedServer:
    """Return a server that the next daemon does not probe."""
    return replace(server(number), checks=(TcpCheck(pace=SLOW, target=Target(address(number), 80)),))


@pytest.mark.parametrize("repaired", [False, True])
def test_a_dead_server_stays_down_after_a_partly_refused_first_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repaired: bool
) -> None:
    """The note of its service waits neither for a timer nor for the edits of other services."""
    monkeypatch.setattr("pylvs.daemon.services.RETRY_S", 3600)
    host = FakeHost(tmp_path / "state")
    host.write(service(server(1), server(2)), service(server(3), scheduler="not-yet", key=OTHER))
    host.dead = {address(2)}

    async def scenario() -> None:
        async with host.daemon(kill=True) as daemon:
            await until(lambda: host.servers() == {"10.0.0.1"})
            assert not daemon.reconciler.last.complete
            if repaired:
                host.tables._schedulers = (*host.tables._schedulers, "not-yet")
            await until(lambda: noted(host) == {"10.0.0.1", "10.0.0.2", *(["10.0.0.3"] if repaired else [])})
        host.write(service(unprobed(1), unprobed(2)), service(server(3), scheduler="not-yet", key=OTHER))
        async with host.daemon():
            assert host.servers() == {"10.0.0.1"}

    run(scenario())


def test_a_server_whose_addition_is_refused_counts_as_new_until_it_is_down(tmp_path: Path) -> None:
    class Full(MemoryDirector):
        def add_destination(self, key: ServiceKey, destination: Destination) -> None:
            if destination.key.address == address(2):
                raise NoSpace("the table is full")
            super().add_destination(key, destination)

    host = FakeHost(tmp_path / "state")
    host.tables = Full()
    host.write(service(server(1), server(2), server(3)))
    host.dead = {address(3)}

    async def scenario() -> None:
        async with host.daemon(kill=True):
            await until(lambda: noted(host) == {"10.0.0.1", "10.0.0.3"} and host.servers() == {"10.0.0.1"})
            host.dead |= {address(2)}
            await until(lambda: noted(host) == {"10.0.0.1", "10.0.0.2", "10.0.0.3"})
        host.tables.__class__ = MemoryDirector
        host.write(service(unprobed(1), unprobed(2), unprobed(3)))
        async with host.daemon():
            assert host.servers() == {"10.0.0.1"}

    run(scenario())


def test_a_note_that_a_full_disk_refused_is_written_later(tmp_path: Path) -> None:
    host = FakeHost(tmp_path / "state")
    draft = host.state / ".services.json.new"

    class NoFile(MemoryDirector):
        def add_service(self, service: VirtualService) -> None:
            draft.mkdir()
            super().add_service(service)

    host.tables = NoFile()

    async def scenario() -> None:
        async with host.daemon():
            assert not noted(host)
            draft.rmdir()
            await until(lambda: noted(host) == {"10.0.0.1", "10.0.0.2"})

    run(scenario())


def test_an_override_and_a_drain_have_the_new_name_of_their_service_before_the_first_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, tables = mortal_world(tmp_path, 1 << 30)
    host.write(service(server(1), server(2)))
    monkeypatch.setattr(drains.Drain, "count", lambda self, found: None)  # no connection ends
    edited, order, save = threading.Event(), list[str](), saved.save_overrides

    def save_slowly(*arguments: Any) -> None:
        edited.wait(0.2)  # an edit that does not wait for this comes first
        save(*arguments)
        order.append("saved")

    def last_words() -> None:
        order.append("edited")
        edited.set()

    async def scenario() -> None:
        async with host.daemon(kill=True) as daemon:
            daemon.drains.begin(address(1), None, None, force=False)
            await until(lambda: host.table()[str(WEB)] == {"10.0.0.1": 0, "10.0.0.2": 1})
            host.write(replace(service(server(1), server(2), server(3)), name="renamed"))
            tables.left, tables.last_words = 0, last_words
            monkeypatch.setattr(saved, "save_overrides", save_slowly)
            with contextlib.suppress(Killed):
                await daemon.reload()
            assert order[:2] == ["saved", "edited"]
        tables.left = 1 << 30
        async with host.daemon() as daemon:
            await daemon.drains.poll()
            assert host.table()[str(WEB)] == {"10.0.0.1": 0, "10.0.0.2": 1, "10.0.0.3": 1}
            assert [each.stage for each in daemon.drains.all()] == [drains.Stage.WAITING]

    run(scenario())


@pytest.mark.parametrize("edits", range(EDITS + 1))
def test_killed_while_it_reloads(tmp_path: Path, edits: int) -> None:
    host, tables = mortal_world(tmp_path, 1 << 30)
    host.write(*BEFORE)
    host.dead.add(address(3))

    async def scenario() -> None:
        async with host.daemon(kill=True) as daemon:
            await until(lambda: host.servers() == {"10.0.0.1", "10.0.0.2"})
            host.write(*AFTER)
            tables.left = edits
            killed = contextlib.nullcontext() if edits == EDITS else pytest.raises(Killed)
            with killed:
                await daemon.reload()
        tables.left = 1 << 30
        async with host.daemon():
            # Server 3 is down as it was; the servers that were not added yet are up, because no check found them down.
            first = {name: dict(servers) for name, servers in host.table().items()}
            del first["TCP 192.0.2.1:80"]["10.0.0.1"]
            wanted = {name: dict(servers) for name, servers in WANTED.items()}
            del wanted["TCP 192.0.2.1:80"]["10.0.0.1"], wanted["TCP 192.0.2.1:80"]["10.0.0.3"]
            assert first == wanted
            host.dead.clear()
            await until(lambda: host.table() == WANTED)
        assert host.table() == {"FWM 7": {}}

    run(scenario())


@pytest.mark.parametrize("edits", range(8))
def test_killed_while_it_starts(tmp_path: Path, edits: int) -> None:
    host, tables = mortal_world(tmp_path, edits)
    host.write(*AFTER)

    async def scenario() -> None:
        with pytest.raises(Killed):
            async with host.daemon():
                pass
        tables.left = 1 << 30
        async with host.daemon():
            assert host.table() == WANTED
        assert host.table() == {"FWM 7": {}}

    run(scenario())
