"""The table of IPv4 connections with colliding hashes: a bucket, its group, and the other groups."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest

from pylvs.bpf import abi
from pylvs.dataplane import load
from pylvs.model.service import Method
from tests.packet.frames import CLIENT4, tcp
from tests.packet.host import DROPPED, HOOKS, Host, new_host
from tests.packet.table import entries4, shorten

CAPACITY = 1024
TRIED = 300
MOST_FAR = 255  # connections of a bucket in other groups
PORT = 8080
MEETING = (1, 3)  # with these seeds, all packets of one client to one service belong to one bucket


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    with mock.patch.object(load, "new_seeds", return_value=MEETING), new_host(CAPACITY, expires=False) as made:
        yield made


def await_empty(host: Host) -> None:
    """End all connections; return after their entries are gone."""
    shorten(host.director.tables, 0)
    host.expiry.run(host.director)
    assert not list(host.director.connections())
    assert entries4(host.director.tables) == 0


@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ])
def test_colliding_connections_are_found_until_all_buckets_are_full(director_host: Host, method: Method) -> None:
    """Runs twice, because ended connections release their entries."""
    host, group = director_host, abi.constant("GROUP_SLOTS")
    capacity = group if method == Method.MASQ else group + MOST_FAR  # all groups by the client are one group
    service = host.new_key()
    host.serve(service, 2, method, port=PORT if method == Method.MASQ else None)
    for _ in range(2):
        await_empty(host)
        first = [host.receive(tcp(sport=port, dport=service.port)) for port in range(1024, 1024 + TRIED)]
        refused = [done for hook, done in first if done.verdict == DROPPED[hook]]
        made = {each.client_port: str(each.destination) for each in host.director.connections()}
        assert len(made) == capacity
        assert len(refused) == TRIED - capacity
        assert host.reason("TABLE_FULL_STATELESS") == 0, "the service would schedule all clients by a hash"
        assert entries4(host.director.tables) == capacity
        for port, chosen in made.items():
            for hook in HOOKS:
                host.forwarded(tcp("A", sport=port, dport=service.port), hook)
                if method == Method.MASQ:
                    host.forwarded(tcp("SA", source=chosen, target=CLIENT4, sport=PORT, dport=port), hook)
        assert len(list(host.director.connections())) == capacity
