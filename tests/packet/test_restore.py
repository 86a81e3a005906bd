"""Connections are copied into another table while packets use the former one, and are the same there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any
from unittest import mock

import pytest

from pylvs.bpf import abi, kernel
from pylvs.dataplane import load
from pylvs.dataplane.connections import ConnectionReader
from pylvs.dataplane.state import RESTORE, State
from pylvs.dataplane.tables import Tables
from pylvs.dataplane.upgrade import upgrade
from pylvs.dataplane.upgrade.former import Former
from pylvs.dataplane.upgrade.restore import ConnectionCopy, Seen, Source
from pylvs.model.director import Connection
from pylvs.model.errors import Busy, NoSpace
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from tests.packet.frames import CLIENT4, CLIENT6, parsed, tcp, udp
from tests.packet.host import DROPPED, VIP4, VIP6, Host, new_host, on_cpu, server4, server6, stock
from tests.packet.table import entries, set_expiry_tick

SIP_PORT = 5060

FORMER, FRESH = 4096, 16384


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(connections=FORMER, expires=False, recycled=True) as made:
        yield made


@contextmanager
def fresh_tables(host: Host) -> Iterator[Tables]:
    """Make an empty connection table of another size beside the host's, with the same destinations."""
    path = f"{host.director.state.path}-fresh"
    os.mkdir(path)
    state = State(host.director.state.cookie, path)
    try:
        with (
            mock.patch.object(kernel, "connection_limit", return_value=FRESH),
            mock.patch.object(load, "start_timers"),
        ):
            stock.create(state)
        tables, former = Tables(state), host.director.tables
        tables.destinations.array.memory[:] = former.destinations.array.memory
        with stock.keeping(state):
            yield tables
    finally:
        for directory, _, names in os.walk(path, topdown=False):
            for name in names:
                os.unlink(f"{directory}/{name}")
            os.rmdir(directory)


@contextmanager
def copying(former: Tables, fresh: Tables) -> Iterator[ConnectionCopy]:
    """Load the program that inserts connections, over the fresh table."""
    with load.open_object(*load.pool_shape(fresh), (RESTORE,)) as opened:
        load.reuse_maps(opened, fresh)
        opened.load()
        with ConnectionCopy(Former(former.state), fresh, os.dup(opened.program_fd(RESTORE))) as copy:
            yield copy


def listed(tables: Tables) -> Counter[Connection]:
    """Return the connections without their timeouts, which go on."""
    return Counter(each._replace(expires_s=0) for each in ConnectionReader(tables).connections())


def assured(tables: Tables) -> list[int]:
    """Return whether templates are assured."""
    return [tables.controls.get(each.slot, "assured") for each in entries(tables) if each.is_template]


def counts(tables: Tables) -> list[tuple[int, ...]]:
    table = tables.conn_counts
    return [tuple(table.get(slot, name) for name in ("active", "inactive", "persistent")) for slot in range(64)]


def controlled(tables: Tables) -> int:
    """Return how many connections refer to templates."""
    return sum(tables.controls.get(each.slot, "controls") for each in entries(tables) if each.is_template)


def serve_all(host: Host) -> list[ServiceKey]:
    """Serve every forwarding method over both families, one service of them persistent; return the keys."""
    found = []
    for vip, server in (VIP4, server4), (VIP6, server6):
        for method in Method.ROUTE, Method.MASQ, Method.TUNNEL:
            for flags in ServiceFlag(0), ServiceFlag.PERSISTENT:
                service = host.new_key(vip=vip)
                host.director.add_service(VirtualService(service, "rr", flags, timeout_s=300))
                for number in 1, 2, 3:
                    key = DestinationKey(ip_address(server(number)), service.port)
                    host.director.add_destination(service, Destination(key, method))
                found.append(service)
    service = ServiceKey(Protocol.UDP, ip_address(VIP4), 53)
    host.serve(service, 2)
    calls = ServiceKey(Protocol.UDP, ip_address(VIP4), SIP_PORT)
    host.director.add_service(VirtualService(calls, "rr", ServiceFlag.PERSISTENT, timeout_s=300, engine="sip"))
    for number in 1, 2, 3:
        key = DestinationKey(ip_address(server4(number)), calls.port)
        host.director.add_destination(calls, Destination(key, Method.MASQ))
    return [*found, service, calls]


def fill(host: Host, services: list[ServiceKey], first: int = 20000, count: int = 20) -> None:
    for service in services:
        client = CLIENT4 if service.address.version == 4 else CLIENT6
        where = {"source": client, "target": str(service.address), "dport": service.port}
        for sport in range(first, first + count):
            if service.protocol == Protocol.UDP:
                host.run(udp(sport=sport, payload=f"\ni: {sport % 7}@calls\n".encode(), **where), "tc")
                continue
            host.run(tcp(sport=sport, **where), "tc")
            if sport % 3:
                host.run(tcp("A", sport=sport, **where), "tc")
            if sport % 7 == 0:
                host.run(tcp("FA", sport=sport, **where), "tc")


