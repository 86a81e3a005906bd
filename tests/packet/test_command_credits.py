"""Programs that commands run use credits of their own, because packets can interrupt them before Linux 6.11."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.bpf import maps
from tests.packet.frames import tcp
from tests.packet.host import Host, key, new_host

CONNECTIONS = 100  # more than a CPU keeps credits for


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(connections=4096, expires=False, recycled=True) as made:
        made.serve(key(80), 1)
        for sport in range(2000, 2000 + CONNECTIONS):
            made.run(tcp("S", sport=sport, dport=80))
        assert len(list(made.director.connections())) == CONNECTIONS
        yield made


def credits_of_packets(host: Host) -> bytes:
    """Return what each CPU keeps for the connections that its packets make and end."""
    with maps.PerCpuArray.open(host.director.tables.path("percpu_credits")) as found:
        return bytes(found.get(0) or b"")


def test_a_deleted_server_gives_the_credits_of_its_connections_to_all_cpus(host: Host) -> None:
    host.director.change_setting("expire_nodest_conn", 1)
    used, before = host.pool("used"), credits_of_packets(host)
    ((destination,),) = (row.destinations for row in host.director.services())
    host.director.delete_destination(key(80), destination.destination.key)
    assert not list(host.director.connections())
    assert (host.pool("used"), credits_of_packets(host)) == (used - CONNECTIONS, before)


def test_another_size_takes_credits_for_its_connections_from_no_cpu(host: Host) -> None:
    assert any(credits_of_packets(host))
    host.director.change_setting("conn_max", 8192)
    assert len(list(host.director.connections())) == CONNECTIONS
    assert (host.pool("used"), any(credits_of_packets(host))) == (CONNECTIONS, False)
