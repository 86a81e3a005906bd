"""Direct routing on one switch: client, director and real servers share a subnet."""

from __future__ import annotations

from pylvs.lab.network import Network, Switch
from pylvs.lab.plan import AddressPlan
from pylvs.lab.topologies import parts


def network(plan: AddressPlan) -> Network:
    return parts.network(
        plan,
        "dr",
        "direct routing, all hosts on one switch",
        "client → director (only the MACs change) → real server → client, not through the director",
        [Switch("lan", str(plan.dip.network))],
        [
            parts.client(plan, "lan", plan.gateway),
            parts.director(plan, "lan", plan.gateway),
            *parts.servers(plan, "lan", plan.gateway, str(plan.vip.ip)),
        ],
    )