def test_a_copy_has_the_same_connections_states_templates_and_counts(host: Host) -> None:
    fill(host, serve_all(host))
    former = host.director.tables
    with fresh_tables(host) as fresh, copying(former, fresh) as copy:
        assert copy.run() == sum(listed(former).values())
        assert copy.refused == 0
        assert listed(fresh) == listed(former)
        assert counts(fresh) == counts(former)
        assert fresh.pool.get(0, "used") == sum(listed(former).values())
        assert copy.run() == 0, "nothing has changed"


def test_a_later_pass_takes_over_what_packets_changed_and_made(host: Host) -> None:
    services = serve_all(host)
    fill(host, services)
    former = host.director.tables
    with fresh_tables(host) as fresh, copying(former, fresh) as copy:
        copy.run()
        fill(host, services, 20100, 5)
        for service in services[:-1]:
            client = CLIENT4 if service.address.version == 4 else CLIENT6
            host.run(tcp("FA", source=client, target=str(service.address), dport=service.port, sport=20001), "tc")
        assert listed(fresh) != listed(former)
        changed = copy.run()
        assert 5 * len(services) <= changed < sum(listed(former).values())
        assert listed(fresh) == listed(former)
        assert counts(fresh) == counts(former)


def test_a_later_pass_ends_what_ended_in_the_former_table(host: Host) -> None:
    services = serve_all(host)
    fill(host, services)
    former = host.director.tables
    host.director.change_setting("expire_nodest_conn", 1)
    with fresh_tables(host) as fresh, copying(former, fresh) as copy:
        copy.run()
        before = listed(former)
        for service in services[::2]:
            host.director.delete_service(service)  # its connections and templates end
        assert copy.run() == sum(before.values()) - sum(listed(former).values()) > 0
        assert listed(fresh) == listed(former) != Counter()
        assert counts(fresh) == counts(former)
        assert fresh.pool.get(0, "used") == sum(listed(former).values())
        assert copy.run() == 0


def test_a_copy_that_another_process_continues_keeps_nothing_that_has_ended(host: Host) -> None:
    services = serve_all(host)
    fill(host, services, count=10)
    former = host.director.tables
    host.director.change_setting("expire_nodest_conn", 1)
    with fresh_tables(host) as fresh:
        with copying(former, fresh) as killed:
            killed.run()
        for service in services[:6:2]:
            host.director.delete_service(service)  # its connections and templates end
        fill(host, services[6:], first=20020, count=5)
        assert listed(fresh).keys() - listed(former).keys()
        with copying(former, fresh) as copy:
            copy.clear(Source(Former(fresh.state)))
            assert not listed(fresh)
            copy.run(is_last=True)
        assert listed(fresh) == listed(former)
        assert counts(fresh) == counts(former)
        assert controlled(fresh) == controlled(former)


def test_an_end_counts_for_the_connection_that_was_copied_alone(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1)
    former = host.director.tables
    host.run(tcp("S", dport=service.port), "tc")
    with fresh_tables(host) as fresh, copying(former, fresh) as copy:

        def records(*seen: Seen) -> Counter[str]:
            with mock.patch.object(copy, "_changes", return_value=seen):
                copy.run()
            return Counter(each.state for each in listed(fresh).elements())

        (seen,) = copy._changes(only_new=False)
        assert records(seen) == {"SYN_RECV": 1}
        ended = seen._replace(was=seen.entry.word, has_ended=True)
        assert records(ended._replace(was=seen.entry.word + 1)) == {"SYN_RECV": 1}, "a packet has refreshed it"
        close = abi.constant("STATE_CLOSE") ^ abi.constant("STATE_SYN_RECV")
        word = seen.entry.word ^ close << abi.constant("WORD_STATE")
        again = seen._replace(entry=seen.entry._replace(word=word))
        assert records(again, ended) == {"CLOSE": 1}, "the client has opened it again"
        assert records(ended) == {"CLOSE": 1}
        assert records(ended._replace(was=word)) == {}


def test_a_later_pass_takes_over_that_a_template_is_assured(host: Host) -> None:
    service = host.new_key()
    host.director.add_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT, timeout_s=60))
    host.director.add_destination(service, Destination(DestinationKey(ip_address(server4(1)), service.port)))
    former = host.director.tables
    host.run(tcp("S", dport=service.port), "tc")
    with fresh_tables(host) as fresh, copying(former, fresh) as copy:
        copy.run()
        host.run(tcp("A", dport=service.port), "tc")
        assert assured(former) != assured(fresh)
        copy.run()
        assert assured(fresh) == assured(former) == [abi.constant("ASSURED")]


