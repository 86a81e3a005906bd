"""With a full connection table, established connections work, and new ones are forwarded without state, or counted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from click.testing import CliRunner

from pylvs.cli.director import show
from pylvs.dataplane import load
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import State
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey, VirtualService
from tests.packet.frames import CLIENT4, CLIENT6, parsed, tcp, udp
from tests.packet.host import (
    DROPPED,
    HOOKS,
    SENT,
    VIP4,
    VIP6,
    Host,
    new_host,
    on_cpu,
    server4,
    server6,
    server_mac,
)

CAPACITY = 1024
SERVERS = 5
FAMILIES = [(CLIENT4, VIP4), (CLIENT6, VIP6)]
BY_MAC = {server_mac(number): number for number in range(1, SERVERS + 1)}


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    """Return a host whose table is full of connections to port 1000, from client port 10000 on."""
    with new_host(connections=CAPACITY, expires=False, recycled=True) as made:
        filler = ServiceKey(Protocol.TCP, ip_address(VIP4), 1000)
        made.serve(filler, 2)
        with on_cpu(min(os.sched_getaffinity(0))):
            for sport in range(10000, 10000 + CAPACITY):
                made.run(tcp(sport=sport, dport=1000), "tc")
                made.run(tcp("A", sport=sport, dport=1000), "tc")
        assert len(list(made.director.connections())) == CAPACITY
        yield made


@pytest.fixture
def full(shared: Host) -> Host:
    return shared


def chosen(host: Host, frame: bytes, hook: str) -> int:
    """Return the server that gets a frame."""
    return BY_MAC[parsed(host.forwarded(frame, hook)).dst]


def reorder(host: Host, service: ServiceKey, method: Method, order: list[int]) -> None:
    """Delete and add the servers, so that the list has another order."""
    server = server4 if service.address.version == 4 else server6
    for number in order:
        destination = DestinationKey(ip_address(server(number)), service.port)
        host.director.delete_destination(service, destination)
        host.director.add_destination(service, Destination(destination, method))


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("method", [Method.ROUTE, Method.TUNNEL], ids=lambda method: method.name)
@pytest.mark.parametrize(("client", "vip"), FAMILIES)
def test_source_hashing_schedules_new_connections_in_any_order_of_the_list(
    full: Host, hook: str, method: Method, client: str, vip: str
) -> None:
    service = full.new_key(vip=vip)
    full.serve(service, SERVERS, method)
    before, living = full.reason("TABLE_FULL_STATELESS"), len(list(full.director.connections()))
    ends = [{"sport": sport, "dport": service.port, "source": client, "target": vip} for sport in range(2000, 2040)]
    picks = [chosen(full, tcp("S", **each), hook) for each in ends]
    assert len(set(picks)) > 1, "one server gets everything"
    assert full.reason("TABLE_FULL_STATELESS") >= before + len(ends)

    for flags in "A", "PA", "FA", "S":
        assert [chosen(full, tcp(flags, **each), hook) for each in ends] == picks, flags
    for order in [3, 1, 5, 2, 4], [2, 5]:
        reorder(full, service, method, order)
        assert [chosen(full, tcp("A", **each), hook) for each in ends] == picks, order
        assert [chosen(full, tcp("S", **each), hook) for each in ends] == picks, order
    assert len(list(full.director.connections())) == living

    server = server4 if vip == VIP4 else server6
    gone = picks[0]
    full.director.delete_destination(service, DestinationKey(ip_address(server(gone)), service.port))
    after = [chosen(full, tcp("A", **each), hook) for each in ends]
    assert [pick for pick, old in zip(after, picks, strict=True) if old != gone] == [
        pick for pick in picks if pick != gone
    ]
    assert gone not in after


@pytest.mark.parametrize("hook", HOOKS)
def test_source_hashing_schedules_udp_as_well(full: Host, hook: str) -> None:
    service = full.new_key(Protocol.UDP)
    full.serve(service, SERVERS)
    picks = [chosen(full, udp(sport=sport, dport=service.port), hook) for sport in range(2000, 2020)]
    assert [chosen(full, udp(sport=sport, dport=service.port), hook) for sport in range(2000, 2020)] == picks
    assert len(set(picks)) > 1


@pytest.mark.parametrize("hook", HOOKS)
def test_new_connections_of_nat_are_dropped_and_counted(full: Host, hook: str) -> None:
    service = full.new_key()
    full.serve(service, SERVERS, Method.MASQ, port=8080)
    before = full.reason("TABLE_FULL_DROPPED")
    for sport in range(3000, 3010):
        assert full.run(tcp(sport=sport, dport=service.port), hook).verdict == DROPPED[hook]
    assert full.reason("TABLE_FULL_DROPPED") == before + 10
    assert set(full.counts(service).values()) == {(0, 0)}


@pytest.mark.parametrize("hook", HOOKS)
def test_established_connections_keep_their_server(full: Host, hook: str) -> None:
    for connection in list(full.director.connections())[:50]:
        assert connection.state == "ESTABLISHED"
        frame = tcp("A", sport=connection.client_port, dport=1000)
        assert server4(chosen(full, frame, hook)) == str(connection.destination)


def test_packets_without_a_connection_pass_unless_one_began_without_state(full: Host) -> None:
    service = full.new_key()
    full.serve(service, SERVERS)
    frame = tcp("A", sport=2000, dport=service.port)
    for hook in HOOKS:
        assert full.run(frame, hook).verdict not in (*SENT[hook], DROPPED[hook])


def test_the_counters_have_names_in_show(full: Host) -> None:
    for method in Method.ROUTE, Method.MASQ:
        service = full.new_key()
        full.serve(service, 1, method)
        full.run(tcp(sport=2000, dport=service.port))
    done = CliRunner().invoke(show)
    assert done.exit_code == 0, done.output
    assert "table full stateless" in done.output
    assert "table full dropped" in done.output
    assert f"connections {CAPACITY} of {CAPACITY}" in done.output


def test_the_table_changes_its_size_with_its_connections() -> None:
    with new_host(connections=CAPACITY, recycled=True) as host:
        service = host.new_key()
        host.serve(service, 1)
        host.forwarded(tcp(dport=service.port))
        host.director.change_setting("conn_max", 2048)
        host.close_programs()
        assert host.director.settings()["conn_max"] == 2048
        assert host.counts(service) == {server4(1): (1, 0)}
        host.forwarded(tcp("A", dport=service.port))
        for sport in range(2000, 2000 + 1200):
            host.run(tcp(sport=sport, dport=service.port))
            host.run(tcp("A", sport=sport, dport=service.port))
        assert host.counts(service) == {server4(1): (1201, 0)}


def test_open_peers_see_a_table_of_another_size() -> None:
    with new_host(connections=CAPACITY, recycled=True) as host:
        service = host.new_key()
        host.serve(service, 1)
        peer = BpfDirector(State.open())
        assert not list(peer.connections())
        assert peer.settings()["conn_max"] == CAPACITY
        host.director.change_setting("conn_max", 2048)
        host.close_programs()
        host.forwarded(tcp(dport=service.port))
        assert len(list(peer.connections())) == 1
        assert peer.settings()["conn_max"] == 2048
        peer.change_setting("conn_max", 4096)
        assert host.director.settings()["conn_max"] == 4096


def test_open_peers_edit_the_tables_that_came_after_a_down() -> None:
    with new_host(connections=CAPACITY, recycled=True) as host:
        first, second = host.new_key(), host.new_key()
        host.serve(first, 1)
        peer = BpfDirector(State.open())
        assert len(peer.services()) == 1
        load.take_down(host.director.state)
        assert not peer.services()
        again = BpfDirector(State.open())
        again.add_service(VirtualService(first))
        peer.add_service(VirtualService(second))
        assert {row.service.key for row in again.services()} == {first, second}
        assert {row.service.key for row in peer.services()} == {first, second}


def test_the_first_edits_of_two_peers_at_once_both_succeed() -> None:
    with new_host(connections=CAPACITY, recycled=True) as host:
        load.take_down(host.director.state)
        peers = [BpfDirector(State.open()) for _ in range(2)]
        keys = [host.new_key() for _ in peers]
        children = []
        for peer, key in zip(peers, keys, strict=True):
            child = os.fork()
            if not child:
                status = 1
                try:
                    peer.add_service(VirtualService(key))
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        assert {row.service.key for row in peers[0].services()} == set(keys)


@pytest.mark.parametrize("method", [Method.ROUTE, Method.TUNNEL], ids=lambda method: method.name)
def test_connections_of_other_methods_leave_a_share_to_nat(method: Method) -> None:
    """A SYN and an ACK from a forged address establish a connection by direct routing, whose replies pass elsewhere."""
    with new_host(connections=CAPACITY, expires=False, recycled=True) as host, on_cpu(min(os.sched_getaffinity(0))):
        attacked, nat = host.new_key(), host.new_key()
        host.serve(attacked, SERVERS, method)

        def establish(service: ServiceKey, sports: range) -> None:
            for sport in sports:
                for flags in "S", "A":
                    host.run(tcp(flags, sport, service.port), "tc")

        def established(service: ServiceKey) -> int:
            return sum(active for active, _ in host.counts(service).values())

        establish(attacked, range(10000, 10000 + CAPACITY // 2))
        host.serve(nat, 1, Method.MASQ)
        establish(attacked, range(20000, 20000 + CAPACITY))
        share = CAPACITY // 8
        assert CAPACITY - share <= established(attacked) <= CAPACITY - share + 32, "credits of a CPU count as used"
        picks = [chosen(host, tcp("S", sport, attacked.port), "tc") for sport in range(40000, 40020)]
        assert [chosen(host, tcp("A", sport, attacked.port), "tc") for sport in range(40000, 40020)] == picks
        establish(nat, range(30000, 30000 + share // 2))
        assert established(nat) == share // 2
