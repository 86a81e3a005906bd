"""Direct routing behind a router that translates one public address to the VIP (static NAT)."""

from __future__ import annotations

from pylvs.lab.network import ROUTER, Host, Network, Switch
from pylvs.lab.plan import AddressPlan, built_in, single_address
from pylvs.lab.topologies import parts


def plan(servers: int, version: int) -> AddressPlan:
    """Return the built-in addresses."""
    return built_in(
        servers,
        version,
        client=("outside", 5),
        gateway=("lan", 1),
        outside=("outside", 1),
        public=("outside", 88),
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
    assert plan.gateway is not None
    assert plan.outside is not None
    assert plan.public is not None
    addresses = [(plan.outside, "gateway"), (single_address(plan.public), "public")]
    if plan.public.ip == plan.outside.ip:
        addresses = [(plan.outside, "public")]
    vip, public = str(plan.vip.ip), str(plan.public.ip)
    router = Host(
        "router",
        ROUTER,
        (parts.card(ROUTER, "outside", addresses), parts.card(ROUTER, "lan", [(plan.gateway, "gateway")], "eth1", 1)),
        forwarding=True,
        commands=static_nat(public, vip, plan.version),
    )
    return parts.network(
        plan,
        "dr-behind-router",
        "direct routing behind a router with static NAT",
        "client → router (public address becomes VIP) → director → real server → router (and back) → client",
        [Switch("outside", str(plan.outside.network)), Switch("lan", str(plan.gateway.network))],
        [
            parts.client(plan, "outside", plan.outside, names={"VIP": public}),  # clients use only the public address
            router,
            parts.director(plan, "lan", plan.gateway),
            *parts.servers(plan, "lan", plan.gateway, vip),
        ],
        entry=public,
    )
