"""The part of KEEPALIVED-MIB about virtual servers, from a configuration and the replies of `pylvs run`. Pure.

Tables, columns and indices are those of keepalived 2.2.7. A sorry server is the first row of its virtual server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from pylvs.model.dataclass import dataclass, field
from pylvs.model.described import CheckDefaults, DescribedGroup, DescribedServer, DescribedService
from pylvs.model.service import (
    UNCHANGED,
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    Tunnel,
    TunnelFlag,
    TunnelKind,
    server_named,
)
from pylvs.model.sync.daemons import GROUP, PORT, TTL, SyncWanted
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from pylvs.snmp.agentx import Kind, Oid, Value, VarBind
from pylvs.snmp.keepalived_mib import GLOBAL, KEEPALIVED
from pylvs.snmp.values import (
    MICROSECONDS,
    Row,
    Rows,
    command,
    counter32,
    counter64,
    family,
    integer,
    numbered,
    octets,
    table,
    text,
    trap_named,
    truth,
    unsigned,
)

CHECKER: Oid = (*KEEPALIVED, 3)
SERVER_TRAP, QUORUM_TRAP = (*CHECKER, 5, 0, 1), (*CHECKER, 5, 0, 2)
SERVICES, SERVERS = (*CHECKER, 3, 1), (*CHECKER, 4, 1)  # the entries of both tables
WEIGHT: Oid = (*SERVERS, 7)  # the only writable column
BY_MARK, BY_ADDRESS, BY_GROUP = 1, 2, 3
PROTOCOLS = {Protocol.TCP: 1, Protocol.UDP: 2, Protocol.SCTP: 3}
NO_PROTOCOL = 4
METHODS = {Method.MASQ: 1, Method.ROUTE: 2, Method.TUNNEL: 3}
TUNNELS = {TunnelKind.IPIP: 1, TunnelKind.GUE: 2, TunnelKind.GRE: 3}
OTHER_SCHEDULER = 99
# The schedulers by their numbers in the MIB, which has its own order behind the first twelve.
SCHEDULER_NUMBERS = {
    name: number
    for number, name in enumerate(
        ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"), 1
    )
}
MET, NOT_MET, SHUTDOWN = 1, 2, 3  # of a quorum
RATES = ("connections", "in_packets", "out_packets", "in_bytes", "out_bytes")
NO_DEFAULTS = CheckDefaults(0.0, 0.0)  # of a sorry server
Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What `pylvs run` reports: the services of `GET /v1/services` and `GET /v1/counters`, by name."""

    services: Mapping[str, Report] = field(default_factory=dict)
    counters: Mapping[str, Report] = field(default_factory=dict)


def objects(configuration: Configuration, status: ServerStatus) -> dict[Oid, Value]:
    """Return all objects of this part."""
    described = configuration.described
    groups, services = described.groups, list(zip(configuration.services, described.services, strict=True))
    rows: dict[int, Rows] = {
        1: [((at,), {2: text(each.name)}) for at, each in numbered(groups)],
        2: [((at, n), row) for at, each in numbered(groups) for n, row in enumerate(_members(each), 1)],
        3: [((at,), _service(each[0], each[1], status)) for at, each in numbered(services)],
        4: [
            ((at, n), row)
            for at, each in numbered(services)
            for n, row in enumerate(_servers(each[0], each[1], status), 1)
        ],
    }
    found = dict(chain.from_iterable(table((*CHECKER, number), each).items() for number, each in rows.items()))
    for number, value in _sync_daemon(configuration.settings.sync).items():
        found[*CHECKER, 6, number, 0] = value
    for number, seconds in enumerate(configuration.settings.lvs_timeouts or UNCHANGED, 1):
        if seconds:
            found[*CHECKER, 7, number, 0] = integer(seconds)
    return found


