"""Packets without a connection find the NAT destination that they come from, by its address and port alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from unittest import mock

import pytest

from pylvs.dataplane import transaction
from pylvs.dataplane.destinations import DestinationSlots
from pylvs.dataplane.transaction import NatServers, recover
from pylvs.dataplane.vip_roles import Standby
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from tests.packet.frames import CLIENT4, CLIENT6, parsed, udp
from tests.packet.host import SENT, VIP4, VIP6, Host, new_host, server4, server6

OTHER_VIP = "10.77.0.200"
PORTS = iter(range(20000, 30000))  # of real servers: no other test has the same


@pytest.fixture
def port() -> int:
    return next(PORTS)


def server(port: int, version: int = 4, method: Method = Method.MASQ) -> Destination:
    address = server4(1) if version == 4 else server6(1)
    return Destination(DestinationKey(ip_address(address), port), method)


def serve(host: Host, destination: Destination, vip: str = VIP4, protocol: Protocol = Protocol.UDP) -> ServiceKey:
    """Add a service whose real server may begin connections."""
    service = host.new_key(protocol, vip)
    host.director.add_service(VirtualService(service, "rr", ServiceFlag.ONE_PACKET, engine="sip"))
    host.director.add_destination(service, destination)
    return service


def begun_for(host: Host, port: int, version: int = 4) -> tuple[str, int] | None:
    """Return virtual address and port of the service that a packet of the server gets; None if it passes."""
    source, client = (server4(1), CLIENT4) if version == 4 else (server6(1), CLIENT6)
    done = host.run(udp(port, 5070, source, client, b"x"), "tc")
    if done.verdict not in SENT["tc"]:
        return None
    packet = parsed(done.data).payload
    return packet.src, packet.payload.sport


def ends(service: ServiceKey) -> tuple[str, int]:
    return str(service.address), service.port


def chains(host: Host) -> dict[bytes, list[int]]:
    """Return the destinations of each address and port."""
    tables = host.director.tables
    return {key: list(NatServers(tables).chain(key)) for key in list(tables.nat_servers.keys())}


@pytest.fixture
def roles() -> Iterator[Standby]:
    made = Standby()
    yield made
    made.close()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("is_any_standby", [False, True])
def test_no_search_visits_all_destinations(
    director_host: Host, port: int, roles: Standby, version: int, is_any_standby: bool
) -> None:
    """Such a search would end at `destination_top`, behind the last one."""
    service = serve(director_host, server(port, version), VIP4 if version == 4 else VIP6)
    if is_any_standby:
        roles.set_standby(frozenset({ip_address(OTHER_VIP)}))
    book = director_host.director.tables.book
    top = book.get(0, "destination_top")
    book.set(0, "destination_top", 0)
    try:
        found = begun_for(director_host, port, version)
    finally:
        book.set(0, "destination_top", top)
    assert found == ends(service)
    assert begun_for(director_host, port + 10000, version) is None


def test_the_newest_of_several_is_found_also_in_a_slot_that_was_used_before(director_host: Host, port: int) -> None:
    director, slots = director_host.director, DestinationSlots(director_host.director.tables)

    def slot(service: ServiceKey) -> int:
        return slots.find(service, server(port).key) or 0

    first, second = sorted((serve(director_host, server(port)) for _ in range(2)), key=slot)
    freed = slot(first)
    director.delete_service(first)
    director.tables.book.set(0, "swept_s", 0)
    with mock.patch.object(transaction, "now_s", return_value=1 << 31):  # nothing can be revived any more
        director.apply(())
    director.tables.book.set(0, "swept_s", 0)
    assert begun_for(director_host, port) == ends(second)
    third = serve(director_host, server(port))
    assert slot(third) == freed < slot(second)
    assert begun_for(director_host, port) == ends(third)
    director.delete_service(third)
    assert begun_for(director_host, port) == ends(second)


def test_standby_services_and_other_protocols_are_skipped(director_host: Host, port: int, roles: Standby) -> None:
    active = serve(director_host, server(port))
    other = serve(director_host, server(port), OTHER_VIP)
    serve(director_host, server(port), protocol=Protocol.TCP)
    assert begun_for(director_host, port) == ends(other)
    roles.set_standby(frozenset({ip_address(OTHER_VIP)}))
    assert begun_for(director_host, port) == ends(active)
    roles.set_standby(frozenset({ip_address(VIP4), ip_address(OTHER_VIP)}))
    assert begun_for(director_host, port) is None
    roles.set_standby(frozenset())
    assert begun_for(director_host, port) == ends(other)


def test_a_destination_counts_while_its_method_is_nat(director_host: Host) -> None:
    director, service = director_host.director, director_host.new_key(Protocol.UDP)
    by_nat = server(service.port)
    routed = replace(by_nat, method=Method.ROUTE)
    older = serve(director_host, by_nat)
    director.add_service(VirtualService(service, "rr", ServiceFlag.ONE_PACKET, engine="sip"))
    director.add_destination(service, routed)
    assert begun_for(director_host, service.port) == ends(older)
    for _ in range(2):
        director.edit_destination(service, by_nat)
        assert begun_for(director_host, service.port) == ends(service)
        director.edit_destination(service, routed)
        assert begun_for(director_host, service.port) == ends(older)


def test_a_recovery_derives_the_index_again_and_keeps_the_order(director_host: Host, port: int) -> None:
    tables = director_host.director.tables
    services = [serve(director_host, server(port)) for _ in range(5)]
    before = chains(director_host)
    assert max(map(len, before.values())) == len(services)
    recover(tables)
    assert chains(director_host) == before
    for key in before:
        tables.nat_servers.remove(key)
    tables.nat_servers.put(b"\1" * tables.nat_servers.key_size, bytes(4))
    assert begun_for(director_host, port) is None
    recover(tables)
    assert chains(director_host) == {key: sorted(slots, reverse=True) for key, slots in before.items()}
    assert begun_for(director_host, port) in [ends(each) for each in services]
    NatServers(tables).remove([slot for slots in before.values() for slot in slots])
    assert chains(director_host) == {}
    recover(tables)


def test_nat_has_a_share_of_the_table_while_there_is_a_server(port: int) -> None:
    with new_host(recycled=True) as host:
        root = host.director.tables.root
        serve(host, server(port, method=Method.ROUTE))
        recover(host.director.tables)
        assert root.get(0, "nat") == 0
        services = [serve(host, server(port)), serve(host, server(port, version=6), VIP6)]
        recover(host.director.tables)
        for service, left in zip(services, (1, 0), strict=True):
            assert root.get(0, "nat") == 1
            host.director.delete_service(service)
            host.director.tables.book.set(0, "swept_s", 0)
            with mock.patch.object(transaction, "now_s", return_value=1 << 31):  # nothing can be revived any more
                host.director.apply(())
            assert root.get(0, "nat") == left
