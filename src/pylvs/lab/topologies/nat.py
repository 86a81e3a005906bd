"""NAT: the director is between the client's network and the servers, and is their gateway."""

from __future__ import annotations

from pylvs.lab.network import DIRECTOR, Network, Switch
from pylvs.lab.plan import AddressPlan, host_address, single_address
from pylvs.lab.topologies import parts

TITLE = "NAT, the director is the servers' gateway"
SECOND_CARD = "eth1"


def plan(servers: int, version: int) -> AddressPlan:
    """Return the built-in addresses."""
    return AddressPlan(
        vip=single_address(host_address("outside", 100, version)),
        dip=host_address("outside", 10, version),
        inside=host_address("lan", 1, version),
        servers=tuple(host_address("lan", 20 + number, version) for number in range(1, servers + 1)),
        client=host_address("outside", 5, version),
    )


def network(plan: AddressPlan) -> Network:
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
        links=(Switch("outside", str(plan.dip.network)), Switch("inside", str(plan.inside.network))),
        hosts=(
            parts.client(plan, "outside"),
            parts.director(plan, "-m", cards, forwarding=True),
            *parts.servers(plan, "inside", plan.inside),
        ),
        entry=str(plan.vip.ip),
    )
