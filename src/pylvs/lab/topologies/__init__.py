"""The topologies of the lab: each has an address plan, and makes a network from a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pylvs.lab import plan as plans
from pylvs.lab.network import Network
from pylvs.lab.plan import AddressPlan
from pylvs.lab.topologies import dr, dr_behind_router, dr_routed, ha, nat, tun
from pylvs.model.errors import InvalidOperation


class Topology(NamedTuple):
    """A built-in plan for a number of servers and an IP version, and a function that makes a network from a plan."""

    plan: Callable[[int, int], AddressPlan]
    network: Callable[[AddressPlan], Network]
    letter: str  # the first letter of default names
    about: str


TOPOLOGIES: Mapping[str, Topology] = {
    "dr": Topology(dr.plan, dr.network, "d", dr.TITLE),
    "nat": Topology(nat.plan, nat.network, "n", nat.TITLE),
    "tun": Topology(tun.plan, tun.network, "t", tun.TITLE),
    "ha": Topology(ha.plan, ha.network, "h", ha.TITLE),
    "dr-behind-router": Topology(dr_behind_router.plan, dr_behind_router.network, "b", dr_behind_router.TITLE),
    "dr-routed": Topology(dr_routed.plan, dr_routed.network, "r", dr_routed.TITLE),
}


def design(topology: str, servers: int = 3, version: int = 4, overrides: Mapping[str, Any] | None = None) -> Network:
    """Return the network of a topology with some of the plan's fields replaced. Raises InvalidOperation."""
    if topology not in TOPOLOGIES:
        raise InvalidOperation(f"{topology}: no such topology; there are: {', '.join(TOPOLOGIES)}")
    if not 0 < servers <= plans.MOST_SERVERS:
        raise InvalidOperation(f"{servers} servers: must be from 1 to {plans.MOST_SERVERS}")
    shape = TOPOLOGIES[topology]
    if overrides and topology != "tun" and overrides.get("tunnel", "ipip") != "ipip":
        raise InvalidOperation(f"{topology}: nothing is tunnelled there; {overrides['tunnel']} goes with tun")
    if overrides and topology != "ha" and overrides.get("peer", "pylvs") != "pylvs":
        raise InvalidOperation(f"{topology}: one director has no peer; {overrides['peer']} goes with ha")
    if overrides and "vip" in overrides:
        version = overrides["vip"].version
    return shape.network(plans.override(shape.plan(servers, version), overrides or {}))
