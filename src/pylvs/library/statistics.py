"""Counters, rates and connections of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from pylvs.library.invalid import InvalidValue
from pylvs.library.keys import ServerKey, ServiceKey, choice, text
from pylvs.library.values import Server, Service, server_key, service_key
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.director import STATES, Connection
from pylvs.model.rows import Counters, Rates, ServiceRow
from pylvs.model.service import Protocol

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from pylvs.library.keys import ProtocolName

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class ServerStatistics:
    """Connections of a server now, its counters since they were zero, and its rates per second.

    `persistent` are the templates of persistence.
    """

    active: int
    inactive: int
    persistent: int
    counters: Counters
    rates: Rates


@dataclass(frozen=True, slots=True)
class ServiceStatistics:
    """Counters and rates of a service, and those of its present servers. Deleted servers count for the service."""

    counters: Counters
    rates: Rates
    servers: Mapping[ServerKey, ServerStatistics]


@dataclass(frozen=True, slots=True)
class Statistics:
    """`totals` of all services, deleted ones included, and the statistics of each service."""

    totals: Counters
    services: Mapping[ServiceKey, ServiceStatistics]


def statistics_of(rows: Iterable[ServiceRow], totals: Counters) -> Statistics:
    """Return the statistics of a listing."""
    return Statistics(
        totals,
        {
            ServiceKey.from_model(row.service.key): ServiceStatistics(
                row.counters,
                row.rates,
                {
                    ServerKey.from_model(each.destination.key): ServerStatistics(
                        each.active, each.inactive, each.persistent, each.counters, each.rates
                    )
                    for each in row.destinations
                },
            )
            for row in rows
        },
    )


def matching(
    *,
    protocol: Protocol | ProtocolName | None,
    client: Address | Network | str | None,
    service: Service | ServiceKey | str | None,
    server: Server | ServerKey | str | None,
    state: str | None,
) -> Callable[[Iterator[Connection]], Iterator[Connection]]:
    """Return a filter of connections. Raises InvalidValue now, not at the first connection."""
    tests: list[Callable[[Connection], bool]] = []
    if protocol is not None:
        number = choice("protocol", protocol, Protocol)
        tests.append(lambda each: each.protocol == number)
    if client is not None:
        network = _network(client)
        tests.append(lambda each: each.client in network)
    if service is not None:
        tests.append(_of_service(service_key(service)))
    if server is not None:
        key = server_key(server)
        wanted = key.address, key.port
        tests.append(lambda each: (each.destination, each.destination_port) == wanted)
    if state is not None:
        hint = f"must be one of: {', '.join(STATES)}"
        name = text("state", state, hint).upper()
        if name not in STATES:
            raise InvalidValue("state", state, hint)
        tests.append(lambda each: each.state == name)
    return lambda found: (each for each in found if all(test(each) for test in tests)) if tests else found


def _of_service(service: ServiceKey) -> Callable[[Connection], bool]:
    if service.mark:
        raise InvalidValue("service", str(service), "connections do not record their mark; filter by server")
    protocol, address, port = service.protocol, service.address, service.port

    def belongs(connection: Connection) -> bool:
        return (
            connection.virtual == address and connection.protocol == protocol and port in (0, connection.virtual_port)
        )

    return belongs


def _network(value: object) -> Network:
    try:
        if isinstance(value, str | IPv4Address | IPv6Address | IPv4Network | IPv6Network):
            return ip_network(value)
    except ValueError as error:
        raise InvalidValue("client", value, str(error)) from None
    raise InvalidValue("client", value, "must be an address or a network")
