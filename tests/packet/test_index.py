"""The connection table with colliding hashes: a bucket, its group, the other groups, and the overflow index."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from random import Random
from unittest import mock

import pytest

from pylvs.bpf import abi
from pylvs.dataplane import load
from pylvs.model.service import Method, ServiceKey
from tests.packet.frames import CLIENT4, CLIENT6, parsed, tcp
from tests.packet.host import HOOKS, SENT, VIP4, VIP6, Host, new_host, on_cpu, server4, server6
from tests.packet.table import entries_in_use, overflowed, shorten, wipe
from tests.packet.test_client_hops import CLUSTERING
from tests.packet.test_half_open import from_client

CAPACITY = 1024
TRIED = 260
OVERFLOW_INDEX = 64  # entries of a small overflow index
MOST_FAR = 63  # connections of a bucket in other groups
SERVICES = 400
PORT = 8080
SPREADING = 0x9E3779B97F4A7C15
_random = Random("seeds")
# Fixed ones: with some the other groups of a client meet, and the overflow index holds the rest of its connections.
APART = tuple(_random.getrandbits(64) | (number < 2) for number in range(abi.constant("SEEDS")))
VIP, CLIENT = {4: VIP4, 6: VIP6}, {4: CLIENT4, 6: CLIENT6}


def meeting(first: int, second: int) -> tuple[int, ...]:
    """Return seeds with which all packets of the client of IPv6 belong to one bucket.

    With the first ones 1 and 3, those of IPv4 to one service belong to the same one.
    """
    client = struct.unpack("<2Q", ip_address(CLIENT6).packed)
    return (
        first,
        second,
        *((-(word >> 32) & 0xFFFFFFFF) << 32 for word in client),
        0,
        0x3C6EF372FE94F82A,
        0xC2B2AE3D27D4EB4F,
    )


@contextmanager
def meeting_host(version: int) -> Iterator[Host]:
    """Make a host with seeds for a version of IP; the whole tuple still spreads its connections."""
    seeds = meeting(1, 3) if version == 4 else meeting(SPREADING, 3)
    with mock.patch.object(load, "new_seeds", return_value=seeds), new_host(CAPACITY, expires=False) as made:
        yield made


def await_empty(host: Host) -> None:
    """End all connections; return after their entries are gone."""
    shorten(host.director.tables, 0)
    host.expiry.run(host.director)
    assert not list(host.director.connections())
    assert entries_in_use(host.director.tables) == 0


def frame(service: ServiceKey, flags: str, sport: int = 4000) -> bytes:
    """Return a packet of the client."""
    client = CLIENT[service.address.version]
    return tcp(flags, sport=sport, dport=service.port, source=client, target=str(service.address))


def connect(host: Host, service: ServiceKey, number: int) -> dict[int, str]:
    """Send so many SYNs from consecutive ports; return the servers of the connections by client port."""
    for sport in range(1024, 1024 + number):
        host.receive(frame(service, "S", sport))
    return {each.client_port: str(each.destination) for each in host.director.connections()}


def check_reply(host: Host, version: int, server: str, sport: int, dport: int, hook: str = "tc") -> None:
    """Check that the client gets a reply of this server of NAT from the virtual address."""
    left = host.forwarded(tcp("SA", source=server, target=CLIENT[version], sport=sport, dport=dport), hook)
    assert parsed(left).payload.src == VIP[version]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ])
def test_colliding_connections_are_found(method: Method, version: int) -> None:
    """They fill the bucket, its group and other groups; a hash map has the rest.

    Runs twice, because ended connections release their entries.
    """
    with meeting_host(version) as host:
        service = host.new_key(vip=VIP[version])
        host.serve(service, 2, method, port=PORT if method == Method.MASQ else None)
        for _ in range(2):
            made = connect(host, service, TRIED)
            assert len(made) == entries_in_use(host.director.tables) == TRIED
            assert len(host.director.tables.overflow_index) > 0
            for port, chosen in made.items():
                for hook in HOOKS:
                    host.forwarded(frame(service, "A", port), hook)
                    if method == Method.MASQ:
                        check_reply(host, version, chosen, PORT, port, hook)
            assert len(list(host.director.connections())) == TRIED
            await_empty(host)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ])
def test_a_full_overflow_index_refuses_connections_and_leaves_nothing(method: Method, version: int) -> None:
    with (
        mock.patch.multiple(load, _LEAST_OVERFLOW_INDEX=OVERFLOW_INDEX, _OVERFLOW_INDEX=CAPACITY),
        meeting_host(version) as host,
    ):
        service = host.new_key(vip=VIP[version])
        host.serve(service, 2, method, port=PORT if method == Method.MASQ else None)
        made = connect(host, service, TRIED)
        in_buckets = len(made) - (OVERFLOW_INDEX // 2 if method == Method.MASQ else OVERFLOW_INDEX)
        group = abi.constant("GROUP_SLOTS") if version == 4 else abi.constant("GROUP")
        assert in_buckets == (group if method == Method.MASQ else group + MOST_FAR)
        assert host.reason("REFUSED_INDEX_FULL") >= TRIED - len(made)
        assert host.reason("TABLE_FULL_STATELESS") == 0, "the service would schedule all clients by a hash"
        await_empty(host)
        assert host.pool("used") <= 2 * abi.constant("PERCPU_CREDITS")  # credits that CPUs hold
        assert connect(host, service, TRIED).keys() == made.keys()


@pytest.mark.parametrize("version", [4, 6])
def test_one_client_port_has_a_connection_to_each_of_many_services(version: int) -> None:
    """By NAT to the same server: the replies, too, have one client port."""
    with new_host(4096, expires=False, recycled=True) as host:
        services = [host.new_key(vip=VIP[version]) for _ in range(SERVICES)]
        with host.director.batch():
            for service in services:
                host.serve(service, 1, Method.MASQ)
        for service in services:
            host.receive(frame(service, "S"))
        assert len(list(host.director.connections())) == SERVICES
        assert host.reason("REFUSED_INDEX_FULL") == 0
        for service in services:
            host.forwarded(frame(service, "A"), "tc")
            check_reply(host, version, server4(1) if version == 4 else server6(1), service.port, 4000)
        await_empty(host)


@pytest.mark.parametrize("version", [4, 6])
def test_connections_in_other_groups_are_found_while_others_end(version: int) -> None:
    """Those of one client port: in its group, then in the first of the others, then, of IPv6, in those behind."""
    group = abi.constant("GROUP_SLOTS") if version == 4 else abi.constant("GROUP")
    behind = group * (1 + abi.constant("FIRST_GROUPS"))
    with mock.patch.object(load, "new_seeds", return_value=APART), new_host(4096, expires=False) as host:
        services = [host.new_key(vip=VIP[version]) for _ in range(min(group + MOST_FAR, behind + 25))]
        with host.director.batch():
            for service in services:
                host.serve(service, 1, Method.MASQ)
        left = dict(enumerate(services))
        for ended in (), range(group, behind - 1), (behind - 1,), range(behind, behind + 20), range(behind + 20, 1000):
            for number in set(ended) & set(left):
                shorten(host.director.tables, 0, left.pop(number).port)
            host.expiry.run(host.director)
            for service in services if len(left) == len(services) else ():
                host.receive(frame(service, "S"))
            assert len(host.director.tables.overflow_index) == 0
            assert entries_in_use(host.director.tables) == len(left)
            for service in left.values():
                host.forwarded(frame(service, "A"), "tc")
                check_reply(host, version, server4(1) if version == 4 else server6(1), service.port, 4000)


@pytest.mark.parametrize("first_seed", [CLUSTERING, 0])
@pytest.mark.parametrize("version", [4, 6])
def test_neighbouring_clients_fill_the_table_evenly_with_any_key(version: int, first_seed: int) -> None:
    """As docs/architecture.md says of random ones. A single multiplication would put some keys' clients together."""
    capacity = 8192
    count = capacity if version == 4 else capacity // 2  # of IPv4, a full table
    most = count // 8 if version == 4 else count * 3 // 10
    seeds = load.new_seeds()
    seeds = (first_seed or seeds[0], *seeds[1:])
    with mock.patch.object(load, "new_seeds", return_value=seeds), new_host(capacity, expires=False) as host:
        service = host.new_key(vip=VIP[version])
        host.serve(service, 1)
        with on_cpu(min(os.sched_getaffinity(0))):
            for by_port in False, True:
                frames = [frame(service, flags) for flags in "SA"]
                for number in range(count):
                    for each in frames:
                        assert host.run(neighbour(each, version, number, by_port), "tc").verdict in SENT["tc"]
                assert host.reason("REFUSED_INDEX_FULL") == 0
                assert (len(list(host.director.connections())), overflowed(host.director.tables) < most) == (
                    count,
                    True,
                )
                wipe(host.director.tables)