def _sync_daemon(sync: SyncWanted | None) -> dict[int, Value]:
    """Return what lvs_sync_daemon configures; 0 is the default of a number, as in keepalived."""
    if sync is None:
        return {1: truth(False)}
    row: dict[int, Value | None] = {
        1: truth(True),
        2: text(sync.interface),
        3: text(sync.instance) if sync.instance else None,
        4: integer(sync.syncid),
        5: integer(sync.maxlen),
        6: integer(0 if sync.port == PORT else sync.port),
        7: integer(0 if sync.ttl == TTL else sync.ttl),
    }
    if sync.group != GROUP:
        row[8], row[9] = family(sync.group), octets(sync.group)
    return {number: value for number, value in row.items() if value is not None}


def _members(group: DescribedGroup) -> Iterator[Row]:
    """Yield the members, firewall marks first as in keepalived."""
    for mark in group.marks:
        yield {2: integer(1), 3: unsigned(mark)}
    for span in group.addresses:
        port = unsigned(span.port)
        if span.first == span.last:
            yield {2: integer(2), 4: family(span.first), 5: octets(span.first), 8: port}
        else:
            yield {2: integer(3), 4: family(span.first), 6: octets(span.first), 7: octets(span.last), 8: port}


def kind_of(service: WantedService, described: DescribedService) -> int:
    """Return what the service is defined by."""
    return BY_GROUP if described.group else BY_MARK if service.keys[0].mark else BY_ADDRESS


def _service(service: WantedService, described: DescribedService, status: ServerStatus) -> Row:
    key, kind = service.keys[0], kind_of(service, described)
    report = status.services.get(service.name)
    flags, checks = service.flags, described.checks
    marks_alone = all(each.mark for each in service.keys)
    protocol = NO_PROTOCOL if marks_alone else PROTOCOLS[key.protocol]
    row: dict[int, Value | None] = {
        2: integer(kind),
        3: text(described.group) if described.group else None,
        4: unsigned(key.mark) if kind == BY_MARK else None,
        5: family(key.address),
        6: octets(key.address) if kind == BY_ADDRESS else None,
        7: unsigned(key.port) if kind == BY_ADDRESS else None,
        8: None if kind == BY_MARK else integer(protocol),
        9: integer(SCHEDULER_NUMBERS.get(service.scheduler, OTHER_SCHEDULER)),
        10: integer(METHODS[described.method]),
        11: truth(True),
        12: text(service.virtualhost) if service.virtualhost else None,
        13: truth(service.timeout_s),
        14: unsigned(service.timeout_s) if service.timeout_s else None,
        16: unsigned(checks.delay_loop_s),
        17: truth(service.ha_suspend),
        18: truth(service.alpha),
        19: truth(service.omega),
        20: unsigned(len(service.servers)),
        21: unsigned(sum(each["up"] for each in report["servers"])) if report else None,
        22: unsigned(service.quorum),
        23: integer(MET if report["quorum"]["up"] else NOT_MET) if report else None,
        24: command(service.quorum_up),
        25: command(service.quorum_down),
        26: unsigned(service.hysteresis),
        37: truth(flags & ServiceFlag.ONE_PACKET),
        52: truth(False),  # the kernel's own flag
        53: truth(flags & ServiceFlag.SCHED_1),
        54: truth(flags & ServiceFlag.SCHED_2),
        55: truth(flags & ServiceFlag.SCHED_3),
        56: truth(not described.inhibit_on_failure),
        57: unsigned(checks.retry or 0),
        58: unsigned(checks.delay_before_retry_s or 0),
        59: unsigned(checks.warmup_s or 0),
        60: integer(described.weight),
        61: truth(service.smtp_alert),
        62: truth(flags & ServiceFlag.SCHED_1),
        63: truth(flags & ServiceFlag.SCHED_2),
        64: _microseconds(checks.delay_loop_s),
        65: _microseconds(checks.delay_before_retry_s),
        66: _microseconds(checks.warmup_s),
        67: _microseconds(checks.connect_timeout_s),
        71: text(described.name) if described.name else None,
    }
    if key.address.version == 4:
        mask = service.netmask if service.netmask >= 0 else 0xFFFFFFFF
        row[15] = Value(Kind.OCTETS, mask.to_bytes(4, "big"))
    else:
        row[51] = unsigned(service.netmask if service.netmask >= 0 else 0xFFFFFFFF)
    row |= _tunnel(68, described.method, described.tunnel)
    if counted := status.counters.get(service.name):
        row |= _counters(counted, 27, 28, 38, 41)
    return row


