"""The topologies of the lab: each has an address plan, and makes a network from a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from pylvs.lab.network import Network
from pylvs.lab.plan import MOST_SERVERS, AddressPlan, built_in, override
from pylvs.lab.topologies import dr, dr_behind_router, dr_routed, ha, nat, tun
from pylvs.model.errors import InvalidOperation


class Topology(NamedTuple):
    """A built-in plan for a number of servers and an IP version, and a function that makes a network from a plan."""

    plan: Callable[[int, int], AddressPlan]
    network: Callable[[AddressPlan], Network]
    letter: str  # the first letter of default names


TOPOLOGIES: Mapping[str, Topology] = {
    "dr": Topology(built_in, dr.network, "d"),
    "nat": Topology(nat.plan, nat.network, "n"),
    "tun": Topology(tun.plan, tun.network, "t"),
    "ha": Topology(ha.plan, ha.network, "h"),
    "dr-behind-router": Topology(dr_behind_router.plan, dr_behind_router.network, "b"),
    "dr-routed": Topology(dr_routed.plan, dr_routed.network, "r"),
}


def design(topology: str, servers: int = 3, version: int = 4, overrides: Mapping[str, Any] | None = None) -> Network:
    """Return the network of a topology with some of the plan's fields replaced. Raises InvalidOperation."""
    if topology not in TOPOLOGIES:
        raise InvalidOperation(f"{topology}: no such topology; there are: {', '.join(TOPOLOGIES)}")
    if not 0 < servers <= MOST_SERVERS:
        raise InvalidOperation(f"{servers} servers: must be from 1 to {MOST_SERVERS}")
    shape = TOPOLOGIES[topology]
    if overrides and topology != "tun" and overrides.get("tunnel", "ipip") != "ipip":
        raise InvalidOperation(f"{topology}: the topology has no tunnel; use {overrides['tunnel']} with tun")
    if overrides and topology != "ha" and overrides.get("peer", "pylvs") != "pylvs":
        raise InvalidOperation(f"{topology}: the topology has one director; use {overrides['peer']} with ha")
    if overrides and "vip" in overrides:
        version = overrides["vip"].version
    return shape.network(override(shape.plan(servers, version), overrides or {}))
