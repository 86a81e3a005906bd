"""AH and ESP follow IKE's connection, UDP from port 500 to port 500 (IPVS-SEMANTICS 4.7), and nothing else."""

from __future__ import annotations

import itertools
from ipaddress import ip_address

import pytest

from pylvs.model.service import Destination, DestinationKey, Method, Protocol
from tests.packet.frames import CLIENT4, CLIENT6, carrying, parsed, udp
from tests.packet.host import DROPPED, OWN4, OWN6, PASSED, SENT, VIP4, VIP6, Host, key, server4, server6

ESP, AH = 50, 51
BODY = b"\0\0\0\7\0\0\0\1" + bytes(range(40))
KINDS = pytest.mark.parametrize(("version", "protocol"), [(4, ESP), (4, AH), (6, ESP)])
_clients = itertools.count(1)


def ends(version: int) -> tuple[str, str, str]:
    """Return a new client, the virtual address, and the real server."""
    number = next(_clients)
    if version == 4:
        return f"{CLIENT4.rpartition('.')[0]}.{number}", VIP4, server4(1)
    return f"{CLIENT6.rpartition(':')[0]}:{number:x}", VIP6, server6(1)


def sent(host: Host, frame: bytes) -> bytes:
    """Return the frame that TC sent; XDP passed it."""
    hook, done = host.receive(frame)
    assert hook == "tc"
    assert done.verdict in SENT["tc"], (done.verdict, host.reasons())
    return done.data


def passes(host: Host, frame: bytes) -> None:
    """Assert that both hooks pass it."""
    hook, done = host.receive(frame)
    assert (hook, done.verdict, done.data) == ("tc", PASSED["tc"], frame)


@KINDS
@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ, Method.TUNNEL])
def test_they_follow_ike(director_host: Host, version: int, protocol: int, method: Method) -> None:
    client, vip, server = ends(version)
    service = key(500, Protocol.UDP, vip)
    director_host.serve(service, 1, method)
    for body in BODY, b"":
        passes(director_host, carrying(protocol, body, client, vip))
    director_host.forwarded(udp(500, 500, client, vip), "tc")
    counters = director_host.director.service(service).counters
    for body in BODY, b"":
        out = sent(director_host, carrying(protocol, body, client, vip))
        if method == Method.TUNNEL:
            out = out[:12] + (b"\x08\x00" if version == 4 else b"\x86\xdd") + out[14 + (20 if version == 4 else 40) :]
        packet = parsed(out).payload
        assert (packet.src, packet.dst) == (client, server if method == Method.MASQ else vip)
        assert (packet.proto if version == 4 else packet.nh) == protocol
        assert bytes(packet.payload) == body
    after = director_host.director.service(service).counters
    assert (after.in_packets - counters.in_packets, after.connections - counters.connections) == (2, 0)


@KINDS
def test_replies_of_nat(director_host: Host, version: int, protocol: int) -> None:
    client, vip, server = ends(version)
    director_host.serve(key(500, Protocol.UDP, vip), 1, Method.MASQ)
    answer = carrying(protocol, BODY, server, client)
    passes(director_host, answer)
    director_host.forwarded(udp(500, 500, client, vip), "tc")
    packet = parsed(sent(director_host, answer)).payload
    assert (packet.src, packet.dst, bytes(packet.payload)) == (vip, client, BODY)


@KINDS
@pytest.mark.parametrize(("sport", "port"), [(4500, 500), (500, 4500)])
def test_connections_of_other_ports_do_not_count(
    director_host: Host, version: int, protocol: int, sport: int, port: int
) -> None:
    client, vip, server = ends(version)
    director_host.serve(key(port, Protocol.UDP, vip), 1, Method.MASQ)
    director_host.forwarded(udp(sport, port, client, vip), "tc")
    passes(director_host, carrying(protocol, BODY, client, vip))
    passes(director_host, carrying(protocol, BODY, server, client))
    passes(director_host, carrying(protocol, BODY, client, OWN4 if version == 4 else OWN6))


@KINDS
@pytest.mark.parametrize("nodest", [0, 1])
def test_when_the_server_is_removed(director_host: Host, version: int, protocol: int, nodest: int) -> None:
    client, vip, _ = ends(version)
    service = key(500, Protocol.UDP, vip)
    other = DestinationKey(ip_address(server4(2) if version == 4 else server6(2)), 500)
    (only,) = director_host.serve(service, 1, Method.ROUTE)
    director_host.forwarded(udp(500, 500, client, vip), "tc")
    frame = carrying(protocol, BODY, client, vip)
    director_host.director.change_setting("expire_nodest_conn", nodest)
    try:
        director_host.director.delete_destination(service, only)
        director_host.director.add_destination(service, Destination(other, Method.ROUTE))
        done = director_host.run(frame, "tc")
        # The packet is dropped, or its connection ends and it passes, because AH and ESP are never scheduled.
        assert (done.verdict, done.data) == ((PASSED if nodest else DROPPED)["tc"], frame)
    finally:
        director_host.director.change_setting("expire_nodest_conn", 0)
