"""The daemon's end of D-Bus: which status is served, what may be requested, and what is a problem."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pylvs.daemon import dbus_task
from pylvs.daemon.dbus_task import NO_LIBRARY, DbusTask
from pylvs.dbus.interface import PRINT_DATA
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance
from pylvs.model.wanted import Configuration, DbusSettings, GlobalSettings
from pylvs.system import logs
from pylvs.system.processes import child
from pylvs.system.processes.channel import BadMessage
from pylvs.system.processes.edge import MOST_LINES, Edge
from tests.fake_processes import FakeEdge
from tests.unit.daemon.daemons import run, until

PATH = "/org/keepalived/Vrrp1/Instance/eth0/51/IPv4"
AT = {"interface": "eth0", "vrid": 51, "family": 4}
ROUTER = AT | {"name": "VI_1", "state": "BACKUP"}
SERVED = Configuration(
    settings=GlobalSettings(dbus=DbusSettings(enabled=True)),
    vrrp=VrrpConfiguration(instances=(VrrpInstance(name="VI_1", interface="eth0", vrid=51),)),
)


class Routers:
    """Virtual routers, which change their state during a read if that is wanted."""

    def __init__(self) -> None:
        self.reads = 0
        self.state = "BACKUP"
        self.error = ""
        self.during_read: Callable[[], None] = lambda: None
        self.requests: list[tuple[str, Any]] = []

    async def status(self) -> Mapping[str, Any]:
        self.reads += 1
        found = [] if self.error else [ROUTER | {"state": self.state}]
        self.during_read()
        return {"instances": found, "problem": self.error}

    async def request(self, verb: str, **fields: Any) -> Any:
        self.requests.append((verb, fields))


@pytest.fixture(autouse=True)
def _usual_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(dbus_task.ADDRESS, raising=False)


@asynccontextmanager
async def serving(dbus: DbusTask, configuration: Configuration) -> AsyncIterator[None]:
    """Serve within the block."""
    try:
        await dbus.apply(configuration)
        yield
    finally:
        await dbus.close()


@pytest.fixture
def edge() -> FakeEdge:
    return FakeEdge()


def test_the_task_follows_the_configuration(edge: FakeEdge) -> None:
    async def scenario() -> None:
        dbus = DbusTask(edge, Routers(), {})
        async with serving(dbus, Configuration(settings=SERVED.settings)):
            assert edge.begun == [], "there is no virtual router"
            await dbus.apply(SERVED)
            usual = {"address": dbus_task.DEFAULT_ADDRESS, "name": "org.keepalived.Vrrp1"}
            assert edge.sent == [usual | {"root": "/org/keepalived/Vrrp1"}]
            await dbus.apply(SERVED)
            assert edge.sent[1:] == [{"signal": "VrrpReloaded"}]
            other = DbusSettings(enabled=True, service_name="org.example.Second")
            await dbus.apply(Configuration(settings=GlobalSettings(dbus=other), vrrp=SERVED.vrrp))
            assert (edge.begun, edge.ended) == (["dbus", "dbus"], ["dbus"])
            assert edge.sent[2]["name"] == "org.example.Second"
            await dbus.apply(Configuration(vrrp=SERVED.vrrp))
            assert edge.ended == ["dbus", "dbus"]

    run(scenario())


def test_without_the_library_one_line_is_the_problem(monkeypatch: pytest.MonkeyPatch, edge: FakeEdge) -> None:
    monkeypatch.setattr(dbus_task, "find_spec", lambda _: None)

    async def scenario() -> None:
        dbus = DbusTask(edge, Routers(), {})
        async with serving(dbus, SERVED):
            assert dbus.problem == NO_LIBRARY
            await dbus.apply(Configuration(vrrp=SERVED.vrrp))
            assert dbus.problem == ""

    run(scenario())


def test_the_bus_s_absence_is_a_problem_until_it_is_there(edge: FakeEdge) -> None:
    async def scenario() -> None:
        dbus = DbusTask(edge, Routers(), {})
        async with serving(dbus, SERVED):
            assert dbus.problem == ""
            dbus.receive({"bus": "No such file or directory"})
            assert dbus.problem == f"D-Bus: {dbus_task.DEFAULT_ADDRESS}: No such file or directory"
            dbus.receive({"bus": ""})
            assert dbus.problem == ""

    run(scenario())


def test_a_process_cannot_fill_the_log_by_its_connections(edge: FakeEdge) -> None:
    lines: list[str] = []
    former = logs.write_with(lambda _, fields: lines.append(fields["event"]))

    async def scenario() -> None:
        dbus = DbusTask(edge, Routers(), {})
        async with serving(dbus, SERVED):
            for number in range(3 * MOST_LINES):
                dbus.receive({"bus": f"reason {number}"})

    try:
        run(scenario())
    finally:
        logs.write_with(former)
    assert len(lines) == MOST_LINES


def test_a_process_that_is_silent_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP of a real process, without a bus."""
    address = "unix:path=/nowhere/bus"
    monkeypatch.setenv(dbus_task.ADDRESS, address)
    no_bus = f"D-Bus: {address}: No such file or directory"

    async def scenario() -> None:
        edge = Edge()
        dbus = DbusTask(edge, Routers(), {})
        async with serving(dbus, SERVED):
            await until(lambda: dbus.problem)
            assert dbus.problem == no_bus
            first = edge.process.pid
            os.kill(first, signal.SIGSTOP)
            with monkeypatch.context() as ticks:
                ticks.setattr(child, "PING_S", 0.01)  # those of the lease
                await until(lambda: edge.problem)
            assert dbus.problem == f"the edge process has been silent for {child.LEASE_S} s"
            await until(lambda: dbus.problem == no_bus)
            assert edge.process.pid != first
        await edge.close()

    run(scenario())


