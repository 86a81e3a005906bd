"""lblcr, locality-based least connections with replication (IPVS-SEMANTICS 3.10): a set of servers an address."""

from __future__ import annotations

from pylvs.reference.schedulers.common import Asking, Scheduler, least_loaded, overhead
from pylvs.reference.schedulers.locality import Entry, Locality, crowded
from pylvs.reference.server import Server


class ReplicatedLocality(Scheduler):
    """As lblc, but a crowded server gets help: the set for the address grows, and shrinks again with time."""

    name = "lblcr"

    def __init__(self, servers: list[Server], options: int = 0) -> None:
        super().__init__(servers, options)
        self.cache = Locality()

    def choose(self, asking: Asking, now: float) -> Server | None:
        """The least busy member of the address's set; if it is crowded, the one wlc picks joins the set."""
        entry = self.cache.find(asking.target)
        if entry is None:
            chosen = least_loaded(self.servers, overhead)
            if chosen is not None:
                self.cache.make(asking.target, chosen, now)
            return chosen
        entry.last_use = now
        best = _least(entry.servers)
        if len(entry.servers) > 1 and now > entry.last_change + self.cache.expiration_s:
            self._shrink(entry, now)
        if best is not None and not crowded(best, self.servers):
            return best
        chosen = least_loaded(self.servers, overhead)
        if chosen is not None and chosen not in entry.servers:
            entry.servers.insert(0, chosen)
            entry.last_change = now
            chosen.references += 1
        return chosen

    def _shrink(self, entry: Entry, now: float) -> None:
        busiest = _most(entry.servers)
        if busiest is not None:
            entry.servers.remove(busiest)
            entry.last_change = now
            busiest.references -= 1

    def advance(self, now: float) -> None:
        """Entries age."""
        self.cache.advance(now)

    def close(self) -> None:
        """All entries go."""
        self.cache.clear()


def _least(members: list[Server]) -> Server | None:
    """The least busy for its weight among those that are there, not overloaded and of weight above 0."""
    return least_loaded((member for member in members if member.available), overhead)


def _most(members: list[Server]) -> Server | None:
    """The busiest for its weight among those of weight above 0, there or not."""
    busiest: Server | None = None
    for member in members:
        if member.weight > 0 and (
            busiest is None or overhead(busiest) * member.weight < overhead(member) * busiest.weight
        ):
            busiest = member
    return busiest
