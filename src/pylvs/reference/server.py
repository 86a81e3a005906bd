"""Destinations in the tables: configuration and counts (IPVS-SEMANTICS 1.5 to 1.8)."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import Destination, DestinationKey


@dataclass(slots=True)
class Totals:
    """Counters of a server, a service or all services (9.1); bytes of IP packets, before encapsulation."""

    connections: int = 0
    in_packets: int = 0
    in_bytes: int = 0
    out_packets: int = 0
    out_bytes: int = 0

    def clear(self) -> None:
        self.connections = self.in_packets = self.in_bytes = self.out_packets = self.out_bytes = 0


@dataclass(slots=True, eq=False)
class Server:
    """A destination of a service. Delete and add keep the same object (1.8), so identity matters."""

    given: Destination  # the configuration
    key: DestinationKey = field(init=False)
    address: bytes = field(init=False)
    port: int = field(init=False)  # 0: the packet's destination port
    weight: int = field(init=False)
    last_weight: int = field(init=False)  # the latest non-zero weight; at first the configured one, even 0 (1.7)
    available: bool = True  # not deleted
    orphaned: bool = False  # deleted with its service
    overloaded: bool = False  # no new connections, except under templates (6.1)
    active: int = 0
    inactive: int = 0
    persistent: int = 0  # templates
    references: int = 0  # entries of scheduler caches, which keep a deleted server in the trash
    totals: Totals = field(default_factory=Totals)
    service_totals: Totals = field(default_factory=Totals)  # counters of the service

    def __post_init__(self) -> None:
        self.key = self.given.key
        self.address = self.key.address.packed
        self.port = self.key.port
        self.weight = self.last_weight = self.given.weight

    @property
    def usable(self) -> bool:
        """Return whether a scheduler may choose the server (3.1)."""
        return self.weight > 0 and not self.overloaded

    def edit(self, destination: Destination) -> None:
        """Apply an edit (1.7, 6.2)."""
        if destination.upper == 0 or destination.upper > self.given.upper:
            self.overloaded = False
        self.given = destination
        self.weight = destination.weight
        self.last_weight = destination.weight or self.last_weight

    def bind(self) -> None:
        """Set `overloaded` if the new connection or template fills the server (6.1)."""
        if self.given.upper and self.active + self.inactive >= self.given.upper:
            self.overloaded = True

    def release(self) -> None:
        """Clear `overloaded` if the server has few enough connections again (6.1)."""
        total = self.active + self.inactive
        if self.given.lower:
            if total < self.given.lower:
                self.overloaded = False
        elif self.given.upper:
            if 4 * total < 3 * self.given.upper:
                self.overloaded = False
        else:
            self.overloaded = False
