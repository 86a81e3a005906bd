"""Packets of no service pass to the stack unmodified."""

from __future__ import annotations

import random
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether

from pylvs.model.service import Protocol
from tests.packet import frames
from tests.packet.frames import CLIENT4, CLIENT6, build, ether, tcp, udp
from tests.packet.host import DROPPED, HOOKS, MAC, OWN4, PASSED, SENT, VIP4, VIP6, Host, ip, key, server4, server6

TCP_SERVICE, UDP_SERVICE = key(80), key(53, Protocol.UDP)
TCP6_SERVICE, UDP6_SERVICE = key(80, vip=VIP6), key(53, Protocol.UDP, VIP6)


@pytest.fixture
def host(director_host: Host) -> Host:
    for service in TCP_SERVICE, UDP_SERVICE, TCP6_SERVICE, UDP6_SERVICE:
        director_host.serve(service, 2)
    # the tests corrupt these frames, which leave when intact
    for frame in tcp(sport=4999), udp(sport=4999), *(m(sport=4999, source=CLIENT6, target=VIP6) for m in (tcp, udp)):
        for hook in HOOKS:
            director_host.forwarded(frame, hook)
    return director_host


def counted(host: Host) -> dict[str, Any]:
    """Return what packets change in the table; rates change by themselves."""
    return {
        str(row.service.key): (
            row.counters,
            [(each.active, each.inactive, each.persistent, each.counters) for each in row.destinations],
        )
        for row in host.director.services()
    }


def passes(host: Host, frame: bytes, hooks: tuple[str, ...] = HOOKS) -> None:
    """Assert that both hooks pass the frame unmodified, and that no table changes."""
    before = counted(host)
    connections = len(list(host.director.connections()))
    for hook in hooks:
        done = host.run(frame, hook)
        assert done.verdict == PASSED[hook], f"{hook}: {done.verdict}"
        assert done.data == frame, f"{hook} changed it"
    assert counted(host) == before
    assert len(list(host.director.connections())) == connections


@pytest.mark.parametrize(
    "packet",
    [
        ether() / IP(src=CLIENT4, dst=VIP4) / TCP(sport=4000, dport=81, flags="S"),
        ether() / IP(src=CLIENT4, dst=VIP4) / UDP(sport=4000, dport=80) / b"x",
        ether() / IP(src=CLIENT4, dst=OWN4) / TCP(sport=4000, dport=80, flags="S"),
        ether() / IP(src=CLIENT4, dst="10.77.0.11") / TCP(sport=4000, dport=80, flags="S"),
        ether() / IP(src=CLIENT4, dst=VIP4) / ICMP() / b"ping",
        ether() / IP(src=CLIENT4, dst=VIP4, proto=47) / b"not TCP or UDP",
        ether() / IPv6(src=CLIENT6, dst=VIP6) / TCP(sport=4000, dport=81, flags="S"),
        ether() / IPv6(src=CLIENT6, dst="fd77::11") / TCP(sport=4000, dport=80, flags="S"),
        ether() / ARP(pdst=VIP4),
        ether() / IP(src=CLIENT4, dst=VIP4) / TCP(sport=4000, dport=80, flags="A"),
        ether() / IP(src=CLIENT4, dst=VIP4) / TCP(sport=4000, dport=80, flags="FA"),
        ether() / IP(src=CLIENT4, dst=VIP4) / TCP(sport=4000, dport=80, flags="R"),
        ether() / IP(src=CLIENT4, dst=VIP4) / TCP(sport=20, dport=80, flags="S"),
    ],
    ids=lambda packet: packet.summary(),
)
def test_a_packet_of_no_service_passes_untouched(host: Host, packet: Any) -> None:
    passes(host, build(packet))


def test_without_any_service_everything_passes(shared: Host) -> None:
    shared.director.flush()
    passes(shared, tcp(sport=4100))
    passes(shared, udp(sport=4100))


