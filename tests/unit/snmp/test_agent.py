"""The sub-agent between fake connections to the daemon and a master agent that closes the session."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from threading import Thread

import pytest

from pylvs.model.wanted import Configuration
from pylvs.snmp.agent import Agent, server_traps
from pylvs.snmp.agentx import Pdu
from pylvs.snmp.checker_mib import SERVICES, Numbers, by_name
from pylvs.snmp.connections import Events
from pylvs.snmp.rfc_mib import NEW_MASTER_V2, NEW_MASTER_V3, PREEMPTED, PROTOCOL_ERROR, V3
from pylvs.snmp.session import Lost
from pylvs.vrrp.protocol.adverts import AdvertError
from pylvs.vrrp.protocol.machine import TransitionReason
from tests.unit.config.support import compiled
from tests.unit.snmp.fake_connections import FakeConnections
from tests.waiting import PATIENCE_S

HEADER = struct.Struct("!BBBxIIII")
TEXT = """
global_defs {
    enable_snmp_rfc
    enable_snmp_checker
    enable_traps
}
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    virtual_ipaddress { 192.0.2.1/24 }
}
"""
BACKUP = {"kind": "INSTANCE", "instance": "VI_1", "state": "BACKUP"}
MASTER = BACKUP | {"state": "MASTER", "source": "192.0.2.9", "master_why": TransitionReason.BETTER.value}
DROPPED = {"kind": "DROPPED", "instance": "VI_1", "flaw": AdvertError.TTL.value, "source": "192.0.2.66"}


@pytest.fixture
def configuration() -> Configuration:
    return compiled(TEXT).configuration


@pytest.fixture
def end() -> Iterator[int]:
    """Return the descriptor that is readable at the end, which does not come."""
    readable, writable = os.pipe()
    yield readable
    os.close(readable)
    os.close(writable)


def serve(end: socket.socket, messages: int) -> None:
    """Answer so many messages, then close."""
    with end:
        for _ in range(messages):
            _, _, _, _, _, packet, length = HEADER.unpack(end.recv(HEADER.size, socket.MSG_WAITALL))
            end.recv(length, socket.MSG_WAITALL)
            end.sendall(HEADER.pack(1, Pdu.RESPONSE, 0x10, 7, 0, packet, 8) + bytes(8))


def test_without_snmpd_there_is_no_subscription(configuration: Configuration, end: int) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_S)
    connections = FakeConnections(ours)
    agent = Agent(configuration, connections, end)
    thread = Thread(target=serve, args=(theirs, 1 + len(agent.subtrees())))
    thread.start()
    with pytest.raises(Lost):
        agent._serve()
    thread.join()
    subscriptions = [each for each in connections.calls if each in (("subscribe",), ("unsubscribe",))]
    assert subscriptions[0] == ("subscribe",)
    assert subscriptions[-1] == ("unsubscribe",)
    connections.close()


def test_traps_of_virtual_routers_need_no_status(
    configuration: Configuration, end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pylvs.snmp.routers.index_of", {"eth0": 2, "vrrp.51": 9}.get)
    connections = FakeConnections()
    connections.happen(Events([BACKUP, MASTER, DROPPED | {"device": "vrrp.51"}]))
    v2, v3, dropped = Agent(configuration, connections, end)._traps()
    connections.close()
    assert [each[0].value.content for each in (v2, v3, dropped)] == [NEW_MASTER_V2, NEW_MASTER_V3, PROTOCOL_ERROR]
    assert v2[1].value.content == bytes([192, 0, 2, 9])
    assert v3[2].name[-3:] == (2, 51, 1)
    assert v3[2].value.content == PREEMPTED
    assert dropped[1].name == (*V3, 1, 2, 5, 1, 6, 9, 51, 1)


def test_a_server_trap_leaves_unknown_numbers_out() -> None:
    text = "global_defs {\n enable_snmp_checker\n}\n"
    text += "virtual_server 192.0.2.1 80 {\n protocol TCP\n lvs_method DR\n real_server 10.0.0.1 80 {\n }\n}\n"
    services = by_name(compiled(text).configuration)
    (name,) = services
    event = {"event": "server_down", "service": name, "server": "10.0.0.1:80"}
    (known,) = server_traps(event, Numbers(0, 1), services, "R1")
    (unknown,) = server_traps(event, None, services, "R1")
    left_out = {each.name for each in known} - {each.name for each in unknown}
    assert left_out == {(*SERVICES, 20), (*SERVICES, 21)}
