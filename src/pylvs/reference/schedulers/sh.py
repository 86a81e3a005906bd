"""sh, source hashing (IPVS-SEMANTICS 3.13)."""

from __future__ import annotations

from pylvs.model.service import ServiceFlag
from pylvs.reference.hashing import WORD, bucket, fold
from pylvs.reference.schedulers.common import Asking, Scheduler
from pylvs.reference.server import Server

BITS = 8
BUCKETS = 1 << BITS
FALLBACK = ServiceFlag.SCHED_1
BY_PORT = ServiceFlag.SCHED_2


class SourceHashing(Scheduler):
    """256 buckets: walking the list cyclically, each server gets as many in a row as its weight, at least one.

    The client's address, with `sh-port` its port, too, picks the bucket.
    """

    name = "sh"

    def __init__(self, servers: list[Server], options: int = 0) -> None:
        super().__init__(servers, options)
        self._buckets: list[Server] = []  # empty: to be filled anew

    def added(self, server: Server) -> None:
        """The buckets are filled anew."""
        self._buckets = []

    def deleted(self, server: Server, place: int) -> None:
        """The buckets are filled anew."""
        self._buckets = []

    def edited(self, server: Server) -> None:
        """The buckets are filled anew."""
        self._buckets = []

    def _filled(self) -> list[Server]:
        once: list[Server] = []
        for server in self.servers:
            once += [server] * min(max(1, server.weight), BUCKETS)
        return [once[place % len(once)] for place in range(BUCKETS)]

    def choose(self, asking: Asking, now: float) -> Server | None:
        """The bucket's server; if it is not usable, and `sh-fallback` is set, that of the first bucket that will do."""
        if not self.servers:
            return None
        if not self._buckets:
            self._buckets = self._filled()
        port = asking.source_port if self.options & BY_PORT else 0
        index = bucket((fold(asking.source) + port) & WORD, BITS)
        server = self._buckets[index]
        if server.usable:
            return server
        if self.options & FALLBACK:
            for step in range(BUCKETS):
                server = self._buckets[(2 * index + step) % BUCKETS]
                if server.usable:
                    return server
        return None
