"""The daemon's end of the SNMP sub-agent: what it gets, what it may request, and which events are passed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pylvs.daemon.snmp_task import MOST_REQUESTS, SnmpTask
from pylvs.health.events import QuorumLost, ServerDown, ServerUp
from pylvs.model.errors import PylvsError
from pylvs.model.plain import from_plain
from pylvs.model.wanted import Configuration, GlobalSettings, SnmpSettings
from pylvs.system.processes.channel import BadMessage
from pylvs.system.processes.child import Child
from pylvs.vrrp.ipc import NoRouters
from tests.fake_processes import FakeEdge
from tests.unit.config.support import compiled
from tests.unit.daemon.daemons import FakeHost, address, run, server, service, until

TEXT = """
global_defs {
    enable_snmp_vrrp
}
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    authentication {
        auth_type PASS
        auth_pass hunter22
    }
    virtual_ipaddress { 192.0.2.1/24 }
}
virtual_server 192.0.2.1 80 {
    lvs_method DR
    real_server 10.0.0.1 80 {
        HTTP_GET {
            url {
                path /hunter22
                status_code 200
            }
        }
    }
}
"""
SERVER = server(1).destination.key
BACKUP = {"kind": "INSTANCE", "instance": "VI_1", "state": "BACKUP"}


class Routers:
    """Virtual routers with one answer."""

    answer: Mapping[str, Any] | PylvsError = NoRouters("none run here")

    async def request(self, _verb: str, **_fields: Any) -> Any:
        if isinstance(self.answer, PylvsError):
            raise self.answer
        return self.answer


def enabled(socket: str = "", **more: bool) -> Configuration:
    snmp = SnmpSettings(socket=f"unix:{socket}", vrrp=True, checker=True, traps=True, **more)
    return Configuration(settings=GlobalSettings(snmp=snmp))


async def task_of(configuration: Configuration, daemon: Any = None) -> tuple[SnmpTask, FakeEdge]:
    """Return a task that has sent its configuration."""
    edge = FakeEdge()
    task = SnmpTask(edge, daemon)
    await task.apply(configuration)
    await until(lambda: edge.files)
    return task, edge


def test_the_task_follows_the_configuration() -> None:
    async def scenario() -> None:
        task, edge = await task_of(enabled("/a"))
        await task.apply(enabled("/a"))
        assert edge.begun == ["snmp"]
        await task.apply(enabled("/b"))
        await until(lambda: len(edge.files) == 2)
        await task.apply(Configuration())
        assert (edge.begun, edge.ended) == (["snmp", "snmp"], ["snmp"])
        found = [from_plain(Configuration, json.loads(each)) for each in edge.files]
        assert [each.settings.snmp.socket for each in found] == ["unix:/a", "unix:/b"]
        assert found[0].settings.router_id, "a resolver in the sub-agent could block"

    run(scenario())


def test_the_task_gets_no_secret() -> None:
    given = compiled(TEXT).configuration
    assert given.vrrp.instances[0].password == b"hunter22"

    async def scenario() -> None:
        _, edge = await task_of(given)
        (content,) = edge.files
        assert b"VI_1" in content
        assert b"hunter22" not in content
        assert b"hunter22".hex().encode() not in content

    run(scenario())


@pytest.mark.parametrize(
    "message",
    [
        {"id": 1},
        {"id": 1, "method": "stop"},
        {"id": "1", "method": "routers"},
        {"id": 1, "method": ["routers"]},
        {"id": 1, "method": "set_weight", "service": "web", "server": "10.0.0.1:80"} | {"weight": True},
        {"id": 1, "method": "set_weight", "service": "web", "server": "10.0.0.1:80"} | {"weight": -1},
        {"id": 1, "method": "set_weight", "service": "web", "server": "10.0.0.1:80"} | {"weight": 1 << 31},
        {"id": 1, "method": "set_weight", "service": 1, "server": "10.0.0.1:80", "weight": 1},
    ],
)
def test_any_other_message_is_invalid(message: dict[str, Any]) -> None:
    async def scenario() -> None:
        task, edge = await task_of(enabled())
        with pytest.raises(BadMessage):
            task.receive(message)
        assert edge.sent == [{"configuration": True}]

    run(scenario())


def test_requests_at_once_are_limited() -> None:
    async def scenario() -> None:
        task, edge = await task_of(enabled(), SimpleNamespace(routers=Routers()))
        for number in range(MOST_REQUESTS):
            task.receive({"id": number, "method": "routers"})
        with pytest.raises(BadMessage, match="more than 8 requests at once"):
            task.receive({"id": MOST_REQUESTS, "method": "routers"})
        await asyncio.gather(*task._executing)
        assert len(edge.sent) == 1 + MOST_REQUESTS

    run(scenario())


def test_no_file_is_made_while_the_process_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in an attacker's hands would fill the daemon with replies, each of the size of the table."""

    async def scenario() -> None:
        task, edge = await task_of(enabled(), SimpleNamespace(routers=Routers()))
        monkeypatch.setattr(Child, "waits", True)
        task.receive({"id": 1, "method": "services"})
        await asyncio.gather(*task._executing)
        assert edge.sent[1:] == [{"id": 1, "error": "it has not read former replies"}]

    run(scenario())