def transition(state: str, name: str = "VI_1", reports_deleted: bool = False) -> Mapping[str, Any]:
    """Return what pylvs-vrrp publishes."""
    return {"kind": "INSTANCE", "instance": name, "state": state, **AT, "reports_deleted": reports_deleted}


def test_a_status_is_read_once_a_second_however_many_transitions_there_are(
    monkeypatch: pytest.MonkeyPatch, edge: FakeEdge
) -> None:
    monkeypatch.setattr(dbus_task, "STATUS_AGE_S", 3600.0)

    async def scenario() -> None:
        routers = Routers()
        dbus = DbusTask(edge, routers, {})
        async with serving(dbus, SERVED):
            expected = {"routers": {PATH: ("VI_1", "BACKUP")}, "error": ""}
            assert await asyncio.gather(*(dbus._read_status() for _ in range(3))) == [expected] * 3
            dbus.state_changed(transition("MASTER"))
            dbus.state_changed(transition("FAULT", "of_the_same_path"))
            dbus.state_changed({"kind": "GROUP", "instance": "G", "state": "MASTER"})
            dbus.state_changed({"kind": "DROPPED", "instance": "VI_1"})
            assert (await dbus._read_status())["routers"] == {PATH: ("VI_1", "MASTER")}
            assert edge.sent[1] == {"path": PATH, "state": "MASTER"}
            assert len(edge.sent) == 3, "a group has no object"
            dbus.state_changed(transition("DELETED"))
            assert (await dbus._read_status())["routers"] == {}
            assert routers.reads == 1
            dbus.routers_started(0)
            assert (await dbus._read_status())["routers"] == {PATH: ("VI_1", "BACKUP")}
            assert routers.reads == 2

    run(scenario())


def test_a_transition_during_a_read_is_in_the_status(monkeypatch: pytest.MonkeyPatch, edge: FakeEdge) -> None:
    monkeypatch.setattr(dbus_task, "STATUS_AGE_S", 3600.0)

    async def scenario() -> None:
        routers = Routers()
        dbus = DbusTask(edge, routers, {})
        routers.during_read = lambda: dbus.state_changed(transition("MASTER"))
        async with serving(dbus, SERVED):
            assert (await dbus._read_status())["routers"] == {PATH: ("VI_1", "MASTER")}
            assert routers.reads == 1

    run(scenario())


def test_a_status_that_was_read_during_a_reload_is_read_again(monkeypatch: pytest.MonkeyPatch, edge: FakeEdge) -> None:
    monkeypatch.setattr(dbus_task, "STATUS_AGE_S", 3600.0)

    async def scenario() -> None:
        routers = Routers()
        dbus = DbusTask(edge, routers, {})

        def start() -> None:
            routers.during_read = lambda: None
            routers.state = "MASTER"
            dbus.routers_started(1)

        routers.during_read = start
        async with serving(dbus, SERVED):
            assert (await dbus._read_status())["routers"] == {PATH: ("VI_1", "MASTER")}
            assert routers.reads == 2

    run(scenario())