@pytest.mark.parametrize("target", ["02:00:00:00:00:02", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:01"])
def test_frames_to_another_mac_pass_untouched(host: Host, target: str) -> None:
    for version, vip in ((4, VIP4), (6, VIP6)):
        source = CLIENT4 if version == 4 else CLIENT6
        passes(host, build(ether(target) / frames.network(source, vip) / TCP(sport=4000, dport=80, flags="S")))


@pytest.mark.parametrize("layers", [1, 2])
def test_tagged_frames_pass_untouched(host: Host, layers: int) -> None:
    for protocol in IP(src=CLIENT4, dst=VIP4), IPv6(src=CLIENT6, dst=VIP6):
        tags: Any = Dot1Q(vlan=7)
        for _ in range(layers - 1):
            tags = tags / Dot1Q(vlan=8)
        passes(host, build(ether() / tags / protocol / TCP(sport=4000, dport=80, flags="S")))


def test_a_frame_of_a_length_instead_of_a_type_passes_untouched(host: Host) -> None:
    frame = tcp()
    passes(host, frame[:12] + (len(frame) - 14).to_bytes(2, "big") + frame[14:])


@pytest.mark.parametrize(
    "fields",
    [
        {"chksum": 0x1234},
        {"chksum": 0},
        {"len": 19},
        {"len": 0},
        {"len": 41},
        {"len": 0xFFFF},
        {"version": 5},
        {"version": 6},
        {"version": 0},
        {"ihl": 4},
        {"ihl": 0},
        {"ihl": 15},
    ],
    ids=str,
)
def test_a_malformed_ipv4_header_passes_untouched(host: Host, fields: dict[str, Any]) -> None:
    """The header's checksum is right for all but the first two, so it is not the reason."""
    passes(host, build(ether() / IP(src=CLIENT4, dst=VIP4, **fields) / TCP(sport=4000, dport=80, flags="S")))


@pytest.mark.parametrize("fields", [{"plen": 21}, {"plen": 0xFFFF}, {"version": 4}, {"version": 7}], ids=str)
def test_a_malformed_ipv6_header_passes_untouched(host: Host, fields: dict[str, Any]) -> None:
    passes(host, build(ether() / IPv6(src=CLIENT6, dst=VIP6, **fields) / TCP(sport=4000, dport=80, flags="S")))


@pytest.mark.parametrize(
    "frame", [tcp(), udp(), tcp(source=CLIENT6, target=VIP6), udp(source=CLIENT6, target=VIP6)], ids=range(4)
)
def test_a_truncated_frame_passes_untouched(host: Host, frame: bytes) -> None:
    whole_header = 34 if frame[12:14] == b"\x08\x00" else 54  # the kernel runs no shorter frame at TC
    for length in range(14, len(frame)):
        passes(host, frame[:length], HOOKS if length >= whole_header else ("xdp",))


@pytest.mark.parametrize("header", [51, 60], ids=["AH", "destination options"])
def test_what_follows_an_ipv6_packet_in_its_frame_is_no_header_of_it(host: Host, header: int) -> None:
    """The extension header would lie behind the payload's end, where padding looks like one before UDP."""
    padded = build(ether() / IPv6(src=CLIENT6, dst=VIP6, nh=header, plen=0) / bytes((17, 4, 0, 0)).ljust(40, b"\0"))
    for hook in HOOKS:
        done = host.run(padded, hook)
        assert (done.verdict, done.data) == (PASSED[hook], padded)


HOP_OPTIONS = {  # and whether the kernel passes a packet with them to IPVS (ip6_parse_tlv)
    "padding": ("010400000000", True),
    "padding that is not 0": ("010400000100", False),
    "padding byte by byte": ("000000000000", True),
    "more padding than seven bytes": ("0104000000000100" + "000000000000", False),
    "padding without a length": ("000000000001", False),
    "router alert": ("050200000100", True),
    "router alert of another length": ("050100010100", False),
    "an unknown option that may be skipped": ("1e0400000000", True),
    "an unknown option that may not": ("9e0400000000", False),
    "an option beyond the header": ("1e0500000000", False),
    "eight options": ("1e00" * 8 + "010400000000", True),
    "nine options": ("1e00" * 9 + "01020000", False),
}


@pytest.mark.parametrize("name", HOP_OPTIONS)
def test_bad_hop_by_hop_options_are_left_to_the_stack(host: Host, name: str) -> None:
    options, good = bytes.fromhex(HOP_OPTIONS[name][0]), HOP_OPTIONS[name][1]
    assert len(options) % 8 == 6
    service = host.new_key(vip=VIP6)
    host.serve(service, 1)
    inner = Ether(tcp("S", sport=4300, dport=service.port, source=CLIENT6, target=VIP6)).payload
    header = bytes((inner.nh, len(options) // 8)) + options
    frame = build(ether() / IPv6(src=CLIENT6, dst=VIP6, nh=0) / (header + bytes(inner.payload)))
    done = host.run(frame, "tc")
    if good:
        assert done.verdict not in (PASSED["tc"], DROPPED["tc"])
    else:
        assert (done.verdict, done.data) == (PASSED["tc"], frame)
    assert host.run(frame, "xdp").verdict == PASSED["xdp"]


@pytest.mark.parametrize("make", [tcp, udp])
@pytest.mark.parametrize(("source", "vip"), [(CLIENT4, VIP4), (CLIENT6, VIP6)])
def test_a_truncated_transport_header_is_never_forwarded(host: Host, make: Any, source: str, vip: str) -> None:
    """The IP header itself has a short length: IPVS drops what it cannot schedule, or passes it (2.4)."""
    whole = Ether(make(sport=4200, source=source, target=vip))
    transport = bytes(whole.payload.payload)
    before = len(list(host.director.connections()))
    for length in range(8 if make is udp else 20):
        network = frames.network(source, vip)
        if vip == VIP4:
            network.proto = whole.payload.proto
        else:
            network.nh = whole.payload.nh
        frame = build(ether() / network / transport[:length])
        for hook in HOOKS:
            done = host.run(frame, hook)
            assert done.verdict in (PASSED[hook], DROPPED[hook])
            assert done.data == frame
    assert len(list(host.director.connections())) == before


@pytest.mark.parametrize("hook", HOOKS)
def test_noise_never_crashes_nor_leaves(host: Host, hook: str) -> None:
    """In frames with changed bytes, only complete packets to one of the services leave."""
    chance = random.Random(20261120)
    patterns = [tcp(sport=4300), udp(sport=4300), tcp(sport=4300, source=CLIENT6, target=VIP6)]
    sent = 0
    for number in range(1500):
        frame = bytearray(patterns[number % 3])
        for _ in range(chance.randint(1, 3)):
            frame[chance.randrange(len(frame))] = chance.randrange(256)
        done = host.run(bytes(frame), hook)
        if done.verdict not in SENT[hook]:
            assert done.verdict in (PASSED[hook], DROPPED[hook])
            continue
        sent += 1
        came, left = Ether(bytes(frame)), Ether(done.data)
        assert came.dst == MAC
        target = came.payload
        assert target.dst in (VIP4, VIP6)
        if isinstance(target, IP):
            assert frames.summed_anew(bytes(frame))[24:26] == bytes(frame)[24:26], "a wrong header was forwarded"
        assert bytes(left.payload.payload) == bytes(came.payload.payload)
    assert sent > 100


def test_fragments_to_other_hosts_pass_untouched(host: Host) -> None:
    pieces: list[dict[str, Any]] = [{"flags": "MF"}, {"frag": 3}, {"flags": "MF", "frag": 3}]
    for fields in pieces:
        for target, hooks in ("10.77.0.11", HOOKS), (VIP4, ("xdp",)):
            header = IP(src=CLIENT4, dst=target, **fields)
            passes(host, build(ether() / header / UDP(sport=4000, dport=53) / bytes(32)), hooks)


@pytest.mark.parametrize(("address", "source"), [("10.77.0.200", CLIENT4), ("fd77::200", CLIENT6)])
def test_a_new_connection_to_an_address_that_this_host_does_not_hold_passes(
    host: Host, address: str, source: str
) -> None:
    """It is scheduled while the host has the address."""
    elsewhere = key(80, vip=address)
    host.serve(elsewhere, 1)
    bits = "32" if elsewhere.address.version == 4 else "128"
    first, second = (tcp(sport=sport, source=source, target=address) for sport in (4001, 4002))
    seen = host.reason("NOT_LOCAL")
    passes(host, first)
    assert host.reason("NOT_LOCAL") - seen == 1, "TC counts it"
    nodad = ["nodad"] if bits == "128" else []
    ip("addr", "add", f"{address}/{bits}", "dev", "d0", *nodad)
    try:
        with host.director.batch():
            pass  # an edit reads this host's addresses again
        host.wait_ticks()
        assert host.receive(first)[1].verdict in (SENT["xdp"] + SENT["tc"])
        assert host.counts(elsewhere) == {server4(1) if bits == "32" else server6(1): (1, 0)}
    finally:
        ip("addr", "del", f"{address}/{bits}", "dev", "d0")
    with host.director.batch():
        pass
    host.wait_ticks()
    passes(host, second)
