"""Connections are copied into another table while packets use the former one, and are the same there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from unittest import mock

import pytest

from pylvs.bpf import kernel
from pylvs.dataplane import load
from pylvs.dataplane.connections import ConnectionReader
from pylvs.dataplane.restore import ConnectionCopy
from pylvs.dataplane.state import State
from pylvs.dataplane.tables import Tables
from pylvs.model.director import Connection
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from tests.packet.frames import CLIENT4, CLIENT6, tcp, udp
from tests.packet.host import VIP4, VIP6, Host, new_host, server4, server6

FORMER, FRESH = 4096, 16384


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(connections=FORMER, expires=False) as made:
        yield made


@contextmanager
def fresh_tables(host: Host) -> Iterator[Tables]:
    """Make an empty connection table of another size beside the host's, with the same destinations."""
    path = f"{host.director.state.path}-fresh"
    os.mkdir(path)
    state = State(host.director.state.cookie, path)
    try:
        with mock.patch.object(kernel, "connection_limit", return_value=FRESH), mock.patch.object(load, "_start_timer"):
            load.create(state)
        tables, former = Tables(state), host.director.tables
        tables.destinations.array.memory[:] = former.destinations.array.memory
        yield tables
    finally:
        for directory, _, names in os.walk(path, topdown=False):
            for name in names:
                os.unlink(f"{directory}/{name}")
            os.rmdir(directory)


def listed(tables: Tables) -> Counter[Connection]:
    """Return the connections without their timeouts, which go on."""
    return Counter(each._replace(expires_s=0) for each in ConnectionReader(tables).connections())


def counts(tables: Tables) -> list[tuple[int, ...]]:
    table = tables.conn_counts
    return [tuple(table.get(slot, name) for name in ("active", "inactive", "persistent")) for slot in range(64)]


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
    return [*found, service]


def fill(host: Host, services: list[ServiceKey], first: int = 20000, each: int = 20) -> None:
    for service in services:
        client = CLIENT4 if service.address.version == 4 else CLIENT6
        where = {"source": client, "target": str(service.address), "dport": service.port}
        for sport in range(first, first + each):
            if service.protocol == Protocol.UDP:
                host.run(udp(sport=sport, **where), "tc")
                continue
            host.run(tcp(sport=sport, **where), "tc")
            if sport % 3:
                host.run(tcp("A", sport=sport, **where), "tc")
            if sport % 7 == 0:
                host.run(tcp("FA", sport=sport, **where), "tc")


def test_a_copy_has_the_same_connections_states_templates_and_counts(host: Host) -> None:
    fill(host, serve_all(host))
    former = host.director.tables
    with fresh_tables(host) as fresh, load.opened_restore(fresh) as restore:
        copy = ConnectionCopy(former, fresh, restore)
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
    with fresh_tables(host) as fresh, load.opened_restore(fresh) as restore:
        copy = ConnectionCopy(former, fresh, restore)
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


def test_a_table_that_is_too_small_refuses_and_counts(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 2)
    former = host.director.tables
    for sport in range(10000, 10000 + 2000):
        host.run(tcp(sport=sport, dport=service.port), "tc")
    with mock.patch(f"{__name__}.FRESH", 1024), fresh_tables(host) as fresh, load.opened_restore(fresh) as restore:
        copy = ConnectionCopy(former, fresh, restore)
        assert copy.run() == 2000
        assert (copy.restored, copy.refused) == (1024, 2000 - 1024)
        assert sum(listed(fresh).values()) == 1024