def _microseconds(seconds: float | None) -> Value:
    return unsigned(round((seconds or 0) * MICROSECONDS))


def _tunnel(first: int, method: Method, tunnel: Tunnel) -> Row:
    """Return type, port and checksum of a tunnel, in columns from `first` on."""
    if method is not Method.TUNNEL:
        return {}
    checksum = 3 if TunnelFlag.REMCSUM & tunnel.flags else 2 if TunnelFlag.CSUM & tunnel.flags else 1
    return {
        first: integer(TUNNELS[tunnel.kind]),
        first + 1: unsigned(tunnel.port) if tunnel.kind is TunnelKind.GUE else None,
        first + 2: None if tunnel.kind is TunnelKind.IPIP else integer(checksum),
    }


def _counters(counted: Report, connections: int, packets: int, wide: int, halves: int) -> Row:
    """Return counters and rates; the columns of four groups begin at these numbers."""
    numbers, rates = counted["counters"], [counted["rates"][each] for each in RATES]
    row: dict[int, Value] = {
        connections: unsigned(numbers["connections"]),
        packets: counter32(numbers["in_packets"]),
        packets + 1: counter32(numbers["out_packets"]),
        packets + 2: counter64(numbers["in_bytes"]),
        packets + 3: counter64(numbers["out_bytes"]),
        wide: counter64(numbers["connections"]),
        wide + 1: counter64(numbers["in_packets"]),
        wide + 2: counter64(numbers["out_packets"]),
    }
    for at, rate in enumerate(rates):
        row[packets + 4 + at] = unsigned(rate)
        row[halves + 2 * at] = unsigned(int(rate) & 0xFFFFFFFF)
        row[halves + 2 * at + 1] = unsigned(int(rate) >> 32)
    return row


def _servers(service: WantedService, described: DescribedService, status: ServerStatus) -> Iterator[Row]:
    reports = {each["server"]: each for each in status.services.get(service.name, {"servers": ()})["servers"]}
    counted = {each["server"]: each for each in status.counters.get(service.name, {"servers": ()})["servers"]}
    if service.sorry_server is not None:
        row = _destination(service.sorry_server, NO_DEFAULTS)
        no: Row = dict.fromkeys((2, 42, 47), truth(False))  # it has neither alpha nor smtp_alert
        yield {**row, **no, **_traffic(counted, service.sorry_server)}
    for server, description in zip(service.servers, described.servers, strict=True):
        report = reports.get(str(server.destination.key))
        yield {**_server(server, description, report), **_traffic(counted, server.destination)}


def _destination(destination: Destination, checks: CheckDefaults) -> dict[int, Value | None]:
    return {
        3: family(destination.key.address),
        4: octets(destination.key.address),
        5: unsigned(destination.key.port),
        40: integer(METHODS[destination.method]),
        43: unsigned(checks.retry or 0),
        44: unsigned(checks.delay_before_retry_s or 0),
        45: unsigned(checks.warmup_s or 0),
        46: unsigned(checks.delay_loop_s),
        48: _microseconds(checks.delay_before_retry_s),
        49: _microseconds(checks.warmup_s),
        50: _microseconds(checks.delay_loop_s),
        51: _microseconds(checks.connect_timeout_s),
        **_tunnel(52, destination.method, destination.tunnel),
    }


def _server(server: WantedServer, described: DescribedServer, report: Report | None) -> dict[int, Value | None]:
    destination = server.destination
    row = _destination(destination, described.checks)
    row |= {
        2: truth(True),
        8: unsigned(destination.upper) if destination.upper else None,
        9: unsigned(destination.lower) if destination.lower else None,
        10: truth(not server.inhibit_on_failure),
        11: command(server.notify_up),
        12: command(server.notify_down),
        41: text(described.virtualhost) if described.virtualhost else None,
        42: truth(server.alpha),
        47: truth(server.smtp_alert),
        55: text(described.name) if described.name else None,
    }
    if report is not None:
        unknown = None if server.alpha else True  # what a check without an outcome counts as
        failed = sum(not (unknown if each["good"] is None else each["good"]) for each in report["checks"])
        row |= {6: truth(report["up"]), 7: integer(report["weight"]), 13: unsigned(failed)}
    return row


