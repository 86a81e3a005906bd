"""Destinations in the tables: configuration and counts (IPVS-SEMANTICS 1.5 to 1.8)."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass, field
from pylvs.model.service import Destination, DestinationKey, Method, Tunnel


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

    key: DestinationKey
    address: bytes
    port: int  # 0: the packet's destination port
    method: Method
    weight: int
    last_weight: int  # the latest non-zero weight; at first the configured one, even 0 (1.7)
    upper: int
    lower: int
    tunnel: Tunnel
    available: bool = True  # not deleted
    overloaded: bool = False  # no new connections, except under templates (6.1)
    active: int = 0
    inactive: int = 0
    persistent: int = 0  # templates
    references: int = 0  # entries of scheduler caches, which keep a deleted server in the trash
    totals: Totals = field(default_factory=Totals)
    service_totals: Totals = field(default_factory=Totals)  # counters of the service

    @classmethod
    def of(cls, destination: Destination) -> Server:
        """Make a server from its configuration."""
        return cls(
            destination.key,
            destination.key.address.packed,
            destination.key.port,
            destination.method,
            destination.weight,
            destination.weight,
            destination.upper,
            destination.lower,
            destination.tunnel,
        )

    @property
    def usable(self) -> bool:
        """Return whether a scheduler may choose the server (3.1)."""
        return self.weight > 0 and not self.overloaded

    def edit(self, destination: Destination) -> None:
        """Apply an edit (1.7, 6.2)."""
        self.method = destination.method
        self.tunnel = destination.tunnel
        self.weight = destination.weight
        if destination.weight:
            self.last_weight = destination.weight
        if destination.upper == 0 or destination.upper > self.upper:
            self.overloaded = False
        self.upper, self.lower = destination.upper, destination.lower

    def bind(self) -> None:
        """Set `overloaded` if the new connection or template fills the server (6.1)."""
        if self.upper and self.active + self.inactive >= self.upper:
            self.overloaded = True

    def release(self) -> None:
        """Clear `overloaded` if the server has few enough connections again (6.1)."""
        total = self.active + self.inactive
        if self.lower:
            if total < self.lower:
                self.overloaded = False
        elif self.upper:
            if 4 * total < 3 * self.upper:
                self.overloaded = False
        else:
            self.overloaded = False
