"""ICMP errors that reach another director of a group than the connection's packets.

A router with ECMP chooses a director for an error by the addresses of the error. Its sender is a router somewhere, so
the director is often another one, which lacks the connection. A service whose scheduler hashes needs no connection:
each director of the group chooses the server that the client's packets reach.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import Ether

from pylvs.model.marks import MarkRule
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from tests.packet.frames import build, ether, network, tcp, udp
from tests.packet.host import PASSED, ROUTER4, ROUTER6, SENT, VIP4, VIP6, Host, server4, server6

METHODS = {"dr": Method.ROUTE, "nat": Method.MASQ, "tun": Method.TUNNEL}
REAL_PORT, SERVERS = 8080, 5
each_way = pytest.mark.parametrize("six", [False, True], ids=["v4", "v6"])
each_method = pytest.mark.parametrize("method", METHODS)


def client(number: int, six: bool) -> str:
    return f"2001:db8:c::{number:x}" if six else f"198.18.7.{number}"


def serve(host: Host, six: bool, method: str, scheduler: str, **more: Any) -> ServiceKey:
    """Add a service with five servers."""
    service = more.pop("key", None) or host.new_key(vip=VIP6 if six else VIP4)
    host.director.add_service(VirtualService(service, scheduler, **more))
    for number in range(1, SERVERS + 1):
        address = ip_address(server6(number) if six else server4(number))
        port = REAL_PORT if method == "nat" else service.port
        host.director.add_destination(service, Destination(DestinationKey(address, port), METHODS[method]))
    return service


def quoted(source: tuple[str, int], target: tuple[str, int]) -> Any:
    """Return a segment of 1,500 bytes, as far as routers quote it."""
    segment = network(source[0], target[0], id=5) / TCP(sport=source[1], dport=target[1], flags="A", chksum=0xBEEF)
    return build(segment / bytes(200))


def error(quote: bytes, target: str, kind: str = "too big") -> bytes:
    """Return an ICMP error from a router on the client's path."""
    six = ":" in target
    layer = {
        ("too big", False): ICMP(type=3, code=4, nexthopmtu=1400),
        ("too big", True): ICMPv6PacketTooBig(mtu=1400),
        ("unreachable", False): ICMP(type=3, code=1),
        ("unreachable", True): ICMPv6DestUnreach(code=3),
        ("expired", False): ICMP(type=11),
        ("expired", True): ICMPv6TimeExceeded(),
    }[kind, six]
    return build(ether() / network(ROUTER6 if six else ROUTER4, target, ttl=60, id=6) / layer / quote)


def sent(host: Host, frame: bytes) -> Any:
    done = host.run(frame, "tc")
    assert done.verdict in SENT["tc"], f"verdict {done.verdict}, reasons {host.reasons()}"
    return done.data


def reached(host: Host, service: ServiceKey, before: dict[str, int]) -> str:
    """Return the only server that has received a packet since."""
    (found,) = [name for name, count in received(host, service).items() if count > before[name]]
    return found


def received(host: Host, service: ServiceKey) -> dict[str, int]:
    rows = host.director.service(service).destinations
    return {str(row.destination.key.address): row.counters.in_packets for row in rows}


def server_of_syn(host: Host, service: ServiceKey, peer: tuple[str, int], vip: str) -> str:
    """Return the server that a connection gets, on the director that receives the connection's packets."""
    before = received(host, service)
    host.run(tcp("S", peer[1], service.port, peer[0], vip), "tc")
    return reached(host, service, before)


def server_of_error(host: Host, service: ServiceKey, peer: tuple[str, int], vip: str) -> str:
    """Return the server that gets an error about a connection that this host does not have."""
    before, connections = received(host, service), host.pool("used")
    sent(host, error(quoted((vip, service.port), peer), vip))
    assert host.pool("used") == connections
    return reached(host, service, before)


@each_way
@each_method
@pytest.mark.parametrize("kind", ["too big", "unreachable", "expired"])
def test_an_error_about_another_directors_connection_reaches_its_server(
    director_host: Host, method: str, six: bool, kind: str
) -> None:
    service = serve(director_host, six, method, "mh")
    vip, servers = str(service.address), set()
    for number in range(1, 9):
        peer = client(number, six), 4000 + number
        frame = error(quoted((vip, service.port), peer), vip, kind)
        before, noted = received(director_host, service), director_host.reason("ICMP_BY_HASH")
        left = sent(director_host, frame)[14:]
        server = reached(director_host, service, before)
        assert director_host.reason("ICMP_BY_HASH") == noted + 1
        whole = error(quoted((server, REAL_PORT), peer), server, kind) if method == "nat" else frame
        expected: Any = Ether(whole)[IPv6 if six else IP]
        expected.setfieldval("hlim" if six else "ttl", 59)
        if not six:
            del expected.chksum
        if method == "tun":
            outer = (IPv6 if six else IP)(left)
            assert outer.dst == server
            left = left[40 if six else 20 :]
        assert left == build(expected)
        assert server_of_syn(director_host, service, peer, vip) == server
        servers.add(server)
    assert len(servers) > 1


