"""Direct routing behind a router that translates one public address to the VIP (static NAT)."""

from __future__ import annotations

from pylvs.lab.network import CLIENT, DIRECTOR, ROUTER, Host, Network, Switch
from pylvs.lab.plan import AddressPlan, host_address, single_address
from pylvs.lab.topologies import parts

TITLE = "direct routing behind a router with static NAT"


def plan(servers: int, version: int) -> AddressPlan:
    """Return the built-in addresses."""
    return AddressPlan(
        vip=single_address(host_address("lan", 100, version)),
        dip=host_address("lan", 10, version),
        servers=tuple(host_address("lan", 20 + number, version) for number in range(1, servers + 1)),
        client=host_address("outside", 5, version),
        gateway=host_address("lan", 1, version),
        outside=host_address("outside", 1, version),
        public=host_address("outside", 88, version),
    )


def static_nat(public: str, vip: str, version: int) -> tuple[str, ...]:
    """Return commands of nft that translate this public address to the inner one, and back."""
    word = "ip" if version == 4 else "ip6"
    chain = f"nft add chain {word} nat"
    return (
        f"nft add table {word} nat",
        f"{chain} prerouting '{{ type nat hook prerouting priority dstnat; }}'",
        f"{chain} postrouting '{{ type nat hook postrouting priority srcnat; }}'",
        f"nft add rule {word} nat prerouting {word} daddr {public} dnat to {vip}",
        f"nft add rule {word} nat postrouting oifname eth0 {word} saddr {vip} snat to {public}",
    )


def network(plan: AddressPlan) -> Network:
    """Return the network. Servers reply through the router, which translates the VIP back to the public address."""
    assert plan.client is not None
    assert plan.gateway is not None
    assert plan.outside is not None
    assert plan.public is not None
    addresses = [(plan.outside, "gateway")]
    addresses = (
        [(plan.outside, "public")]
        if plan.public.ip == plan.outside.ip
        else [*addresses, (single_address(plan.public), "public")]
    )
    vip, public = str(plan.vip.ip), str(plan.public.ip)
    router = Host(
        "router",
        ROUTER,
        (parts.card(ROUTER, "outside", addresses), parts.card(ROUTER, "lan", [(plan.gateway, "gateway")], "eth1", 1)),
        forwarding=True,
        commands=static_nat(public, vip, plan.version),
    )
    client = Host(
        "client",
        CLIENT,
        (parts.card(CLIENT, "outside", [(plan.client, "CIP")]),),
        gateway=str(plan.outside.ip),
        names={"VIP": public},  # clients use only the public address
    )
    return Network(
        topology="dr-behind-router",
        title=TITLE,
        path="client → router (public address becomes VIP) → director → real server → router (and back) → client",
        method="-g",
        version=plan.version,
        vip=vip,
        vip_prefix=plan.vip.network.prefixlen,
        port=plan.port,
        scheduler=plan.scheduler,
        links=(Switch("outside", str(plan.outside.network)), Switch("lan", str(plan.gateway.network))),
        hosts=(
            client,
            router,
            parts.director(plan, "-g", (parts.card(DIRECTOR, "lan", [(plan.dip, "DIP")], plan.device),), plan.gateway),
            *parts.servers(plan, "lan", plan.gateway, vip),
        ),
        entry=public,
    )
