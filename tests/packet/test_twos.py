"""The scheduler twos draws at random: its choices have the distribution of IPVS-SEMANTICS 3.15."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_address

import pytest

from pylvs.dataplane.destinations import DestinationSlots
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceFlag, VirtualService
from pylvs.reference.schedulers import Flow
from pylvs.reference.schedulers.twos import PowerOfTwo
from pylvs.reference.schedulers.weighted import overhead
from pylvs.reference.server import Server
from tests.packet.frames import udp
from tests.packet.host import SERVERS, Host, server4, server_mac

PACKETS = 2000
MOST = 80.0  # chi-squared of up to 6 usable servers; by chance it is greater once in 10^15 runs
# Of each server: weight, active and inactive connections. The last one is at the head of the list.
SITES = (
    ((1, 0, 0), (1, 0, 0), (1, 0, 0)),
    ((1, 0, 0), (2, 0, 0), (5, 0, 0)),
    ((1, 3, 0), (2, 5, 1), (5, 14, 2), (1, 0, 9)),
    ((1, 1, 0), (1, 0, 300)),
    ((3, 0, 0), (0, 0, 0), (4, 2, 2)),
    ((1, 0, 0), (2, 3, 1), (5, 20, 0), (0, 0, 0), (9, 1, 1), (4, 0, 9), (1, 4, 2), *[(0, 0, 0)] * 11),  # has a tree
)


def servers_of(site: tuple[tuple[int, int, int], ...]) -> list[Server]:
    """Return the list of a service, the newest server first."""
    found: list[Server] = []
    for number, (weight, active, inactive) in enumerate(site, 1):
        server = Server(Destination(DestinationKey(ip_address(server4(number)), 53), weight=weight))
        server.active, server.inactive = active, inactive
        found.insert(0, server)
    return found


def chances(servers: list[Server]) -> dict[str, float]:
    """Return the probability of each server."""
    usable = [server for server in servers if server.usable]
    total = sum(server.weight for server in usable) + 1
    drawn = [(server, (server.weight + (not number)) / total) for number, server in enumerate(usable)]
    found = dict.fromkeys((str(server.key.address) for server in usable), 0.0)
    for first, one in drawn:
        for second, other in drawn:
            better = second.weight * overhead(first) > first.weight * overhead(second)
            found[str((second if better else first).key.address)] += one * other
    return found


def chi_squared(counted: Counter[str], wanted: dict[str, float]) -> float:
    """Return how far counts are from what is expected; each chance is above 0."""
    assert set(counted) <= set(wanted)
    total = counted.total()
    return sum((counted[name] - chance * total) ** 2 / (chance * total) for name, chance in wanted.items())


@pytest.mark.parametrize("site", SITES)
def test_the_reference_draws_by_weight_and_prefers_less_load(site: tuple[tuple[int, int, int], ...]) -> None:
    servers = servers_of(site)
    scheduler = PowerOfTwo(servers)
    chosen = (scheduler.choose(Flow(bytes(4), 1, bytes(4)), 0) for _ in range(PACKETS))
    counted = Counter(str(server.key.address) for server in chosen if server)
    assert counted.total() == PACKETS
    assert chi_squared(counted, chances(servers)) < MOST


@pytest.mark.parametrize("site", SITES)
def test_the_packet_path_draws_like_the_reference(director_host: Host, site: tuple[tuple[int, int, int], ...]) -> None:
    service = director_host.new_key(Protocol.UDP)
    director_host.director.add_service(VirtualService(service, "twos", ServiceFlag.ONE_PACKET))
    tables = director_host.director.tables
    for number, (weight, active, inactive) in enumerate(site, 1):
        name = DestinationKey(ip_address(server4(number)), service.port)
        director_host.director.add_destination(service, Destination(name, weight=weight))
        slot = DestinationSlots(tables).find(service, name)
        assert slot is not None
        tables.conn_counts.set(slot, "active", active)
        tables.conn_counts.set(slot, "inactive", inactive)
        director_host.run(udp(dport=service.port), "tc")  # its next hop is known from now on
    frame = udp(dport=service.port)
    addresses = {
        bytes.fromhex(server_mac(number).replace(":", "")): server4(number) for number in range(1, SERVERS + 1)
    }
    counted = Counter[str]()
    for _ in range(PACKETS):
        receiver = addresses.get(director_host.run(frame, "tc").data[:6])
        if receiver:  # else the kernel's neighbour code sends it
            counted[receiver] += 1
    assert counted.total() > PACKETS * 0.9
    assert chi_squared(counted, chances(servers_of(site))) < MOST