def neighbour(frame: bytes, version: int, number: int, by_port: bool) -> bytes:
    """Return the frame from another client: of the next ports, or of the next addresses."""
    made, l4 = bytearray(frame), 14 + (20 if version == 4 else 40)
    if by_port:
        struct.pack_into("!H", made, l4, 10_000 + number)
    elif version == 4:
        return from_client(number, frame)
    else:
        struct.pack_into("!I", made, 14 + 20, number)
    return bytes(made)


def test_entries_of_both_families_share_buckets() -> None:
    """One entry of IPv6 takes a whole bucket, and an entry of IPv4 keeps it from the other family."""
    with meeting_host(4) as host:
        services = [host.new_key(vip=vip) for vip in (VIP4, VIP6)]
        ports = range(1024, 1024 + 100)
        for each in services:
            host.serve(each, 2)
        for port in ports:
            for each in services:
                host.receive(frame(each, "S", port))
        made = list(host.director.connections())
        assert entries_in_use(host.director.tables) == len(made) == 2 * len(ports)
        wanted = {(each.address, port) for each in services for port in ports}
        assert {(each.virtual, each.client_port) for each in made} == wanted
        for service in services:
            for port in ports:
                for hook in HOOKS:
                    host.forwarded(frame(service, "A", port), hook)
        assert len(list(host.director.connections())) == len(made)
        await_empty(host)
