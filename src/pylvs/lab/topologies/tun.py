"""Tunnelling: each real server is in a subnet behind a router; the director encapsulates, servers decapsulate."""

from __future__ import annotations

from dataclasses import replace

from pylvs.lab.network import ROUTER, Host, Network, Switch
from pylvs.lab.plan import AddressPlan, built_in, first_of, host_address
from pylvs.lab.topologies import parts

# encapsulation -> options of ipvsadm and of `pylvs realserver up`
OPTIONS = {
    "ipip": ("-i", "--tunnel"),
    "gre": ("-i --tun-type gre", "--tun-type gre"),
    "gue": ("-i --tun-type gue --tun-port 6080", "--tun-type gue --tun-port 6080"),
}
FIRST_SITE = 10  # 10.0.11.0/24 is the first server's


def plan(servers: int, version: int) -> AddressPlan:
    """Return the built-in addresses: a subnet for every server."""
    sites = tuple(host_address("site", 20 + number, version, FIRST_SITE + number) for number in range(1, servers + 1))
    return replace(built_in(servers, version, client=("outside", 5), outside=("outside", 1)), servers=sites)


def network(plan: AddressPlan) -> Network:
    """Return the network. The router has the first address of every subnet, or the plan's `outside` in the client's."""
    assert plan.client is not None
    method, decapsulation = OPTIONS[plan.tunnel]
    outside = plan.outside or first_of(plan.client)
    here = plan.gateway or first_of(plan.dip)
    sites = list(dict.fromkeys(first_of(server) for server in plan.servers))
    site_names = {site: f"site{number}" for number, site in enumerate(sites, start=1)}
    cards = [
        parts.card(ROUTER, "outside", [(outside, "gateway")]),
        parts.card(ROUTER, "lan", [(here, "gateway")], "eth1", 1),
    ]
    for number, site in enumerate(sites, start=2):
        cards.append(parts.card(ROUTER, site_names[site], [(site, "gateway")], f"eth{number}", number))
    servers = [
        parts.server(plan, number, address, site_names[site], site, f"{plan.vip.ip} {decapsulation}")
        for number, address in enumerate(plan.servers, start=1)
        for site in (first_of(address),)
    ]
    links = {"outside": outside, "lan": plan.dip} | {name: site for site, name in site_names.items()}
    return parts.network(
        plan,
        "tun",
        "IP tunnelling, real servers in other subnets",
        "client → director (encapsulates) → router → real server (decapsulates) → router → client",
        [Switch(name, str(interface.network)) for name, interface in links.items()],
        [
            parts.client(plan, "outside", outside),
            Host("router", ROUTER, tuple(cards), forwarding=True),
            parts.director(plan, "lan", here, method=method),
            *servers,
        ],
        method="-i",
    )
