"""NAT: the director is between the client's network and the servers, and is their gateway."""

from __future__ import annotations

from pylvs.lab.network import DIRECTOR, Network, Switch
from pylvs.lab.plan import AddressPlan, built_in
from pylvs.lab.topologies import parts


def plan(servers: int, version: int) -> AddressPlan:
    """Return the built-in addresses."""
    return built_in(
        servers, version, vip=("outside", 100), dip=("outside", 10), inside=("lan", 1), client=("outside", 5)
    )


def network(plan: AddressPlan) -> Network:
    assert plan.inside is not None
    second_card = parts.card(DIRECTOR, "inside", [(plan.inside, "gateway of the servers")], "eth1", index=1)
    return parts.network(
        plan,
        "nat",
        "NAT, the director is the servers' gateway",
        "client → director (VIP becomes RIP) → real server → director (RIP becomes VIP) → client",
        [Switch("outside", str(plan.dip.network)), Switch("inside", str(plan.inside.network))],
        [
            parts.client(plan, "outside"),
            parts.director(plan, "outside", method="-m", second_card=second_card),
            *parts.servers(plan, "inside", plan.inside),
        ],
        method="-m",
    )
