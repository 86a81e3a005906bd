"""The SNMP sub-agent of virtual servers, between a daemon and a master agent of the test's own."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pylvs.model.described import CheckDefaults, DescribedServer, DescribedService, Descriptions
from pylvs.model.service import Method, Tunnel
from pylvs.model.wanted import Configuration, SnmpSettings
from pylvs.snmp.agentx import INTERNET, Oid, Pdu
from pylvs.snmp.checker_mib import CHECKER, QUORUM_TRAP, SERVER_TRAP, SERVERS, SERVICES, WEIGHT
from pylvs.snmp.task import AgentTask
from pylvs.system.processes.asyncio_loop import AsyncioLoop
from pylvs.system.processes.channel import Descriptor
from pylvs.system.processes.edge import Task
from tests.fake_processes import FakeEdge
from tests.unit.daemon.daemons import FakeHost, address, configuration, run, server, service, until
from tests.waiting import PATIENCE_S
from tests.waiting import until as until_sync

CHECKS = CheckDefaults(60.0, 5.0)
STATUS = 6  # column of the real servers
HEADER = struct.Struct("!BBBxIIII")


def served(path: Path) -> Configuration:
    """Return a service with two real servers, and its descriptions."""
    real_server = DescribedServer("", "", CHECKS)
    described = DescribedService("web", "", Method.ROUTE, Tunnel(), 1, False, CHECKS, (real_server, real_server))
    snmp = SnmpSettings(socket=f"unix:{path}", checker=True, traps=True)
    found = configuration(service(server(1), server(2), quorum=2, omega=True), snmp=snmp)
    return replace(found, described=Descriptions(services=(described,)))


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pylvs.snmp.timeouts.ANSWER_S", PATIENCE_S)
    monkeypatch.setattr("pylvs.snmp.task.END_S", PATIENCE_S)
    for module in ("pylvs.snmp.session", "pylvs.snmp.connections", "pylvs.daemon.snmp_task"):
        monkeypatch.setattr(f"{module}.CONNECT_TIMEOUT_S", PATIENCE_S)


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return FakeHost(tmp_path / "state")


class Master:
    """A master agent: it accepts one session, sends requests, and collects traps."""

    def __init__(self, listener: socket.socket) -> None:
        self._end, _ = listener.accept()
        self._end.settimeout(PATIENCE_S)
        self.registered: list[bytes] = []
        self.traps: list[bytes] = []
        while True:  # the last message of the start is the registration of the checker's part
            pdu, packet, payload = self.receive()
            self.send(Pdu.RESPONSE, packet, struct.pack("!IHH", 0, 0, 0))
            if pdu == Pdu.REGISTER:
                self.registered.append(payload)
                if oid(CHECKER) in payload:
                    return

    def close(self) -> None:
        self._end.close()

    def send(self, pdu: Pdu, packet: int, payload: bytes) -> None:
        self._end.sendall(HEADER.pack(1, pdu, 0x10, 7, 1, packet, len(payload)) + payload)

    def receive(self) -> tuple[int, int, bytes]:
        """Return kind, number and payload of the next message."""
        _, pdu, _, _, _, packet, length = HEADER.unpack(self._end.recv(HEADER.size, socket.MSG_WAITALL))
        return pdu, packet, self._end.recv(length, socket.MSG_WAITALL) if length else b""

    def ask(self, pdu: Pdu, payload: bytes = b"") -> bytes:
        """Return the payload of a response; keep the traps before it."""
        self.send(pdu, 99, payload)
        while True:
            kind, _, found = self.receive()
            if kind == Pdu.RESPONSE:
                return found
            self.keep(kind, found)

    def keep(self, kind: int, payload: bytes) -> None:
        if kind == Pdu.NOTIFY:
            self.traps.append(payload)

    def integer(self, name: Oid) -> int:
        """Return the value of an object."""
        found = self.ask(Pdu.GET, oid(name) + oid(()))
        return int.from_bytes(found[-4:], "big")

    def traps_named(self, name: Oid, count: int) -> list[bytes]:
        """Wait until so many traps of this name have come."""
        while len(found := [each for each in self.traps if oid(name) in each]) < count:
            self.keep(*self.receive()[::2])
        return found


def oid(value: Oid) -> bytes:
    """Return an identifier as the sub-agent sends it."""
    prefix, rest = (value[4], value[5:]) if value[:4] == INTERNET else (0, value)
    return struct.pack(f"!BBBx{len(rest)}I", len(rest), prefix, 0, *rest)


def bind(name: Oid, value: int) -> bytes:
    return struct.pack("!HH", 2, 0) + oid(name) + struct.pack("!I", value)


class AgentInThisProcess(FakeEdge):
    """The edge process, whose sub-agent runs in a thread of this one."""

    def __init__(self) -> None:
        super().__init__()
        self.agent: AgentTask | None = None

    def begin(self, task: Task) -> None:
        if self.agent is None:
            self.agent = AgentTask(AsyncioLoop(), lambda message: task.receive(json.loads(json.dumps(message))))
        super().begin(task)

    def send(self, task: Task, message: Mapping[str, Any], descriptors: Sequence[Descriptor] = ()) -> None:
        if self.agent is not None:
            self.agent.receive(json.loads(json.dumps(message)), [os.dup(each.fileno()) for each in descriptors])
        super().send(task, message, descriptors)

    async def close(self) -> None:
        if self.agent is not None:
            self.agent.close()


def test_status_weights_and_traps_of_virtual_servers(host: FakeHost, tmp_path: Path) -> None:
    host.file = replace(host.file, configuration=served(tmp_path / "agentx"))
    host.edge = AgentInThisProcess()
    first, second = (1, 1), (1, 2)

    def play(listener: socket.socket) -> None:
        master = Master(listener)
        with closing(master):
            assert len(master.registered) == 2  # the global part, too
            assert master.integer((*SERVERS, STATUS, *second)) == 1
            assert master.integer((*SERVICES, 21, 1)) == 2
            assert master.ask(Pdu.TEST_SET, bind((*WEIGHT, *first), 5))[4:8] == bytes(4)
            assert host.table()[str(service().keys[0])][str(address(1))] == 1
            assert master.ask(Pdu.COMMIT_SET)[4:8] == bytes(4)
            assert master.integer((*WEIGHT, *first)) == 5
            until_sync(lambda: host.table()[str(service().keys[0])][str(address(1))] == 5)
            master.send(Pdu.CLEANUP_SET, 100, b"")
            master.traps.clear()
            host.dead.add(ip_address(address(2)))
            (down,) = master.traps_named(SERVER_TRAP, 1)
            assert address(2).packed in down
            assert bind((*SERVERS, STATUS), 2) in down
            host.dead.clear()
            _, up = master.traps_named(SERVER_TRAP, 2)
            assert bind((*SERVERS, STATUS), 1) in up

    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "agentx"))
            listener.listen()
            listener.settimeout(PATIENCE_S)
            async with host.daemon():
                await until(lambda: host.servers() == {str(address(1)), str(address(2))})
                await asyncio.to_thread(play, listener)

    run(scenario())


def test_the_traps_of_the_end_are_sent_before_the_sub_agent_ends(host: FakeHost, tmp_path: Path) -> None:
    host.file = replace(host.file, configuration=served(tmp_path / "agentx"))
    host.edge = AgentInThisProcess()

    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "agentx"))
            listener.listen()
            listener.settimeout(PATIENCE_S)
            async with host.daemon() as daemon:
                master = await asyncio.to_thread(Master, listener)
                with closing(master):
                    assert await asyncio.to_thread(master.integer, (*SERVICES, 23, 1)) == 1
                    daemon.stop()
                    (shutdown,) = await asyncio.to_thread(master.traps_named, QUORUM_TRAP, 1)
                    assert bind((*SERVICES, 23), 3) in shutdown

    run(scenario())