def test_a_table_that_is_too_small_refuses_and_counts(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 2)
    former = host.director.tables
    with on_cpu(min(os.sched_getaffinity(0))):  # each CPU reserves some slots; half-open ones end in a table half full
        for sport in range(10000, 10000 + 2000):
            host.run(tcp(sport=sport, dport=service.port), "tc")
    with mock.patch(f"{__name__}.FRESH", 1024), fresh_tables(host) as fresh, copying(former, fresh) as copy:
        assert copy.run() == 2000
        assert (copy.restored, copy.refused) == (1024, 2000 - 1024)
        assert sum(listed(fresh).values()) == 1024


@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ, Method.TUNNEL], ids=lambda method: method.name)
@pytest.mark.parametrize("family", [4, 6])
def test_another_size_keeps_connections_and_those_made_during_the_copy(host: Host, family: int, method: Method) -> None:
    service = host.new_key(vip=VIP4 if family == 4 else VIP6)
    host.serve(service, 3, method)
    where = {"source": CLIENT4 if family == 4 else CLIENT6, "target": str(service.address), "dport": service.port}
    servers: dict[int, str] = {}

    def connect(sport: int) -> None:
        servers[sport] = parsed(host.forwarded(tcp("S", sport=sport, **where), "tc")).dst
        host.forwarded(tcp("A", sport=sport, **where), "tc")

    def switch_devices(*arguments: Any) -> None:
        switch(*arguments)
        connect(3001)
        host.run(tcp("FA", sport=3000, **where), "tc")

    def turn_switch(*arguments: Any) -> None:
        """Send packets through the programs of the new table before the last pass."""
        host.close_programs()
        turn(*arguments)
        held = host.reason("REFUSED_TABLE_COPY")
        assert host.run(tcp("A", sport=3001, **where), "tc").verdict == DROPPED["tc"]
        assert host.reason("REFUSED_TABLE_COPY") == held + 1
        connect(3002)

    connect(3000)
    switch, turn = upgrade._switch_devices, upgrade._turn_switch
    with (
        mock.patch.object(upgrade, "_switch_devices", switch_devices),
        mock.patch.object(upgrade, "_turn_switch", turn_switch),
    ):
        host.director.change_setting("conn_max", 2 * FORMER)
    assert {each.client_port: each.state for each in host.director.connections()} == {
        3000: "CLOSE_WAIT" if method == Method.MASQ else "FIN_WAIT",
        3001: "ESTABLISHED",
        3002: "ESTABLISHED",
    }
    for sport, server in servers.items():
        assert parsed(host.forwarded(tcp("A", sport=sport, **where), "tc")).dst == server
    assert sorted(host.counts(service).values()) == sorted([(0, 1), (1, 0), (1, 0)])


def test_another_size_leaves_the_replies_with_the_newer_of_two_connections(host: Host) -> None:
    """Two services of NAT have the same server. The newer connection is copied first, because its slot is lower."""
    services = [host.new_key() for _ in range(3)]
    for service in services:
        host.serve(service, 1, Method.MASQ, port=8080)
    tables, frames = host.director.tables, [tcp(sport=3000, dport=service.port) for service in services]
    for frame in frames[:2]:
        host.receive(frame)
    first = min(entries(tables), key=lambda each: each.slot)
    now = load.clock(host.director.state)
    first.end_at(now)
    set_expiry_tick(tables, first.slot, now)
    host.expiry.run(host.director)
    host.receive(frames[2])
    assert min(each.slot for each in entries(tables)) == first.slot
    reply = tcp("SA", source=server4(1), target=CLIENT4, sport=8080, dport=3000)
    for _ in range(2):
        assert parsed(host.forwarded(reply, "tc")).sport == services[2].port
        host.director.change_setting("conn_max", 2 * FORMER)
        host.close_programs()


def test_a_smaller_table_is_refused_if_its_connections_do_not_fit(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1)
    for sport in range(2000, 2000 + 1500):
        host.run(tcp("S", sport=sport, dport=service.port))
    with pytest.raises(Busy, match=r"conn_max=1024: 1500 connections live"):
        host.director.change_setting("conn_max", 1024)
    assert host.counts(service) == {server4(1): (1500, 0)}
    host.director.change_setting("conn_max", 1024, drop=True)
    assert host.counts(service) == {server4(1): (1024, 0)}
    assert len(list(host.director.connections())) == 1024