def test_a_status_is_a_file_and_its_absence_a_reply(tmp_path: Path) -> None:
    async def scenario() -> None:
        daemon = SimpleNamespace(routers=Routers())
        task, edge = await task_of(enabled(str(tmp_path / "none")), daemon)
        known = {"instances": [{"name": "VI_1", "device": "eth0"}], "groups": [], "unknown_vrids": []}
        answers: list[Any] = [known | {"process": {}}, NoRouters("none run here"), PylvsError("it does not answer")]
        for answer in answers:
            daemon.routers.answer = answer
            task.receive({"id": 7, "method": "routers"})
            await asyncio.gather(*task._executing)
        task.receive({"id": 8, "method": "master"})
        await asyncio.gather(*task._executing)
        assert edge.sent[1:] == [
            {"id": 7},
            {"id": 7, "absent": True, "error": "none run here"},
            {"id": 7, "error": "it does not answer"},
            {"id": 8, "error": "[Errno 2] No such file or directory"},
        ]
        assert json.loads(edge.files[1])["instances"] == [{"name": "VI_1", "device": "eth0"}]

    run(scenario())


def test_events_are_passed_while_there_is_a_session(tmp_path: Path) -> None:
    host = FakeHost(tmp_path / "state")

    async def scenario() -> None:
        async with host.daemon() as daemon:
            await until(lambda: host.servers() == {str(address(1)), str(address(2))})
            name = service(server(1)).name
            down = ServerDown(at=1.0, service=name, reason="", server=SERVER)
            task, edge = await task_of(enabled(), daemon)
            task.happened(down)
            task.router_changed(BACKUP)
            assert len(edge.sent) == 1
            task.receive({"subscribe": True})
            task.happened(down)
            task.happened(QuorumLost(at=1.0, service=name, reason="", quorum=2, hysteresis=0, weight=1))
            task.happened(ServerUp(at=1.0, service=name, reason="", server=SERVER, weight=1))
            numbers = [[up, total] for message in edge.sent[1:] for _, up, total in message["servers"]]
            assert numbers == [[1, 2], [1, 2], [2, 2]]
            task.router_changed(BACKUP)
            assert edge.sent[-1] == {"routers": [BACKUP]}
            task.down()
            task.happened(down)
            assert "routers" in edge.sent[-1]

    run(scenario())


def test_services_and_weights_are_replies_of_the_api() -> None:
    asked: list[tuple[str, Mapping[str, Any]]] = []

    async def reply(path: str, given: Mapping[str, Any]) -> bytes:
        asked.append((path, given))
        if path == "/v1/counters":
            raise PylvsError("the table was not read")
        return b'{"services": []}'

    async def scenario() -> None:
        task, edge = await task_of(enabled(), SimpleNamespace(reply=reply))
        weight = {"service": "web", "server": "10.0.0.1:80", "weight": None}
        for message in ({"method": "services"}, {"method": "counters"}, {"method": "set_weight", **weight}):
            task.receive({"id": 1, **message})
            await asyncio.gather(*task._executing)
        assert asked == [("/v1/services", {}), ("/v1/counters", {}), ("/v1/weight", {**weight, "wait": False})]
        assert edge.sent[1:] == [{"id": 1}, {"id": 1, "error": "the table was not read"}, {"id": 1}]
        assert edge.files[1:] == [b'{"services": []}'] * 2

    run(scenario())
