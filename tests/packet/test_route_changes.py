"""Routes to real servers that change after the servers were added (IPVS-SEMANTICS 7.1)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6

from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import State
from pylvs.dataplane.tables import address_bytes
from pylvs.model.addresses import Address
from pylvs.model.service import Destination, Method, VirtualService
from pylvs.netlink import links
from tests.packet.frames import CLIENT4, CLIENT6, build, ether, parsed, tcp
from tests.packet.host import SENT, VIP4, VIP6, Host, ip, server4, server6

MTU, LENGTH = 1320, 1440


def reported_mtu(host: Host, port: int, six: bool) -> int:
    """Return the MTU in the ICMP error about a long packet; 0 if the packet leaves."""
    outer = IPv6(src=CLIENT6, dst=VIP6) if six else IP(src=CLIENT4, dst=VIP4, flags="DF")
    long = outer / TCP(sport=4000, dport=port, flags="A") / bytes(LENGTH - 60)
    done = host.run(build(ether() / long), "tc")
    assert done.verdict in SENT["tc"]
    sent = parsed(done.data)
    if six:
        return int(sent[ICMPv6PacketTooBig].mtu) if ICMPv6PacketTooBig in sent else 0
    return int(sent[ICMP].nexthopmtu) if sent[IP].src == VIP4 else 0


def follow(host: Host) -> None:
    """Follow the host, and wait until packets look their next hop up again."""
    host.director.follow_host()
    host.wait_for_lookups()


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ, Method.TUNNEL])
def test_the_mtu_of_a_changed_route_counts(director_host: Host, method: Method, six: bool) -> None:
    server, outer = (f"{server6(1)}/128", 40) if six else (f"{server4(1)}/32", 20)
    service = director_host.new_key(vip=VIP6 if six else VIP4)
    director_host.serve(service, 1, method)
    director_host.run(tcp("S", 4000, service.port, CLIENT6 if six else CLIENT4, VIP6 if six else VIP4), "tc")
    assert reported_mtu(director_host, service.port, six) == 0
    ip("route", "add", server, "dev", "d0", "mtu", str(MTU))
    try:
        follow(director_host)
        assert reported_mtu(director_host, service.port, six) == MTU - (outer if method == Method.TUNNEL else 0)
    finally:
        ip("route", "del", server, "dev", "d0")
    follow(director_host)
    assert reported_mtu(director_host, service.port, six) == 0


def test_the_source_address_of_a_changed_route_counts(director_host: Host) -> None:
    """Before Linux 6.7 headers of tunnels have the address that the table has."""
    service = director_host.new_key()
    (server,) = director_host.serve(service, 1, Method.TUNNEL)
    slot = director_host.director._editor.slots.find(service, server)
    assert slot is not None
    table = director_host.director.tables.destinations
    before = table.get(slot, "saddr")
    ip("route", "add", f"{server4(1)}/32", "dev", "d0", "src", VIP4)
    try:
        director_host.director.follow_host()
        assert table.get(slot, "saddr") == address_bytes(ip_address(VIP4)) != before
    finally:
        ip("route", "del", f"{server4(1)}/32", "dev", "d0")
    director_host.director.follow_host()
    assert table.get(slot, "saddr") == before


def test_an_edit_counts_the_route_of_its_real_server(director_host: Host) -> None:
    service = director_host.new_key()
    (server,) = director_host.serve(service, 1)
    director_host.run(tcp("S", 4000, service.port), "tc")
    ip("route", "add", f"{server4(1)}/32", "dev", "d0", "mtu", str(MTU))
    try:
        director_host.director.edit_destination(service, Destination(server, Method.ROUTE))
        director_host.wait_for_lookups()
        assert reported_mtu(director_host, service.port, False) == MTU
    finally:
        ip("route", "del", f"{server4(1)}/32", "dev", "d0")


def test_others_edit_while_routes_are_looked_up(director_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    director_host.serve(director_host.new_key(), 2)
    other, added, ask = BpfDirector(State.open()), director_host.new_key(), links.Routes.ask

    def edit_and_ask(routes: links.Routes, addresses: Iterable[Address]) -> None:
        other.add_service(VirtualService(added, "rr"))
        ask(routes, addresses)

    monkeypatch.setattr(links.Routes, "ask", edit_and_ask)
    director_host.director.follow_host()
    assert director_host.director.service(added).service.key == added


def test_many_routes_are_looked_up_at_once(director_host: Host) -> None:
    ip("route", "add", "unreachable", "198.51.100.0/24")
    ip("route", "add", f"{server4(2)}/32", "dev", "d0", "mtu", str(MTU))
    try:
        wanted: list[Address] = [ip_address(each(number)) for each in (server4, server6) for number in range(150)]
        wanted += [ip_address(each) for each in ("198.51.100.1", VIP4, "127.0.0.1", "2001:db8::1")]
        with links.Routes() as together, links.Routes() as singly:
            together.ask(wanted)
            assert [together.to(each) for each in wanted] == [singly.to(each) for each in wanted]
            assert {each.mtu for each in map(together.to, wanted) if each} == {0, MTU}
    finally:
        ip("route", "del", f"{server4(2)}/32", "dev", "d0")
        ip("route", "del", "unreachable", "198.51.100.0/24")
