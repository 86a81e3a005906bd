"""The reference with a property of IPVS that pylvs does not have (docs/differences.md)."""

from __future__ import annotations

from pylvs.model.service import Destination, Method, ServiceKey
from pylvs.reference.connections import Connection
from pylvs.reference.director import ReferenceDirector
from pylvs.reference.forwarding import Network
from pylvs.reference.packet import Packet
from pylvs.reference.path import Decision, PacketPath, Verdict, drop
from pylvs.reference.server import Server

SOURCE = {4: slice(26, 30), 6: slice(22, 38)}  # in a frame


class OneRoutePath(PacketPath):
    """A server has one route, made by the method of the connection that sends first.

    Only the route of DR reaches the server for any destination address. With a route of NAT or a tunnel, the kernel
    looks on the link for the destination of DR's packets. That is the virtual address, for which no host there
    answers.
    """

    def __init__(self, path: PacketPath) -> None:
        super().__init__(path.network, path.tables, path.connections, path.settings, path.strict)
        self.made_by_dr: dict[Server, bool] = {}  # by servers that have a route

    def _transmit(self, frame: bytes, packet: Packet, connection: Connection) -> Decision:
        is_dr = connection.method == Method.ROUTE
        leads_there = self.made_by_dr.setdefault(connection.server, is_dr) or not is_dr
        decision = super()._transmit(frame, packet, connection)
        if leads_there or decision.verdict is not Verdict.SENT:
            return decision
        is_error = decision.sent[0][1][SOURCE[packet.family]] != packet.saddr
        return decision if is_error else drop("another method made its server's route")


class OneRouteDirector(ReferenceDirector):
    """Remove the route of a server when it is added or edited."""

    def __init__(self, network: Network) -> None:
        super().__init__(network, strict=True)
        self._path = self._routes = OneRoutePath(self._path)

    def add_destination(self, key: ServiceKey, destination: Destination) -> None:
        """Raises NoSuchService, DestinationExists, OutOfRange, InvalidOperation."""
        super().add_destination(key, destination)
        self._forget_route(key, destination)

    def edit_destination(self, key: ServiceKey, destination: Destination) -> None:
        """Raises NoSuchService, NoSuchDestination, OutOfRange, InvalidOperation."""
        super().edit_destination(key, destination)
        self._forget_route(key, destination)

    def _forget_route(self, key: ServiceKey, destination: Destination) -> None:
        for server in self.tables.service(key).servers:
            if server.key == destination.key:
                self._routes.made_by_dr.pop(server, None)
