"""VRRP-MIB and VRRPV3-MIB: which virtual routers they have, indices of IPv6, reasons, and traps of dropped packets.

`tests/interop/test_snmp.py` compares the objects and the traps of a new master with keepalived's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from pylvs.model.wanted import Configuration
from pylvs.snmp.agent import router_traps
from pylvs.snmp.agentx import Kind, Value, VarBind
from pylvs.snmp.keepalived_mib import RouterStatus
from pylvs.snmp.rfc_mib import AUTH_FAILURE, PROTOCOL_ERROR, V2, V3, objects_v2, objects_v3
from pylvs.snmp.values import TRAP_NAME
from pylvs.vrrp.protocol.adverts import AdvertError
from pylvs.vrrp.protocol.machine import TransitionReason
from tests.unit.config.support import compiled

TEXT = """
global_defs {
    enable_snmp_rfc
    enable_traps
}
vrrp_sync_group G {
    group { OLD NEW }
}
vrrp_instance OLD {
    interface eth0
    virtual_router_id 51
    virtual_ipaddress { 192.0.2.1/24 }
}
vrrp_instance NEW {
    interface eth1
    version 3
    virtual_router_id 52
    virtual_ipaddress { 2001:db8::1/64 }
}
vrrp_instance EMPTY {
    interface eth1
    version 3
    virtual_router_id 53
}
"""
INDICES = {"eth0": 2, "eth1": 3, "vrrp.51": 9}
OLD, NEW = (2, 51), (3, 52, 2)


@pytest.fixture
def configuration() -> Configuration:
    return compiled(TEXT).configuration


def status(**more: Mapping[str, Any]) -> RouterStatus:
    """Return a status with more fields for some instances; OLD has a VMAC."""
    instances = {
        name: {"state": "MASTER", "source": source, "master": source, "group": "G", "tracks": []}
        | dict(more.get(name, {}))
        for name, source in (("OLD", "192.0.2.11"), ("NEW", "fe80::11"))
    }
    return RouterStatus(
        instances,
        devices={"OLD": "vrrp.51"},
        index_of=lambda name: INDICES.get(name, 0),
        link_address_of=lambda name: b"vmac!!" if name == "vrrp.51" else b"",
        now=1000.0,
    )


def test_each_mib_has_its_virtual_routers(configuration: Configuration) -> None:
    of_v2, of_v3 = objects_v2(configuration, status()), objects_v3(configuration, status())
    assert {name[-2:] for name in of_v2 if name[: len(V2) + 4] == (*V2, 1, 3, 1, 3)} == {OLD}
    assert {name[len(V3) + 5 :] for name in of_v3 if name[: len(V3) + 5] == (*V3, 1, 1, 1, 1, 6)} == {(*OLD, 1), NEW}
    assert of_v2[*V2, 1, 3, 1, 2, *OLD] == Value(Kind.OCTETS, b"vmac!!")
    address = ip_address("2001:db8::1").packed
    assert of_v3[*V3, 1, 1, 2, 1, 2, *NEW, *address] == Value(Kind.INTEGER, 1)
    assert of_v2[*V2, 1, 4, 1, 2, *OLD, 192, 0, 2, 1] == Value(Kind.INTEGER, 1)
    assert of_v3[*V3, 1, 1, 1, 1, 3, *NEW] == Value(Kind.OCTETS, ip_address("fe80::11").packed)


def test_a_virtual_router_without_a_status_has_the_state_initialize(configuration: Configuration) -> None:
    found = objects_v3(configuration, RouterStatus(index_of=lambda name: INDICES.get(name, 0)))
    assert found[*V3, 1, 1, 1, 1, 6, *NEW] == Value(Kind.INTEGER, 1)
    assert found[*V3, 1, 1, 1, 1, 12, *NEW] == Value(Kind.TIME_TICKS, 0)
    assert found[*V3, 1, 2, 5, 1, 2, *NEW] == Value(Kind.INTEGER, 0)


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("", 0),
        (TransitionReason.RELEASED.value, 1),
        (TransitionReason.BETTER.value, 2),
        (TransitionReason.OWNER.value, 2),
        (TransitionReason.TIMER.value, 3),
    ],
)
def test_why_it_became_master(configuration: Configuration, why: str, reason: int) -> None:
    found = objects_v3(configuration, status(NEW={"master_why": why}))
    assert found[*V3, 1, 2, 5, 1, 2, *NEW] == Value(Kind.INTEGER, reason)


def test_counters_and_the_time_since_initialize(configuration: Configuration) -> None:
    dropped = {each.value: at for at, each in enumerate(AdvertError, 1)}
    counters = {"became_master": 3, "received": 4, "zero_received": 5, "zero_sent": 6, "dropped": dropped}
    more = {"counters": counters, "initialized_at": 990.5, "last_error": AdvertError.CHECKSUM.value}
    found = objects_v3(configuration, replace(status(NEW=more), unknown=8))
    statistics = {number: found[*V3, 1, 2, 5, 1, number, *NEW].content for number in range(1, 14)}
    of = {each: dropped[each.value] for each in AdvertError}
    assert statistics == {
        1: 3,
        2: 0,
        3: 4,
        4: of[AdvertError.INTERVAL],
        5: of[AdvertError.TTL],
        6: 3,
        7: 5,
        8: 6,
        9: of[AdvertError.TYPE],
        10: of[AdvertError.DESTINATION],
        11: of[AdvertError.TRUNCATED] + of[AdvertError.TRAILING],
        12: 0,
        13: 1000,
    }
    assert found[*V3, 1, 1, 1, 1, 12, *NEW] == Value(Kind.TIME_TICKS, 950)
    assert found[*V3, 1, 2, 3, 0] == Value(Kind.COUNTER64, 8)


def test_the_uptime_of_vrrp_mib_is_sysuptime_when_it_left_initialize(configuration: Configuration) -> None:
    name = (*V2, 1, 3, 1, 13, *OLD)
    since = status(OLD={"initialized_at": 990.5})
    assert objects_v2(configuration, since, 980.0)[name] == Value(Kind.TIME_TICKS, 1050)
    assert objects_v2(configuration, since, 995.0)[name] == Value(Kind.TIME_TICKS, 0)  # before snmpd started
    assert objects_v2(configuration, status(), 980.0)[name] == Value(Kind.TIME_TICKS, 0)


def test_a_dropped_advertisement_sends_the_traps_of_its_error(configuration: Configuration) -> None:
    def traps(name: str, error: AdvertError) -> list[list[VarBind]]:
        event = {"kind": "DROPPED", "instance": name, "flaw": error.value, "source": "192.0.2.66"}
        return list(router_traps(event, configuration, status()))

    assert traps("OLD", AdvertError.PASSWORD) == [
        [
            VarBind(TRAP_NAME, Value(Kind.OID, AUTH_FAILURE)),
            VarBind((*V2, 1, 5, 9, 51), Value(Kind.ADDRESS, bytes([192, 0, 2, 66]))),
            VarBind((*V2, 1, 6, 9, 51), Value(Kind.INTEGER, 3)),
        ]
    ]
    assert traps("NEW", AdvertError.TTL) == [
        [
            VarBind(TRAP_NAME, Value(Kind.OID, PROTOCOL_ERROR)),
            VarBind((*V3, 1, 2, 5, 1, 6, *NEW), Value(Kind.INTEGER, 1)),
        ]
    ]
    assert traps("NEW", AdvertError.PASSWORD) == []
    assert traps("EMPTY", AdvertError.TTL) == []
    assert traps("OLD", AdvertError.SOURCE) == []


def test_a_new_master_sends_the_traps_of_the_enabled_mibs(configuration: Configuration) -> None:
    def names(state: str, **settings: Any) -> list[object]:
        snmp = replace(configuration.settings.snmp, **settings)
        changed = replace(configuration, settings=replace(configuration.settings, snmp=snmp))
        event = {"kind": "INSTANCE", "instance": "OLD", "state": state}
        return [each[0].value.content for each in router_traps(event, changed, status())]

    v2, v3 = (*V2, 0, 1), (*V3, 0, 1)
    assert names("MASTER") == [v2, v3]
    assert names("MASTER", rfc_v2=False) == [v3]
    assert names("MASTER", rfc_v3=False) == [v2]
    assert names("BACKUP") == []
