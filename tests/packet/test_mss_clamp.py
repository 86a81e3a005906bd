"""The MSS clamp of a service: the option MSS of SYNs, at XDP and TC, with checksums as if it had been sent so."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from pylvs.model.errors import OutOfRange
from pylvs.model.service import Destination, DestinationKey, Method, ServiceKey, Tunnel, TunnelKind, VirtualService
from tests.packet.frames import CLIENT4, CLIENT6, build, ether, network
from tests.packet.host import HOOKS, VIP4, VIP6, Host, server4, server6

CLAMP, REAL_PORT = 1360, 8080
METHODS = {"dr": Method.ROUTE, "nat": Method.MASQ, "tun": Method.TUNNEL}
each_hook = pytest.mark.parametrize("hook", HOOKS)
each_way = pytest.mark.parametrize("six", [False, True], ids=["v4", "v6"])
MSS, SACK, TIMES, SCALE = ("MSS", 1460), ("SAckOK", b""), ("Timestamp", (7, 0)), ("WScale", 7)
NOP: tuple[str, Any] = ("NOP", None)
LISTS: dict[str, list[Any]] = {
    "alone": [MSS],
    "of Linux": [MSS, SACK, TIMES, NOP, SCALE],
    "in two words": [NOP, MSS, NOP, NOP, NOP],
    "behind others": [SACK, TIMES, NOP, SCALE, MSS],
    "behind four of no operation": [NOP] * 4 + [MSS],
}


def clamped(service: ServiceKey, clamp: int = CLAMP, scheduler: str = "rr") -> VirtualService:
    return VirtualService(service, scheduler, mss_clamp=clamp)


def serve(host: Host, six: bool, method: str, tunnel: Tunnel | None = None, clamp: int = CLAMP) -> ServiceKey:
    service = host.new_key(vip=VIP6 if six else VIP4)
    host.director.add_service(clamped(service, clamp))
    address = ip_address(server6(1) if six else server4(1))
    key = DestinationKey(address, REAL_PORT if method == "nat" else service.port)
    host.director.add_destination(service, Destination(key, METHODS[method], tunnel=tunnel or Tunnel()))
    return service


def syn(six: bool, service: ServiceKey, options: list[Any], sport: int = 4000, flags: str = "S") -> bytes:
    source, target = (CLIENT6, VIP6) if six else (CLIENT4, VIP4)
    return build(ether() / network(source, target) / TCP(sport=sport, dport=service.port, flags=flags, options=options))


def lowered(options: list[Any], to: int = CLAMP) -> list[Any]:
    return [(name, min(value, to)) if name == "MSS" else (name, value) for name, value in options]


def as_forwarded(frame: bytes, out: bytes) -> bytes:
    """Return the frame with the link header and the TTL of the one that left."""
    made: Any = Ether(frame)
    packet: Any = made[IPv6] if IPv6 in made else made[IP]
    packet.setfieldval("hlim" if IPv6 in made else "ttl", 63)
    if IPv6 not in made:
        del packet.chksum
    return out[:14] + build(packet)


@each_hook
@each_way
@pytest.mark.parametrize("options", LISTS.values(), ids=LISTS)
def test_the_mss_of_a_syn_is_made_no_larger(director_host: Host, hook: str, six: bool, options: list[Any]) -> None:
    service = serve(director_host, six, "dr")
    out = director_host.forwarded(syn(six, service, options), hook)
    assert out == as_forwarded(syn(six, service, lowered(options)), out)


@each_hook
@pytest.mark.parametrize("kind", [TunnelKind.IPIP, TunnelKind.GRE])
def test_a_tunnels_syn_is_clamped(director_host: Host, hook: str, kind: TunnelKind) -> None:
    service = serve(director_host, False, "tun", Tunnel(kind))
    out = director_host.forwarded(syn(False, service, LISTS["of Linux"]), hook)
    inner = 34 + (4 if kind is TunnelKind.GRE else 0)
    expected = as_forwarded(syn(False, service, lowered(LISTS["of Linux"])), out)
    assert out[inner:] == expected[14:]


@each_hook
@each_way
@pytest.mark.parametrize("options", LISTS.values(), ids=LISTS)
def test_nat_clamps_the_syn_and_its_reply(director_host: Host, hook: str, six: bool, options: list[Any]) -> None:
    service = serve(director_host, six, "nat")
    client, vip, server = (CLIENT6, VIP6, server6(1)) if six else (CLIENT4, VIP4, server4(1))
    out = director_host.forwarded(syn(six, service, options), hook)
    there = TCP(sport=4000, dport=REAL_PORT, flags="S", options=lowered(options))
    assert out[14:] == build(network(client, server, ttl=63) / there)
    reply = network(server, client) / TCP(sport=REAL_PORT, dport=4000, flags="SA", options=options)
    out = director_host.forwarded(build(ether() / reply), hook)
    back = TCP(sport=service.port, dport=4000, flags="SA", options=lowered(options))
    assert out[14:] == build(network(vip, client, ttl=63) / back)


@each_hook
@pytest.mark.parametrize(
    "options",
    [[], [("MSS", CLAMP)], [("MSS", 536)], [SACK, NOP, NOP], [("EOL", None), MSS]],
    ids=["none", "as large", "smaller", "others", "behind the end"],
)
def test_a_syn_without_a_larger_mss_is_not_changed(director_host: Host, hook: str, options: list[Any]) -> None:
    frame = syn(False, serve(director_host, False, "dr"), options)
    out = director_host.forwarded(frame, hook)
    assert out == as_forwarded(frame, out)


@each_hook
def test_other_services_are_not_clamped(director_host: Host, hook: str) -> None:
    serve(director_host, False, "dr")
    frame = syn(False, serve(director_host, False, "dr", clamp=0), [MSS])
    out = director_host.forwarded(frame, hook)
    assert out == as_forwarded(frame, out)


@each_hook
def test_only_a_syn_is_clamped(director_host: Host, hook: str) -> None:
    service = serve(director_host, False, "dr")
    director_host.forwarded(syn(False, service, [MSS]), hook)
    frame = syn(False, service, [MSS], flags="A")
    out = director_host.forwarded(frame, hook)
    assert out == as_forwarded(frame, out)


@each_hook
def test_an_edit_changes_the_clamp_of_the_next_syn(director_host: Host, hook: str) -> None:
    service = serve(director_host, False, "dr")
    facts = director_host.director.versions.facts
    for clamp in 1200, 0, 1300:
        director_host.director.edit_service(clamped(service, clamp))
        assert director_host.director.service(service).service.mss_clamp == clamp
        assert facts().get("mss_clamps")[0] == (clamp > 0)
        frame = syn(False, service, [MSS], sport=5000 + clamp)
        out = director_host.forwarded(frame, hook)
        assert out == as_forwarded(syn(False, service, [("MSS", clamp or 1460)], sport=5000 + clamp), out)
    director_host.director.delete_service(service)
    assert facts().get("mss_clamps")[0] == 0


@pytest.mark.parametrize("clamp", [1, 535, 65536, -1])
def test_a_clamp_out_of_range_is_refused(director_host: Host, clamp: int) -> None:
    with pytest.raises(OutOfRange, match="from 536 to 65535"):
        director_host.director.add_service(clamped(director_host.new_key(), clamp))


def tcp_sum(frame: bytes) -> int:
    """Return the sum of an IPv4 frame's segment with its pseudo header: 0xffff if the checksum is right."""
    segment = frame[34:]
    words = frame[26:34] + (6).to_bytes(2) + len(segment).to_bytes(2) + segment
    total = sum(int.from_bytes(words[at : at + 2]) for at in range(0, len(words), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@each_hook
def test_any_options_leave_a_right_checksum(director_host: Host, hook: str) -> None:
    """A malformed list of options passes unchanged, or with a smaller MSS."""
    service = serve(director_host, False, "dr")
    sports = iter(range(6000, 60000))
    option = st.one_of(st.just(bytes([2, 4, 0x23, 0x28])), st.just(b"\1"), st.binary(max_size=12))

    @given(st.lists(option, max_size=8).map(b"".join))
    def holds(raw: bytes) -> None:
        raw = raw[: min(len(raw), 40) & ~3]
        header = TCP(sport=next(sports), dport=service.port, flags="S", dataofs=5 + len(raw) // 4)
        frame = build(ether() / network(CLIENT4, VIP4, proto=6) / header / raw)
        out = director_host.forwarded(frame, hook)
        assert tcp_sum(frame) == tcp_sum(out) == 0xFFFF
        changed = [at for at in range(54, len(frame)) if frame[at] != out[at]]
        assert not changed or out[min(changed) : max(changed) + 1] in (bytes.fromhex("0550"), b"\x05", b"\x50")

    holds()
