"""Merged TCP packets (GRO, TSO) whose segments are too long, but may be fragmented: their segments become shorter."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Tunnel,
    TunnelFlag,
    TunnelKind,
    VirtualService,
)
from tests.packet.frames import tcp
from tests.packet.host import Host, ip, server4, server_mac
from tests.packet.test_sctp_offload import HEADER, NEEDS_CSUM, wire

MTU, SPORT = 1500, 4100
TCP_SEGMENTS = 1  # VIRTIO_NET_HDR_GSO_TCPV4
SEGMENT, SEGMENTS = MTU - 40, 6
BODY = bytes(n * 7 & 255 for n in range(SEGMENT * SEGMENTS))
TUNNELS = [
    Tunnel(),
    Tunnel(TunnelKind.GRE),
    Tunnel(TunnelKind.GRE, flags=TunnelFlag.CSUM),
    Tunnel(TunnelKind.GUE, 6080),
    Tunnel(TunnelKind.GUE, 6080, TunnelFlag.CSUM),
]


@pytest.fixture
def host(director_host: Host) -> Iterator[Host]:
    director_host.director.change_setting("pmtu_disc", 0)
    yield director_host
    director_host.director.change_setting("pmtu_disc", 1)


def merged(frame: bytes) -> bytes:
    """Return the frame with the virtio header of a packet that is to be segmented."""
    return HEADER.pack(NEEDS_CSUM, TCP_SEGMENTS, 54, SEGMENT, 34, 16) + frame


def came(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Send a merged packet; yield each frame that leaves for the server, with its length when it is segmented."""
    target = bytes.fromhex(server_mac(1).replace(":", ""))
    with wire() as there:
        there.send(merged(frame))
        while True:
            received = there.recv(1 << 16)
            _, kind, _, segment, *_ = HEADER.unpack_from(received)
            out = received[HEADER.size :]
            if out[:6] == target:
                at = out.index(struct.pack("!HH", SPORT, int.from_bytes(frame[36:38], "big")))
                yield (at + 20 + segment if kind else len(out)), out[at + 20 :]


@pytest.mark.parametrize("tunnel", TUNNELS, ids=lambda tunnel: f"{tunnel.kind.name}{' csum' * tunnel.flags}")
def test_segments_that_a_tunnel_makes_too_long_become_shorter(host: Host, tunnel: Tunnel) -> None:
    service = host.new_key()
    host.director.add_service(VirtualService(service, "rr"))
    server = DestinationKey(ip_address(server4(1)), service.port)
    host.director.add_destination(service, Destination(server, Method.TUNNEL, tunnel=tunnel))
    host.run(tcp("S", SPORT, service.port), "tc")
    arrive(tcp("A", SPORT, service.port, payload=BODY))


@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ], ids=lambda method: method.name)
def test_segments_without_df_that_are_too_long_for_the_server_become_shorter(host: Host, method: Method) -> None:
    service = host.new_key()
    host.serve(service, 1, method)
    ip("link", "set", "d0", "mtu", "1400")
    try:
        host.run(tcp("S", SPORT, service.port), "tc")
        arrive(tcp("A", SPORT, service.port, payload=BODY), 1400)
    finally:
        ip("link", "set", "d0", "mtu", str(MTU))


def arrive(frame: bytes, mtu: int = MTU) -> None:
    """Assert that a merged packet arrives whole, in segments that fit."""
    body = b""
    for length, part in came(frame):
        assert length <= 14 + mtu
        body += part
        if len(body) >= len(BODY):
            break
    assert body == BODY


@pytest.mark.parametrize("tunnel", TUNNELS[2::2], ids=lambda tunnel: tunnel.kind.name)
def test_the_first_segment_for_an_unresolved_neighbour_waits_for_it(host: Host, tunnel: Tunnel) -> None:
    """The kernel asks for the neighbour, so the packets that follow find it. The other segments are lost."""
    service, server = host.new_key(), ip_address("10.77.0.98")
    host.director.add_service(VirtualService(service, "rr"))
    host.director.add_destination(
        service, Destination(DestinationKey(server, service.port), Method.TUNNEL, tunnel=tunnel)
    )
    host.run(tcp("S", SPORT, service.port), "tc")
    mac = bytes.fromhex(server_mac(8).replace(":", ""))
    with wire() as there:
        there.send(merged(tcp("A", SPORT, service.port, payload=BODY)))
        while b"\x08\x06\x00\x01" not in (asked := there.recv(1 << 16)[HEADER.size :])[12:16]:
            pass
        assert asked[38:42] == server.packed
        ip("neigh", "replace", str(server), "lladdr", server_mac(8), "nud", "permanent", "dev", "d0")
        while (out := there.recv(1 << 16)[HEADER.size :])[:6] != mac or BODY[:64] not in out:
            pass
    assert out[out.index(BODY[:64]) :] == BODY[: len(out) - out.index(BODY[:64])]
    assert len(out) <= 14 + MTU
    ip("neigh", "del", str(server), "dev", "d0")