@pytest.mark.parametrize(
    ("scheduler", "more"),
    [
        ("mh", {"flags": ServiceFlag.SCHED_1}),
        ("mh", {"flags": ServiceFlag.SCHED_2}),
        ("sh", {}),
        ("sh", {"flags": ServiceFlag.SCHED_1 | ServiceFlag.SCHED_2}),
        ("dh", {}),
        ("mh", {"flags": ServiceFlag.PERSISTENT, "timeout_s": 300}),
    ],
)
def test_each_scheduler_that_hashes_finds_the_server(director_host: Host, scheduler: str, more: dict[str, Any]) -> None:
    service = serve(director_host, False, "dr", scheduler, **more)
    for number in range(1, 9):
        peer = client(number, False), 5000 + number
        server = server_of_error(director_host, service, peer, VIP4)
        assert server_of_syn(director_host, service, peer, VIP4) == server


def test_a_clients_template_precedes_the_hash(director_host: Host) -> None:
    """The template of a client was made before an edit of the servers."""
    service = serve(director_host, False, "nat", "mh", flags=ServiceFlag.PERSISTENT, timeout_s=300)
    peer = client(3, False), 6001
    server = server_of_syn(director_host, service, peer, VIP4)
    key = DestinationKey(ip_address(server), REAL_PORT)
    director_host.director.edit_destination(service, Destination(key, Method.MASQ, weight=0))
    assert server_of_error(director_host, service, (peer[0], 6002), VIP4) == server


@each_way
def test_a_service_of_a_firewall_mark_gets_the_error(director_host: Host, six: bool) -> None:
    """The rules see the packet inside the error as the client's packet that it replies to."""
    vip, port = VIP6 if six else VIP4, director_host.new_key().port
    mark = 71
    rule = MarkRule(value=mark, family=6 if six else 4, protocol=6, target_ports=((port, port),))
    director_host.director.change_mark_rules(lambda _: [rule])
    try:
        key = ServiceKey.of_mark(mark, socket.AF_INET6 if six else socket.AF_INET)
        service = serve(director_host, six, "dr", "mh", key=key)
        for number in range(1, 6):
            peer = client(number, six), 7000 + number
            before = received(director_host, service)
            sent(director_host, error(quoted((vip, port), peer), vip))
            server = reached(director_host, service, before)
            before = received(director_host, service)
            director_host.run(tcp("S", peer[1], port, peer[0], vip), "tc")
            assert reached(director_host, service, before) == server
    finally:
        director_host.director.change_mark_rules(lambda _: [])


@pytest.mark.parametrize("scheduler", ["rr", "wlc", "lblc"])
def test_without_a_hash_the_error_passes(director_host: Host, scheduler: str) -> None:
    service = serve(director_host, False, "dr", scheduler)
    frame = error(quoted((VIP4, service.port), (client(1, False), 4001)), VIP4)
    done = director_host.run(frame, "tc")
    assert (done.verdict, done.data) == (PASSED["tc"], frame)


@each_way
def test_errors_that_name_no_server_pass(director_host: Host, six: bool) -> None:
    service = serve(director_host, six, "dr", "mh")
    vip, peer = str(service.address), (client(1, six), 4001)
    whole = quoted((vip, service.port), peer)
    later = build(IP(src=vip, dst=peer[0], frag=10) / TCP(sport=service.port, dport=peer[1])) if not six else b""
    for quote in (
        quoted((vip, service.port + 1), peer),
        quoted(peer, (vip, service.port)),
        quoted((ROUTER6 if six else ROUTER4, service.port), peer),
        build(network(vip, peer[0]) / UDP(sport=service.port, dport=peer[1]) / b"other protocol"),
        whole[: (40 if six else 20) + 3],
        later,
    ):
        frame = error(quote, vip)
        done = director_host.run(frame, "tc")
        assert (done.verdict, done.data) == (PASSED["tc"], frame), quote


def test_without_a_usable_server_the_error_passes(director_host: Host) -> None:
    service = director_host.new_key()
    director_host.serve(service, 0, scheduler="mh")
    frame = error(quoted((VIP4, service.port), (client(1, False), 4001)), VIP4)
    done = director_host.run(frame, "tc")
    assert (done.verdict, done.data) == (PASSED["tc"], frame)


def test_errors_about_udp_reach_the_server(director_host: Host) -> None:
    service = director_host.new_key(Protocol.UDP)
    serve(director_host, False, "nat", "mh", key=service)
    for number in range(1, 6):
        peer = client(number, False), 8000 + number
        quote = build(network(VIP4, peer[0]) / UDP(sport=service.port, dport=peer[1]) / bytes(64))
        before = received(director_host, service)
        sent(director_host, error(quote, VIP4))
        server = reached(director_host, service, before)
        before = received(director_host, service)
        director_host.run(udp(peer[1], service.port, peer[0], VIP4), "tc")
        assert reached(director_host, service, before) == server
