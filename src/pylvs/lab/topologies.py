"""The topologies of the lab: each has a built-in address plan, and makes a network from a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from pylvs.lab.files import CONFIGURATION, announcing_conf, keepalived_conf
from pylvs.lab.network import CLIENT, DIRECTOR, ROUTER, SERVER, Host, Interface, Network, Switch
from pylvs.lab.plan import (
    MOST_SERVERS,
    AddressPlan,
    AnyInterface,
    built_in,
    first_of,
    host_address,
    override,
    single_address,
)
from pylvs.lab.routing import CONFIGURATIONS, director_conf, directors_of, router_conf, router_program
from pylvs.model.addresses import endpoint
from pylvs.model.errors import InvalidOperation

_ROLE_OCTETS = {CLIENT: 0x0C, DIRECTOR: 0x0D, ROUTER: 0x0F}


def _mac(role: str, card: int = 0, number: int = 0) -> str:
    """Return a link address with the role of its owner.

    ...:0c:00 client, ...:0d:00 director (:0e: the second), ...:01:03:00 third real server.
    """
    if role == SERVER:
        return f"02:00:00:01:{number:02x}:{card:02x}"
    return f"02:00:00:00:{_ROLE_OCTETS[role] + number:02x}:{card:02x}"


def _card(
    role: str,
    link: str,
    addresses: Iterable[tuple[AnyInterface, str]],
    device: str = "eth0",
    index: int = 0,
    number: int = 0,
) -> Interface:
    """Return a network interface with (address, note) pairs."""
    pairs = list(addresses)
    return Interface(
        link,
        device,
        _mac(role, index, number),
        tuple(str(one) for one, _ in pairs),
        tuple(note for _, note in pairs),
    )


def _network(
    plan: AddressPlan,
    topology: str,
    title: str,
    path: str,
    links: Iterable[Switch],
    hosts: Iterable[Host],
    *,
    method: str = "-g",
    entry: str = "",
) -> Network:
    """Return the network of a plan, with these links and hosts; clients use `entry`, or else the VIP."""
    vip = str(plan.vip.ip)
    return Network(
        topology=topology,
        title=title,
        path=path,
        method=method,
        version=plan.version,
        vip=vip,
        vip_prefix=plan.vip.network.prefixlen,
        port=plan.port,
        scheduler=plan.scheduler,
        links=tuple(links),
        hosts=tuple(hosts),
        entry=entry or vip,
    )


def _client(
    plan: AddressPlan, link: str, gateway: AnyInterface | None = None, names: Mapping[str, str] | None = None
) -> Host:
    """Return the client, on its own link or on that of the servers."""
    assert plan.client is not None
    return Host(
        "client", CLIENT, (_card(CLIENT, link, [(plan.client, "CIP")]),), gateway=_ip(gateway), names=names or {}
    )


def _director(
    plan: AddressPlan,
    link: str,
    gateway: AnyInterface | None = None,
    *,
    method: str = "-g",
    second_card: Interface | None = None,
) -> Host:
    """Return the director with its table: one virtual service, all real servers. With a second card it is a router."""
    first = _card(DIRECTOR, link, [(plan.dip, "DIP")], plan.device)
    return Host(
        "director",
        DIRECTOR,
        (first, second_card) if second_card else (first,),
        gateway=_ip(gateway),
        forwarding=second_card is not None,
        vip_device=plan.device,
        commands=_table(plan, method),
    )


def _ip(interface: AnyInterface | None) -> str:
    return str(interface.ip) if interface else ""


def _table(plan: AddressPlan, method: str) -> tuple[str, ...]:
    """Return the ipvsadm commands of a plan."""
    service = endpoint(plan.vip.ip, plan.port)
    lines = [f"ipvsadm -A -t {service} -s {plan.scheduler}"]
    lines += [f"ipvsadm -a -t {service} -r {endpoint(server.ip, plan.port)} {method}" for server in plan.servers]
    return tuple(lines)


def _servers(plan: AddressPlan, link: str, gateway: AnyInterface | None, realserver: str = "") -> list[Host]:
    """Return all real servers on one link; `realserver` are the arguments of `pylvs realserver up` ("" for NAT)."""
    return [
        _server(plan, number, address, link, gateway, realserver)
        for number, address in enumerate(plan.servers, start=1)
    ]


def _server(
    plan: AddressPlan, number: int, address: AnyInterface, link: str, gateway: AnyInterface | None, realserver: str
) -> Host:
    return Host(
        f"rs{number}",
        SERVER,
        (Interface(link, plan.device, _mac(SERVER, 0, number), (str(address),), ("RIP",)),),
        gateway=_ip(gateway),
        commands=(f"pylvs realserver up {realserver}",) if realserver else (),
    )


def _dr_network(plan: AddressPlan) -> Network:
    """Direct routing on one switch: client, director and real servers share a subnet."""
    return _network(
        plan,
        "dr",
        "direct routing, all hosts on one switch",
        "client → director (only the MACs change) → real server → client, not through the director",
        [Switch("lan", str(plan.dip.network))],
        [
            _client(plan, "lan", plan.gateway),
            _director(plan, "lan", plan.gateway),
            *_servers(plan, "lan", plan.gateway, str(plan.vip.ip)),
        ],
    )


def _static_nat(public: str, vip: str, version: int) -> tuple[str, ...]:
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


def _dr_behind_router_network(plan: AddressPlan) -> Network:
    """Direct routing behind a router that translates one public address to the VIP (static NAT).

    Servers reply through the router, which translates the VIP back to the public address.
    """
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
        (_card(ROUTER, "outside", addresses), _card(ROUTER, "lan", [(plan.gateway, "gateway")], "eth1", 1)),
        forwarding=True,
        commands=_static_nat(public, vip, plan.version),
    )
    return _network(
        plan,
        "dr-behind-router",
        "direct routing behind a router with static NAT",
        "client → router (public address becomes VIP) → director → real server → router (and back) → client",
        [Switch("outside", str(plan.outside.network)), Switch("lan", str(plan.gateway.network))],
        [
            _client(plan, "outside", plan.outside, names={"VIP": public}),  # clients use only the public address
            router,
            _director(plan, "lan", plan.gateway),
            *_servers(plan, "lan", plan.gateway, vip),
        ],
        entry=public,
    )


def _dr_routed_plan(servers: int, version: int) -> AddressPlan:
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


def _dr_routed_network(plan: AddressPlan) -> Network:
    """Direct routing with the VIP in another subnet than the director and the real servers.

    All are on one switch, where the gateway has an address in both subnets. Without a client in the plan, the gateway
    is the client.
    """
    assert plan.gateway is not None
    assert plan.gateway_vip is not None
    pairs = [(plan.gateway_vip, "gateway"), (plan.gateway, "gateway")]
    subnets = f"{plan.gateway_vip.network} and {plan.gateway.network}"
    links = [Switch("switch", subnets)]
    if plan.client is None:
        path = "client (and gateway) → director → real server → client, by the servers' gateway address"
        outer = [Host("client", CLIENT, (_card(CLIENT, "switch", pairs),), forwarding=True)]
    else:
        assert plan.outside is not None
        path = "client → gateway → director → real server → gateway → client"
        links.insert(0, Switch("outside", str(plan.outside.network)))
        cards = (
            _card(ROUTER, "outside", [(plan.outside, "gateway")]),
            _card(ROUTER, "switch", pairs, "eth1", 1),
        )
        outer = [
            _client(plan, "outside", plan.outside),
            Host("router", ROUTER, cards, forwarding=True),
        ]
    return _network(
        plan,
        "dr-routed",
        "direct routing with the VIP in another subnet than the real servers",
        path,
        links,
        [
            *outer,
            _director(plan, "switch", plan.gateway),
            *_servers(plan, "switch", plan.gateway, str(plan.vip.ip)),
        ],
    )


def _nat_network(plan: AddressPlan) -> Network:
    """NAT: the director is between the client's network and the servers, and is their gateway."""
    assert plan.inside is not None
    second_card = _card(DIRECTOR, "inside", [(plan.inside, "gateway of the servers")], "eth1", index=1)
    return _network(
        plan,
        "nat",
        "NAT, the director is the servers' gateway",
        "client → director (VIP becomes RIP) → real server → director (RIP becomes VIP) → client",
        [Switch("outside", str(plan.dip.network)), Switch("inside", str(plan.inside.network))],
        [
            _client(plan, "outside"),
            _director(plan, "outside", method="-m", second_card=second_card),
            *_servers(plan, "inside", plan.inside),
        ],
        method="-m",
    )


