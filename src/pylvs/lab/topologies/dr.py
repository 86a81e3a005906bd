"""Direct routing on one switch: client, director and real servers share a subnet."""

from __future__ import annotations

from pylvs.lab.network import DIRECTOR, Network, Switch
from pylvs.lab.plan import AddressPlan, host_address, single_address
from pylvs.lab.topologies import parts

TITLE = "direct routing, all hosts on one switch"


def plan(servers: int, version: int) -> AddressPlan:
    """Return the built-in addresses."""
    return AddressPlan(
        vip=single_address(host_address("lan", 100, version)),
        dip=host_address("lan", 10, version),
        servers=tuple(host_address("lan", 20 + number, version) for number in range(1, servers + 1)),
        client=host_address("lan", 5, version),
    )


def network(plan: AddressPlan) -> Network:
    here = parts.card(DIRECTOR, "lan", [(plan.dip, "DIP")], plan.device)
    return Network(
        topology="dr",
        title=TITLE,
        path="client → director (only the MACs change) → real server → client, not through the director",
        method="-g",
        version=plan.version,
        vip=str(plan.vip.ip),
        vip_prefix=plan.vip.network.prefixlen,
        port=plan.port,
        scheduler=plan.scheduler,
        links=(Switch("lan", str(plan.dip.network)),),
        hosts=(
            parts.client(plan, "lan", plan.gateway),
            parts.director(plan, "-g", (here,), plan.gateway),
            *parts.servers(plan, "lan", plan.gateway, str(plan.vip.ip)),
        ),
        entry=str(plan.vip.ip),
    )
