"""The daemon's end of D-Bus: which status is served, what may be requested, and what is a problem."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import signal
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest

from pylvs.daemon import dbus_process
from pylvs.daemon.dbus_process import NO_LIBRARY, DbusProcess
from pylvs.dbus.interface import PRINT_DATA
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance
from pylvs.model.wanted import Configuration, DbusSettings, GlobalSettings
from pylvs.system.processes import channel, confined
from pylvs.system.processes.channel import BadMessage
from pylvs.system.processes.confined import ConfinedProcess, Descriptor
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


class Process:
    """Stands in for the process: it records what it gets."""

    problem, up = "", False

    def __init__(self, *_: object, **__: object) -> None:
        self.started: list[tuple[str, ...]] = []
        self.sent: list[Mapping[str, Any]] = []
        self.closed = False

    def start(self, *arguments: str) -> None:
        self.started.append(arguments)

    def send(self, message: Mapping[str, Any], descriptors: Iterable[Descriptor] = ()) -> None:
        self.sent.append(message)
        for each in descriptors:
            each.close()

    async def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbus_process, "ConfinedProcess", Process)
    monkeypatch.delenv(dbus_process.ADDRESS, raising=False)


def process_of(dbus: DbusProcess) -> Process:
    process: Any = dbus._process
    assert isinstance(process, Process)
    return process


def test_the_process_follows_the_configuration() -> None:
    async def scenario() -> None:
        dbus = DbusProcess(Routers(), {})
        async with dbus.serving(Configuration(settings=SERVED.settings)):
            assert dbus._process is None, "there is no virtual router"
            await dbus.follow(SERVED)
            first = process_of(dbus)
            assert first.started == [(dbus_process.DEFAULT_ADDRESS, "org.keepalived.Vrrp1", "/org/keepalived/Vrrp1")]
            await dbus.follow(SERVED)
            assert first.sent == [{"signal": "VrrpReloaded"}]
            other = DbusSettings(enabled=True, service_name="org.example.Second")
            await dbus.follow(Configuration(settings=GlobalSettings(dbus=other), vrrp=SERVED.vrrp))
            assert first.closed
            second = process_of(dbus)
            assert second.started[0][1] == "org.example.Second"
            await dbus.follow(Configuration(vrrp=SERVED.vrrp))
            assert second.closed
            assert dbus._process is None

    run(scenario())


def test_without_the_library_one_line_is_the_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbus_process, "find_spec", lambda _: None)

    async def scenario() -> None:
        dbus = DbusProcess(Routers(), {})
        async with dbus.serving(SERVED):
            assert dbus.problem == NO_LIBRARY
            await dbus.follow(Configuration(vrrp=SERVED.vrrp))
            assert dbus.problem == ""

    run(scenario())


def test_the_bus_s_absence_is_a_problem_until_it_is_there() -> None:
    async def scenario() -> None:
        dbus = DbusProcess(Routers(), {})
        async with dbus.serving(SERVED):
            assert dbus.problem == ""
            dbus._receive({"bus": "No such file or directory"})
            assert dbus.problem == f"D-Bus: {dbus_process.DEFAULT_ADDRESS}: No such file or directory"
            dbus._receive({"bus": ""})
            assert dbus.problem == ""

    run(scenario())


def test_a_process_that_is_silent_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP of a real process, without a bus."""
    address = "unix:path=/nowhere/bus"
    monkeypatch.setattr(dbus_process, "ConfinedProcess", ConfinedProcess)
    monkeypatch.setenv(dbus_process.ADDRESS, address)
    no_bus = f"D-Bus: {address}: No such file or directory"

    async def scenario() -> None:
        dbus = DbusProcess(Routers(), {})
        async with dbus.serving(SERVED):
            process = dbus._process
            assert process is not None
            await until(lambda: dbus.problem)
            assert dbus.problem == no_bus
            first = process.pid
            os.kill(first, signal.SIGSTOP)
            with monkeypatch.context() as ticks:
                ticks.setattr(confined, "ALIVE_S", 0.01)  # those of the lease
                await until(lambda: process.problem)
            assert dbus.problem == f"the process that serves D-Bus has been silent for {confined.LEASE_TICKS} s"
            await until(lambda: dbus.problem == no_bus)
            assert process.pid != first

    run(scenario())


def transition(state: str, name: str = "VI_1", reports_deleted: bool = False) -> Mapping[str, Any]:
    """Return what pylvs-vrrp publishes."""
    return {"kind": "INSTANCE", "instance": name, "state": state, **AT, "reports_deleted": reports_deleted}


def test_a_status_is_read_once_a_second_however_many_transitions_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbus_process, "STATUS_AGE_S", 3600.0)

    async def scenario() -> None:
        routers = Routers()
        dbus = DbusProcess(routers, {})
        async with dbus.serving(SERVED):
            expected = {"routers": {PATH: ("VI_1", "BACKUP")}, "error": ""}
            assert await asyncio.gather(*(dbus._read_status() for _ in range(3))) == [expected] * 3
            dbus.state_changed(transition("MASTER"))
            dbus.state_changed(transition("FAULT", "of_the_same_path"))
            dbus.state_changed({"kind": "GROUP", "instance": "G", "state": "MASTER"})
            dbus.state_changed({"kind": "DROPPED", "instance": "VI_1"})
            assert (await dbus._read_status())["routers"] == {PATH: ("VI_1", "MASTER")}
            assert process_of(dbus).sent[0] == {"path": PATH, "state": "MASTER"}
            assert len(process_of(dbus).sent) == 2, "a group has no object"
            dbus.state_changed(transition("DELETED"))
            assert (await dbus._read_status())["routers"] == {}
            assert routers.reads == 1
            dbus.routers_started(0)
            assert (await dbus._read_status())["routers"] == {PATH: ("VI_1", "BACKUP")}
            assert routers.reads == 2

    run(scenario())


