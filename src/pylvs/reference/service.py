"""A virtual service with its servers and its scheduler (IPVS-SEMANTICS 1.3 to 1.6)."""

from __future__ import annotations

from collections.abc import Mapping

from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import NO_SCHEDULER, ServiceFlag, VirtualService
from pylvs.reference.schedulers import SCHEDULERS, Scheduler
from pylvs.reference.schedulers.locality import LocalityLeastConnections
from pylvs.reference.server import Server, Totals


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