# encapsulation -> options of ipvsadm and of `pylvs realserver up`
TUNNEL_OPTIONS = {
    "ipip": ("-i", "--tunnel"),
    "gre": ("-i --tun-type gre", "--tun-type gre"),
    "gue": ("-i --tun-type gue --tun-port 6080", "--tun-type gue --tun-port 6080"),
}
FIRST_SITE = 10  # 10.0.11.0/24 is the first server's


def _tun_plan(servers: int, version: int) -> AddressPlan:
    """Return the built-in addresses: a subnet for every server."""
    sites = tuple(host_address("site", 20 + number, version, FIRST_SITE + number) for number in range(1, servers + 1))
    return replace(built_in(servers, version, client=("outside", 5), outside=("outside", 1)), servers=sites)


def _tun_network(plan: AddressPlan) -> Network:
    """Tunnelling: each real server is in a subnet behind a router; the director encapsulates, servers decapsulate.

    The router has the first address of every subnet, or the plan's `outside` in the client's.
    """
    assert plan.client is not None
    method, decapsulation = TUNNEL_OPTIONS[plan.tunnel]
    outside = plan.outside or first_of(plan.client)
    here = plan.gateway or first_of(plan.dip)
    sites = list(dict.fromkeys(first_of(server) for server in plan.servers))
    site_names = {site: f"site{number}" for number, site in enumerate(sites, start=1)}
    cards = [
        _card(ROUTER, "outside", [(outside, "gateway")]),
        _card(ROUTER, "lan", [(here, "gateway")], "eth1", 1),
    ]
    for number, site in enumerate(sites, start=2):
        cards.append(_card(ROUTER, site_names[site], [(site, "gateway")], f"eth{number}", number))
    servers = [
        _server(plan, number, address, site_names[site], site, f"{plan.vip.ip} {decapsulation}")
        for number, address in enumerate(plan.servers, start=1)
        for site in (first_of(address),)
    ]
    links = {"outside": outside, "lan": plan.dip} | {name: site for site, name in site_names.items()}
    return _network(
        plan,
        "tun",
        "IP tunnelling, real servers in other subnets",
        "client → director (encapsulates) → router → real server (decapsulates) → router → client",
        [Switch(name, str(interface.network)) for name, interface in links.items()],
        [
            _client(plan, "outside", outside),
            Host("router", ROUTER, tuple(cards), forwarding=True),
            _director(plan, "lan", here, method=method),
            *servers,
        ],
        method="-i",
    )


