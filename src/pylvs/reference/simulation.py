"""Which server would each of these clients get? Connections opened one after the other, and how they spread."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import Protocol, ServiceKey
from pylvs.reference.connections import Key
from pylvs.reference.director import ReferenceDirector
from pylvs.reference.forwarding import framed, ipv4, ipv6
from pylvs.reference.network import Hop, Network
from pylvs.reference.states import ACK, FIN, SYN

TTL = 64
PORTS = (32768, 60999)  # that Linux gives to clients
USUAL_COUNT = 256  # clients of a network that are asked about, unless told otherwise
LARGEST_COUNT = 1_000_000
_MAC, _ROUTER = bytes((2, 0, 0, 0, 0, 1)), bytes((2, 0, 0, 0, 0, 2))


@dataclass(frozen=True, slots=True)
class Clients:
    """Who connects: addresses of a network, and to where; without `to`, to every service of their address family."""

    network: IPv4Network | IPv6Network
    count: int = 0  # 0: all of a small network, else USUAL_COUNT
    to: ServiceKey | None = None  # a target; its `mark` is the packets' mark
    ports: tuple[int, int] = PORTS


@dataclass(frozen=True, slots=True)
class Answer:
    """One client's connection and the server that it got; None: it was refused."""

    client: Address
    port: int
    server: str | None


@dataclass(slots=True)
class Spread:
    """What became of all connections to one service."""

    service: str
    scheduler: str
    servers: dict[str, int] = field(default_factory=dict)  # in list order: how many it got
    weights: dict[str, int] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)

    @property
    def refused(self) -> int:
        """Connections that no server was found for."""
        return sum(answer.server is None for answer in self.answers)


class Simulation:
    """A director, and clients that open connections with it.

    `lasting`: connections stay open; otherwise each is closed before the next one begins.
    """

    def __init__(self, *, seed: int = 0, lasting: bool = True) -> None:
        self._local: set[bytes] = set()
        self.director = ReferenceDirector(self._network())
        self._chance = random.Random(seed)
        self._shuffled = seed != 0
        self._lasting = lasting

    def _network(self) -> Network:
        own4, own6 = bytes((192, 0, 2, 1)), bytes.fromhex("20010db8") + bytes(11) + b"\1"
        hop = Hop("out", _ROUTER, _MAC, 1500, own4, own6)
        return Network(frozenset({_MAC}), frozenset(self._local), {}, hop, hop)

    def run(self, groups: Iterable[Clients]) -> list[Spread]:
        """All clients' connections, group by group; the spreads in the order of the services."""
        spreads: dict[ServiceKey, Spread] = {}
        for row in self.director.services():
            scheduler = row.service.scheduler
            spread = spreads[row.service.key] = Spread(str(row.service.key), scheduler)
            for each in row.destinations:
                spread.servers[str(each.destination.key)] = 0
                spread.weights[str(each.destination.key)] = each.destination.weight
        for group in groups:
            targets = [group.to] if group.to else [key for key in spreads if _fits(key, group.network)]
            for target in targets:
                self._open(group, target, spreads)
        return list(spreads.values())

    def _open(self, group: Clients, target: ServiceKey, spreads: dict[ServiceKey, Spread]) -> None:
        self._local.add(target.address.packed)
        self.director.network.local = frozenset(self._local)
        service = self.director.tables.find(
            target.address.version, target.mark, int(target.protocol), target.address.packed, target.port
        )
        if service is None:
            return
        spread = spreads[service.given.key]
        for client in self._clients(group):
            port = self._chance.randint(*group.ports)
            server = self._connect(target, client, port)
            spread.answers.append(Answer(client, port, server))
            if server is not None:
                spread.servers[server] += 1

    def _clients(self, group: Clients) -> Iterator[Address]:
        """Addresses of the network: the first ones, or random ones if there is a seed."""
        first, size = int(group.network.network_address), group.network.num_addresses
        skipped = 1 if isinstance(group.network, IPv4Network) and size > 2 else 0  # its own and its broadcast address
        usable = size - 2 * skipped
        count = min(group.count or min(usable, USUAL_COUNT), usable)
        places: Iterable[int] = range(count)
        if self._shuffled and count < usable:
            places = (self._chance.randrange(usable) for _ in range(count))
        kind = type(group.network.network_address)
        return (kind(first + skipped + place) for place in places)

    def _connect(self, target: ServiceKey, client: Address, port: int) -> str | None:
        """Open a connection; the server it went to."""
        key: Key = (int(target.protocol), client.packed, port, target.address.packed, target.port)
        self.director.receive(_opening(target, client, port, SYN), target.mark)
        connection = self.director.connection(key)
        if connection is None:
            return None
        server = str(connection.server.key)
        if not self._lasting:
            self.director.receive(_opening(target, client, port, FIN | ACK), target.mark)
            self.director.end(connection)
        return server


def _fits(key: ServiceKey, network: IPv4Network | IPv6Network) -> bool:
    """Whether clients of the network can reach the service without being told where: it has an address and a port."""
    return not key.mark and key.port != 0 and key.address.version == network.version


def _opening(target: ServiceKey, client: Address, port: int, flags: int) -> bytes:
    """A frame that begins a connection, or with other flags goes on with it."""
    ports = port.to_bytes(2, "big") + target.port.to_bytes(2, "big")
    if target.protocol == Protocol.TCP:
        segment = ports + bytes(8) + bytes((0x50, flags)) + bytes(6)
    elif target.protocol == Protocol.UDP:
        segment = ports + b"\0\x08\0\0"
    else:
        segment = ports + bytes(8) + bytes((1, 0, 0, 4))
    source, virtual = client.packed, target.address.packed
    if len(source) == 4:
        ip = ipv4(source, virtual, int(target.protocol), segment, ttl=TTL, tos=0)
    else:
        ip = ipv6(source, virtual, int(target.protocol), segment, hops=TTL, tos=0)
    return framed(ip, Hop("in", _MAC, _ROUTER))
