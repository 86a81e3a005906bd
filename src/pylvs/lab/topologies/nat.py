"""NAT: the director stands between the client's network and the servers', which have it as their gateway."""

from __future__ import annotations

from pylvs.lab.network import DIRECTOR, Link, Network
from pylvs.lab.plan import Plan, alone, place
from pylvs.lab.topologies import parts

TITLE = "NAT, the director is the servers' gateway"
SECOND_CARD = "eth1"


def plan(servers: int, version: int) -> Plan:
    """The built-in addresses."""
    return Plan(
        vip=alone(place("outside", 100, version)),
        dip=place("outside", 10, version),
        inside=place("lan", 1, version),
        servers=tuple(place("lan", 20 + number, version) for number in range(1, servers + 1)),
        client=place("outside", 5, version),
    )


def network(plan: Plan) -> Network:
    """The lab."""
    assert plan.inside is not None
    cards = (
        parts.card(DIRECTOR, "outside", [(plan.dip, "DIP")], plan.device),
        parts.card(DIRECTOR, "inside", [(plan.inside, "gateway of the servers")], SECOND_CARD, index=1),
    )
    return Network(
        topology="nat",
        title=TITLE,
        path="client → director (VIP becomes RIP) → real server → director (RIP becomes VIP) → client",
        method="-m",
        version=plan.version,
        vip=str(plan.vip.ip),
        vip_prefix=plan.vip.network.prefixlen,
        port=plan.port,
        scheduler=plan.scheduler,
        links=(Link("outside", str(plan.dip.network)), Link("inside", str(plan.inside.network))),
        hosts=(
            parts.client(plan, "outside"),
            parts.director(plan, "-m", cards, forwarding=True),
            *parts.servers(plan, "inside", plan.inside),
        ),
        entry=str(plan.vip.ip),
    )