MASTER, BACKUP = ("MASTER", 100), ("BACKUP", 90)


def _ha_network(plan: AddressPlan) -> Network:
    """Two directors and one VIP: VRRP chooses the master, which forwards by direct routing.

    director1 starts as the master; director2 runs the plan's `peer`.
    """
    assert plan.dip2 is not None
    vip = str(plan.vip.ip)
    # The lab is up when the VIP serves and director1 holds it.
    serves = f"curl -s --max-time 1 http://{f'[{vip}]' if plan.version == 6 else vip}/"
    return _network(
        plan,
        "ha",
        "two directors, one VIP, all hosts on one switch",
        "client → the director that is MASTER → real server → client; the other director waits",
        [Switch("lan", str(plan.dip.network))],
        [
            replace(_client(plan, "lan", plan.gateway), awaits=serves),
            _ha_director(plan, 1, plan.dip, MASTER, "pylvs"),
            _ha_director(plan, 2, plan.dip2, BACKUP, plan.peer),
            *_servers(plan, "lan", plan.gateway, vip),
        ],
    )


def _ha_director(plan: AddressPlan, number: int, dip: AnyInterface, role: tuple[str, int], program: str) -> Host:
    """Return a director. The backup starts when the VIP answers, so director1 is always the first master."""
    return Host(
        f"{DIRECTOR}{number}",
        DIRECTOR,
        (_card(DIRECTOR, "lan", [(dip, "DIP")], plan.device, number=number - 1),),
        gateway=_ip(plan.gateway),
        shared_vip_device=plan.device,
        commands=(f"service {program} start",),
        files={CONFIGURATION: keepalived_conf(plan, *role)},
        awaits=f"ip -o addr show to {plan.vip.ip} | grep -q ." if role is MASTER else "",
        follows="" if role is MASTER else f"ping -c 1 -W 1 {plan.vip.ip}",
    )


ECMP_DIRECTORS = 4


def _ecmp_plan(servers: int, version: int) -> AddressPlan:
    """Return the built-in addresses: the VIP is in no subnet, so only BGP leads to it."""
    addresses = built_in(
        servers, version, vip=("public", 100), client=("outside", 5), gateway=("lan", 1), outside=("outside", 1)
    )
    return replace(addresses, scheduler="mh")


