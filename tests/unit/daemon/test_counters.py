"""GET /v1/counters, and the objects of SNMP that have its numbers."""

from __future__ import annotations

import json
import threading
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pylvs.daemon.api import routes
from pylvs.daemon.api.counters import counters_encoded
from pylvs.health.engine import Engine
from pylvs.model.described import CheckDefaults, DescribedServer, DescribedService, Descriptions
from pylvs.model.rows import Counters, DestinationRow, Rates, ServiceRow
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey, Tunnel, VirtualService
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from pylvs.snmp.agentx import Kind, Oid, Value
from pylvs.snmp.checker_mib import SERVERS, SERVICES, ServerStatus, objects
from pylvs.system.http import server as http_server
from tests.unit.daemon.commands import ask, during
from tests.unit.daemon.daemons import FakeHost

KEYS = tuple(ServiceKey(Protocol.TCP, ip_address("192.0.2.1"), port) for port in (80, 443))
FIRST, SECOND, SORRY = (Destination(DestinationKey(ip_address(f"10.0.0.{number}"), 0)) for number in (1, 2, 9))
SERVICE = WantedService("group web tcp", KEYS, servers=(WantedServer(FIRST), WantedServer(SECOND)), sorry_server=SORRY)
CHECKS = CheckDefaults(60.0, 5.0)
DESCRIBED = DescribedService(
    "", "web", Method.ROUTE, Tunnel(), 1, False, CHECKS, (DescribedServer("", "", CHECKS),) * 2
)
LARGE = 5 << 32  # more than a counter of 32 bits


def row(key: ServiceKey, *destinations: DestinationRow) -> ServiceRow:
    return ServiceRow(VirtualService(key), destinations, Counters(LARGE, 2, 3, 4, 5), Rates(1, 2, 3, 4, LARGE + 7))


ROWS = [
    row(KEYS[0], DestinationRow(FIRST, 1, 2, 3, Counters(1, LARGE, 3, 4, 5), Rates(9, 8, 7, 6, 5))),
    row(KEYS[1], DestinationRow(FIRST, 10, 20, 30, Counters(10, 20, 30, 40, 50)), DestinationRow(SORRY, active=4)),
    row(ServiceKey(Protocol.UDP, ip_address("192.0.2.1"), 80), DestinationRow(FIRST, 100)),  # of another program
]


def status() -> ServerStatus:
    snapshots = Engine(Configuration((SERVICE,)), lambda *_: NotImplemented).snapshot()
    return ServerStatus(counters={each["name"]: dict(each) for each in counters_encoded(snapshots, ROWS)["services"]})


def test_numbers_are_summed_over_the_addresses_of_a_group() -> None:
    found = status().counters["group web tcp"]
    assert found["counters"] == {
        "connections": 2 * LARGE,
        "in_packets": 4,
        "out_packets": 6,
        "in_bytes": 8,
        "out_bytes": 10,
    }
    first, sorry = found["servers"]
    assert (first["server"], first["active"], first["inactive"], first["persistent"]) == ("10.0.0.1:0", 11, 22, 33)
    assert first["counters"]["in_packets"] == LARGE + 20
    assert first["rates"]["out_bytes"] == 5
    assert (sorry["server"], sorry["active"]) == ("10.0.0.9:0", 4)


def test_objects_have_the_numbers_in_each_width() -> None:
    configuration = Configuration((SERVICE,), described=Descriptions(services=(DESCRIBED,)))
    found = objects(configuration, status())

    def service(column: int) -> Value:
        return found[*SERVICES, column, 1]

    assert service(27) == Value(Kind.GAUGE32, 2 * LARGE)  # its low 32 bits are sent
    assert service(38) == Value(Kind.COUNTER64, 2 * LARGE)
    assert [service(column).kind for column in (28, 29, 30, 31)] == [*[Kind.COUNTER32] * 2, *[Kind.COUNTER64] * 2]
    assert [service(column).content for column in (28, 29, 30, 31)] == [4, 6, 8, 10]
    assert [service(column).content for column in (32, 33, 34, 35, 36)] == [2, 4, 6, 8, 2 * (LARGE + 7)]
    assert [service(column).content for column in (49, 50)] == [14, 10]  # low and high half
    sorry, first, absent = ((1, number) for number in (1, 2, 3))

    def server(column: int, index: Oid) -> object:
        return found[*SERVERS, column, *index].content

    assert [server(15, index) for index in (sorry, first, absent)] == [4, 11, 0]
    assert [server(column, first) for column in (14, 18, 19, 20, 21)] == [11, LARGE + 20, 33, 44, 55]
    assert [server(column, first) for column in (22, 23, 24, 25, 26)] == [9, 8, 7, 6, 5]
    assert [server(column, first) for column in (27, 28, 29)] == [11, LARGE + 20, 33]
    assert [server(column, first) for column in (30, 31, 38, 39)] == [9, 0, 5, 0]
    assert (*SERVERS, 6, *first) not in found  # no status is known


def test_the_event_loop_waits_neither_for_numbers_nor_for_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[threading.Thread] = []

    def encoded(*arguments: Any) -> Any:
        threads.append(threading.current_thread())
        return counters_encoded(*arguments)

    def line(content: Any) -> bytes:
        threads.append(threading.current_thread())
        return json.dumps(content).encode()

    monkeypatch.setattr(routes, "counters_encoded", encoded)
    monkeypatch.setattr(http_server, "json_line", line)
    host = FakeHost(tmp_path / "state")
    (reply,) = during(host, lambda: ask(host, "GET", "/v1/counters"))
    assert len(reply["services"]) == 1
    assert len(threads) == 2
    assert threading.main_thread() not in threads