def test_a_table_as_large_as_its_connections_is_not_refused(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1)
    with on_cpu(min(os.sched_getaffinity(0))):
        for sport in range(2000, 2000 + 1030):
            host.run(tcp("S", sport=sport, dport=service.port))
    assert host.pool("used") > 1030, "this CPU reserves some more"
    host.director.change_setting("conn_max", 1030)
    assert host.counts(service) == {server4(1): (1030, 0)}


def test_a_table_that_refuses_connections_stays_unused(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1)
    for sport in range(2000, 2000 + 1500):
        host.run(tcp("S", sport=sport, dport=service.port))
    with mock.patch.object(load, "buckets", return_value=8):
        with pytest.raises(Busy, match=r"conn_max=8192: \d+ connections that the new table refuses"):
            host.director.change_setting("conn_max", 8192)
        assert host.director.settings()["conn_max"] == FORMER
        assert not host.director.state.leftovers()[1]
        assert host.counts(service) == {server4(1): (1500, 0)}
        host.director.change_setting("conn_max", 8192, drop=True)
    assert 0 < host.counts(service)[server4(1)][0] < 1500


def programs_open() -> int:
    """Return the descriptors of programs that this process has open."""
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return sum("bpf-prog" in os.readlink(link) for link in links if os.path.lexists(link))


@pytest.mark.parametrize("step", ["_switch_devices", "_turn_switch"])
def test_a_failed_change_of_size_closes_its_programs(host: Host, step: str) -> None:
    host.serve(host.new_key(), 1)
    before = programs_open()
    with (
        mock.patch.object(upgrade, step, side_effect=NoSpace("no memory")),
        pytest.raises(NoSpace, match="no memory"),
    ):
        host.director.change_setting("conn_max", 2 * FORMER)
    assert programs_open() == before


def test_persistent_clients_stay_with_their_server_in_another_table(host: Host) -> None:
    service = host.new_key()
    host.director.add_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT, timeout_s=300))
    for number in 1, 2, 3:
        key = DestinationKey(ip_address(server4(number)), service.port)
        host.director.add_destination(service, Destination(key, Method.ROUTE))
    clients = [f"198.18.0.{number}" for number in range(1, 10)]
    ends = [{"source": client, "dport": service.port} for client in clients]
    servers = [parsed(host.forwarded(tcp("S", sport=2000, **each), "tc")).dst for each in ends]
    host.director.change_setting("conn_max", 2 * FORMER)
    host.close_programs()
    assert [parsed(host.forwarded(tcp("S", sport=2001, **each), "tc")).dst for each in ends] == servers


@pytest.mark.parametrize("filtered", [False, True], ids=["all", "new and not half-open"])
def test_a_connection_whose_template_a_pass_missed_gets_it_in_the_next(host: Host, filtered: bool) -> None:
    """The client came while the pass was between the template's block and the connection's."""
    service = host.new_key()
    host.director.add_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT, timeout_s=300))
    host.director.add_destination(service, Destination(DestinationKey(ip_address(server4(1)), service.port)))
    clients = iter(range(1, 240))

    def come() -> bool:
        for _ in range(60):
            source = f"198.18.1.{next(clients)}"
            for flags in "SA":
                host.run(tcp(flags, source=source, dport=service.port), "tc")
        return True

    former = host.director.tables
    with fresh_tables(host) as fresh, copying(former, fresh) as copy:
        copy.run(may_continue=come)
        assert copy._early, "connections whose templates are in blocks already read"
        if filtered:
            copy.run(only_new=True, half_open=False)
            assert not copy._early
        copy.run(is_last=True)
        assert listed(fresh) == listed(former)
        assert controlled(fresh) == controlled(former) > 100


def test_the_template_of_a_call_without_space_is_refused(host: Host) -> None:
    fill(host, serve_all(host))
    former = host.director.tables
    there = sum(listed(former).values())
    with fresh_tables(host) as fresh, copying(former, fresh) as copy:
        put, calls = copy._calls.put, iter(range(7))

        def third_fails(*arguments: Any) -> None:
            if next(calls) == 2:
                raise NoSpace("map calls is full")
            put(*arguments)

        with mock.patch.object(copy._calls, "put", third_fails):
            copy.run(is_last=True)
        assert next(calls, None) is None
        assert copy.refused == 1
        assert sum(bool(each.engine_data) for each in listed(fresh).elements()) == 6
        assert sum(listed(fresh).values()) == there - 1


def test_another_size_keeps_destinations_that_memory_would_no_longer_allow(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 10)
    with mock.patch.object(load, "destination_limit", return_value=8):
        host.director.change_setting("conn_max", 2 * FORMER)
    assert host.director.tables.conn_counts.count == host.director.tables.destinations.count
    for number in 9, 10:
        key = DestinationKey(ip_address(server4(number)), service.port)
        host.director.edit_destination(service, Destination(key, upper=5))
