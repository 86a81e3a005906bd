"""Two NAT connections of one client port to one real server: the newer one gets the replies (IPVS-SEMANTICS 4.1)."""

from __future__ import annotations

import pytest

from pylvs.bpf import abi
from pylvs.dataplane import load
from pylvs.model.service import Method, ServiceKey
from tests.packet.frames import CLIENT4, CLIENT6, parsed, tcp
from tests.packet.host import HOOKS, SENT, VIP4, VIP6, Host, new_host, server4, server6
from tests.packet.table import Entry, entries, set_expiry_tick, unfinished

PORT = 8080


def opened(host: Host, dport: int, sport: int) -> int:
    """Make a connection, and return its slot."""
    before = {each.slot for each in entries(host.director.tables)}
    host.receive(tcp(sport=sport, dport=dport))
    (slot,) = {each.slot for each in entries(host.director.tables)} - before
    return slot


def bytes_of(host: Host, slot: int) -> memoryview:
    """Return the connection in a slot, without the marks of its bucket."""
    size = abi.struct("conn_entry4").size
    return host.director.tables.connections.memory[slot * size :][: size - 2]


@pytest.fixture
def ports(director_host: Host) -> list[int]:
    """Return the ports of two services with the same real server."""
    services = [director_host.new_key() for _ in range(2)]
    for service in services:
        director_host.serve(service, 1, Method.MASQ, port=PORT)
    return [service.port for service in services]


def test_the_older_connection_stays_without_replies_when_its_state_changes(
    director_host: Host, ports: list[int]
) -> None:
    host, sport = director_host, 3000
    for dport in ports:
        opened(host, dport, sport)
    reply = tcp("SA", source=server4(1), target=CLIENT4, sport=PORT, dport=sport)
    for flags in "A", "FA":
        for hook in HOOKS:
            done = host.run(tcp(flags, sport=sport, dport=ports[0]), hook)
            assert done.verdict in (*SENT[hook], 2), "TC finishes what XDP passes"
            if hook == "xdp" and done.verdict == 2:
                continue
        left = host.forwarded(reply, "tc")
        assert int.from_bytes(left[34:36], "big") == ports[1]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("version", [4, 6])
def test_the_older_connection_has_its_replies_again_when_the_newer_one_has_ended(version: int, hook: str) -> None:
    """Otherwise a forged packet to another service would cut a client off for good."""
    vip, client, server = (VIP4, CLIENT4, server4(1)) if version == 4 else (VIP6, CLIENT6, server6(1))
    reply = tcp("SA", source=server, target=client, sport=PORT, dport=3000)
    with new_host(expires=False, recycled=True) as host:
        tables = host.director.tables
        services = [host.new_key(vip=vip) for _ in range(2)]
        for service in services:
            host.serve(service, 1, Method.MASQ, port=PORT)

        def opened_to(service: ServiceKey) -> Entry:
            before = {each.slot for each in entries(tables)}
            host.receive(tcp("S", 3000, service.port, client, vip))
            (made,) = (each for each in entries(tables) if each.slot not in before)
            return made

        def port_of_reply() -> int:
            return int(parsed(host.forwarded(reply, hook)).sport)

        opened_to(services[0])
        for _ in range(2):
            newer = opened_to(services[1])
            assert port_of_reply() == services[1].port
            now = load.clock(tables.state)
            newer.end_at(now)
            set_expiry_tick(tables, newer.slot, now)
            host.expiry.run(host.director)
            assert port_of_reply() == services[0].port


def test_a_connection_that_is_being_removed_does_not_change(director_host: Host, ports: list[int]) -> None:
    """Another CPU may free its slot, and fill it anew, at any moment."""
    host, sport = director_host, 3100
    slot = opened(host, ports[0], sport)
    (older,) = [each for each in entries(host.director.tables) if each.slot == slot]
    older.change(older.word | 1 << abi.constant("WORD_DYING"))
    before = bytes(bytes_of(host, slot))
    opened(host, ports[1], sport)
    assert bytes(bytes_of(host, slot)) == before
    older.change(older.word)


@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_connections_that_two_cpus_make_at_once_one_gets_the_replies(is_first: bool) -> None:
    """Each CPU may find the other's connection before that is finished. Both decide for the greater slot."""
    with new_host(expires=False, recycled=True) as host:
        services = [host.new_key() for _ in range(3)]
        for service, ports in zip(services, (PORT + 1, PORT, PORT), strict=True):
            host.serve(service, 1, Method.MASQ, port=ports)
        tables, sport = host.director.tables, 3200
        if not is_first:
            neighbour = opened(host, services[0].port, sport)
        one = opened(host, services[1].port, sport)
        if not is_first:
            (first,) = [each for each in entries(tables) if each.slot == neighbour]
            now = load.clock(tables.state)
            first.end_at(now)
            set_expiry_tick(tables, neighbour, now)
            host.expiry.run(host.director)
        with unfinished(tables, one):
            other = opened(host, services[2].port, sport)
        assert (one < other) is is_first
        no_replies = 1 << abi.constant("WORD_NO_REPLIES")
        lost = {each.slot for each in entries(tables) if each.word & no_replies}
        assert lost == {min(one, other)}
