"""What lblc and lblcr remember of targets (IPVS-SEMANTICS 3.9)."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass, field
from pylvs.reference.hashing import bucket, fold
from pylvs.reference.server import Server

CHAIN_BITS = 10
CHAINS = 1 << CHAIN_BITS
SIZE = 16 * CHAINS  # entries beyond which old ones are removed
MOST = SIZE * 3 // 2  # no more are made
PERIOD_S = 60  # between looks at the table
FULL_EVERY = 30  # looks: one of them goes by the expiration that is set
UNUSED_S = 360  # without use, when there are too many
EXPIRATION_S = 86400  # lblc_expiration, lblcr_expiration


@dataclass(slots=True, eq=False)
class Entry:
    """Where connections to one address go: one server (lblc), or a set of them, the newest member first (lblcr)."""

    servers: list[Server]
    last_use: float
    last_change: float


@dataclass(slots=True, eq=False)
class Locality:
    """The table of a service: 1024 chains of entries by address, and the clock that empties it."""

    expiration_s: float = EXPIRATION_S
    chains: list[dict[bytes, Entry]] = field(default_factory=lambda: [{} for _ in range(CHAINS)])
    count: int = 0
    _rover: int = 0  # the chain where the latest removal ended
    _looks: int = 1
    _next_look: float | None = None

    def _chain(self, target: bytes) -> dict[bytes, Entry]:
        return self.chains[bucket(fold(target), CHAIN_BITS)]

    def find(self, target: bytes) -> Entry | None:
        """The address's entry, if there is one."""
        return self._chain(target).get(target)

    def make(self, target: bytes, server: Server, now: float) -> None:
        """Remember a server for an address, unless the table is full."""
        if self.count >= MOST:
            return
        self._chain(target)[target] = Entry([server], now, now)
        server.references += 1
        self.count += 1

    def clear(self) -> None:
        """Forget everything."""
        for chain in self.chains:
            self._remove(chain, list(chain))

    def _remove(self, chain: dict[bytes, Entry], targets: list[bytes]) -> None:
        for target in targets:
            for server in chain.pop(target).servers:
                server.references -= 1
            self.count -= 1

    def advance(self, now: float) -> None:
        """Look through the table as often as its period passed since the first call."""
        if self._next_look is None:
            self._next_look = now + PERIOD_S
        while now >= self._next_look:
            self._look(self._next_look)
            self._next_look += PERIOD_S

    def _look(self, now: float) -> None:
        if self._looks % FULL_EVERY == 0:
            for chain in self.chains:
                self._remove(chain, [key for key, it in chain.items() if now >= it.last_use + self.expiration_s])
            self._looks = 1
        elif self.count <= SIZE:
            self._looks += 1
        else:
            self._relieve(now)

    def _relieve(self, now: float) -> None:
        goal = min((self.count - SIZE) * 4 // 3, SIZE // 2)
        before = self.count
        for _ in range(CHAINS):
            self._rover = (self._rover + 1) % CHAINS
            chain = self.chains[self._rover]
            self._remove(chain, [key for key, it in chain.items() if now >= it.last_use + UNUSED_S])
            if before - self.count >= goal:
                return


def crowded(server: Server, servers: list[Server]) -> bool:
    """Whether it has more active connections than its weight while some server has fewer than half of its own."""
    return server.active > server.weight and any(2 * other.active < other.weight for other in servers)