def test_a_transition_during_a_read_is_in_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbus_process, "STATUS_AGE_S", 3600.0)

    async def scenario() -> None:
        routers = Routers()
        dbus = DbusProcess(routers, {})
        routers.during_read = lambda: dbus.state_changed(transition("MASTER"))
        async with dbus.serving(SERVED):
            assert (await dbus._read_status())["routers"] == {PATH: ("VI_1", "MASTER")}
            assert routers.reads == 1

    run(scenario())


def test_a_status_that_was_read_during_a_reload_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbus_process, "STATUS_AGE_S", 3600.0)

    async def scenario() -> None:
        routers = Routers()
        dbus = DbusProcess(routers, {})

        def start() -> None:
            routers.during_read = lambda: None
            routers.state = "MASTER"
            dbus.routers_started(1)

        routers.during_read = start
        async with dbus.serving(SERVED):
            assert (await dbus._read_status())["routers"] == {PATH: ("VI_1", "MASTER")}
            assert routers.reads == 2

    run(scenario())


def test_virtual_routers_that_do_not_answer_are_named() -> None:
    async def scenario() -> None:
        routers = Routers()
        routers.error = "they do not answer"
        dbus = DbusProcess(routers, {})
        async with dbus.serving(SERVED):
            assert await dbus._read_status() == {"routers": {}, "error": "they do not answer"}

    run(scenario())


@pytest.mark.parametrize(("reports", "state"), [(True, "DELETED"), (False, "FAULT")])
def test_a_removed_router_ends_in_fault_unless_it_has_notify_deleted(reports: bool, state: str) -> None:
    async def scenario() -> None:
        dbus = DbusProcess(Routers(), {})
        async with dbus.serving(SERVED):
            dbus.state_changed(transition("DELETED", reports_deleted=reports))
            assert process_of(dbus).sent == [{"path": PATH, "state": state}]

    run(scenario())


def test_the_process_may_request_these_methods_only() -> None:
    executed: list[str] = []

    async def print_data() -> None:
        executed.append(PRINT_DATA)

    async def scenario() -> None:
        routers = Routers()
        dbus = DbusProcess(routers, {PRINT_DATA: print_data})
        async with dbus.serving(SERVED):
            dbus._receive({"id": 1, "method": PRINT_DATA, "name": ""})
            dbus._receive({"id": 2, "method": "SendGarp", "name": "VI_1"})
            await asyncio.gather(*dbus._executing)
            assert executed == [PRINT_DATA]
            assert routers.requests == [("garp", {"name": "VI_1"})]
            assert process_of(dbus).sent == [{"id": 1}, {"id": 2}]
            for wrong in ({"method": "stop", "name": ""}, {"method": ["x"], "name": ""}, {"method": PRINT_DATA}):
                with pytest.raises(BadMessage):
                    dbus._receive({"id": 3, **wrong})

    run(scenario())


def test_a_virtual_router_announces_its_addresses_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbus_process, "GARP_S", 3600.0)
    more = VrrpInstance(name="VI_2", interface="eth0", vrid=52)
    both = Configuration(settings=SERVED.settings, vrrp=VrrpConfiguration(instances=(*SERVED.vrrp.instances, more)))

    async def scenario() -> None:
        routers = Routers()
        dbus = DbusProcess(routers, {})
        async with dbus.serving(both):
            for number, name in enumerate(("VI_1", "VI_1", "VI_2", "none")):
                await dbus._reply(number, "SendGarp", name)
                await dbus.follow(both)
            assert routers.requests == [("garp", {"name": "VI_1"}), ("garp", {"name": "VI_2"})]
            assert [each for each in process_of(dbus).sent if "id" in each] == [
                {"id": 0},
                {"id": 1, "error": "VI_1 has announced its addresses within the last 3600 s"},
                {"id": 2},
                {"id": 3, "error": "there is no virtual router none"},
            ]

    run(scenario())


def test_requests_at_once_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbus_process, "MOST_REQUESTS", 2)

    async def scenario() -> None:
        dbus = DbusProcess(Routers(), {})
        async with dbus.serving(SERVED):
            for number in range(2):
                dbus._receive({"id": number, "method": "status", "name": ""})
            with pytest.raises(BadMessage, match="more than 2 requests at once"):
                dbus._receive({"id": 2, "method": "status", "name": ""})
            await asyncio.gather(*dbus._executing)
            dbus._receive({"id": 3, "method": "status", "name": ""})

    run(scenario())


def test_without_a_file_descriptor_the_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def sealed(content: bytes) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(channel, "sealed", sealed)

    async def scenario() -> None:
        dbus = DbusProcess(Routers(), {})
        async with dbus.serving(SERVED):
            await dbus._reply(1, "status", "")
            assert process_of(dbus).sent == [{"id": 1, "error": "[Errno 24] Too many open files"}]

    run(scenario())


def test_failures_of_messages_are_in_the_log_once(log_output: io.StringIO) -> None:
    async def scenario() -> None:
        dbus = DbusProcess(Routers(), {})
        async with dbus.serving(SERVED):
            for number in (1, 1, *range(1, 100)):
                dbus._receive({"bus": "", "failed": f"a message {number}"})

    run(scenario())
    lines = [line for line in log_output.getvalue().splitlines() if "a message" in line]
    assert len(lines) == dbus_process.MOST_FAILURES
    assert lines[0].endswith("D-Bus: a message 1")
