"""The schedulers of IPVS by name (IPVS-SEMANTICS 3)."""

from __future__ import annotations

from pylvs.reference.schedulers.hashing import DestinationHashing, MaglevHashing, SourceHashing
from pylvs.reference.schedulers.locality import LocalityLeastConnections, ReplicatedLocality
from pylvs.reference.schedulers.weighted import (
    Failover,
    Flow,
    LeastConnections,
    NeverQueue,
    Overflow,
    PowerOfTwo,
    RoundRobin,
    Scheduler,
    ShortestExpectedDelay,
    WeightedLeastConnections,
    WeightedRoundRobin,
)

SCHEDULERS: dict[str, type[Scheduler]] = {
    scheduler.name: scheduler
    for scheduler in (
        RoundRobin,
        WeightedRoundRobin,
        LeastConnections,
        WeightedLeastConnections,
        ShortestExpectedDelay,
        NeverQueue,
        Failover,
        Overflow,
        DestinationHashing,
        SourceHashing,
        LocalityLeastConnections,
        ReplicatedLocality,
        MaglevHashing,
        PowerOfTwo,
    )
}

__all__ = ["SCHEDULERS", "Flow", "Scheduler"]