NOTHING: Report = {
    "active": 0,
    "inactive": 0,
    "persistent": 0,
    "counters": dict.fromkeys(RATES, 0),
    "rates": dict.fromkeys(RATES, 0),
}


def _traffic(counted: Mapping[str, Report], destination: Destination) -> Row:
    """Return connections, counters and rates; 0 for a server that is not in the table."""
    found = counted.get(str(destination.key), NOTHING)
    return {
        15: unsigned(found["active"]),
        16: unsigned(found["inactive"]),
        17: unsigned(found["persistent"]),
        **_counters(found, 14, 18, 27, 30),
    }


def server_at(name: Oid, configuration: Configuration) -> tuple[WantedService, WantedServer] | None:
    """Return the real server whose weight an object is; None for a sorry server, and for no server."""
    if name[: len(WEIGHT)] != WEIGHT or len(name) != len(WEIGHT) + 2:
        return None
    service_at, at = name[-2] - 1, name[-1] - 1
    if not 0 <= service_at < len(configuration.services):
        return None
    service = configuration.services[service_at]
    at -= service.sorry_server is not None
    return (service, service.servers[at]) if 0 <= at < len(service.servers) else None


@dataclass(frozen=True, slots=True)
class Numbers:
    """How many real servers of a service are up, and how many there are."""

    up: int
    total: int


Bind = tuple[Oid, Value | None]
Service = tuple[WantedService, DescribedService]


def by_name(configuration: Configuration) -> dict[str, Service]:
    """Return the services with their descriptions, by name."""
    pairs = zip(configuration.services, configuration.described.services, strict=True)
    return {service.name: (service, described) for service, described in pairs}


def server_trap(service: Service, server: str, up: bool, numbers: Numbers | None, router_id: str) -> list[VarBind]:
    """Return the notification of a real server, ADDRESS:PORT, that went up or down. Raises InvalidOperation."""
    key = server_named(server)
    assert isinstance(key, DestinationKey)
    return trap_named(
        SERVER_TRAP,
        ((*SERVERS, 3), family(key.address)),
        ((*SERVERS, 4), octets(key.address)),
        ((*SERVERS, 5), unsigned(key.port)),
        ((*SERVERS, 6), truth(up)),
        *_identity(*service),
        *_numbers(numbers, router_id),
    )


def quorum_trap(service: Service, status: int, numbers: Numbers | None, router_id: str) -> list[VarBind]:
    """Return the notification of a quorum."""
    return trap_named(
        QUORUM_TRAP,
        *_identity(*service),
        ((*SERVICES, 23), integer(status)),
        ((*SERVICES, 22), unsigned(service[0].quorum)),
        *_numbers(numbers, router_id),
    )


def _identity(service: WantedService, described: DescribedService) -> Iterator[Bind]:
    """Yield what names a service, and whether its protocol is TCP: as keepalived, 2 for every other one."""
    key, kind = service.keys[0], kind_of(service, described)
    yield (*SERVICES, 2), integer(kind)
    if kind == BY_GROUP:
        yield (*SERVICES, 3), text(described.group)
    elif kind == BY_MARK:
        yield (*SERVICES, 4), unsigned(key.mark)
    else:
        yield (*SERVICES, 5), family(key.address)
        yield (*SERVICES, 6), octets(key.address)
        yield (*SERVICES, 7), unsigned(key.port)
    marks_alone = all(each.mark for each in service.keys)
    yield (*SERVICES, 8), truth(key.protocol is Protocol.TCP and not marks_alone)


def _numbers(numbers: Numbers | None, router_id: str) -> Iterator[Bind]:
    if numbers is not None:
        yield (*SERVICES, 21), unsigned(numbers.up)
        yield (*SERVICES, 20), unsigned(numbers.total)
    yield (*GLOBAL, 2, 0), text(router_id)
