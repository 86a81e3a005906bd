"""Locality-based least connections, for caches: lblc (IPVS-SEMANTICS 3.9), and lblcr with replication (3.10)."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass, field
from pylvs.reference.schedulers.hashing import bucket, fold
from pylvs.reference.schedulers.weighted import Flow, Scheduler, least_loaded, overhead
from pylvs.reference.server import Server

CHAIN_BITS = 10
CHAINS = 1 << CHAIN_BITS
TABLE_SIZE = 16 * CHAINS  # above this number, old entries are removed
MAX_ENTRIES = TABLE_SIZE * 3 // 2  # at this number, no entry is added
PERIOD_S = 60  # between runs of the timer
FULL_CHECK_EVERY = 30  # each 30th run uses the configured expiration
IDLE_S = 360  # with too many entries, one unused for so long is removed
EXPIRATION_S = 86400  # lblc_expiration, lblcr_expiration


@dataclass(slots=True, eq=False)
class Entry:
    """The server of a destination address (lblc), or its servers, the newest member first (lblcr)."""

    servers: list[Server]
    last_use: float
    last_change: float


@dataclass(slots=True, eq=False)
class Locality:
    """The table of a service: 1024 chains of entries by address, and the timer that empties it."""

    expiration_s: float = EXPIRATION_S
    chains: list[dict[bytes, Entry]] = field(default_factory=lambda: [{} for _ in range(CHAINS)])
    count: int = 0
    _rover: int = 0  # the chain of the latest removal
    _runs: int = 1
    _next_run: float | None = None

    def _chain(self, daddr: bytes) -> dict[bytes, Entry]:
        return self.chains[bucket(fold(daddr), CHAIN_BITS)]

    def find(self, daddr: bytes) -> Entry | None:
        return self._chain(daddr).get(daddr)

    def make(self, daddr: bytes, server: Server, now: float) -> None:
        """Remember a server for an address, unless the table is full."""
        if self.count >= MAX_ENTRIES:
            return
        self._chain(daddr)[daddr] = Entry([server], now, now)
        server.references += 1
        self.count += 1

    def clear(self) -> None:
        for chain in self.chains:
            self._remove(chain, list(chain))

    def _remove(self, chain: dict[bytes, Entry], addresses: list[bytes]) -> None:
        for daddr in addresses:
            for server in chain.pop(daddr).servers:
                server.references -= 1
            self.count -= 1

    def advance(self, now: float) -> None:
        """Run the timer once a period since the first call."""
        if self._next_run is None:
            self._next_run = now + PERIOD_S
        while now >= self._next_run:
            self._check_expire(self._next_run)
            self._next_run += PERIOD_S

    def _check_expire(self, now: float) -> None:
        if self._runs % FULL_CHECK_EVERY == 0:
            for chain in self.chains:
                self._remove(chain, [key for key, it in chain.items() if now >= it.last_use + self.expiration_s])
            self._runs = 1
        elif self.count <= TABLE_SIZE:
            self._runs += 1
        else:
            self._make_space(now)

    def _make_space(self, now: float) -> None:
        goal = min((self.count - TABLE_SIZE) * 4 // 3, TABLE_SIZE // 2)
        before = self.count
        for _ in range(CHAINS):
            self._rover = (self._rover + 1) % CHAINS
            chain = self.chains[self._rover]
            self._remove(chain, [key for key, it in chain.items() if now >= it.last_use + IDLE_S])
            if before - self.count >= goal:
                return


def crowded(server: Server, servers: list[Server]) -> bool:
    """Return whether the server has more connections than weight, while another has less than half its weight.

    Only active connections count.
    """
    return server.active > server.weight and any(2 * other.active < other.weight for other in servers)


class LocalityLeastConnections(Scheduler):
    """Use the last server of the address until it is crowded or deleted; then choose as wlc."""

    name = "lblc"

    def __init__(self, servers: list[Server], options: int = 0) -> None:
        super().__init__(servers, options)
        self.cache = Locality()

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Choose without regard to thresholds of the remembered server."""
        entry = self.cache.find(flow.daddr)
        if entry is not None:
            entry.last_use = now
            server = entry.servers[0]
            if server.available and server.weight > 0 and not crowded(server, self.servers):
                return server
        chosen = least_loaded(self.servers, overhead)
        if chosen is None:
            return None
        if entry is None:
            self.cache.make(flow.daddr, chosen, now)
        elif entry.servers[0] is not chosen:
            entry.servers[0].references -= 1
            chosen.references += 1
            entry.servers[0] = chosen
        return chosen

    def advance(self, now: float) -> None:
        self.cache.advance(now)

    def close(self) -> None:
        self.cache.clear()


class ReplicatedLocality(LocalityLeastConnections):
    """Choose as lblc, but from a set of servers: it grows when its servers are crowded, and shrinks with time."""

    name = "lblcr"

    def choose(self, flow: Flow, now: float) -> Server | None:
        """Return the least loaded member of the set; if it is crowded, add the one that wlc chooses."""
        entry = self.cache.find(flow.daddr)
        if entry is None:
            chosen = least_loaded(self.servers, overhead)
            if chosen is not None:
                self.cache.make(flow.daddr, chosen, now)
            return chosen
        entry.last_use = now
        best = least_loaded((server for server in entry.servers if server.available), overhead)
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


def _most(members: list[Server]) -> Server | None:
    """Return the most loaded member for its weight, available or not; only those with a weight."""
    busiest: Server | None = None
    for member in members:
        if member.weight > 0 and (
            busiest is None or overhead(busiest) * member.weight < overhead(member) * busiest.weight
        ):
            busiest = member
    return busiest
