"""A virtual service with its servers and its scheduler (IPVS-SEMANTICS 1.3 to 1.6)."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import NO_SCHEDULER, ServiceFlag, VirtualService
from pylvs.reference.schedulers import SCHEDULERS, Asking, Scheduler
from pylvs.reference.schedulers.locality import Locality
from pylvs.reference.server import Server, Totals


@dataclass(slots=True, eq=False)
class Service:
    """What an operator gave, and the list: the newest server first (1.6)."""

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
        self._take(self.given)
        self.scheduler = self._made()

    def _take(self, given: VirtualService) -> None:
        self.given = given
        self.persistent = ServiceFlag.PERSISTENT in given.flags
        self.one_packet = ServiceFlag.ONE_PACKET in given.flags
        if self.scheduler is not None:
            self.scheduler.options = given.flags

    def _made(self) -> Scheduler | None:
        if self.given.scheduler == NO_SCHEDULER:
            return None
        scheduler = SCHEDULERS[self.given.scheduler](self.servers, self.given.flags)
        scheduler.address_bytes = len(self.address)
        return scheduler

    def edit(self, given: VirtualService) -> None:
        """Flags, timeout and mask are replaced; the scheduler only if its name differs: then it starts anew (1.4)."""
        other = given.scheduler != self.given.scheduler
        self._take(given)
        if other:
            if self.scheduler is not None:
                self.scheduler.close()
            self.scheduler = self._made()

    def add(self, server: Server) -> None:
        """At the list's head."""
        self.servers.insert(0, server)
        server.service_totals = self.totals
        if self.scheduler is not None:
            self.scheduler.added(server)

    def remove(self, server: Server) -> None:
        """Out of the list."""
        place = self.servers.index(server)
        del self.servers[place]
        if self.scheduler is not None:
            self.scheduler.deleted(server, place)

    def edited(self, server: Server) -> None:
        """Tell the scheduler."""
        if self.scheduler is not None:
            self.scheduler.edited(server)

    def close(self) -> None:
        """It is deleted."""
        if self.scheduler is not None:
            self.scheduler.close()

    def choose(self, asking: Asking, now: float) -> Server | None:
        """Its scheduler's choice."""
        return self.scheduler.choose(asking, now) if self.scheduler is not None else None

    def advance(self, now: float, expirations_s: dict[str, int]) -> None:
        """What its scheduler does by the clock; `expirations_s` are those of lblc and lblcr."""
        if self.scheduler is None:
            return
        cache = getattr(self.scheduler, "cache", None)
        if isinstance(cache, Locality) and self.given.scheduler in expirations_s:
            cache.expiration_s = expirations_s[self.given.scheduler]
        self.scheduler.advance(now)
