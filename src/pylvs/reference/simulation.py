"""Simulate which servers clients get: connections opened one after the other."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import Protocol, ServiceKey
from pylvs.reference.connections import Key
from pylvs.reference.director import ReferenceDirector
from pylvs.reference.forwarding import Network, NextHop, add_link_header, ip_packet
from pylvs.reference.packet import ACK, FIN, SYN

TTL = 64
PORTS = (32768, 60999)  # Linux's default of ip_local_port_range
USUAL_COUNT = 256  # default number of clients of a network
LARGEST_COUNT = 1_000_000
_MAC, _ROUTER_MAC = bytes((2, 0, 0, 0, 0, 1)), bytes((2, 0, 0, 0, 0, 2))


@dataclass(frozen=True, slots=True)
class Clients:
    """Clients of a network, and the service they connect to; without `to`, every service of their address family."""

    network: IPv4Network | IPv6Network
    count: int = 0  # 0: all addresses of a small network, else USUAL_COUNT
    to: ServiceKey | None = None  # its `mark` is the packets' mark
    ports: tuple[int, int] = PORTS


@dataclass(frozen=True, slots=True)
class Answer:
    """One client's connection and its server; None: refused."""

    client: Address
    port: int
    server: str | None


@dataclass(slots=True)
class Spread:
    """All connections to one service."""

    service: str
    scheduler: str
    servers: dict[str, int] = field(default_factory=dict)  # number of connections, in list order
    weights: dict[str, int] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)

    @property
    def refused(self) -> int:
        """Return the number of connections without a server."""
        return sum(answer.server is None for answer in self.answers)


class Simulation:
    """A director, and clients that open connections through it.

    `lasting`: connections stay open; otherwise each ends before the next one begins.
    """

    def __init__(self, *, seed: int = 0, lasting: bool = True) -> None:
        own4, own6 = bytes((192, 0, 2, 1)), bytes.fromhex("20010db8") + bytes(11) + b"\1"
        hop = NextHop("out", _ROUTER_MAC, _MAC, 1500, own4, own6)
        self.director = ReferenceDirector(Network(frozenset({_MAC}), frozenset(), {}, hop, hop))
        self._random = random.Random(seed)
        self._shuffled = seed != 0
        self._lasting = lasting

    def run(self, groups: Iterable[Clients]) -> list[Spread]:
        """Open all clients' connections, group by group; return the spreads in the order of the services."""
        spreads: dict[ServiceKey, Spread] = {}
        for row in self.director.services():
            scheduler = row.service.scheduler
            spread = spreads[row.service.key] = Spread(str(row.service.key), scheduler)
            for shown in row.destinations:
                spread.servers[str(shown.destination.key)] = 0
                spread.weights[str(shown.destination.key)] = shown.destination.weight
        for group in groups:
            service_keys = [group.to] if group.to else [key for key in spreads if _fits(key, group.network)]
            for service_key in service_keys:
                self._open(group, service_key, spreads)
        return list(spreads.values())

    def _open(self, group: Clients, service_key: ServiceKey, spreads: dict[ServiceKey, Spread]) -> None:
        self.director.network.local |= {service_key.address.packed}
        service = self.director.tables.find(
            service_key.address.version,
            service_key.mark,
            int(service_key.protocol),
            service_key.address.packed,
            service_key.port,
        )
        if service is None:
            return
        spread = spreads[service.given.key]
        for client in self._clients(group):
            port = self._random.randint(*group.ports)
            server = self._connect(service_key, client, port)
            spread.answers.append(Answer(client, port, server))
            if server is not None:
                spread.servers[server] += 1

    def _clients(self, group: Clients) -> Iterator[Address]:
        """Return the first addresses of the network, or random ones if there is a seed."""
        first, size = int(group.network.network_address), group.network.num_addresses
        skipped = 1 if isinstance(group.network, IPv4Network) and size > 2 else 0  # the network and broadcast addresses
        usable = size - 2 * skipped
        count = min(group.count or min(usable, USUAL_COUNT), usable)
        offsets: Iterable[int] = range(count)
        if self._shuffled and count < usable:
            offsets = (self._random.randrange(usable) for _ in range(count))
        address_type = type(group.network.network_address)
        return (address_type(first + skipped + offset) for offset in offsets)

    def _connect(self, service_key: ServiceKey, client: Address, port: int) -> str | None:
        """Open a connection; return its server."""
        key: Key = (int(service_key.protocol), client.packed, port, service_key.address.packed, service_key.port)
        self.director.receive(_packet(service_key, client, port, SYN), service_key.mark)
        connection = self.director.connection(key)
        if connection is None:
            return None
        server = str(connection.server.key)
        if not self._lasting:
            self.director.receive(_packet(service_key, client, port, FIN | ACK), service_key.mark)
            self.director.end(connection)
        return server


def _fits(key: ServiceKey, network: IPv4Network | IPv6Network) -> bool:
    """Return whether clients of the network can connect to the service by address and port."""
    return not key.mark and key.port != 0 and key.address.version == network.version


def _packet(service_key: ServiceKey, client: Address, port: int, flags: int) -> bytes:
    """Return a frame of a connection; for TCP with these flags."""
    ports = port.to_bytes(2, "big") + service_key.port.to_bytes(2, "big")
    if service_key.protocol == Protocol.TCP:
        segment = ports + bytes(8) + bytes((0x50, flags)) + bytes(6)
    elif service_key.protocol == Protocol.UDP:
        segment = ports + b"\0\x08\0\0"
    else:
        segment = ports + bytes(8) + bytes((1, 0, 0, 4))
    ip = ip_packet(client.packed, service_key.address.packed, int(service_key.protocol), segment, ttl=TTL)
    return add_link_header(ip, NextHop("in", _MAC, _ROUTER_MAC))
