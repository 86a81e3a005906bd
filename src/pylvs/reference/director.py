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
from pylvs.model.director import SCTP_STATES, TCP_STATES, InMemory, Trash
from pylvs.model.director import Connection as ConnectionRow
from pylvs.model.marks import Packet as MarkPacket
from pylvs.model.marks import mark_of
from pylvs.model.rows import Counters, DestinationRow, ServiceRow, Trouble
from pylvs.model.service import Destination, DestinationKey, ServiceKey, Timeouts, VirtualService
from pylvs.reference.connections import Connection, ConnectionTable, Key
from pylvs.reference.network import Network
from pylvs.reference.packet import SCTP, UDP, parse
from pylvs.reference.path import Decision, PacketPath
from pylvs.reference.server import Server, Totals
from pylvs.reference.service import Service
from pylvs.reference.tables import Tables


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
    """IPVS's decisions, in memory. It implements `pylvs.model.director.Director`."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self._connections = ConnectionTable()
        self.tables = Tables(Trash(self._is_referred))
        self._path = PacketPath(network, self.tables, self._connections, self._settings)

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

    def stand_by(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
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
        self.tables.trash.advance(self.now)
        self._tick()

    def _tick(self) -> None:
        for service in self.tables:
            service.advance(self.now, self._settings)

    def _is_referred(self, server: Server) -> bool:
        return server.references > 0 or any(connection.server is server for connection in self._connections)

    # --- edits ---

    def add_service(self, service: VirtualService) -> None:
        """Raises ServiceExists, NoSuchScheduler, InvalidOperation."""
        self.tables.add_service(service)
        self._tick()

    def edit_service(self, service: VirtualService) -> None:
        """Replace scheduler, flags, timeout and mask. Raises NoSuchService, NoSuchScheduler, InvalidOperation."""
        self.tables.edit_service(service)
        self._tick()

    def delete_service(self, key: ServiceKey) -> None:
        """Raises NoSuchService."""
        had_servers = bool(self.tables.service(key).servers)
        self.tables.delete_service(key, self.now)
        if had_servers:
            self._expire_unserved()

    def flush(self) -> None:
        """Delete all services; connections stay until they expire (1.4)."""
        for key in list(self.tables.by_key):
            self.delete_service(key)

    def add_destination(self, key: ServiceKey, destination: Destination) -> None:
        """Raises NoSuchService, DestinationExists, OutOfRange, InvalidOperation."""
        self.tables.add_destination(key, destination, lambda address: address.packed in self.network.local)

    def edit_destination(self, key: ServiceKey, destination: Destination) -> None:
        """Raises NoSuchService, NoSuchDestination, OutOfRange, InvalidOperation."""
        self.tables.edit_destination(key, destination)

    def delete_destination(self, key: ServiceKey, destination: DestinationKey) -> None:
        """Raises NoSuchService, NoSuchDestination."""
        self.tables.delete_destination(key, destination, self.now)
        self._expire_unserved()

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

    def troubles(self) -> Sequence[Trouble]:
        return ()

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Change three timeouts (4.4); existing connections get them at their next packet."""
        super().set_timeouts(timeouts)
        self._path.timeouts = timeouts

    # --- listings ---

    def services(self) -> list[ServiceRow]:
        return [_service_row(service) for service in self.tables]

    def service(self, key: ServiceKey) -> ServiceRow:
        """Raises NoSuchService."""
        return _service_row(self.tables.service(key))

    def connections(self) -> Iterator[ConnectionRow]:
        """Yield connections and templates."""
        for connection in self._connections:
            yield self._listed(connection)

    def _listed(self, connection: Connection) -> ConnectionRow:
        protocol, client, client_port, virtual, virtual_port = connection.key
        if connection.template:
            state = "ASSURED" if connection.assured else "NONE"
        elif protocol == UDP:
            state = "UDP"
        elif protocol == SCTP:
            state = SCTP_STATES[connection.state]
        else:
            state = TCP_STATES[connection.state]
        return ConnectionRow(
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
        DestinationRow(
            Destination(server.key, server.method, server.weight, server.upper, server.lower, server.tunnel),
            server.active,
            server.inactive,
            server.persistent,
            _counters(server.totals),
        )
        for server in service.servers
    )
    return ServiceRow(service.given, rows, _counters(service.totals))