def test_virtual_routers_that_do_not_answer_are_named(edge: FakeEdge) -> None:
    async def scenario() -> None:
        routers = Routers()
        routers.error = "they do not answer"
        dbus = DbusTask(edge, routers, {})
        async with serving(dbus, SERVED):
            assert await dbus._read_status() == {"routers": {}, "error": "they do not answer"}

    run(scenario())


@pytest.mark.parametrize(("reports", "state"), [(True, "DELETED"), (False, "FAULT")])
def test_a_removed_router_ends_in_fault_unless_it_has_notify_deleted(reports: bool, state: str, edge: FakeEdge) -> None:
    async def scenario() -> None:
        dbus = DbusTask(edge, Routers(), {})
        async with serving(dbus, SERVED):
            dbus.state_changed(transition("DELETED", reports_deleted=reports))
            assert edge.sent[1:] == [{"path": PATH, "state": state}]

    run(scenario())


def test_the_process_may_request_these_methods_only(edge: FakeEdge) -> None:
    executed: list[str] = []

    async def print_data() -> None:
        executed.append(PRINT_DATA)

    async def scenario() -> None:
        routers = Routers()
        dbus = DbusTask(edge, routers, {PRINT_DATA: print_data})
        async with serving(dbus, SERVED):
            dbus.receive({"id": 1, "method": PRINT_DATA, "name": ""})
            dbus.receive({"id": 2, "method": "SendGarp", "name": "VI_1"})
            await asyncio.gather(*dbus._executing)
            assert executed == [PRINT_DATA]
            assert routers.requests == [("garp", {"name": "VI_1"})]
            assert edge.sent[1:] == [{"id": 1}, {"id": 2}]
            for wrong in ({"method": "stop", "name": ""}, {"method": ["x"], "name": ""}, {"method": PRINT_DATA}):
                with pytest.raises(BadMessage):
                    dbus.receive({"id": 3, **wrong})

    run(scenario())


def test_a_virtual_router_announces_its_addresses_once_a_second(
    monkeypatch: pytest.MonkeyPatch, edge: FakeEdge
) -> None:
    monkeypatch.setattr(dbus_task, "GARP_S", 3600.0)
    more = VrrpInstance(name="VI_2", interface="eth0", vrid=52)
    both = Configuration(settings=SERVED.settings, vrrp=VrrpConfiguration(instances=(*SERVED.vrrp.instances, more)))

    async def scenario() -> None:
        routers = Routers()
        dbus = DbusTask(edge, routers, {})
        async with serving(dbus, both):
            for number, name in enumerate(("VI_1", "VI_1", "VI_2", "none")):
                await dbus._reply(number, "SendGarp", name)
                await dbus.apply(both)
            assert routers.requests == [("garp", {"name": "VI_1"}), ("garp", {"name": "VI_2"})]
            assert [each for each in edge.sent if "id" in each] == [
                {"id": 0},
                {"id": 1, "error": "VI_1 has announced its addresses within the last 3600 s"},
                {"id": 2},
                {"id": 3, "error": "there is no virtual router none"},
            ]

    run(scenario())


def test_requests_at_once_are_limited(monkeypatch: pytest.MonkeyPatch, edge: FakeEdge) -> None:
    monkeypatch.setattr(dbus_task, "MOST_REQUESTS", 2)

    async def scenario() -> None:
        dbus = DbusTask(edge, Routers(), {})
        async with serving(dbus, SERVED):
            for number in range(2):
                dbus.receive({"id": number, "method": "status", "name": ""})
            with pytest.raises(BadMessage, match="more than 2 requests at once"):
                dbus.receive({"id": 2, "method": "status", "name": ""})
            await asyncio.gather(*dbus._executing)
            dbus.receive({"id": 3, "method": "status", "name": ""})

    run(scenario())


def test_failures_of_messages_are_in_the_log_once(log_output: io.StringIO, edge: FakeEdge) -> None:
    async def scenario() -> None:
        dbus = DbusTask(edge, Routers(), {})
        async with serving(dbus, SERVED):
            for number in (1, 1, *range(1, 100)):
                dbus.receive({"bus": "", "failed": f"a message {number}"})

    run(scenario())
    lines = [line for line in log_output.getvalue().splitlines() if "a message" in line]
    assert len(lines) == dbus_task.MOST_FAILURES
    assert lines[0].endswith("D-Bus: a message 1")
