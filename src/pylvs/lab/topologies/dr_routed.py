"""Direct routing with one public address: the VIP is in one subnet, director and real servers are in another.

All are on one switch, where the gateway has an address in both subnets.
"""

from __future__ import annotations

from dataclasses import replace

from pylvs.lab.network import CLIENT, ROUTER, Host, Network, Switch
from pylvs.lab.plan import AddressPlan, built_in, host_address
from pylvs.lab.topologies import parts


def plan(servers: int, version: int) -> AddressPlan:
    """Return the built-in addresses. The VIP has the prefix length of its subnet."""
    addresses = built_in(
        servers,
        version,
        client=("outside", 5),
        gateway=("lan", 1),
        gateway_vip=("public", 1),
        outside=("outside", 1),
    )
    return replace(addresses, vip=host_address("public", 100, version))


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
    return parts.network(
        plan,
        "dr-routed",
        "direct routing with the VIP in another subnet than the real servers",
        path,
        links,
        [
            *outer,
            parts.director(plan, "switch", plan.gateway),
            *parts.servers(plan, "switch", plan.gateway, str(plan.vip.ip)),
        ],
    )
