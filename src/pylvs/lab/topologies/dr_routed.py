"""Direct routing with one public address: the VIP is in one subnet, director and real servers are in another.

All are on one switch, where the gateway has an address in both subnets.
"""

from __future__ import annotations

from pylvs.lab.network import CLIENT, DIRECTOR, ROUTER, Host, Network, Switch
from pylvs.lab.plan import AddressPlan, host_address
from pylvs.lab.topologies import parts

TITLE = "direct routing with the VIP in another subnet than the real servers"


def plan(servers: int, version: int) -> AddressPlan:
    """Return the built-in addresses."""
    return AddressPlan(
        vip=host_address("public", 100, version),
        dip=host_address("lan", 10, version),
        servers=tuple(host_address("lan", 20 + number, version) for number in range(1, servers + 1)),
        client=host_address("outside", 5, version),
        gateway=host_address("lan", 1, version),
        gateway_vip=host_address("public", 1, version),
        outside=host_address("outside", 1, version),
    )


def network(plan: AddressPlan) -> Network:
    """Return the network. Without a client in the plan, the gateway is the client."""
    assert plan.gateway is not None
    assert plan.gateway_vip is not None
    pairs = [(plan.gateway_vip, "gateway"), (plan.gateway, "gateway")]
    subnets = f"{plan.gateway_vip.network} and {plan.gateway.network}"
    links = [Switch("switch", subnets)]
    if plan.client is None:
        path = "client (and gateway) → director → real server → client, by the servers' gateway address"
        outer = [Host("client", CLIENT, (parts.card(CLIENT, "switch", pairs),), forwarding=True)]
    else:
        assert plan.outside is not None
        path = "client → gateway → director → real server → gateway → client"
        links.insert(0, Switch("outside", str(plan.outside.network)))
        cards = (
            parts.card(ROUTER, "outside", [(plan.outside, "gateway")]),
            parts.card(ROUTER, "switch", pairs, "eth1", 1),
        )
        outer = [
            parts.client(plan, "outside", plan.outside),
            Host("router", ROUTER, cards, forwarding=True),
        ]
    return Network(
        topology="dr-routed",
        title=TITLE,
        path=path,
        method="-g",
        version=plan.version,
        vip=str(plan.vip.ip),
        vip_prefix=plan.vip.network.prefixlen,
        port=plan.port,
        scheduler=plan.scheduler,
        links=tuple(links),
        hosts=(
            *outer,
            parts.director(
                plan, "-g", (parts.card(DIRECTOR, "switch", [(plan.dip, "DIP")], plan.device),), plan.gateway
            ),
            *parts.servers(plan, "switch", plan.gateway, str(plan.vip.ip)),
        ),
        entry=str(plan.vip.ip),
    )
