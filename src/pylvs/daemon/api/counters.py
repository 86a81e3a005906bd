"""GET /v1/counters: connections, packets and bytes of the configured services, as `ipvsadm --stats` and `--rate`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Annotated, Literal, TypedDict, cast

from pylvs.health.state import ServiceSnapshot
from pylvs.model.rows import Counters, DestinationRow, ServiceRow
from pylvs.model.service import DestinationKey, ServiceKey


class PacketCounters(TypedDict):
    """Connections, packets and bytes: numbers since they were reset, or rates a second."""

    connections: int
    in_packets: int
    out_packets: int
    in_bytes: int
    out_bytes: int


class ServerCounters(TypedDict):
    """One real server or sorry server of one service."""

    server: Annotated[str, "ADDRESS:PORT"]
    method: Literal["MASQ", "LOCAL", "TUNNEL", "ROUTE"]
    active: Annotated[int, "active connections"]
    inactive: Annotated[int, "inactive connections"]
    persistent: Annotated[int, "persistence templates"]
    counters: PacketCounters
    rates: PacketCounters


class ServiceCounters(TypedDict):
    """One virtual server of the configuration; with a group, the sum of its services."""

    name: str
    scheduler: Annotated[str, '"" for a service that is not in the table']
    counters: PacketCounters
    rates: PacketCounters
    servers: Annotated[list[ServerCounters], "those in the table"]


class CountersReply(TypedDict):
    """The counters of the table."""

    services: list[ServiceCounters]


def counters_encoded(services: Iterable[ServiceSnapshot], rows: Iterable[ServiceRow]) -> CountersReply:
    """Return the counters of the services, summed over the keys of each."""
    by_key = {row.service.key: row for row in rows}
    return {"services": [_service(each, by_key) for each in services]}


def _service(service: ServiceSnapshot, by_key: Mapping[ServiceKey, ServiceRow]) -> ServiceCounters:
    rows = [by_key[key] for key in service.keys if key in by_key]
    found: dict[DestinationKey, list[DestinationRow]] = {}
    configured = [each.destination for each in service.servers]
    if service.sorry_server is not None:
        configured.append(service.sorry_server)
    for row in rows:
        names = {each.listed_by(row.service.key).key: each.key for each in reversed(configured)}
        for shown in row.destinations:
            name = shown.destination.key
            found.setdefault(names.get(name, name), []).append(shown)
    return {
        "name": service.name,
        "scheduler": rows[0].service.scheduler if rows else "",
        "counters": _sum(row.counters for row in rows),
        "rates": _sum(row.rates for row in rows),
        "servers": [_server(key, each) for key, each in found.items()],
    }


def _server(key: DestinationKey, rows: list[DestinationRow]) -> ServerCounters:
    return {
        "server": str(key),
        "method": cast("Literal['MASQ', 'LOCAL', 'TUNNEL', 'ROUTE']", rows[0].destination.method.name),
        "active": sum(map(attrgetter("active"), rows)),
        "inactive": sum(map(attrgetter("inactive"), rows)),
        "persistent": sum(map(attrgetter("persistent"), rows)),
        "counters": _sum(row.counters for row in rows),
        "rates": _sum(row.rates for row in rows),
    }


def _sum(several: Iterable[Counters]) -> PacketCounters:
    total = sum(several, Counters())
    return {
        "connections": total.connections,
        "in_packets": total.in_packets,
        "out_packets": total.out_packets,
        "in_bytes": total.in_bytes,
        "out_bytes": total.out_bytes,
    }
