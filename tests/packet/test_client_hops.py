"""The cache of next hops to the clients of NAT."""

from __future__ import annotations

import os
from ipaddress import ip_address
from unittest import mock

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6DestUnreach

from pylvs.bpf import abi, maps
from pylvs.dataplane import load
from pylvs.model.service import Destination, DestinationKey, Method, VirtualService
from tests.iproute import ip_batch
from tests.maps import values
from tests.packet.frames import build, ether, network, tcp
from tests.packet.host import VIP4, VIP6, Host, new_host, on_cpu, server4, server6
from tests.waiting import until

PORT = 8080
FAMILIES = {
    4: (VIP4, server4(1), "198.18.0.0", "client_routes", "client_route", "ROUTE_WAYS"),
    6: (VIP6, server6(1), "2001:db8:c::", "client_routes6", "client_route6", "ROUTE_WAYS6"),
}
CLUSTERING = 0x4253FF822941FA41  # products of neighbouring addresses with this key share their upper bits


@pytest.mark.parametrize("family", [4, 6])
def test_thousands_of_clients_have_a_cached_next_hop(director_host: Host, family: int) -> None:
    """Replies to two clients with one place in the cache would look up the next hop in turn."""
    cache_next_hops(director_host, family)


@pytest.mark.parametrize("family", [4, 6])
def test_thousands_of_clients_on_the_link_have_a_cached_next_hop_each(family: int) -> None:
    vip, server, *_ = FAMILIES[family]
    own = ip_address("10.78.0.1") if family == 4 else ip_address("fd78::1")
    clients = [own + number for number in range(1, min(2048, load.hop_slots() // 8))]
    lines = [f"address add {own}/{16 if family == 4 else 64} dev d0 {'' if family == 4 else 'nodad'}"]
    lines += [
        f"neighbour add {client} lladdr 02:00:00:02:{number >> 8:02x}:{number & 255:02x} dev d0 nud permanent"
        for number, client in enumerate(clients)
    ]
    with new_host(expires=False, recycled=True) as host, on_cpu(min(os.sched_getaffinity(0))):
        ip_batch(lines)
        service = host.new_key(vip=vip)
        host.serve(service, 1, Method.MASQ, port=PORT)
        for client in map(str, clients):
            host.run(tcp("S", 4000, service.port, client, vip))
            host.run(tcp("SA", PORT, 4000, server, client))
        hop = abi.struct("client_hop")
        with maps.PerCpuArray.open(host.director.tables.path("client_hops")) as found:
            cached = b"".join(each for number in range(found.max_entries) for each in values(found, number))
    gateways = {
        hop.unpack_from(cached, at)["hop.gateway.word"]
        for at in range(0, len(cached), hop.size)
        if any(cached[at : at + 72])
    }
    assert len(gateways) > 0.99 * len(clients)


@pytest.mark.parametrize("family", [4, 6])
def test_neighbouring_clients_have_a_cached_next_hop_with_any_key(family: int) -> None:
    seeds = (CLUSTERING, *load.new_seeds()[1:])
    with mock.patch.object(load, "new_seeds", return_value=seeds), new_host(expires=False) as host:
        cache_next_hops(host, family)


@pytest.mark.parametrize("family", [4, 6])
def test_a_client_of_many_servers_has_a_route_from_each(family: int) -> None:
    """A proxy or a large NAT is one client of very many services."""
    vip, _, client, *_ = FAMILIES[family]
    server = server4 if family == 4 else server6
    with new_host(expires=False, recycled=True) as host, on_cpu(min(os.sched_getaffinity(0))):
        host.director.change_setting("snat_reroute", 0)  # replies are routed as from the server
        for number in range(1, 9):
            service = host.new_key(vip=vip)
            host.director.add_service(VirtualService(service, "rr"))
            host.director.add_destination(
                service, Destination(DestinationKey(ip_address(server(number)), PORT), Method.MASQ)
            )
            host.run(tcp("S", 4000 + number, service.port, client, vip))
        until(
            lambda: replied_at_once(host, family), "eight replies within a second: then no route gives way to another"
        )
        assert len(cached_routes(host, family, of=client)) == 8


@pytest.mark.parametrize("family", [4, 6])
def test_packets_of_no_connection_have_no_route_in_the_cache(director_host: Host, family: int) -> None:
    """Anyone can send ICMP errors to a virtual address, and packets with the address of a NAT server."""
    vip, server, first, *_ = FAMILIES[family]
    service = director_host.new_key(vip=vip)
    director_host.serve(service, 1, Method.MASQ, port=PORT)
    director_host.director.change_setting("nat_icmp_send", 1)
    quoted = network(vip, first) / TCP(sport=service.port, dport=9)
    kind = ICMP(type=3, code=1) if IP in quoted else ICMPv6DestUnreach()
    others = [str(ip_address(first) + 0x8000 + number) for number in range(40)]
    for other in others:
        director_host.run(build(ether() / network(other, vip) / kind / quoted), "tc")
        director_host.run(tcp("A", PORT, 9, server, other), "tc")
    director_host.director.change_setting("nat_icmp_send", 0)
    assert director_host.reason("NO_CONNECTION") >= len(others)
    ends = tuple(ip_address(each).packed for each in (vip, *others))
    assert not [each for each in cached_routes(director_host, family) if each.startswith(ends)]


def replied_at_once(host: Host, family: int) -> bool:
    """Reply to a client from eight servers, with an empty cache; return whether that took less than a second."""
    _, _, client, name, *_ = FAMILIES[family]
    server = server4 if family == 4 else server6
    with maps.PerCpuArray.open(host.director.tables.path(name)) as sets:
        for number in range(sets.max_entries):
            sets.fill(number, bytes(sets.value_size))
    begin = load.clock(host.director.state)
    for number in range(1, 9):
        host.run(tcp("SA", PORT, 4000 + number, server(number), client))
    return load.clock(host.director.state) - begin & 0xFFFFFFFF < round(load.ticks_per_second()) - 1


def cache_next_hops(host: Host, family: int) -> None:
    """Send replies to neighbouring clients, and assert that nearly all of them have a route in the cache."""
    vip, server, first, *_ = FAMILIES[family]
    service = host.new_key(vip=vip)
    host.serve(service, 1, Method.MASQ, port=PORT)
    clients = [str(ip_address(first) + number) for number in range(2048)]
    with on_cpu(min(os.sched_getaffinity(0))):
        for client in clients:
            host.run(tcp("S", 4000, service.port, client, vip))
            host.run(tcp("SA", PORT, 4000, server, client))
    width = len(ip_address(first).packed)
    known = {each[:width] for each in cached_routes(host, family)}
    missing = [client for client in clients if ip_address(client).packed not in known]
    assert len(missing) < len(clients) // 100


def cached_routes(host: Host, family: int, of: str = "") -> list[bytes]:
    """Return the routes of the cache; those to one client, if it is given."""
    _, _, _, name, structure, ways = FAMILIES[family]
    size = abi.struct(structure).size
    with maps.PerCpuArray.open(host.director.tables.path(name)) as sets:
        cached = b"".join(each for number in range(sets.max_entries) for each in values(sets, number))
    assert len(cached) >= load.route_sets() * abi.constant(ways) * size
    client = ip_address(of).packed if of else b""
    return [cached[at : at + size] for at in range(0, len(cached), size) if cached.startswith(client, at)]
