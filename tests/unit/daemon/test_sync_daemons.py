"""lvs_sync_daemon: the daemons that run, by configuration and state of the virtual router."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest

from pylvs.daemon import Options
from pylvs.daemon.supervisor import Supervisor
from pylvs.daemon.virtual_routers.sync_daemons import OWNER, SyncPart
from pylvs.model.errors import PylvsError
from pylvs.model.sync.daemons import BACKUP, MASTER, SyncDaemon, SyncWanted
from pylvs.model.wanted import Configuration, GlobalSettings
from tests.memory_daemons import OwnedDaemons
from tests.unit.daemon.daemons import FakeHost, run, server, service, until
from tests.waiting import PATIENCE_S

WANTED = SyncWanted("eth0", "VI_1", 51)


class Lab:
    """The part, the daemons that run, and the state of the virtual router VI_1."""

    def __init__(self, wanted: SyncWanted | None = WANTED, state: str = "BACKUP") -> None:
        self.daemons = OwnedDaemons()
        self.part = SyncPart(self.daemons, self.status)
        self.state = state
        self.use(wanted)

    async def status(self) -> Mapping[str, Any]:
        return {"instances": [{"name": "VI_2", "state": "FAULT"}, {"name": "VI_1", "state": self.state}]}

    def use(self, wanted: SyncWanted | None) -> None:
        asyncio.run(self.part.apply(Configuration(settings=GlobalSettings(sync=wanted))))

    def change(self, state: str) -> None:
        """Let the virtual router change its state."""
        self.part.router_changed({"instance": "VI_1", "state": state, "interface": "eth0"})

    def step(self) -> list[str]:
        """Compare once; what was started and stopped."""
        self.daemons.history.clear()
        asyncio.run(self.part.step())
        return self.daemons.history


@pytest.mark.parametrize(
    ("state", "role"), [("BACKUP", BACKUP), ("FAULT", BACKUP), ("INIT", BACKUP), ("MASTER", MASTER)]
)
def test_the_state_of_the_virtual_router_decides_the_role(state: str, role: str) -> None:
    lab = Lab(state=state)
    assert lab.step() == [f"start {role} announce"]
    assert lab.step() == []
    assert [each.daemon for each in lab.daemons.running()] == [SyncDaemon(role, "eth0", 51)]


def test_a_take_over_starts_the_master_before_it_stops_the_backup() -> None:
    lab = Lab()
    lab.step()
    lab.change("MASTER")
    assert lab.step() == ["start master announce", "stop backup"]
    lab.change("FAULT")
    assert lab.step() == ["start backup announce", "stop master"]


def test_a_transition_during_a_start_stops_nothing_by_the_former_state() -> None:
    """The master daemon would end, and start again at the next look only."""
    lab = Lab(state="MASTER")
    lab.step()
    lab.change("BACKUP")
    lab.daemons.on_start = lambda: lab.change("MASTER")
    assert lab.step() == ["start backup announce"]
    assert lab.step() == ["stop backup"]
    assert [each.daemon.role for each in lab.daemons.running()] == [MASTER]


def test_another_virtual_router_and_a_group_change_nothing() -> None:
    lab = Lab()
    lab.step()
    lab.part.router_changed({"instance": "VI_2", "state": "MASTER", "interface": "eth0"})
    lab.part.router_changed({"instance": "VI_1", "state": "MASTER"})  # a group of that name
    assert lab.step() == []


@pytest.mark.parametrize("state", ["STOP", "DELETED"])
def test_the_end_of_the_virtual_router_changes_nothing(state: str) -> None:
    lab = Lab(state="MASTER")
    lab.step()
    lab.change(state)
    assert lab.step() == []


def test_without_a_virtual_router_both_run() -> None:
    lab = Lab(SyncWanted("eth0"))
    assert sorted(lab.step()) == ["start backup announce", "start master announce"]


def test_both_start_at_once() -> None:
    """Each is a start of Python, which takes seconds on a busy machine."""
    lab = Lab(SyncWanted("eth0"))
    lab.daemons.on_start = Barrier(2, timeout=PATIENCE_S).wait
    assert len(lab.step()) == 2


def test_while_the_state_is_unknown_the_daemons_that_run_stay() -> None:
    """A master that another daemon has left would stop until pylvs-vrrp answers."""
    lab = Lab(state="")
    lab.daemons.start(WANTED.daemon(MASTER), owner=OWNER)
    assert lab.step() == []
    lab.state = "MASTER"
    assert lab.step() == []


def test_while_the_state_is_unknown_the_backup_starts() -> None:
    assert Lab(state="").step() == ["start backup announce"]


def test_the_daemon_is_ready_and_a_reload_returns_when_they_run(tmp_path: Path) -> None:
    host = FakeHost(tmp_path / "state")
    host.write(service(server(1)), sync=SyncWanted("eth0"))
    may_start = Event()
    host.sync_daemons.on_start = lambda: may_start.wait(PATIENCE_S)
    announced: list[int] = []
    ready: list[int] = []

    async def scenario() -> None:
        made = Supervisor(Options("test.conf", state_dir=host.state), host)
        host.manager.ready = lambda status: ready.append(len(host.sync_daemons.roles))  # type: ignore[method-assign]
        step = made.announcer.step

        def announce() -> None:
            announced.append(len(host.sync_daemons.roles))
            step()

        made.announcer.step = announce  # type: ignore[method-assign]
        running = asyncio.create_task(made.run())
        await until(lambda: made.started_at)
        may_start.set()
        await until(lambda: ready)
        host.write(service(server(1)), sync=SyncWanted("eth0", syncid=5))
        await made.reload()
        assert [each.daemon.syncid for each in host.sync_daemons.running()] == [5, 5]
        made.stop()
        await running

    run(scenario())
    assert announced[0] == 2
    assert ready[0] == 2


def test_a_daemon_that_ended_is_started_again() -> None:
    lab = Lab()
    lab.step()
    lab.daemons.roles.clear()
    assert lab.step() == ["start backup announce"]


def test_a_reload_replaces_a_daemon_with_other_parameters() -> None:
    lab = Lab()
    lab.step()
    lab.use(replace(WANTED, port=9000))
    assert lab.step() == ["stop backup", "start backup announce"]


def test_the_next_daemon_takes_over_what_runs() -> None:
    lab = Lab()
    lab.daemons.start(WANTED.daemon(BACKUP), owner=OWNER)
    assert lab.step() == []
    lab.use(None)
    assert lab.step() == ["stop backup"]


def test_without_the_keyword_daemons_of_ipvsadm_stay() -> None:
    lab = Lab(None)
    lab.daemons.start(SyncDaemon(MASTER, "eth1"))
    assert lab.step() == []
    lab.use(WANTED)
    assert lab.step() == ["start backup announce", "stop master"]


@pytest.mark.parametrize("keep", [False, True])
def test_the_stop_ends_the_daemons_unless_it_keeps_them(keep: bool) -> None:
    lab = Lab()
    lab.step()
    asyncio.run(lab.part.stop(keep))
    assert bool(lab.daemons.running()) is keep


def test_a_refused_start_is_a_problem_until_one_succeeds() -> None:
    lab = Lab()
    lab.daemons.refused = "eth0: no such device"

    async def run_once() -> None:
        task = asyncio.ensure_future(lab.part._run())
        while not list(lab.part.problems()):
            await asyncio.sleep(0)
        task.cancel()

    with pytest.raises(PylvsError):
        lab.step()
    asyncio.run(run_once())
    assert [str(each) for each in lab.part.problems()] == ["lvs_sync_daemon: eth0: no such device"]
    lab.daemons.refused = ""
    lab.step()
    assert list(lab.part.problems()) == []
