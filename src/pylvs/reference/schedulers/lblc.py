"""lblc, locality-based least connections (IPVS-SEMANTICS 3.9): for caches, one server an address."""

from __future__ import annotations

from pylvs.reference.schedulers.common import Asking, Scheduler, least_loaded, overhead
from pylvs.reference.schedulers.locality import Locality, crowded
from pylvs.reference.server import Server


class LocalityLeastConnections(Scheduler):
    """Connections to an address go where the last one went, until that server is crowded or gone; then as wlc."""

    name = "lblc"

    def __init__(self, servers: list[Server], options: int = 0) -> None:
        super().__init__(servers, options)
        self.cache = Locality()

    def choose(self, asking: Asking, now: float) -> Server | None:
        """Whether the remembered server is overloaded by its thresholds is not asked."""
        entry = self.cache.find(asking.target)
        if entry is not None:
            entry.last_use = now
            server = entry.servers[0]
            if server.available and server.weight > 0 and not crowded(server, self.servers):
                return server
        chosen = least_loaded(self.servers, overhead)
        if chosen is None:
            return None
        if entry is None:
            self.cache.make(asking.target, chosen, now)
        elif entry.servers[0] is not chosen:
            entry.servers[0].references -= 1
            chosen.references += 1
            entry.servers[0] = chosen
        return chosen

    def advance(self, now: float) -> None:
        """Entries age."""
        self.cache.advance(now)

    def close(self) -> None:
        """All entries go."""
        self.cache.clear()
