"""The reference's Director: edit the tables as ipvsadm does, and pass frames through them. No I/O.

director = ReferenceDirector(network)
director.add_service(...)
decision = director.receive(frame)
director.advance(60)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from pylvs.model.addresses import ANY_V4, Address
from pylvs.model.director import SCTP_STATES, TCP_STATES, Deleted, InMemory, Trash
from pylvs.model.director import Connection as ConnectionRow
from pylvs.model.errors import DestinationExists, ServiceExists
from pylvs.model.marks import Packet as MarkPacket
from pylvs.model.marks import mark_of
from pylvs.model.rows import Counters, DestinationRow, DeviceProblem, ServiceRow
from pylvs.model.service import (
    Destination,
    DestinationKey,
    ServiceKey,
    Timeouts,
    VirtualService,
    check_destination,
    check_service,
)
from pylvs.reference.connections import Connection, ConnectionTable, Key
from pylvs.reference.forwarding import Network
from pylvs.reference.packet import SCTP, UDP, parse
from pylvs.reference.path import Decision, PacketPath
from pylvs.reference.schedulers import SCHEDULERS
from pylvs.reference.server import Server, Totals
from pylvs.reference.tables import Service, Tables


def _mark_fields(frame: bytes) -> MarkPacket:
    """Return the fields that mark rules match; a frame that is no packet has none."""
    packet = parse(frame)
    if packet is None:
        return MarkPacket(ANY_V4, ANY_V4, 0)
    return MarkPacket(
        ip_address(packet.saddr),
        ip_address(packet.daddr),
        packet.protocol,
        packet.sport,
        packet.dport,
        link=frame[6:12],
        tcp_flags=packet.flags,
        tos=packet.tos,
    )


class ReferenceDirector(InMemory):
    """IPVS's decisions, in memory. It implements `pylvs.model.director.Director`.

    Connections of a deleted service continue, as in pylvs. With `strict` they stop, as in IPVS. Without a service of
    the address family, the host's stack then handles their packets.
    """

    def __init__(self, network: Network, strict: bool = False) -> None:
        super().__init__()
        self.network = network
        self._strict = strict
        self._connections = ConnectionTable()
        self.tables = Tables()
        self._trash = Trash(self._is_referred)
        self._path = PacketPath(network, self.tables, self._connections, self._settings, strict)

    @property
    def now(self) -> float:
        """Return the seconds since the director was made."""
        return self._path.now

    # --- packets and time ---

    def receive(self, frame: bytes, mark: int = 0) -> Decision:
        """Handle a frame that came in with a firewall mark; 0: none. Mark rules may replace the mark."""
        return self._path.receive(
            frame, mark_of(self._mark_rules, _mark_fields(frame), mark) if self._mark_rules else mark
        )

    def set_standby(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
        """Set the standby addresses (`pylvs.model.vrrp.Roles`). `held` is ignored: `Network.local` has them."""
        self._path.standby = frozenset(each.packed for each in addresses)

    def connection(self, key: Key) -> Connection | None:
        """Return the connection of a request's tuple."""
        return self._connections.get(key)

    def end(self, connection: Connection) -> None:
        """End a connection as its timer would."""
        self._connections.end(connection, killed=False)

    def advance(self, seconds: float) -> None:
        """Advance the clock, and run the timers that are due."""
        self._path.now += seconds
        self._connections.advance(self.now)
        self._trash.advance(self.now)
        self._tick()

    def _tick(self) -> None:
        for service in self.tables:
            service.advance(self.now, self._settings)

    def _is_referred(self, server: Server) -> bool:
        return server.references > 0 or any(connection.server is server for connection in self._connections)

    # --- edits ---

    def add_service(self, service: VirtualService) -> None:
        """Raises ServiceExists, NoSuchScheduler, InvalidOperation."""
        if service.key in self.tables.by_key:
            raise ServiceExists(f"{service.key} is there already")
        check_service(service, SCHEDULERS)
        self.tables.insert(Service(service))
        self._tick()

    def edit_service(self, service: VirtualService) -> None:
        """Replace scheduler, flags, timeout and mask. Raises NoSuchService, NoSuchScheduler, InvalidOperation."""
        there = self.tables.service(service.key)
        check_service(service, SCHEDULERS)
        there.edit(service)
        self._tick()

    def delete_service(self, key: ServiceKey) -> None:
        """Move the servers to the trash; connections stay (1.4), and continue unless `strict`. Raises NoSuchService."""
        service = self.tables.service(key)
        self.tables.remove(service)
        service.scheduler.close()
        servers = service.servers.copy()
        service.servers.clear()
        for server in servers:
            server.orphaned = not self._strict
            self._discard(service, server)
        if servers:
            self._expire_unserved()

    def flush(self) -> None:
        """Delete all services; connections stay until they expire (1.4)."""
        for key in list(self.tables.by_key):
            self.delete_service(key)

    def add_destination(self, key: ServiceKey, destination: Destination) -> None:
        """Add a server, or revive it (1.8). Raises NoSuchService, DestinationExists, OutOfRange, InvalidOperation."""
        service = self.tables.service(key)
        check_destination(
            service.given, destination, lambda _: False, lambda address: address.packed in self.network.local
        )
        if any(server.key == destination.key for server in service.servers):
            raise DestinationExists(f"{key} has {destination.key} already")
        deleted = self._trash.take(key, destination.key)
        if deleted is None:
            server = Server(destination)
        else:
            server = deleted.destination
            if deleted.owner is not service:
                server.totals.clear()
            server.edit(destination)
            server.last_weight = destination.weight
            server.available, server.orphaned = True, False
        service.add(server)

    def edit_destination(self, key: ServiceKey, destination: Destination) -> None:
        """Raises NoSuchService, NoSuchDestination, OutOfRange, InvalidOperation."""
        service = self.tables.service(key)
        check_destination(service.given, destination)
        service.server(destination.key).edit(destination)
        service.scheduler.changed()

    def delete_destination(self, key: ServiceKey, destination: DestinationKey) -> None:
        """Move a server to the trash, with or without connections (1.8). Raises NoSuchService, NoSuchDestination."""
        service = self.tables.service(key)
        server = service.server(destination)
        service.remove(server)
        self._discard(service, server)
        self._expire_unserved()

    def _discard(self, service: Service, server: Server) -> None:
        server.available = False
        self._trash.put(service.given.key, server.key, Deleted(server, service), self.now)

    def _expire_unserved(self) -> None:
        """End connections of deleted servers if expire_nodest_conn is set (1.8)."""
        if not self._settings["expire_nodest_conn"]:
            return
        for connection in list(self._connections):
            if connection.gone or connection.server.available or connection.controls:
                continue
            control = connection.control
            self._connections.end(connection, killed=True)
            if control is not None and not control.controls:
                self._connections.end(control, killed=True)

    def zero(self, key: ServiceKey | None = None) -> None:
        """Clear the counters of one service and its servers, or all counters (1.4). Raises NoSuchService."""
        services = list(self.tables) if key is None else [self.tables.service(key)]
        for service in services:
            service.totals.clear()
            for server in service.servers:
                server.totals.clear()
        if key is None:
            self._path.totals.clear()

    def device_problems(self) -> Sequence[DeviceProblem]:
        return ()

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set the timeouts that are not 0 (4.4); connections get them at their next packet."""
        super().set_timeouts(timeouts)
        self._path.timeouts = self.timeouts()

    # --- listings ---

    def services(self) -> list[ServiceRow]:
        return [_service_row(service) for service in self.tables]

    def service(self, key: ServiceKey) -> ServiceRow:
        """Raises NoSuchService."""
        return _service_row(self.tables.service(key))

    def connections(self) -> Iterator[ConnectionRow]:
        """Yield connections and templates."""
        for connection in self._connections:
            protocol, client, client_port, virtual, virtual_port = connection.key
            if connection.template:
                state = "ASSURED" if connection.assured else "NONE"
            elif protocol == UDP:
                state = "UDP"
            else:
                state = (SCTP_STATES if protocol == SCTP else TCP_STATES)[connection.state]
            yield ConnectionRow(
                protocol,
                state,
                int(connection.expires - self.now),
                ip_address(client),
                client_port,
                ip_address(virtual),
                virtual_port,
                connection.server.key.address,
                connection.port,
            )


def _counters(totals: Totals) -> Counters:
    return Counters(totals.connections, totals.in_packets, totals.out_packets, totals.in_bytes, totals.out_bytes)


def _service_row(service: Service) -> ServiceRow:
    rows = tuple(
        DestinationRow(server.given, server.active, server.inactive, server.persistent, _counters(server.totals))
        for server in service.servers
    )
    return ServiceRow(service.given, rows, _counters(service.totals))
