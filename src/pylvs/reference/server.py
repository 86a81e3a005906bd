"""Destinations as the tables hold them: what an operator gave, and what packets made of it (IPVS-SEMANTICS 1.5-1.8)."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass, field
from pylvs.model.destination import Destination, DestinationKey, Method, Tunnel


@dataclass(slots=True)
class Totals:
    """Counters of a server, a service or all of them (9.1); bytes of IP packets, before encapsulation."""

    connections: int = 0
    in_packets: int = 0
    in_bytes: int = 0
    out_packets: int = 0
    out_bytes: int = 0

    def clear(self) -> None:
        """Begin at 0."""
        self.connections = self.in_packets = self.in_bytes = self.out_packets = self.out_bytes = 0


@dataclass(slots=True, eq=False)
class Server:
    """A real server of a service. Deleted and added again it is the same object (1.8): its identity counts."""

    key: DestinationKey
    address: bytes
    port: int  # 0: that of the packet
    method: Method
    weight: int
    last_weight: int  # the latest that was not 0; the one given first, even if 0 (1.7)
    upper: int
    lower: int
    tunnel: Tunnel
    available: bool = True  # not deleted
    overloaded: bool = False  # no new connections, except under templates (6.1)
    active: int = 0
    inactive: int = 0
    persistent: int = 0  # templates
    references: int = 0  # entries of scheduler caches, which keep a deleted server from being forgotten
    totals: Totals = field(default_factory=Totals)
    service_totals: Totals = field(default_factory=Totals)  # of the service that has it

    @classmethod
    def of(cls, given: Destination) -> Server:
        """A new one as it was given."""
        return cls(
            given.key,
            given.key.address.packed,
            given.key.port,
            given.method,
            given.weight,
            given.weight,
            given.upper,
            given.lower,
            given.tunnel,
        )

    @property
    def usable(self) -> bool:
        """Whether a scheduler may choose it (3.1)."""
        return self.weight > 0 and not self.overloaded

    def edit(self, given: Destination) -> None:
        """Replace what an edit replaces (1.7, 6.2)."""
        self.method = given.method
        self.tunnel = given.tunnel
        self.weight = given.weight
        if given.weight:
            self.last_weight = given.weight
        if given.upper == 0 or given.upper > self.upper:
            self.overloaded = False
        self.upper, self.lower = given.upper, given.lower

    def bind(self) -> None:
        """A connection or template was counted here: is it full now (6.1)?"""
        if self.upper and self.active + self.inactive >= self.upper:
            self.overloaded = True

    def release(self) -> None:
        """A connection or template went: has it room again (6.1)?"""
        total = self.active + self.inactive
        if self.lower:
            if total < self.lower:
                self.overloaded = False
        elif self.upper:
            if 4 * total < 3 * self.upper:
                self.overloaded = False
        else:
            self.overloaded = False
