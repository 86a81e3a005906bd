"""XDP passes what it cannot finish to TC, and each packet is scheduled and counted once."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from tests.packet.frames import tcp, udp
from tests.packet.host import SENT, Host

NEIGHBOURS = ("10.77.0.60", "10.77.0.61", "10.77.0.62")  # on the link, without a neighbour entry
PACKETS = 12


def serve(host: Host, protocol: Protocol, method: Method, flags: ServiceFlag = ServiceFlag(0)) -> ServiceKey:
    """Add a service whose packets XDP must pass to TC."""
    service = host.new_key(protocol)
    host.director.add_service(VirtualService(service, "rr", flags))
    for address in NEIGHBOURS:
        host.director.add_destination(service, Destination(DestinationKey(ip_address(address), service.port), method))
    return service


def counted_once(host: Host, service: ServiceKey) -> None:
    """Assert that every packet was a new connection, in turn on the three servers."""
    row = host.director.service(service)
    assert (row.counters.connections, row.counters.in_packets) == (PACKETS, PACKETS)
    assert [each.counters.connections for each in row.destinations] == [PACKETS // 3] * 3


@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ, Method.TUNNEL], ids=lambda method: method.name)
@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP], ids=lambda protocol: protocol.name)
def test_a_new_connection_that_xdp_passes_to_tc_is_made_once(
    director_host: Host, method: Method, protocol: Protocol
) -> None:
    service = serve(director_host, protocol, method)
    make = tcp if protocol == Protocol.TCP else udp
    for sport in range(2000, 2000 + PACKETS):
        hook, done = director_host.receive(make(sport=sport, dport=service.port))
        assert (hook, done.verdict in SENT["tc"]) == ("tc", True)
    counted_once(director_host, service)
    assert {sum(pair) for pair in director_host.counts(service).values()} == {PACKETS // 3}


@pytest.mark.parametrize("method", [Method.ROUTE, Method.TUNNEL], ids=lambda method: method.name)
def test_a_one_packet_connection_that_xdp_passes_to_tc_is_scheduled_once(director_host: Host, method: Method) -> None:
    service = serve(director_host, Protocol.UDP, method, ServiceFlag.ONE_PACKET)
    for _ in range(PACKETS):
        hook, done = director_host.receive(udp(sport=2000, dport=service.port))
        assert (hook, done.verdict in SENT["tc"]) == ("tc", True)
    counted_once(director_host, service)


def test_under_the_template_of_a_quiesced_server_each_syn_is_one_connection(director_host: Host) -> None:
    director, service = director_host.director, director_host.new_key()
    server = DestinationKey(ip_address(NEIGHBOURS[0]), service.port)
    director.add_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT, 300))
    director.add_destination(service, Destination(server, Method.ROUTE))
    director_host.receive(tcp(sport=2000, dport=service.port))
    director.edit_destination(service, Destination(server, Method.ROUTE, 0))
    director.change_setting("expire_nodest_conn", 1)
    try:
        for sport in range(2001, 2001 + PACKETS):
            hook, done = director_host.receive(tcp(sport=sport, dport=service.port))
            assert (hook, done.verdict in SENT["tc"]) == ("tc", True)
    finally:
        director.change_setting("expire_nodest_conn", 0)
    assert director.service(service).counters.connections == 1 + PACKETS