def _ecmp_network(plan: AddressPlan) -> Network:
    """Several directors behind a router, which has as many routes to the VIP, by BGP."""
    assert plan.gateway is not None
    assert plan.outside is not None
    vip, daemon, beside = str(plan.vip.ip), plan.routing, router_program(plan.routing)
    six = " -6" if plan.version == 6 else ""
    router = Host(
        "router",
        ROUTER,
        (
            _card(ROUTER, "outside", [(plan.outside, "gateway")]),
            _card(ROUTER, "lan", [(plan.gateway, "gateway")], "eth1", 1),
        ),
        forwarding=True,
        commands=(
            f"sysctl -q -w net.ipv{plan.version}.fib_multipath_hash_policy=1",
            f"service {beside} start",
        ),
        files={CONFIGURATIONS[beside]: router_conf(beside, plan)},
        awaits=f"test $(ip{six} route show {vip} | grep -c via) = {ECMP_DIRECTORS}",
    )
    directors = [
        Host(
            f"{DIRECTOR}{number}",
            DIRECTOR,
            (_card(DIRECTOR, "lan", [(dip, "DIP")], plan.device, number=16 * (number - 1)),),
            gateway=_ip(plan.gateway),
            commands=(
                f"service {daemon} start",
                "service pylvs start",
                "pylvs sysctl -w net.ipv4.vs.sloppy_tcp=1",
            ),
            files={
                CONFIGURATION: announcing_conf(plan),
                CONFIGURATIONS[daemon]: director_conf(daemon, plan, dip),
            },
        )
        for number, dip in enumerate(directors_of(plan, ECMP_DIRECTORS), start=1)
    ]
    return _network(
        plan,
        "ecmp",
        "four active directors behind a router with ECMP",
        "client → router → one of the directors, by a hash → real server → router → client",
        [Switch("outside", str(plan.outside.network)), Switch("lan", str(plan.gateway.network))],
        [
            _client(plan, "outside", plan.outside),
            router,
            *directors,
            *_servers(plan, "lan", plan.gateway, vip),
        ],
    )


class Topology(NamedTuple):
    """A function that makes a network from a plan, and one that makes the built-in plan.

    The latter gets the number of servers and the IP version.
    """

    letter: str  # the first letter of default names
    network: Callable[[AddressPlan], Network]
    plan: Callable[[int, int], AddressPlan] = built_in


TOPOLOGIES: Mapping[str, Topology] = {
    "dr": Topology("d", _dr_network),
    "nat": Topology(
        "n",
        _nat_network,
        partial(built_in, vip=("outside", 100), dip=("outside", 10), inside=("lan", 1), client=("outside", 5)),
    ),
    "tun": Topology("t", _tun_network, _tun_plan),
    "ha": Topology("h", _ha_network, partial(built_in, dip2=("lan", 11))),
    "dr-behind-router": Topology(
        "b",
        _dr_behind_router_network,
        partial(built_in, client=("outside", 5), gateway=("lan", 1), outside=("outside", 1), public=("outside", 88)),
    ),
    "dr-routed": Topology("r", _dr_routed_network, _dr_routed_plan),
    "ecmp": Topology("e", _ecmp_network, _ecmp_plan),
}


def design(topology: str, servers: int = 3, version: int = 4, overrides: Mapping[str, Any] | None = None) -> Network:
    """Return the network of a topology with some of the plan's fields replaced. Raises InvalidOperation."""
    if topology not in TOPOLOGIES:
        raise InvalidOperation(f"{topology}: no such topology; there are: {', '.join(TOPOLOGIES)}")
    if not 0 < servers <= MOST_SERVERS:
        raise InvalidOperation(f"number of servers: {servers}: must be from 1 to {MOST_SERVERS}")
    shape = TOPOLOGIES[topology]
    if overrides and topology != "tun" and overrides.get("tunnel", "ipip") != "ipip":
        raise InvalidOperation(f"{topology}: the topology has no tunnel; use {overrides['tunnel']} with tun")
    if overrides and topology != "ha" and overrides.get("peer", "pylvs") != "pylvs":
        raise InvalidOperation(f"{topology}: the topology has one director; use {overrides['peer']} with ha")
    if overrides and topology != "ecmp" and overrides.get("routing", "bird") != "bird":
        raise InvalidOperation(f"{topology}: the topology has no BGP; use {overrides['routing']} with ecmp")
    if overrides and "vip" in overrides:
        version = overrides["vip"].version
    return shape.network(override(shape.plan(servers, version), overrides or {}))
