"""A persistence template that ends, or that another CPU makes, while a packet of its client is on its way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pylvs.bpf import abi, maps
from pylvs.model.dataclass import replace
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from tests.packet.frames import CLIENT4, CLIENT6, tcp
from tests.packet.host import DROPPED, HOOKS, VIP4, VIP6, Host, on_cpu, server4, server6
from tests.packet.interleave import Interleaving
from tests.packet.table import Entry, at_slot, entries, shorten

OTHER4, OTHER6 = "198.18.0.8", "2001:db8:7::8"
NO_TEMPLATE = 0xFFFFFFFF
FAMILIES = [pytest.param(4, id="IPv4"), pytest.param(6, id="IPv6")]


@pytest.fixture
def host(director_host: Host) -> Iterator[Host]:
    """Return the file's host without connections, on one CPU."""
    end_all(director_host)
    with on_cpu(min(os.sched_getaffinity(0))):
        yield director_host


def serve(host: Host, family: int, *methods: Method) -> ServiceKey:
    """Add a persistent service with one server for each method."""
    service = host.new_key(Protocol.TCP, VIP4 if family == 4 else VIP6)
    host.director.add_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT, 300))
    for number, method in enumerate(methods, 1):
        server = server4(number) if family == 4 else server6(number)
        host.director.add_destination(service, Destination(DestinationKey(ip_address(server), service.port), method))
    return service


def syn(service: ServiceKey, sport: int, other_client: bool = False) -> bytes:
    six = service.address.version == 6
    client = (OTHER6 if six else OTHER4) if other_client else (CLIENT6 if six else CLIENT4)
    return tcp(sport=sport, dport=service.port, source=client, target=str(service.address))


def template_of(host: Host) -> Entry:
    (found,) = [each for each in entries(host.director.tables) if each.is_template]
    return found


def references(host: Host, slot: int) -> int:
    """Return how many connections refer to the template in a slot."""
    with maps.MmapArray.open(host.director.tables.path("controls")) as controls:
        at = slot * controls.stride + abi.struct("control").offset("controls")
        return int.from_bytes(controls.memory[at : at + 4], "little")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_template_that_was_to_end_has_its_timeout_again_when_it_is_used(host: Host, family: int) -> None:
    service = serve(host, family, Method.ROUTE)
    host.forwarded(syn(service, 5000), "tc")
    controls, slot = host.director.tables.controls, template_of(host).slot
    timeout = controls.get(slot, "timeout")
    assert timeout > 0
    controls.set(slot, "timeout", 0)  # as drop_entry does, with its last connection
    host.forwarded(syn(service, 5001), "tc")
    assert template_of(host).slot == slot
    assert controls.get(slot, "timeout") == timeout


def end_all(host: Host) -> None:
    for _ in range(2):  # templates end after their connections
        shorten(host.director.tables, 0)
        if entries(host.director.tables):
            host.expiry.run(host.director)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_connection_does_not_refer_to_a_template_that_ended_before_it(host: Host, family: int, hook: str) -> None:
    service = serve(host, family, Method.ROUTE)
    host.forwarded(syn(service, 5000), hook)
    left, slot = Interleaving(host, hook), template_of(host).slot
    assert left.get("template.slot") == slot
    end_all(host)
    assert not list(host.director.connections())

    assert left.run("PROG_CONNECT", syn(service, 5000)).verdict != DROPPED[hook]
    assert [each.client_port for each in host.director.connections()] == [5000]
    end_all(host)
    assert not list(host.director.connections())
    assert references(host, slot) == 0


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_connection_does_not_refer_to_a_template_that_is_being_removed(host: Host, family: int, hook: str) -> None:
    service = serve(host, family, Method.ROUTE)
    host.run(syn(service, 5000), hook)
    end_all(host)
    host.run(syn(service, 5001), hook)
    template = template_of(host)
    assert references(host, template.slot) == 1
    template.change(template.word | 1 << abi.constant("WORD_DYING"))
    host.run(syn(service, 5002), hook)
    assert sorted(each.client_port for each in host.director.connections() if each.client_port) == [5001, 5002]
    assert references(host, template.slot) == 1
    template.change(template.word)
    end_all(host)
    assert not list(host.director.connections())
    assert references(host, template.slot) == 0


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_template_that_is_being_removed_opens_no_connection_to_a_deleted_server(
    host: Host, family: int, hook: str
) -> None:
    service = serve(host, family, Method.ROUTE, Method.ROUTE)
    host.run(syn(service, 5000), hook)
    (first,) = [each for each in host.director.connections() if each.client_port]
    host.director.delete_destination(service, DestinationKey(first.destination, service.port))
    template = template_of(host)
    template.change(template.word | 1 << abi.constant("WORD_DYING"))
    assert host.run(syn(service, 5001), hook).verdict == DROPPED[hook]
    template.change(template.word)
    host.run(syn(service, 5001), hook)
    (second,) = [each for each in host.director.connections() if each.client_port == 5001]
    assert second.destination != first.destination
    end_all(host)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_connection_has_the_method_of_the_destination_that_another_cpu_chose(host: Host, hook: str) -> None:
    service = serve(host, 4, Method.ROUTE, Method.TUNNEL)
    host.run(syn(service, 5000), hook)
    first = Interleaving(host, hook)
    host.run(syn(service, 5000, other_client=True), hook)
    second = Interleaving(host, hook)
    assert first.get("chosen.destination") != second.get("chosen.destination")

    chosen, method = first.get("chosen.destination"), first.get("chosen.method")
    for name in "chosen.destination", "chosen.method":
        first.set(name, second.get(name))
    first.set("template.slot", NO_TEMPLATE)
    first.set("packet.tuple.v4.sport", int.from_bytes((5001).to_bytes(2, "big"), "little"))
    first.run("PROG_CONNECT", syn(service, 5001))

    tables = host.director.tables
    (made,) = [each for each in entries(tables) if each.client_port == 5001]
    read = abi.struct("conn_entry4").view("connection.destination", "connection.method")
    assert read.unpack_from(tables.connections.memory, at_slot(made.slot)) == (chosen, method)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_client_does_not_return_to_a_quiesced_server_whose_template_another_cpu_ends(host: Host, family: int) -> None:
    """That CPU has marked the template, so this one cannot retire it; it still names the server of weight 0."""
    service = serve(host, family, Method.ROUTE, Method.ROUTE)
    first = host.forwarded(syn(service, 5000), "tc")[:6]
    template = template_of(host)
    (row,) = (row for row in host.director.services() if row.service.key == service)
    (server,) = (each.destination for each in row.destinations if each.persistent)
    host.director.edit_destination(service, replace(server, weight=0))
    host.director.change_setting("expire_quiescent_template", 1)
    try:
        template.change(template.word | 1 << abi.constant("WORD_DYING"))
        other = host.forwarded(syn(service, 5001), "tc")[:6]
        template.change(template.word)
        assert other != first
        assert host.forwarded(syn(service, 5002), "tc")[:6] == other
    finally:
        host.director.change_setting("expire_quiescent_template", 0)
