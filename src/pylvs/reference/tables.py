"""Services with their servers and schedulers, and how a packet finds its service (IPVS-SEMANTICS 1.2 to 1.6)."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping

from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import NoSuchDestination, NoSuchService
from pylvs.model.service import NO_SCHEDULER, DestinationKey, ServiceFlag, ServiceKey, VirtualService
from pylvs.reference.packet import TCP
from pylvs.reference.schedulers import SCHEDULERS, Scheduler
from pylvs.reference.schedulers.locality import LocalityLeastConnections
from pylvs.reference.server import Server, Totals

FTP, FTP_DATA, UNPRIVILEGED = 21, 20, 1024

ServiceAddress = tuple[int, bytes, int]  # protocol, address, port


@dataclass(slots=True, eq=False)
class Service:
    """A configured service and its servers, the newest first (1.6)."""

    given: VirtualService
    servers: list[Server] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    scheduler: Scheduler = field(init=False)
    address: bytes = field(init=False)
    port: int = field(init=False)
    mark: int = field(init=False)
    family: int = field(init=False)
    persistent: bool = field(init=False)
    one_packet: bool = field(init=False)

    def __post_init__(self) -> None:
        self.address = self.given.key.address.packed
        self.port = self.given.key.port
        self.mark = self.given.key.mark
        self.family = self.given.key.address.version
        self._set_options(self.given)
        self.scheduler = self._new_scheduler()

    def _set_options(self, given: VirtualService) -> None:
        self.given = given
        self.persistent = ServiceFlag.PERSISTENT in given.flags
        self.one_packet = ServiceFlag.ONE_PACKET in given.flags

    def _new_scheduler(self) -> Scheduler:
        kind = Scheduler if self.given.scheduler == NO_SCHEDULER else SCHEDULERS[self.given.scheduler]
        scheduler = kind(self.servers, self.given.flags)
        scheduler.address_bytes = len(self.address)
        return scheduler

    def edit(self, given: VirtualService) -> None:
        """Replace flags, timeout and mask. A new scheduler starts without state (1.4)."""
        is_new = given.scheduler != self.given.scheduler
        self._set_options(given)
        if is_new:
            self.scheduler.close()
            self.scheduler = self._new_scheduler()
        else:
            self.scheduler.options = given.flags

    def server(self, key: DestinationKey) -> Server:
        """Raises NoSuchDestination."""
        for server in self.servers:
            if server.key == key:
                return server
        raise NoSuchDestination(f"{self.given.key} has no {key}")

    def add(self, server: Server) -> None:
        """Insert a server at the head of the list."""
        self.servers.insert(0, server)
        server.service_totals = self.totals
        self.scheduler.changed()

    def remove(self, server: Server) -> None:
        position = self.servers.index(server)
        del self.servers[position]
        self.scheduler.deleted(server, position)

    def advance(self, now: float, settings: Mapping[str, int]) -> None:
        """Run the scheduler's timers with the settings by their short names."""
        if isinstance(self.scheduler, LocalityLeastConnections):
            self.scheduler.cache.expiration_s = settings[f"{self.scheduler.name}_expiration"]
        self.scheduler.advance(now)


@dataclass(slots=True, eq=False)
class Tables:
    """Services by key, by address and by mark."""

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

    def insert(self, service: Service) -> None:
        """Add a service, which must not be there."""
        key = service.given.key
        self.by_key[key] = service
        if service.mark:
            self._by_mark[service.family, service.mark] = service
        else:
            self._by_address[int(key.protocol), service.address, service.port] = service

    def remove(self, service: Service) -> None:
        key = service.given.key
        del self.by_key[key]
        if service.mark:
            del self._by_mark[service.family, service.mark]
        else:
            del self._by_address[int(key.protocol), service.address, service.port]

    def service(self, key: ServiceKey) -> Service:
        """Raises NoSuchService."""
        found = self.by_key.get(key)
        if found is None:
            raise NoSuchService(f"{key} is not there")
        return found
