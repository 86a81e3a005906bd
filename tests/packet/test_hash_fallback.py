"""A flow that found no entry in a full connection table stays on one server for its whole life."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

import pytest

from pylvs.bpf import maps
from pylvs.model.client_rules import rule_of
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from tests.packet.frames import CLIENT4, CLIENT6, parsed, tcp, udp
from tests.packet.host import (
    DROPPED,
    HOOKS,
    PASSED,
    SENT,
    VIP4,
    VIP6,
    Host,
    ip,
    key,
    new_host,
    on_cpu,
    server4,
    server6,
)

CAPACITY = 1024
SPORTS = range(2000, 2064)
FAMILIES = [(CLIENT4, VIP4), (CLIENT6, VIP6)]


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(connections=CAPACITY, expires=False, recycled=True) as made, on_cpu(min(os.sched_getaffinity(0))):
        made.director.tables.root.set(0, "fallback_key", 1, 2)  # the same choices in each run
        yield made


def fill(host: Host, free: int = 0) -> None:
    """Fill the table with established connections, but for so many."""
    filler = key(1000)
    host.serve(filler, 1)
    for sport in range(10000, 10000 + CAPACITY - free):
        host.run(tcp(sport=sport, dport=1000), "tc")
        host.run(tcp("A", sport=sport, dport=1000), "tc")


def enlarge(host: Host) -> None:
    host.director.change_setting("conn_max", 4 * CAPACITY)
    host.close_programs()


def make_space(host: Host) -> None:
    """End the connections that fill the table. It keeps its size, which takes the verifier nothing."""
    host.director.change_setting("expire_nodest_conn", 1)
    host.director.delete_service(key(1000))
    assert all(each.virtual_port != 1000 for each in host.director.connections())


def picks(host: Host, frames: Sequence[bytes], hook: str = "xdp") -> list[str]:
    """Return the link addresses of the servers that get these frames."""
    return [host.forwarded(frame, hook)[:6].hex(":") for frame in frames]


def serve(
    host: Host, weights: Sequence[int], protocol: Protocol = Protocol.TCP, vip: str = VIP4, scheduler: str = "rr"
) -> ServiceKey:
    service = host.new_key(protocol, vip)
    host.director.add_service(VirtualService(service, scheduler))
    for number, weight in enumerate(weights, 1):
        host.director.add_destination(service, server(service, number, weight))
    return service


def server(service: ServiceKey, number: int, weight: int = 1) -> Destination:
    address = server4(number) if service.address.version == 4 else server6(number)
    return Destination(DestinationKey(ip_address(address), service.port), Method.ROUTE, weight)


def of_clients(service: ServiceKey, flags: str = "S", source: str = CLIENT4, sports: range = SPORTS) -> list[bytes]:
    """Return a frame of each client port."""
    ends = {"dport": service.port, "source": source, "target": str(service.address)}
    if service.protocol == Protocol.UDP:
        return [udp(sport=sport, **ends) for sport in sports]
    return [tcp(flags, sport=sport, **ends) for sport in sports]


@pytest.mark.parametrize(("client", "vip"), FAMILIES)
def test_udp_flows_stay_when_they_get_a_connection(host: Host, client: str, vip: str) -> None:
    service = serve(host, [1, 1, 1], Protocol.UDP, vip)
    fill(host)
    frames = of_clients(service, source=client)
    before = picks(host, frames)
    enlarge(host)
    assert picks(host, frames) == before
    assert len([each for each in host.director.connections() if each.virtual_port == service.port]) == len(SPORTS)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("scheduler", ["rr", "lc", "sh"])
def test_tcp_flows_stay_with_packets_of_all_kinds(host: Host, hook: str, scheduler: str) -> None:
    service = serve(host, [1, 1, 1], scheduler=scheduler)
    fill(host)
    before = picks(host, of_clients(service), hook)
    for flags in "A", "PA", "S":
        assert picks(host, of_clients(service, flags), hook) == before
    make_space(host)
    for flags in "S", "A", "PA", "FA", "A":
        assert picks(host, of_clients(service, flags), hook) == before


@pytest.mark.parametrize(("client", "vip"), FAMILIES)
def test_a_flow_gets_a_connection_by_its_next_packet_but_not_by_its_last_ones(
    host: Host, client: str, vip: str
) -> None:
    service = serve(host, [1, 1, 1], vip=vip)
    fill(host)
    before = picks(host, of_clients(service, source=client))
    enlarge(host)
    for flags in "FA", "R":
        assert picks(host, of_clients(service, flags, client)) == before
        assert all(each.virtual_port != service.port for each in host.director.connections())
    assert picks(host, of_clients(service, "A", client)) == before
    made = [each for each in host.director.connections() if each.virtual_port == service.port]
    assert [each.state for each in made] == ["ESTABLISHED"] * len(SPORTS)
    assert sum(active for active, _ in host.counts(service).values()) == len(SPORTS)


def test_packets_of_no_flow_pass_without_a_full_table(host: Host) -> None:
    service = serve(host, [1, 1])
    for hook in HOOKS:
        assert host.run(tcp("A", dport=service.port), hook).verdict == PASSED[hook]
    assert not list(host.director.connections())


def test_the_choice_honours_weights(host: Host) -> None:
    service = serve(host, [3, 1, 0, 6])
    fill(host)
    found = Counter(picks(host, of_clients(service, sports=range(20000, 22000))))
    shares = [round(count / 200) for _, count in sorted(found.items())]
    assert shares == [3, 1, 6]


def test_the_choice_depends_on_a_secret(host: Host) -> None:
    service = serve(host, [1, 1, 1])
    fill(host)
    before = picks(host, of_clients(service))
    host.director.tables.root.set(0, "fallback_key", 3, 4)
    assert sum(now != then for now, then in zip(picks(host, of_clients(service)), before, strict=True)) > 20


def test_a_change_of_servers_moves_only_flows_to_it_or_from_it(host: Host) -> None:
    service = serve(host, [2, 2, 2, 2])
    fill(host)
    frames = of_clients(service, sports=range(20000, 20400))
    before = picks(host, frames)
    mac = parsed(host.forwarded(frames[0])).dst[:-2] + "03"
    host.director.edit_destination(service, server(service, 3, 4))
    heavier = picks(host, frames)
    assert {now for now, then in zip(heavier, before, strict=True) if now != then} == {mac}
    host.director.delete_destination(service, server(service, 3).key)
    after = picks(host, frames)
    assert [now for now, then in zip(after, heavier, strict=True) if then != mac] == [
        then for then in heavier if then != mac
    ]
    assert mac not in after


def test_few_flows_move_in_a_list_longer_than_the_window(host: Host) -> None:
    service = host.new_key()
    host.director.add_service(VirtualService(service, "rr"))
    servers = [ip_address("10.77.1.0") + number for number in range(300)]
    ip("route", "add", "10.77.0.0/16", "dev", "d0")
    for number, address in enumerate(servers):
        mac = f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}"
        ip("neigh", "add", str(address), "lladdr", mac, "nud", "permanent", "dev", "d0")
    destinations = [Destination(DestinationKey(each, service.port), Method.ROUTE) for each in servers]
    with host.director.batch():
        for destination in destinations[:-1]:
            host.director.add_destination(service, destination)
    fill(host)
    frames = of_clients(service, sports=range(20000, 22000))
    before = picks(host, frames)
    assert max(Counter(before).values()) < 25
    host.director.add_destination(service, destinations[-1])
    added = picks(host, frames)
    assert sum(now != then for now, then in zip(added, before, strict=True)) < 2000 * 2 // 64
    host.director.delete_destination(service, destinations[100].key)
    deleted = picks(host, frames)
    assert sum(now != then for now, then in zip(deleted, added, strict=True)) < 2000 * 2 // 64


@pytest.mark.parametrize("flags", ["A", "FA"])
def test_a_packet_that_ends_its_connection_and_opens_none_leaves_no_count(host: Host, flags: str) -> None:
    service = serve(host, [1])
    for each in "S", "A":
        host.run(tcp(each, dport=service.port), "tc")
    fill(host)
    assert picks(host, of_clients(service))  # without connections
    host.director.delete_destination(service, server(service, 1).key)
    host.director.change_setting("expire_nodest_conn", 1)
    host.run(tcp(flags, dport=service.port), "tc")
    assert all(each.virtual_port != service.port for each in host.director.connections())
    host.director.add_destination(service, server(service, 1))
    assert list(host.counts(service).values()) == [(0, 0)]


def persistent(host: Host, servers: int) -> ServiceKey:
    service = host.new_key()
    host.serve(service, servers, flags=ServiceFlag.PERSISTENT)
    return service


def test_persistent_clients_keep_their_server_without_a_template(host: Host) -> None:
    service = persistent(host, 3)
    fill(host)
    clients = [f"198.18.1.{number}" for number in range(1, 33)]

    def of_all(flags: str) -> list[str]:
        per_client = [picks(host, of_clients(service, flags, each, range(2000, 2004))) for each in clients]
        assert all(len(set(each)) == 1 for each in per_client)
        return [each[0] for each in per_client]

    before = of_all("S")
    assert len(set(before)) == 3
    make_space(host)
    assert of_all("A") == before
    assert of_all("S") == before


def test_a_template_chooses_the_server_of_its_clients_flows(host: Host) -> None:
    service = persistent(host, 3)
    clients = [f"198.18.1.{number}" for number in range(1, 33)]
    before = [picks(host, [tcp(sport=1999, dport=service.port, source=each)])[0] for each in clients]
    for each in clients:
        picks(host, [tcp("A", sport=1999, dport=service.port, source=each)])
    fill(host, free=2 * len(clients))
    for flags in "S", "A", "S":
        again = [picks(host, [tcp(flags, sport=2000, dport=service.port, source=each)])[0] for each in clients]
        assert again == before


@pytest.mark.parametrize("hook", HOOKS)
def test_nat_drops_until_a_connection_is_free(host: Host, hook: str) -> None:
    fill(host)
    service = host.new_key()
    host.serve(service, 3, Method.MASQ, port=8080)
    for flags in "S", "S":
        assert host.run(tcp(flags, dport=service.port), hook).verdict == DROPPED[hook]
    assert host.run(tcp("A", dport=service.port), hook).verdict == PASSED[hook]
    make_space(host)
    assert picks(host, [tcp(dport=service.port), tcp("A", dport=service.port)], hook)


def test_a_choice_is_remembered_until_the_service_changes(host: Host) -> None:
    """Else each packet of a flood would score all servers. Another choice that is written shows that it is used."""
    service = serve(host, [1, 1, 1])
    fill(host)
    frame = of_clients(service)[0]
    before = picks(host, [frame])
    with maps.ArrayMap.open(host.director.tables.path("fallback_choices")) as choices:
        ((at, choice),) = ((at, each) for at in range(choices.max_entries) if any(each := choices.get(at) or b""))
        number = int.from_bytes(choice, "little")
        choices.put(at, (number + 1 if number & 3 < 2 else number - 1).to_bytes(8, "little"))
    assert picks(host, [frame] * 3) == picks(host, [frame]) * 3 != before * 3
    host.director.edit_destination(service, server(service, 1, 2))
    host.director.edit_destination(service, server(service, 1, 1))
    assert picks(host, [frame]) == before


def test_a_limit_counts_a_packet_without_a_connection_once(host: Host) -> None:
    """XDP leaves a packet to TC if the next hop's link address is unknown."""
    service = serve(host, [1])
    host.director.change_client_rules(service, lambda _: [rule_of(("limit", "0.0.0.0/0", "3/h"))])
    fill(host)
    unknown = Destination(DestinationKey(ip_address(server4(50)), service.port))
    host.director.delete_destination(service, server(service, 1, 1).key)
    host.director.add_destination(service, unknown)
    ends = [host.receive(frame) for frame in of_clients(service, sports=range(2000, 2004))]
    assert [done.verdict in SENT[hook] for hook, done in ends] == [True] * 3 + [False]
