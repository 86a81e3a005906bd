"""The objects and traps of virtual servers beside those of the real keepalived, whose checker runs on the real IPVS.

Both have the same configuration, and the same real server stops and starts. The engine runs in simulated time;
keepalived and snmpd run in user-mode Linux. What they answered is recorded; `./dev test-all` runs them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read_text
from pylvs.daemon.api.counters import counters_encoded
from pylvs.daemon.api.encoding import service_encoded
from pylvs.daemon.notifications import encode_event
from pylvs.daemon.snmp_task import EVENTS
from pylvs.health.engine import Engine
from pylvs.health.events import Event
from pylvs.health.probes import Outcome, Probe
from pylvs.model.checks import Check, TcpCheck
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from pylvs.snmp.agent import server_traps
from pylvs.snmp.agentx import Kind, Oid, Value, VarBind
from pylvs.snmp.checker_mib import CHECKER, Numbers, ServerStatus, by_name, objects
from tests import ledger
from tests.conformance.recorded import answer
from tests.conformance.script import in_guest, why_no_guest
from tests.interop import keepalived
from tests.unit.health.clock import FakeTimeLoop

SCRIPT = Path(__file__).with_name("snmp_in_guest.py")
CONFIGURATION = """
global_defs {
    router_id R1
    script_user root
    snmp_socket unix:/tmp/agentx
    enable_snmp_checker
    enable_traps
    smtp_alert no
    lvs_timeouts tcp 100 udp 7
}
virtual_server_group web {
    10.0.0.100 80
    fwmark 9
    10.0.0.101-103 80
}
virtual_server_group other {
    fwmark 11
}
virtual_server 10.0.0.90 80 {
    delay_loop 2
    lb_algo sh
    lb_kind NAT
    sh-port
    protocol TCP
    persistence_timeout 50
    persistence_granularity 255.255.255.0
    quorum 3
    quorum_up "/usr/bin/true up"
    quorum_down "/usr/bin/true down"
    virtualhost example.com
    snmp_name first
    retry 1
    delay_before_retry 0.5
    omega
    sorry_server 10.0.0.9 80
    real_server 10.0.0.1 8001 {
        weight 2
        uthreshold 500
        lthreshold 20
        notify_up "/usr/bin/true a"
        notify_down "/usr/bin/true b"
        snmp_name one
        virtualhost one.example.com
        warmup 1.5
        connect_timeout 2.25
        TCP_CHECK {
        }
    }
    real_server 10.0.0.2 8002 {
        inhibit_on_failure
        smtp_alert
        TCP_CHECK {
            retry 0
        }
    }
    real_server 10.0.0.3 8003 {
        weight 0
        delay_loop 1
    }
}
virtual_server fwmark 7 {
    lb_algo wrr
    lb_kind TUN type gue port 6080 csum
    weight 3
    alpha
    real_server 10.0.0.5 {
    }
    real_server 10.0.0.6 {
        lvs_method TUN type gre csum
    }
    real_server 10.0.0.7 {
        lvs_method TUN
    }
}
virtual_server group web {
    lb_algo mh
    lb_kind DR
    mh-fallback
    protocol TCP
    inhibit_on_failure
    real_server 10.0.0.4 80 {
        weight 4
    }
}
virtual_server group other {
    lb_algo nq
    lb_kind DR
    real_server 10.0.0.4 {
    }
}
virtual_server 2001:db8::1 53 {
    lb_algo lblcr
    lb_kind DR
    protocol UDP
    ops
    flag-3
    ha_suspend
    persistence_timeout
    persistence_granularity 64
    real_server 2001:db8::2 53 {
    }
}
virtual_server 10.0.0.91 5060 {
    lb_algo fo
    protocol SCTP
    real_server 10.0.0.8 5060 {
    }
}
"""
ADDRESSES = [f"10.0.0.{number}/32" for number in (1, 2, 3, 4, 8, 90, 91)] + ["2001:db8::1/128"]
BOTH = {"10.0.0.1:8001", "10.0.0.2:8002"}
STOPPED = "10.0.0.2:8002"
ROOT = "." + ".".join(map(str, CHECKER))
SETTLED_S = 120  # of simulated time after each step
# keepalived shows the prefix length of IPv6 also for marks and groups of IPv4.
OTHER = {f"{ROOT}.3.1.51.{number}" for number in (2, 3, 4)}
NUMBER_TYPES = {
    Kind.INTEGER: "INTEGER",
    Kind.GAUGE32: "Gauge32",
    Kind.COUNTER32: "Counter32",
    Kind.COUNTER64: "Counter64",
}
TAGS = {Kind.INTEGER: 0x02, Kind.OCTETS: 0x04, Kind.OID: 0x06, Kind.GAUGE32: 0x42}


class Ours:
    """The engine, with planned servers."""

    def __init__(self) -> None:
        document, findings = read_text(CONFIGURATION)
        assert not findings
        self.configuration: Configuration = compile_document(document).configuration
        self.listening = set(BOTH)
        self.events: list[Event] = []
        self.loop = FakeTimeLoop()
        self.engine = Engine(self.configuration, self.probe_of)
        self.engine.on_event(self.events.append)
        self.loop.call_soon(self.engine.start)
        self.loop.pass_(SETTLED_S)
        self.up = {(each.service, str(each.server)): each.up for each in self.servers()}

    def servers(self) -> Iterator[Any]:
        return (server for service in self.engine.snapshot() for server in service.servers)

    def close(self) -> None:
        self.loop.run_until_complete(self.engine.close())
        self.loop.close()

    def probe_of(self, check: Check, service: WantedService, server: WantedServer) -> Probe:
        async def probe() -> Outcome:
            await asyncio.sleep(0.001)
            assert isinstance(check, TcpCheck)
            return Outcome(str(check.target) in self.listening, "listens or not")

        return probe

    def walk(self) -> dict[str, str]:
        """Return the objects as snmpwalk prints them."""
        snapshots = self.engine.snapshot()
        services = {each.name: dict(service_encoded(each, {})) for each in snapshots}
        counters = {each["name"]: dict(each) for each in counters_encoded(snapshots, ())["services"]}
        found = objects(self.configuration, ServerStatus(services, counters))
        return {"." + ".".join(map(str, name)): printed(value) for name, value in found.items()}

    def step(self, listening: set[str]) -> list[list[VarBind]]:
        """Let these servers listen; return the traps."""
        self.listening = listening
        self.events.clear()
        self.loop.pass_(SETTLED_S)
        return list(self.traps())

    def traps(self) -> Iterator[list[VarBind]]:
        for published in self.events:
            if not isinstance(published, EVENTS):
                continue
            event = encode_event(published)
            if "server" in event:
                self.up[event["service"], event["server"]] = event["event"] == "server_up"
            of_service = [up for (service, _), up in self.up.items() if service == event["service"]]
            yield from server_traps(event, Numbers(sum(of_service), len(of_service)), by_name(self.configuration), "R1")


def printed(value: Value) -> str:
    """Return a value as `snmpwalk -Ox` prints it."""
    if value.kind is Kind.OCTETS:
        assert isinstance(value.content, bytes)
        return f"Hex-STRING: {value.content.hex(' ').upper()}" if value.content else '""'
    assert isinstance(value.content, int)
    return f"{NUMBER_TYPES[value.kind]}: {value.content}"


def variables(trap: str) -> list[tuple[Oid, int, object]]:
    """Return the variables of an SNMPv2 trap in BER (RFC 3417), without the time: name, tag, and value."""
    _, message, _ = element(bytes.fromhex(trap), 0)
    _, pdu, _ = list(elements(message))[2]
    *_, (_, binds, _) = elements(pdu)
    found = []
    for _, bind, _ in elements(binds):
        (_, name, _), (tag, content, _) = elements(bind)
        value: object = content
        if tag in (0x02, 0x42):
            value = int.from_bytes(content, "big", signed=tag == 0x02)
        elif tag == 0x06:
            value = identifier(content)
        found.append((identifier(name), tag, value))
    return found[1:]


def element(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Return tag and content of the element at this offset, and the offset behind it."""
    tag, length, at = data[at], data[at + 1], at + 2
    if length & 0x80:
        octets = length & 0x7F
        length, at = int.from_bytes(data[at : at + octets], "big"), at + octets
    return tag, data[at : at + length], at + length


