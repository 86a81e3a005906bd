"""The schedulers of IPVS, one file each (IPVS-SEMANTICS 3)."""

from __future__ import annotations

from pylvs.reference.schedulers.common import Asking, Scheduler
from pylvs.reference.schedulers.dh import DestinationHashing
from pylvs.reference.schedulers.fo import Failover
from pylvs.reference.schedulers.lblc import LocalityLeastConnections
from pylvs.reference.schedulers.lblcr import ReplicatedLocality
from pylvs.reference.schedulers.lc import LeastConnections
from pylvs.reference.schedulers.mh import MaglevHashing
from pylvs.reference.schedulers.nq import NeverQueue
from pylvs.reference.schedulers.ovf import Overflow
from pylvs.reference.schedulers.rr import RoundRobin
from pylvs.reference.schedulers.sed import ShortestExpectedDelay
from pylvs.reference.schedulers.sh import SourceHashing
from pylvs.reference.schedulers.wlc import WeightedLeastConnections
from pylvs.reference.schedulers.wrr import WeightedRoundRobin

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
    )
}

__all__ = ["SCHEDULERS", "Asking", "Scheduler"]
