"""Forwarded frames, byte for byte, compared with frames that scapy builds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from pylvs.dataplane.devices import attachments
from pylvs.model.service import Destination, Method, Protocol
from tests.packet import frames
from tests.packet.frames import CLIENT4, CLIENT6, build, ether, parsed, summed_anew, tcp, udp
from tests.packet.host import (
    HOOKS,
    MAC,
    OWN4,
    OWN6,
    PASSED,
    ROUTER_MAC,
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

FAMILIES = [(CLIENT4, VIP4, server4(1)), (CLIENT6, VIP6, server6(1))]
MANY = settings(max_examples=40, deadline=None)
PORT = 8080  # of NAT servers


def expected_direct(frame: bytes, number: int = 1) -> bytes:
    """Return the frame with new MACs, a TTL less by one, and its header checksum."""
    packet = parsed(frame)
    packet.dst, packet.src = server_mac(number), MAC
    if IP in packet:
        packet[IP].ttl -= 1
        del packet[IP].chksum
    else:
        packet[IPv6].hlim -= 1
    return build(packet)


def expected_nat(frame: bytes, server: str, port: int) -> bytes:
    """Return the frame with another destination as well. A UDP checksum of zero stays only if the packet had none."""
    packet = Ether(expected_direct(frame))
    packet.payload.dst = server
    transport = packet.payload.payload
    transport.dport = port
    del transport.chksum
    if IP in packet:
        del packet[IP].chksum
    return build(packet)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("make", [tcp, udp])
@pytest.mark.parametrize(("client", "vip", "server"), FAMILIES)
def test_direct_routing_changes_only_the_macs_the_ttl_and_the_header_checksum(
    director_host: Host, hook: str, make: Any, client: str, vip: str, server: str
) -> None:
    service = director_host.new_key(Protocol.TCP if make is tcp else Protocol.UDP, vip)
    director_host.serve(service)
    for size in 0, 1, 17, 700, 1400:
        frame = make(dport=service.port, source=client, target=vip, payload=(bytes(range(256)) * 6)[:size])
        out = director_host.forwarded(frame, hook)
        assert out == expected_direct(frame)
        changed = {at for at in range(len(frame)) if frame[at] != out[at]}
        ttl = {14 + 8, 14 + 10, 14 + 11} if vip == VIP4 else {14 + 7}
        assert changed <= {*range(12), *ttl}


@pytest.mark.parametrize("hook", HOOKS)
def test_every_header_checksum_is_right_with_the_new_ttl(director_host: Host, hook: str) -> None:
    service = director_host.new_key()
    director_host.serve(service)

    @MANY
    @given(ttl=st.integers(2, 255), tos=st.integers(0, 255), ident=st.integers(0, 65535), df=st.booleans())
    def holds(ttl: int, tos: int, ident: int, df: bool) -> None:
        header = IP(src=CLIENT4, dst=VIP4, ttl=ttl, tos=tos, id=ident, flags="DF" if df else 0)
        frame = build(ether() / header / TCP(sport=4000, dport=service.port, flags="S"))
        assert director_host.forwarded(frame, hook) == expected_direct(frame)

    holds()


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("make", [tcp, udp])
@pytest.mark.parametrize(("client", "vip", "server"), FAMILIES)
def test_nat_requests_and_replies_have_right_checksums(
    director_host: Host, hook: str, make: Any, client: str, vip: str, server: str
) -> None:
    service = director_host.new_key(Protocol.TCP if make is tcp else Protocol.UDP, vip)
    director_host.serve(service, 1, Method.MASQ, port=PORT)

    @MANY
    @given(payload=st.binary(max_size=64), sport=st.integers(1024, 65535))
    def holds(payload: bytes, sport: int) -> None:
        request = make(sport=sport, dport=service.port, source=client, target=vip, payload=payload)
        assert director_host.forwarded(request, hook) == expected_nat(request, server, PORT)
        flags = {"flags": "A"} if make is tcp else {}
        answer = make(sport=PORT, dport=sport, source=server, target=client, payload=payload[::-1], **flags)
        packet = parsed(answer)
        packet.dst, packet.src = ROUTER_MAC, MAC
        packet.payload.src, packet.payload.payload.sport = vip, service.port
        if vip == VIP4:
            packet[IP].ttl -= 1
        else:
            packet[IPv6].hlim -= 1
        assert director_host.forwarded(answer, hook) == summed_anew(build(packet))

    holds()


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(("client", "vip", "server"), FAMILIES)
def test_connections_before_and_after_an_edit_of_the_method_both_continue(
    director_host: Host, hook: str, client: str, vip: str, server: str
) -> None:
    """In IPVS those of direct routing would be lost (docs/differences.md)."""
    service = director_host.new_key(vip=vip)
    [name] = director_host.serve(service)
    old, new = ([tcp(flags, port, service.port, client, vip) for flags in ("S", "A")] for port in (4000, 4001))
    assert director_host.forwarded(old[0], hook) == expected_direct(old[0])
    director_host.director.edit_destination(service, Destination(name, Method.MASQ))
    assert director_host.forwarded(new[0], hook) == expected_nat(new[0], server, service.port)
    for frame in old[1], new[1], old[1]:
        wanted = expected_direct(frame) if frame is old[1] else expected_nat(frame, server, service.port)
        assert director_host.forwarded(frame, hook) == wanted


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(("client", "vip", "server"), FAMILIES)
def test_a_udp_checksum_never_becomes_zero(director_host: Host, hook: str, client: str, vip: str, server: str) -> None:
    """Zero would mean "none", so a computed zero is written as 0xffff (RFC 768)."""
    service = director_host.new_key(Protocol.UDP, vip)
    director_host.serve(service, 1, Method.MASQ, port=PORT)
    plain = expected_nat(udp(dport=service.port, source=client, target=vip, payload=bytes(2)), server, PORT)
    sum_without = parsed(plain)[UDP].chksum
    frame = udp(dport=service.port, source=client, target=vip, payload=sum_without.to_bytes(2, "big"))
    wanted = expected_nat(frame, server, PORT)
    assert parsed(wanted)[UDP].chksum == 0xFFFF, "the test's own arithmetic"
    assert director_host.forwarded(frame, hook) == wanted


def test_a_udp_packet_without_checksum_stays_so_by_direct_routing(director_host: Host) -> None:
    service = director_host.new_key(Protocol.UDP)
    director_host.serve(service)
    frame = build(ether() / IP(src=CLIENT4, dst=VIP4) / UDP(dport=service.port, chksum=0) / b"bare")
    for hook in HOOKS:
        out = director_host.forwarded(frame, hook)
        assert parsed(out)[UDP].chksum == 0
        assert out == expected_direct(frame)


@pytest.mark.parametrize("payload", [b"", b"x", b"odd", b"even", bytes(511), bytes(range(256)) * 5], ids=len)
def test_a_udp_packet_without_checksum_gets_one_by_nat(director_host: Host, payload: bytes) -> None:
    """XDP passes it to TC, which computes it (IPVS-SEMANTICS 7.3)."""
    service = director_host.new_key(Protocol.UDP)
    director_host.serve(service, 1, Method.MASQ, port=PORT)
    frame = build(ether() / IP(src=CLIENT4, dst=VIP4) / UDP(dport=service.port, chksum=0) / payload)
    hook, done = director_host.receive(frame)
    assert hook == "tc"
    assert done.verdict in SENT["tc"]
    packet = parsed(done.data)
    assert (packet[IP].dst, packet[UDP].dport) == (server4(1), PORT)
    assert packet[UDP].chksum
    assert summed_anew(done.data) == done.data


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("outside", [4, 6])
@pytest.mark.parametrize(("client", "vip"), [(CLIENT4, VIP4), (CLIENT6, VIP6)])
def test_tunnels_add_one_header_and_nothing_else(
    director_host: Host, hook: str, outside: int, client: str, vip: str
) -> None:
    service = director_host.new_key(vip=vip)
    director_host.serve(service, 1, Method.TUNNEL, family=outside)

    @MANY
    @given(ttl=st.integers(2, 255), tos=st.integers(0, 255), df=st.booleans(), payload=st.binary(max_size=40))
    def holds(ttl: int, tos: int, df: bool, payload: bytes) -> None:
        only4 = {"flags": "DF" if df else 0} if vip == VIP4 else {}
        header = frames.network(client, vip, ttl=ttl, tos=tos, **only4)
        frame = build(ether() / header / TCP(sport=4000, dport=service.port, flags="S") / payload)
        out = director_host.forwarded(frame, hook)
        inner = build(Ether(expected_direct(frame)).payload)
        outer_tos = tos - 1 if tos & 3 == 3 else tos  # congestion is not copied (RFC 3168 9.1.1)
        inside = 4 if vip == VIP4 else 41
        if outside == 4:
            kept = df and vip == VIP4
            identity = parsed(out)[IP].id
            assert (identity == 0) == kept, "an identification only where there may be fragments"
            flags = "DF" if kept else 0
            outer: Any = IP(dst=server4(1), src=OWN4, ttl=ttl - 1, tos=outer_tos, id=identity, flags=flags)
            outer.proto = inside
        else:
            outer = IPv6(dst=server6(1), src=OWN6, hlim=ttl - 1, tc=outer_tos, nh=inside)
        assert out == build(Ether(dst=server_mac(1), src=MAC) / outer / inner)

    holds()


@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ, Method.TUNNEL], ids=lambda method: method.name)
@pytest.mark.parametrize(("client", "vip", "server"), FAMILIES)
def test_xdp_passes_a_packet_whose_ttl_is_used_up_and_tc_sends_the_error(
    director_host: Host, method: Method, client: str, vip: str, server: str
) -> None:
    service = director_host.new_key(vip=vip)
    director_host.serve(service, 1, method)
    seen = director_host.reason("TTL")
    for ttl in 0, 1:
        for flags in "S", "A":
            make = {"sport": 4000 + 2 * ttl + (flags == "A"), "dport": service.port, "source": client, "target": vip}
            if flags == "A":
                director_host.forwarded(tcp(**make))
            frame = tcp(flags, ttl=ttl, **make)
            done = director_host.run(frame, "xdp")
            assert (done.verdict, done.data) == (XDP_PASS, frame)
            answer = director_host.run(frame, "tc")
            assert answer.verdict in SENT["tc"]
            packet = parsed(answer.data)
            assert (packet.payload.src, packet.payload.dst) == (vip, client)
            assert answer.data.endswith(frame[14:]), "it quotes the packet as it came"
            assert summed_anew(answer.data) == answer.data
    assert director_host.reason("TTL") == seen + 4


@pytest.mark.parametrize("hook", HOOKS)
def test_link_padding_is_removed_before_forwarding(director_host: Host, hook: str) -> None:
    service = director_host.new_key()
    director_host.serve(service)
    frame = tcp(dport=service.port)
    assert director_host.forwarded(frame + bytes(6), hook) == expected_direct(frame)


def test_xdp_passes_a_packet_longer_than_the_mtu_unmodified(director_host: Host) -> None:
    service = director_host.new_key()
    director_host.serve(service)
    director_host.forwarded(tcp(dport=service.port))
    frame = tcp("A", dport=service.port, payload=bytes(1461))
    done = director_host.run(frame)
    assert (done.verdict, done.data) == (XDP_PASS, frame)


def test_xdp_forwards_a_jumbo_frame_in_several_buffers(director_host: Host) -> None:
    """The programs are loaded as xdp.frags."""
    for device in "d1", "d0":
        ip("link", "set", device, "mtu", "9000")
    try:
        service = director_host.new_key()
        director_host.serve(service)
        director_host.forwarded(tcp(dport=service.port))
        frame = tcp("A", dport=service.port, payload=bytes(range(250)) * 32)
        assert director_host.forwarded(frame) == expected_direct(frame)
    finally:
        for device in "d0", "d1":
            ip("link", "set", device, "mtu", "1500")


def test_native_xdp_takes_a_device_of_jumbo_frames(director_host: Host) -> None:
    """Drivers refuse programs without frags if a frame does not fit into a page."""
    ip("link", "add", "j0", "mtu", "9000", "type", "veth", "peer", "name", "j1", "mtu", "9000")
    try:
        for device in "j0", "j1":
            ip("link", "set", device, "up")
        with director_host.director.batch():
            assert attachments.request(director_host.director.tables, "j0", "native").mode == "native"
            attachments.release(director_host.director.tables, "j0")
    finally:
        ip("link", "del", "j0")


@pytest.mark.parametrize("hook", HOOKS)
def test_replies_of_a_nat_server_without_a_connection_pass(director_host: Host, hook: str) -> None:
    director_host.serve(director_host.new_key(), 1, Method.MASQ, port=PORT)
    frame = tcp("SA", sport=PORT, dport=39999, source=server4(1), target=CLIENT4)
    done = director_host.run(frame, hook)
    assert (done.verdict, done.data) == (PASSED[hook], frame)
