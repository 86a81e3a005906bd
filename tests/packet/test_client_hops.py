"""The cache of next hops to the clients of NAT."""

from __future__ import annotations

import os
from ipaddress import ip_address
from unittest import mock

from pylvs.bpf import abi, maps
from pylvs.dataplane import load
from pylvs.model.service import Method
from tests.maps import values
from tests.packet.frames import tcp
from tests.packet.host import Host, new_host, on_cpu, server4

PORT = 8080
CLUSTERING = 0x4253FF822941FA41  # products of neighbouring addresses with this key share their upper bits


def test_thousands_of_clients_have_a_cached_next_hop(director_host: Host) -> None:
    """Replies to two clients with one place in the cache would look up the next hop in turn."""
    cache_next_hops(director_host)


def test_neighbouring_clients_have_a_cached_next_hop_with_any_key() -> None:
    seeds = (CLUSTERING, *load.new_seeds()[1:])
    with mock.patch.object(load, "new_seeds", return_value=seeds), new_host(expires=False) as host:
        cache_next_hops(host)


def cache_next_hops(host: Host) -> None:
    """Send replies to neighbouring clients, and assert that nearly all of them have a route in the cache."""
    service = host.new_key()
    host.serve(service, 1, Method.MASQ, port=PORT)
    clients = [f"198.18.{number // 256}.{number % 256}" for number in range(2048)]
    with on_cpu(min(os.sched_getaffinity(0))):
        for client in clients:
            host.run(tcp("S", sport=4000, dport=service.port, source=client))
            host.run(tcp("SA", source=server4(1), target=client, sport=PORT, dport=4000))
    routes = abi.struct("client_route")
    with maps.PerCpuArray.open(host.director.tables.path("client_routes")) as sets:
        size = load.route_sets() * abi.constant("ROUTE_WAYS") * routes.size
        cached = b"".join(each for number in range(sets.max_entries) for each in values(sets, number))
    assert len(cached) >= size
    known = {cached[at : at + routes.size][:4] for at in range(0, len(cached), routes.size)}
    missing = [client for client in clients if ip_address(client).packed not in known]
    assert len(missing) < len(clients) // 100
