"""The index of IPv4 connections where hashes meet: a bucket, the four beside it, and what comes when they are full."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest

from pylvs.bpf import abi
from pylvs.dataplane import load
from pylvs.model.destination import Method
from tests.packet.frames import CLIENT4, tcp
from tests.packet.host import DROPPED, HOOKS, Host, new_host
from tests.packet.table import entries4, shorten

CAPACITY = 1024
TRIED = 100
PORT = 8080
MEETING = (1, 3)  # with these seeds all that one client sends to one service belongs to one bucket


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    with mock.patch.object(load, "_new_seeds", return_value=MEETING), new_host(CAPACITY, expires=False) as made:
        yield made


def await_empty(host: Host) -> None:
    """End all connections, and return after their entries are gone."""
    shorten(host.director.tables, 0)
    host.expiry.run(host.director)
    assert not list(host.director.connections())
    assert entries4(host.director.tables) == 0


@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ])
def test_connections_whose_hashes_meet_are_found_until_no_bucket_has_room(director_host: Host, method: Method) -> None:
    """Twice: what ended leaves room for as many."""
    host, room = director_host, (1 + abi.constant("OTHER_BUCKETS")) * abi.constant("ENTRIES")
    service = host.new_key()
    host.serve(service, 2, method, port=PORT if method == Method.MASQ else None)
    for _ in range(2):
        await_empty(host)
        first = [host.receive(tcp(sport=port, dport=service.port)) for port in range(1024, 1024 + TRIED)]
        refused = [done for hook, done in first if done.verdict == DROPPED[hook]]
        made = {each.client_port: str(each.destination) for each in host.director.connections()}
        assert len(made) == room
        assert len(refused) == (TRIED - room if method == Method.MASQ else 0)  # DR goes on without state
        assert entries4(host.director.tables) == room * (2 if method == Method.MASQ else 1)
        for port, chosen in made.items():
            for hook in HOOKS:
                host.forwarded(tcp("A", sport=port, dport=service.port), hook)
                if method == Method.MASQ:
                    host.forwarded(tcp("SA", source=chosen, target=CLIENT4, sport=PORT, dport=port), hook)
        assert len(list(host.director.connections())) == room
