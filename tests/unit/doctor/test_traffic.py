"""The doctor's findings about traffic: connections, counters, drop reasons, use of the table."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from itertools import count

import pytest

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Severity, diagnosis
from pylvs.doctor.probes.table import of_rows
from pylvs.doctor.probes.traffic import answering, beside_servers, of_connections, of_counters, of_growth, of_use
from pylvs.model.dataclass import replace
from pylvs.model.director import Connection
from pylvs.model.rows import Counters, DestinationRow, ServiceRow, TableUse
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    VirtualService,
)
from pylvs.model.settings import SETTINGS

KEY = ServiceKey(Protocol.TCP, ip_address("192.0.2.1"), 80)
SERVERS = ip_address("198.51.100.1"), ip_address("198.51.100.2")
CLIENT = ip_address("203.0.113.1")
DEFAULTS = {name: setting.default for name, setting in SETTINGS.items()}
_ports = count(10000)


def row(scheduler: str = "rr", flags: ServiceFlag = ServiceFlag(0), method: Method = Method.ROUTE) -> ServiceRow:
    """Return a service with two servers."""
    destinations = (DestinationRow(Destination(DestinationKey(each, 80), method)) for each in SERVERS)
    return ServiceRow(VirtualService(KEY, scheduler, flags, 300 if flags else 0), tuple(destinations))


def connection(server: int, state: str, expires_s: int, client: int = 1) -> Connection:
    """Return a connection to a server; `client` is the last part of its address."""
    ends = ip_address(f"203.0.113.{client}"), next(_ports), KEY.address, KEY.port, SERVERS[server - 1], 80
    return Connection(KEY.protocol, state, expires_s, *ends)


def ids(service: ServiceRow, *sample: Connection) -> list[str]:
    return [each.id for each in of_connections([service], sample, Timeouts())]


WAITING = [connection(2, "SYN_RECV", 57 - number) for number in range(4)]


def test_a_server_that_completes_no_connection_is_named() -> None:
    """Those of the other server are complete."""
    (found,) = of_connections([row()], [*WAITING, connection(1, "FIN_WAIT", 118)], Timeouts())
    assert (found.id, found.symptom) == ("handshake_incomplete", True)
    assert str(SERVERS[1]) in found.title


def test_a_server_that_has_completed_one_since_is_healthy_again() -> None:
    """The connections that failed before stay in the table for a minute."""
    assert ids(row(), *WAITING, connection(2, "FIN_WAIT", 119)) == []
    assert ids(row(), *WAITING, connection(2, "ESTABLISHED", 899)) == []
    assert ids(row(), *WAITING, connection(2, "FIN_WAIT", 60)) == ["handshake_incomplete"]


def test_a_failure_without_a_newer_attempt_has_its_age() -> None:
    """It may have been mended: no client has tried since."""
    past = [connection(2, "SYN_RECV", 60 - age) for age in (9, 11, 14)]
    (old,) = of_connections([row()], past, Timeouts())
    assert (old.severity, "until 9 s ago" in old.title) == (Severity.WARNING, True)
    (now,) = of_connections([row()], [*past, *WAITING], Timeouts())
    assert (now.severity, "the newest for 3 s" in now.evidence) == (Severity.ERROR, True)


def test_attempts_of_a_minute_ago_and_single_ones_do_not_count() -> None:
    """A client may have given up; others scan ports."""
    assert ids(row(), *(connection(2, "SYN_RECV", 20) for _ in range(9))) == []
    assert ids(row(), *WAITING[:2]) == []


@pytest.mark.parametrize(
    ("completed_s", "waiting_s", "answers"),
    [
        (1, [], True),
        (1, [0], True),  # a handshake in flight
        (1, [0, 1], True),
        (3, [2], False),  # it had time for an answer, and began after the last completed one
        (2, [5], True),
        (4, [], False),
    ],
)
def test_a_server_answers_clients_although_a_syn_is_in_flight(
    completed_s: int, waiting_s: list[int], answers: bool
) -> None:
    """With little traffic the last completed connection is often a second old."""

    class Director:
        def timeouts(self) -> Timeouts:
            return Timeouts()

        def connections_apart(self) -> list[Connection]:
            waiting = [connection(1, "SYN_RECV", 60 - age_s) for age_s in waiting_s]
            return [connection(1, "FIN_WAIT", 120 - completed_s), *waiting]

    facts = Facts()
    facts.__dict__["director"] = Director()
    assert answering(facts) == ({SERVERS[0]} if answers else set())


@pytest.mark.parametrize(
    ("service", "found"),
    [
        (row("sh"), ["one_client_address"]),
        (row("mh"), ["one_client_address"]),
        (row("sh", ServiceFlag.SCHED_2), []),
        (row("rr", ServiceFlag.PERSISTENT), ["one_client_address"]),
        (row("rr"), []),
    ],
)
def test_a_choice_by_the_client_needs_several_clients(service: ServiceRow, found: list[str]) -> None:
    """Hundred connections of one address are those of a proxy."""
    sample = [connection(1, "FIN_WAIT", 100) for _ in range(120)]
    assert ids(service, *sample) == found
    assert ids(service, *sample[:50]) == []
    assert ids(service, *sample, *(connection(1, "FIN_WAIT", 100, client) for client in range(2, 50))) == []


def test_a_server_of_nat_whose_replies_pass_elsewhere() -> None:
    """With direct routing no reply passes."""
    silent = Counters(connections=5, in_packets=9)
    for method, found in ((Method.MASQ, 2), (Method.ROUTE, 0)):
        rows = [replace(each, counters=silent) for each in row(method=method).destinations]
        assert len(list(of_counters([replace(row(), destinations=tuple(rows))]))) == found


def test_a_drop_that_continues_is_named() -> None:
    """Only what counts now; a count of long ago does not matter."""
    (found,) = of_growth({"no route": 5, "unavailable": 1, "to tc": 1000}, DEFAULTS)
    assert found.title.endswith("no route")
    assert found.symptom


def test_the_setting_that_ends_connections_of_deleted_servers() -> None:
    """It is a cause unless it is set already."""
    (found,) = of_growth({"unavailable": 9}, DEFAULTS)
    assert (found.symptom, found.fix_command) == (False, "pylvs sysctl -w net.ipv4.vs.expire_nodest_conn=1")
    (found,) = of_growth({"unavailable": 9}, DEFAULTS | {"expire_nodest_conn": 1})
    assert (found.symptom, found.fix_command) == (True, None)


def test_a_service_without_servers_explains_its_refusals() -> None:
    """Its cause is the only finding."""
    empty = ServiceRow(VirtualService(KEY))
    found = diagnosis([*of_rows([empty]), *of_growth({"no destination": 9}, DEFAULTS)])
    assert [each.id for each in found] == ["service_empty"]


@pytest.mark.parametrize(
    ("use", "found"),
    [
        (TableUse(1024, 1000, 0), []),
        (TableUse(1 << 20, 4000, 3900), ["half_open"]),
        (TableUse(1 << 20, 400, 390), []),
    ],
)
def test_a_table_of_half_open_connections(use: TableUse, found: list[str]) -> None:
    """A few of them are always there."""
    assert [each.id for each in of_use(use)] == found


def of_server_2(server: int, state: str, expires_s: int) -> Connection:
    """Return a connection of the second server, as a client."""
    return connection(server, state, expires_s)._replace(client=SERVERS[1])


BESIDE = [ip_network("198.51.100.0/24")]


@pytest.mark.parametrize(
    ("state", "ages", "found"),
    [
        ("SYN_RECV", [57, 58, 59], ["client_beside_server"]),
        ("TIME_WAIT", [117, 118, 119], []),
    ],
)
def test_a_client_beside_its_server_explains_its_connections(state: str, ages: list[int], found: list[str]) -> None:
    """Those that wait, although it had others once."""
    nat = row(method=Method.MASQ)
    sample = [of_server_2(1, state, each) for each in ages]
    sample += [of_server_2(2, state, each) for each in ages]  # of itself
    sample.append(of_server_2(1, "TIME_WAIT", 30))
    seen = [*of_connections([nat], sample, Timeouts()), *beside_servers([nat], sample, BESIDE, Timeouts())]
    assert [each.id for each in diagnosis(seen) if not each.symptom] == found
    assert state != "SYN_RECV" or [each.id for each in diagnosis(seen)] == found
