"""The cache of next hops to the clients of NAT."""

from __future__ import annotations

import os

from pylvs.bpf import abi, maps
from pylvs.model.service import Method
from tests.maps import values
from tests.packet.frames import tcp
from tests.packet.host import Host, on_cpu, server4

PORT = 8080


def test_the_clients_of_one_network_have_slots_of_their_own(director_host: Host) -> None:
    """Replies to two clients of one slot would look up the next hop in turn."""
    host, service = director_host, director_host.new_key()
    host.serve(service, 1, Method.MASQ, port=PORT)
    clients = [f"198.18.5.{number}" for number in range(256)]
    with on_cpu(min(os.sched_getaffinity(0))):
        for client in clients:
            host.run(tcp("S", sport=4000, dport=service.port, source=client))
            host.run(tcp("SA", source=server4(1), target=client, sport=PORT, dport=4000))
    family = abi.struct("client_hop").view("family")
    with maps.PerCpuArray.open(host.director.tables.path("client_hops")) as hops:
        used = sum(
            any(family.unpack_from(value)[0] == 4 for value in values(hops, slot))
            for slot in range(abi.constant("HOP_SLOTS"))
        )
    assert used >= len(clients)
