"""GRE and GUE tunnels, byte for byte, compared with frames that scapy builds (IPVS-SEMANTICS 7.4)."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import GRE, Ether

from pylvs.bpf import kernel
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceKey,
    Tunnel,
    TunnelFlag,
    TunnelKind,
    VirtualService,
)
from tests.packet.frames import CLIENT4, CLIENT6, build, parsed, tcp, udp
from tests.packet.host import (
    DROPPED,
    HOOKS,
    MAC,
    OWN4,
    OWN6,
    SENT,
    VIP4,
    VIP6,
    XDP_PASS,
    Host,
    ip,
    server4,
    server6,
    server_mac,
)

GUE_PORT = 6080
CLIENTS = [(CLIENT4, VIP4), (CLIENT6, VIP6)]
PAYLOADS = [b"", b"x", b"odd", bytes(range(256)) * 2, bytes(513), bytes(range(251)) * 5]
KINDS = {
    "gre": Tunnel(TunnelKind.GRE),
    "gre+csum": Tunnel(TunnelKind.GRE, flags=TunnelFlag.CSUM),
    "gue": Tunnel(TunnelKind.GUE, GUE_PORT),
    "gue+csum": Tunnel(TunnelKind.GUE, GUE_PORT, TunnelFlag.CSUM),
    "gue+remcsum": Tunnel(TunnelKind.GUE, GUE_PORT, TunnelFlag.REMCSUM),
}


def tunnelled(host: Host, service: ServiceKey, tunnel: Tunnel, outside: int) -> Destination:
    """Add a service whose one server is reached by this tunnel over this version of IP."""
    host.director.add_service(VirtualService(service, "rr"))
    server = ip_address(server4(1) if outside == 4 else server6(1))
    destination = Destination(DestinationKey(server, service.port), Method.TUNNEL, tunnel=tunnel)
    host.director.add_destination(service, destination)
    return destination


def expected(frame: bytes, out: bytes, tunnel: Tunnel, outside: int) -> bytes:
    """Return the expected frame; identification and source port, which the director chooses, come from `out`."""
    inner = parsed(frame).payload
    four = IP in inner
    if four:
        inner.ttl -= 1
        del inner.chksum
        ttl, tos, kept = inner.ttl, inner.tos, "DF" in str(inner.flags)
    else:
        inner.hlim -= 1
        ttl, tos, kept = inner.hlim, inner.tc, False
    if outside == 4:
        identity = parsed(out)[IP].id
        assert (identity == 0) == kept, "an identification only where there may be fragments"
        outer: Any = IP(src=OWN4, dst=server4(1), ttl=ttl, tos=tos, id=identity, flags="DF" if kept else 0)
    else:
        outer = IPv6(src=OWN6, dst=server6(1), hlim=ttl, tc=tos)
    if tunnel.kind is TunnelKind.GRE:
        between: Any = GRE(chksum_present=int(bool(tunnel.flags)), proto=0x0800 if four else 0x86DD) / build(inner)
    else:
        source = parsed(out)[UDP].sport
        low, high = kernel.local_ports()
        assert low <= source <= high
        gue = struct.pack("!BBH", 0, 4 if four else 41, 0)
        between = UDP(sport=source, dport=tunnel.port) / (gue + build(inner))
        if not tunnel.flags:
            between.chksum = 0
    return build(Ether(src=MAC, dst=server_mac(1)) / outer / between)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize(("client", "vip"), CLIENTS)
def test_the_headers_and_checksums_are_those_of_the_tunnel(
    director_host: Host, kind: str, outside: int, client: str, vip: str
) -> None:
    tunnel = KINDS[kind]
    for make, protocol in (tcp, Protocol.TCP), (udp, Protocol.UDP):
        service = director_host.new_key(protocol, vip)
        tunnelled(director_host, service, tunnel, outside)
        for payload in PAYLOADS:
            frame = make(dport=service.port, source=client, target=vip, payload=payload)
            out = director_host.forwarded(frame, "tc")
            assert out == expected(frame, out, tunnel, outside)
            if not tunnel.flags:
                out = director_host.forwarded(frame, "xdp")
                assert out == expected(frame, out, tunnel, outside)


@pytest.mark.parametrize("kind", [kind for kind, tunnel in KINDS.items() if tunnel.flags])
def test_xdp_passes_packets_to_tc_for_checksums_over_the_payload(director_host: Host, kind: str) -> None:
    service = director_host.new_key()
    tunnelled(director_host, service, KINDS[kind], 4)
    frame = tcp(dport=service.port, payload=bytes(100))
    for _ in range(3):
        done = director_host.run(frame, "xdp")
        assert (done.verdict, done.data) == (XDP_PASS, frame)
        assert director_host.receive(frame)[0] == "tc"


def test_a_wrong_transport_checksum_stays_wrong_within_a_right_outer_one(director_host: Host) -> None:
    service = director_host.new_key()
    tunnelled(director_host, service, KINDS["gue+csum"], 4)
    frame = bytearray(tcp(dport=service.port, payload=b"some words"))
    frame[50] ^= 0x5A
    out = director_host.forwarded(bytes(frame), "tc")
    assert out == expected(bytes(frame), out, KINDS["gue+csum"], 4)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_flow_keeps_its_source_port_and_flows_differ(director_host: Host, hook: str) -> None:
    """Routers and network cards distribute flows by it."""
    service = director_host.new_key(Protocol.UDP)
    tunnelled(director_host, service, KINDS["gue"], 4)
    ports = {}
    for sport in range(4000, 4064):
        frames = [udp(sport=sport, dport=service.port, payload=payload) for payload in (b"one", b"another")]
        seen = {parsed(director_host.forwarded(frame, hook))[UDP].sport for frame in frames}
        assert len(seen) == 1
        ports[sport] = seen.pop()
    assert len(set(ports.values())) > 48


@pytest.mark.parametrize("hook", HOOKS)
def test_an_edit_of_the_tunnel_is_seen_by_established_connections_at_once(director_host: Host, hook: str) -> None:
    """Tunnel type, port and flags belong to the destination, not to the connection (IPVS-SEMANTICS 1.7)."""
    service = director_host.new_key()
    before = tunnelled(director_host, service, Tunnel(), 4)
    director_host.forwarded(tcp(dport=service.port), hook)
    frame = tcp("A", dport=service.port)
    for tunnel in KINDS["gre"], KINDS["gue"], Tunnel(TunnelKind.GUE, 7777):
        after = Destination(before.key, Method.TUNNEL, tunnel=tunnel)
        director_host.director.edit_destination(service, after)
        out = director_host.run(frame, hook).data
        if out == frame:  # once a second a packet takes the slow path
            out = director_host.run(frame, hook).data
        assert out == expected(frame, out, tunnel, 4)
    director_host.director.edit_destination(service, before)
    assert parsed(director_host.forwarded(frame, hook))[IP].proto == 4
    assert director_host.counts(service) == {server4(1): (1, 0)}


@pytest.mark.parametrize(("kind", "most"), [("gre", 1476), ("gre+csum", 1472), ("gue", 1468), ("gue+remcsum", 1468)])
def test_the_reported_mtu_leaves_space_for_the_headers(director_host: Host, kind: str, most: int) -> None:
    service = director_host.new_key(vip=VIP6)
    tunnelled(director_host, service, KINDS[kind], 4)
    fitting, longer = (
        tcp(dport=service.port, source=CLIENT6, target=VIP6, payload=bytes(most - 60 + more)) for more in (0, 1)
    )
    assert len(director_host.forwarded(fitting, "tc")) == 14 + 1500
    done = director_host.run(longer, "tc")
    assert done.verdict in SENT["tc"]
    assert done.data[54:58] == bytes([2, 0]) + done.data[56:58], "packet too big"
    assert struct.unpack("!I", done.data[58:62]) == (most,)


@pytest.mark.parametrize(("kind", "outside", "least"), [("", 4, 88), ("", 6, 1320), ("gre", 4, 92), ("gue", 6, 1332)])
def test_a_path_mtu_too_small_for_a_tunnel_is_a_drop_reason(
    director_host: Host, kind: str, outside: int, least: int
) -> None:
    """IP needs an MTU of 68, IPv6 of 1280, inside the tunnel."""
    server = server4(1) if outside == 4 else server6(1)
    tunnel = KINDS[kind] if kind else Tunnel()
    for mtu, fits in (least, True), (least - 1, False):
        ip("route", "add", f"{server}/{32 if outside == 4 else 128}", "dev", "d0", "mtu", "lock", str(mtu))
        try:
            service = director_host.new_key()
            tunnelled(director_host, service, tunnel, outside)
            before = director_host.reason("MTU_TOO_SMALL")
            for _ in range(2):
                done = director_host.run(tcp(dport=service.port), "tc")
                assert (done.verdict in SENT["tc"]) == fits
                assert (done.verdict == DROPPED["tc"]) == (not fits)
            assert director_host.reason("MTU_TOO_SMALL") == before + (0 if fits else 2)
        finally:
            ip("route", "del", f"{server}/{32 if outside == 4 else 128}", "dev", "d0")