def elements(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    at = 0
    while at < len(data):
        found = element(data, at)
        yield found
        at = found[2]


def identifier(content: bytes) -> Oid:
    parts, number = [content[0] // 40, content[0] % 40], 0
    for octet in content[1:]:
        number = number << 7 | octet & 0x7F
        if not octet & 0x80:
            parts.append(number)
            number = 0
    return tuple(parts)


def sent(binds: list[VarBind]) -> list[tuple[Oid, int, object]]:
    return [(each.name, TAGS[each.value.kind], each.value.content) for each in binds]


def differences(theirs: dict[str, str], ours: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    """Return the objects that differ, without those of OTHER."""
    return {
        name: (theirs.get(name), ours.get(name))
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name) and name not in OTHER
    }


@pytest.mark.timeout(3600)  # four boots of 800 s, if each of them dies
def test_objects_and_traps_are_those_of_keepalived() -> None:
    weight = f"{ROOT}.4.1.7.1.3"  # the sorry server is the first row
    given = {
        "root": ROOT,
        "addresses": ADDRESSES,
        "configuration": CONFIGURATION,
        "listening": sorted(BOTH),
        "ready": {
            f"{ROOT}.4.1.6.1.2": "INTEGER: 1",
            f"{ROOT}.4.1.6.1.3": "INTEGER: 1",
            f"{ROOT}.3.1.23.1": "INTEGER: 1",
        },
        "down": STOPPED,
        "after": {f"{ROOT}.4.1.6.1.3": "INTEGER: 2", f"{ROOT}.3.1.23.1": "INTEGER: 2"},
        "set": [[weight, "i", "261"], [weight, "s", "x"], [f"{ROOT}.4.1.10.1.3", "i", "1"]],
    }
    ours = Ours()
    try:
        first = ours.walk()
        down = ours.step(BOTH - {STOPPED})
        second = ours.walk()
        up = ours.step(BOTH)
        ours.engine.set_weight(ours.configuration.services[0].servers[1].destination.key, 5)
        third = ours.walk()
    finally:
        ours.close()

    def live() -> Any:
        found = in_guest(SCRIPT, given | {"traps": {"down": len(down), "up": len(up)}})
        for reason in found.pop("failed"):
            ledger.record("snmpwalk of keepalived in a guest", reason, 0.0)
        return found

    theirs = answer("checker_mib", given, live, why_no_guest("snmpd") or keepalived.why_not())
    assert len(first) > 300
    for their_walk, our_walk in zip(theirs["walks"], (first, second, third), strict=True):
        if found := differences(their_walk, our_walk):
            pytest.fail("\n".join(f"{name}: {values}" for name, values in found.items()) + theirs["log"], pytrace=False)
    assert [variables(each) for each in theirs["down"]] == list(map(sent, down))
    assert [variables(each) for each in theirs["up"]] == list(map(sent, up))
    assert theirs["more"] == []
    assert f"{weight} = INTEGER: 261" in theirs["set"][0]
    assert third[weight] == "INTEGER: 5"  # keepalived's too: it keeps the lowest eight bits
