"""Services and servers: lookup, edits, and the trash (IPVS-SEMANTICS 1)."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field
from pylvs.model.director import Deleted, Trash
from pylvs.model.errors import DestinationExists, NoSuchDestination, NoSuchService, ServiceExists
from pylvs.model.service import (
    SCHEDULERS,
    Destination,
    DestinationKey,
    ServiceKey,
    VirtualService,
    check_destination,
    check_service,
)
from pylvs.reference.packet import TCP
from pylvs.reference.server import Server
from pylvs.reference.service import Service

FTP, FTP_DATA, UNPRIVILEGED = 21, 20, 1024

ServiceAddress = tuple[int, bytes, int]  # protocol, address, port


@dataclass(slots=True, eq=False)
class Tables:
    """Services by key, and deleted servers to which connections or templates may still refer."""

    trash: Trash[Server]
    by_key: dict[ServiceKey, Service] = field(default_factory=dict)
    _by_address: dict[ServiceAddress, Service] = field(default_factory=dict)
    _by_mark: dict[tuple[int, int], Service] = field(default_factory=dict)  # family 4 or 6, mark

    def __iter__(self) -> Iterator[Service]:
        return iter(self.by_key.values())

    def has_family(self, family: int) -> bool:
        """Return whether there is a service of an address family; without one IPVS ignores its packets (1.4)."""
        wanted = socket.AF_INET if family == 4 else socket.AF_INET6
        return any(key.family == wanted for key in self.by_key)

    def find(self, family: int, mark: int, protocol: int, address: bytes, port: int) -> Service | None:
        """Return a packet's service (1.2): by mark, by port, as FTP data, or as a service of all ports."""
        if mark:
            marked = self._by_mark.get((family, mark))
            if marked is not None:
                return marked
        exact = self._by_address.get((protocol, address, port))
        if exact is not None:
            return exact
        if protocol == TCP and (port == FTP_DATA or port >= UNPRIVILEGED):
            ftp = self._by_address.get((protocol, address, FTP))
            if ftp is not None:
                return ftp
        return self._by_address.get((protocol, address, 0))

    # --- edits ---

    def add_service(self, given: VirtualService) -> Service:
        """Add a service. Raises ServiceExists, NoSuchScheduler, InvalidOperation."""
        if given.key in self.by_key:
            raise ServiceExists(f"{given.key} is there already")
        check_service(given, SCHEDULERS)
        service = self.by_key[given.key] = Service(given)
        if service.mark:
            self._by_mark[service.family, service.mark] = service
        else:
            self._by_address[int(given.key.protocol), service.address, service.port] = service
        return service

    def edit_service(self, given: VirtualService) -> None:
        """Raises NoSuchService, NoSuchScheduler, InvalidOperation."""
        service = self.service(given.key)
        check_service(given, SCHEDULERS)
        service.edit(given)

    def delete_service(self, key: ServiceKey, now: float) -> None:
        """Move the servers to the trash; connections stay (1.4). Raises NoSuchService."""
        service = self.service(key)
        del self.by_key[key]
        if service.mark:
            del self._by_mark[service.family, service.mark]
        else:
            del self._by_address[int(key.protocol), service.address, service.port]
        service.scheduler.close()
        for server in list(service.servers):
            service.servers.remove(server)
            self._discard(service, server, now)

    def add_destination(self, key: ServiceKey, given: Destination, is_local: Callable[[Address], bool]) -> Server:
        """Add a server, or revive it (1.8). Raises NoSuchService, DestinationExists, OutOfRange, InvalidOperation."""
        service = self.service(key)
        check_destination(service.given, given, lambda _: False, is_local)
        if any(server.key == given.key for server in service.servers):
            raise DestinationExists(f"{key} has {given.key} already")
        deleted = self.trash.take(key, given.key)
        if deleted is None:
            server = Server.of(given)
        else:
            server = deleted.destination
            if deleted.owner is not service:
                server.totals.clear()
            server.edit(given)
            server.last_weight = given.weight
            server.available = True
        service.add(server)
        return server

    def edit_destination(self, key: ServiceKey, given: Destination) -> None:
        """Raises NoSuchService, NoSuchDestination, OutOfRange, InvalidOperation."""
        service = self.service(key)
        check_destination(service.given, given)
        server = self.server(service, given.key)
        server.edit(given)
        service.scheduler.changed()

    def delete_destination(self, key: ServiceKey, destination: DestinationKey, now: float) -> None:
        """Move a server to the trash, with or without connections (1.8). Raises NoSuchService, NoSuchDestination."""
        service = self.service(key)
        server = self.server(service, destination)
        service.remove(server)
        self._discard(service, server, now)

    def _discard(self, service: Service, server: Server, now: float) -> None:
        server.available = False
        self.trash.put(service.given.key, server.key, Deleted(server, service), now)

    # --- finding ---

    def service(self, key: ServiceKey) -> Service:
        """Raises NoSuchService."""
        found = self.by_key.get(key)
        if found is None:
            raise NoSuchService(f"{key} is not there")
        return found

    def server(self, service: Service, key: DestinationKey) -> Server:
        """Raises NoSuchDestination."""
        for server in service.servers:
            if server.key == key:
                return server
        raise NoSuchDestination(f"{service.given.key} has no {key}")
