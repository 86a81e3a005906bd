"""Counters and rates of a service or a destination (IPVS-SEMANTICS 9)."""

from __future__ import annotations

from collections.abc import Mapping

from pylvs.model.dataclass import dataclass, field


@dataclass(frozen=True, slots=True)
class Counters:
    """Events since the last `-Z`; bytes are whole IP packets, before encapsulation."""

    connections: int = 0
    in_packets: int = 0
    out_packets: int = 0
    in_bytes: int = 0
    out_bytes: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            self.connections + other.connections,
            self.in_packets + other.in_packets,
            self.out_packets + other.out_packets,
            self.in_bytes + other.in_bytes,
            self.out_bytes + other.out_bytes,
        )

    def __sub__(self, other: Counters) -> Counters:
        return Counters(
            self.connections - other.connections,
            self.in_packets - other.in_packets,
            self.out_packets - other.out_packets,
            self.in_bytes - other.in_bytes,
            self.out_bytes - other.out_bytes,
        )


@dataclass(frozen=True, slots=True)
class Rates:
    """Per second, as the estimator shows them (IPVS-SEMANTICS 9.3)."""

    connections: int = 0
    in_packets: int = 0
    out_packets: int = 0
    in_bytes: int = 0
    out_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Expiry:
    """What ending connections cost this host: it is done in goes, each of which holds one processor."""

    connections: int
    goes: int
    spent_s: float
    longest_s: float  # of the goes


@dataclass(frozen=True, slots=True)
class PacketCounts:
    """What happened to packets beyond being forwarded, by name, and how many connections the table holds at most."""

    reasons: Mapping[str, int] = field(default_factory=dict)
    connections_limit: int | None = None
    expiry: Expiry | None = None
    totals: Counters = Counters()  # of all services that there are and were, as in /proc/net/ip_vs_stats
