"""The cache of next hops to the clients of NAT."""

from __future__ import annotations

import os
from ipaddress import ip_address
from unittest import mock

import pytest

from pylvs.bpf import abi, maps
from pylvs.dataplane import load
from pylvs.model.service import Method
from tests.maps import values
from tests.packet.frames import tcp
from tests.packet.host import VIP4, VIP6, Host, new_host, on_cpu, server4, server6

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
def test_neighbouring_clients_have_a_cached_next_hop_with_any_key(family: int) -> None:
    seeds = (CLUSTERING, *load.new_seeds()[1:])
    with mock.patch.object(load, "new_seeds", return_value=seeds), new_host(expires=False) as host:
        cache_next_hops(host, family)


def cache_next_hops(host: Host, family: int) -> None:
    """Send replies to neighbouring clients, and assert that nearly all of them have a route in the cache."""
    vip, server, prefix, name, structure, ways = FAMILIES[family]
    service = host.new_key(vip=vip)
    host.serve(service, 1, Method.MASQ, port=PORT)
    clients = [str(ip_address(prefix) + number) for number in range(2048)]
    with on_cpu(min(os.sched_getaffinity(0))):
        for client in clients:
            host.run(tcp("S", 4000, service.port, client, vip))
            host.run(tcp("SA", PORT, 4000, server, client))
    routes = abi.struct(structure)
    with maps.PerCpuArray.open(host.director.tables.path(name)) as sets:
        size = load.route_sets() * abi.constant(ways) * routes.size
        cached = b"".join(each for number in range(sets.max_entries) for each in values(sets, number))
    assert len(cached) >= size
    width = len(ip_address(prefix).packed)
    known = {cached[at : at + width] for at in range(0, len(cached), routes.size)}
    missing = [client for client in clients if ip_address(client).packed not in known]
    assert len(missing) < len(clients) // 100
