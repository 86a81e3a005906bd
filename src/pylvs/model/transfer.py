"""Rows of the table and connections as JSON types, for commands that read them from the daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from pylvs.model.director import Connection
from pylvs.model.rows import Counters, DestinationRow, Rates, ServiceRow, in_order
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Tunnel,
    TunnelFlag,
    TunnelKind,
    VirtualService,
)


def encode_row(row: ServiceRow) -> dict[str, Any]:
    """Return a service with its destinations, in the order of the row."""
    service, key = row.service, row.service.key
    return {
        "protocol": key.protocol.name,
        "address": str(key.address),
        "port": key.port,
        "mark": key.mark,
        "scheduler": service.scheduler,
        "flags": int(service.flags),
        "timeout_s": service.timeout_s,
        "netmask": service.netmask,
        "engine": service.engine,
        "mss_clamp": service.mss_clamp,
        "counters": list(in_order(row.counters)),
        "rates": list(in_order(row.rates)),
        "destinations": list(map(_encode_destination, row.destinations)),
    }


def _encode_destination(row: DestinationRow) -> dict[str, Any]:
    destination, tunnel = row.destination, row.destination.tunnel
    return {
        "address": str(destination.key.address),
        "port": destination.key.port,
        "method": destination.method.name,
        "weight": destination.weight,
        "upper": destination.upper,
        "lower": destination.lower,
        "tunnel": [tunnel.kind.name, tunnel.port, int(tunnel.flags)] if tunnel != Tunnel() else None,
        "active": row.active,
        "inactive": row.inactive,
        "persistent": row.persistent,
        "counters": list(in_order(row.counters)),
        "rates": list(in_order(row.rates)),
    }


def decode_row(raw: Mapping[str, Any]) -> ServiceRow:
    """Return the row that `encode_row` was given."""
    key = ServiceKey(Protocol[raw["protocol"]], ip_address(raw["address"]), raw["port"], raw["mark"])
    service = VirtualService(
        key,
        raw["scheduler"],
        ServiceFlag(raw["flags"]),
        raw["timeout_s"],
        raw["netmask"],
        raw["engine"],
        raw["mss_clamp"],
    )
    destinations = tuple(map(_decode_destination, raw["destinations"]))
    return ServiceRow(service, destinations, Counters(*raw["counters"]), Rates(*raw["rates"]))


def _decode_destination(raw: Mapping[str, Any]) -> DestinationRow:
    kind, port, flags = raw["tunnel"] or ("IPIP", 0, 0)
    destination = Destination(
        DestinationKey(ip_address(raw["address"]), raw["port"]),
        Method[raw["method"]],
        raw["weight"],
        raw["upper"],
        raw["lower"],
        Tunnel(TunnelKind[kind], port, TunnelFlag(flags)),
    )
    connections = raw["active"], raw["inactive"], raw["persistent"]
    return DestinationRow(destination, *connections, Counters(*raw["counters"]), Rates(*raw["rates"]))


def encode_connection(connection: Connection) -> list[Any]:
    """Return a connection with the fields of `Connection`, addresses as text."""
    return [str(each) if index in _ADDRESSES else each for index, each in enumerate(connection)]


def decode_connection(raw: Sequence[Any]) -> Connection:
    """Return the connection that `encode_connection` was given."""
    return Connection._make(ip_address(each) if index in _ADDRESSES else each for index, each in enumerate(raw))


_ADDRESSES = [Connection._fields.index(name) for name in ("client", "virtual", "destination")]
