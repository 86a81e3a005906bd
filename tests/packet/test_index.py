"""The table of IPv4 connections with colliding hashes: a bucket, its group, and the other groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from unittest import mock

import pytest

from pylvs.bpf import abi
from pylvs.dataplane import load
from pylvs.model.service import Method, ServiceKey
from tests.packet.frames import CLIENT4, tcp
from tests.packet.host import HOOKS, VIP4, Host, new_host, server4
from tests.packet.table import entries4, shorten

CAPACITY = 1024
TRIED = 260
CROWD = 64  # entries of a small map of a crowd
MOST_FAR = 127  # connections of a bucket in other groups
SERVICES = 400
PORT = 8080
MEETING = (1, 3)  # with these seeds, all packets of one client to one service belong to one bucket


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    with ExitStack() as kept:
        with mock.patch.object(load, "new_seeds", return_value=MEETING):
            made = kept.enter_context(new_host(CAPACITY, expires=False))
        yield made


def await_empty(host: Host) -> None:
    """End all connections; return after their entries are gone."""
    shorten(host.director.tables, 0)
    host.expiry.run(host.director)
    assert not list(host.director.connections())
    assert entries4(host.director.tables) == 0


def connect(host: Host, service: ServiceKey, number: int) -> dict[int, str]:
    """Send so many SYNs from consecutive ports; return the servers of the connections by client port."""
    for port in range(1024, 1024 + number):
        host.receive(tcp(sport=port, dport=service.port))
    return {each.client_port: str(each.destination) for each in host.director.connections()}


@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ])
def test_colliding_connections_are_found(director_host: Host, method: Method) -> None:
    """They fill the bucket, its group and other groups; a hash map has the rest.

    Runs twice, because ended connections release their entries.
    """
    host = director_host
    service = host.new_key()
    host.serve(service, 2, method, port=PORT if method == Method.MASQ else None)
    for _ in range(2):
        await_empty(host)
        made = connect(host, service, TRIED)
        assert len(made) == entries4(host.director.tables) == TRIED
        assert len(host.director.tables.crowd4) > 0
        for port, chosen in made.items():
            for hook in HOOKS:
                host.forwarded(tcp("A", sport=port, dport=service.port), hook)
                if method == Method.MASQ:
                    left = host.forwarded(tcp("SA", source=chosen, target=CLIENT4, sport=PORT, dport=port), hook)
                    assert left[26:30] == ip_address(VIP4).packed
        assert len(list(host.director.connections())) == TRIED
    await_empty(host)


@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ])
def test_a_full_map_of_a_crowd_refuses_connections_and_leaves_nothing(method: Method) -> None:
    with (
        mock.patch.object(load, "new_seeds", return_value=MEETING),
        mock.patch.multiple(load, _LEAST_CROWD=CROWD, _CROWD=CAPACITY),
        new_host(CAPACITY, expires=False) as host,
    ):
        service = host.new_key()
        host.serve(service, 2, method, port=PORT if method == Method.MASQ else None)
        made = connect(host, service, TRIED)
        in_buckets = len(made) - (CROWD // 2 if method == Method.MASQ else CROWD)
        group = abi.constant("GROUP_SLOTS")
        assert in_buckets == (group if method == Method.MASQ else group + MOST_FAR)
        assert host.reason("REFUSED_INDEX_FULL") >= TRIED - len(made)
        assert host.reason("TABLE_FULL_STATELESS") == 0, "the service would schedule all clients by a hash"
        await_empty(host)
        assert host.pool("used") <= 2 * abi.constant("MAGAZINE")  # credits that CPUs hold
        assert connect(host, service, TRIED).keys() == made.keys()


def test_one_client_port_has_a_connection_to_each_of_many_services() -> None:
    """By NAT to the same server: the replies, too, have one client port."""
    with new_host(4096, expires=False) as host:
        services = [host.new_key() for _ in range(SERVICES)]
        with host.director.batch():
            for service in services:
                host.serve(service, 1, Method.MASQ)
        for service in services:
            host.receive(tcp(dport=service.port))
        assert len(list(host.director.connections())) == SERVICES
        assert host.reason("REFUSED_INDEX_FULL") == 0
        for service in services:
            host.forwarded(tcp("A", dport=service.port), "tc")
            reply = tcp("SA", source=server4(1), target=CLIENT4, sport=service.port, dport=4000)
            assert host.forwarded(reply, "tc")[26:30] == ip_address(VIP4).packed
        await_empty(host)
