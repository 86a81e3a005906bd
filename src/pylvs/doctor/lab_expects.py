"""What each host of a lab is to know of the others: clients, gateways, and the packets that routers forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from pylvs.doctor.expected import NOTHING, Expected, Flow
from pylvs.lab.network import CLIENT, DIRECTOR, ROUTER, SERVER, Host, Network, address_of
from pylvs.model.addresses import Address

_BY_NAT, _BY_TUNNEL = "-m", "-i"
_IPIP, _GRE, _UDP, _IPV6, _TCP = 4, 47, 17, 41, 6
_GUE_PORT = 6080


def of(network: Network, host: Host) -> Expected:
    """Return what is expected of a host."""
    if host.role == ROUTER:
        return Expected(flows=tuple(_flows(network, host)))
    if host.role != SERVER:
        return NOTHING
    clients = tuple(first(client) for client in network.role(CLIENT) if _has_address(client))
    gateway = ip_address(host.gateway) if host.gateway else None
    return Expected(clients, gateway)


def own_addresses(network: Network, host: Host) -> list[Address]:
    """Return the address by which the doctor of a real server of NAT knows that it is one."""
    return [first(host)] if network.method == _BY_NAT and host.role == SERVER and _has_address(host) else []


def behind_routers(network: Network) -> Mapping[str, list[str]]:
    """Return the real servers that a director reaches by a router, by the names of routers."""
    near = {card.link for host in network.role(DIRECTOR) for card in host.interfaces}
    far = [host for host in network.role(SERVER) if near.isdisjoint(card.link for card in host.interfaces)]
    return {router.name: [host.name for host in far if _device(router, host)] for router in network.role(ROUTER)}


def first(host: Host) -> Address:
    """Return the first address of a host."""
    return ip_address(address_of(host.interfaces[0].addresses[0]))


def _has_address(host: Host) -> bool:
    return bool(host.interfaces and host.interfaces[0].addresses)


def _device(router: Host, host: Host) -> str:
    """Return the router's device on a link of a host; "" if they have none in common."""
    links = {card.link for card in host.interfaces}
    return next((card.device for card in router.interfaces if card.link in links), "")


def _flows(network: Network, router: Host) -> Iterator[Flow]:
    """Yield what a router has to forward: requests, replies past the director, and tunnels."""
    vip, entry = ip_address(network.vip), ip_address(network.entry)
    directors = [host for host in network.role(DIRECTOR) if _has_address(host)]
    servers = [host for host in network.role(SERVER) if _has_address(host)]
    for client in filter(_has_address, network.role(CLIENT)):
        side, source = _device(router, client), first(client)
        inner = next((device for host in directors if (device := _device(router, host))), "")
        if side and inner and side != inner:
            public = entry if entry != vip else None
            yield Flow(source, vip, side, inner, dport=network.port, public=public)
        for server in servers if network.method != _BY_NAT else ():
            near = _device(router, server)
            if side and near and side != near:
                yield Flow(vip, source, near, side, sport=network.port)
    if network.method == _BY_TUNNEL:
        for director in directors:
            protocol, port = _tunnel(network, director)
            for server in servers:
                come, leave = _device(router, director), _device(router, server)
                if come and leave and come != leave:
                    yield Flow(first(director), first(server), come, leave, protocol, dport=port)


def _tunnel(network: Network, director: Host) -> tuple[int, int]:
    """Return the protocol of a lab's tunnels, and the port of GUE."""
    commands = " ".join(director.commands)
    if "--tun-type gue" in commands:
        return _UDP, _GUE_PORT
    if "--tun-type gre" in commands:
        return _GRE, 0
    return (_IPIP if network.version == 4 else _IPV6), 0
