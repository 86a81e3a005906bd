"""A virtual service with its servers and its scheduler (IPVS-SEMANTICS 1.3 to 1.6)."""

from __future__ import annotations

from collections.abc import Mapping

from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import NO_SCHEDULER, ServiceFlag, VirtualService
from pylvs.reference.schedulers import SCHEDULERS, Flow, Scheduler
from pylvs.reference.schedulers.locality import LocalityLeastConnections
from pylvs.reference.server import Server, Totals


@dataclass(slots=True, eq=False)
class Service:
    """A configured service and its servers, the newest first (1.6)."""

    given: VirtualService
    servers: list[Server] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    scheduler: Scheduler | None = None
    address: bytes = b""
    port: int = 0
    mark: int = 0
    family: int = 4
    persistent: bool = False
    one_packet: bool = False

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
        if self.scheduler is not None:
            self.scheduler.options = given.flags

    def _new_scheduler(self) -> Scheduler | None:
        if self.given.scheduler == NO_SCHEDULER:
            return None
        scheduler = SCHEDULERS[self.given.scheduler](self.servers, self.given.flags)
        scheduler.address_bytes = len(self.address)
        return scheduler

    def edit(self, given: VirtualService) -> None:
        """Replace flags, timeout and mask. A new scheduler starts without state (1.4)."""
        is_new = given.scheduler != self.given.scheduler
        self._set_options(given)
        if is_new:
            if self.scheduler is not None:
                self.scheduler.close()
            self.scheduler = self._new_scheduler()

    def add(self, server: Server) -> None:
        """Insert a server at the head of the list."""
        self.servers.insert(0, server)
        server.service_totals = self.totals
        if self.scheduler is not None:
            self.scheduler.changed()

    def remove(self, server: Server) -> None:
        position = self.servers.index(server)
        del self.servers[position]
        if self.scheduler is not None:
            self.scheduler.deleted(server, position)

    def report_edit(self) -> None:
        """Report an edit of a server to the scheduler."""
        if self.scheduler is not None:
            self.scheduler.changed()

    def close(self) -> None:
        """Release what the scheduler holds."""
        if self.scheduler is not None:
            self.scheduler.close()

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Return the server for a new connection; None: no scheduler, or no server."""
        return self.scheduler.choose(flow, now) if self.scheduler is not None else None

    def advance(self, now: float, settings: Mapping[str, int]) -> None:
        """Run the scheduler's timers with the settings by their short names."""
        if isinstance(self.scheduler, LocalityLeastConnections):
            self.scheduler.cache.expiration_s = settings[f"{self.scheduler.name}_expiration"]
        if self.scheduler is not None:
            self.scheduler.advance(now)
