"""ICMP errors about forwarded connections at TC (IPVS-SEMANTICS 8), compared with frames that scapy builds."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import GRE, Ether

from pylvs.bpf import abi
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Tunnel,
    TunnelKind,
)
from tests.packet.frames import CLIENT4, CLIENT6, build, ether, network, parsed, tcp, udp
from tests.packet.host import (
    DROPPED,
    OWN4,
    PASSED,
    ROUTER4,
    ROUTER6,
    ROUTER_MAC,
    SENT,
    VIP4,
    VIP6,
    XDP_PASS,
    Host,
    ip,
    on_cpu,
    server4,
    server6,
    server_mac,
)
from tests.packet.wire import wire

METHODS = {"dr": Method.ROUTE, "nat": Method.MASQ, "tun": Method.TUNNEL}
REAL_PORT, SPORT = 8080, 4000


@dataclass
class Case:
    """A service with one server and one established connection."""

    host: Host
    service: ServiceKey
    method: str
    six: bool
    real_port: int

    @property
    def client(self) -> str:
        return CLIENT6 if self.six else CLIENT4

    @property
    def vip(self) -> str:
        return VIP6 if self.six else VIP4

    @property
    def server(self) -> str:
        return server6(1) if self.six else server4(1)

    @property
    def router(self) -> str:
        return ROUTER6 if self.six else ROUTER4

    def packet(self, source: tuple[str, int], target: tuple[str, int], size: int = 40, **fields: Any) -> Any:
        """Return a segment of the connection as one side sees it; a quotation keeps its checksum."""
        return (
            network(source[0], target[0], id=5, **fields)
            / TCP(sport=source[1], dport=target[1], flags="PA", chksum=0xBEEF)
            / bytes(each % 251 for each in range(size))
        )

    def reply(self, **fields: Any) -> Any:
        """Return a reply as the client received it."""
        return self.packet((self.vip, self.service.port), (self.client, SPORT), **fields)

    def request(self, **fields: Any) -> Any:
        """Return a request as the real server received it."""
        if self.method != "nat":
            return self.packet((self.client, SPORT), (self.vip, self.service.port), **fields)
        return self.packet((self.client, SPORT), (self.server, self.real_port), **fields)

    def error(self, target: str, quote: bytes, ttl: int = 64, source: str = "", **fields: Any) -> bytes:
        """Return a port unreachable about it, from the router."""
        inner = ICMPv6DestUnreach(code=4, **fields) if self.six else ICMP(type=3, code=3, **fields)
        return build(ether() / network(source or self.router, target, ttl=ttl, id=6) / inner / quote)

    def counters(self) -> tuple[int, int, int, int]:
        """Return packets and bytes, in and out."""
        found = self.host.director.service(self.service).counters
        return found.in_packets, found.in_bytes, found.out_packets, found.out_bytes

    def sent(self, frame: bytes) -> bytes:
        """Return the IP packet that leaves for a frame."""
        done = self.host.run(frame, "tc")
        assert done.verdict in SENT["tc"], f"verdict {done.verdict}, reasons {self.host.reasons()}"
        return done.data[14:]

    def ends(self, frame: bytes, verdict: dict[str, int]) -> None:
        """Assert that the frame is passed unmodified, or dropped."""
        done = self.host.run(frame, "tc")
        assert (done.verdict, done.data) == (verdict["tc"], frame)


@pytest.fixture
def case(director_host: Host) -> Callable[..., Case]:
    def make(method: str, six: bool = False) -> Case:
        service = director_host.new_key(vip=VIP6 if six else VIP4)
        real_port = REAL_PORT if method == "nat" else service.port
        director_host.serve(service, 1, METHODS[method], port=real_port)
        made = Case(director_host, service, method, six, real_port)
        for flags in "S", "A":
            director_host.run(tcp(flags, SPORT, service.port, made.client, made.vip), "tc")
        assert len(list(director_host.director.connections())) >= 1
        return made

    return make


each_way = pytest.mark.parametrize("six", [False, True], ids=["v4", "v6"])
each_method = pytest.mark.parametrize("method", METHODS)


@each_way
@each_method
def test_an_error_about_a_reply_reaches_the_server(case: Callable[..., Case], method: str, six: bool) -> None:
    it = case(method, six)
    frame = it.error(it.vip, build(it.reply()))
    before = it.counters()
    left = it.sent(frame)
    target, quote = it.vip, it.reply()
    if method == "nat":
        target, quote = it.server, it.packet((it.server, REAL_PORT), (it.client, SPORT))
    expected = it.error(target, build(quote), ttl=63)[14:]
    if method == "tun":
        outer = (IPv6 if six else IP)(left)
        assert (outer.dst, left[: 40 if six else 20] + expected) == (it.server, left)
    else:
        assert left == expected
    packets, size, *out = (now - then for now, then in zip(it.counters(), before, strict=True))
    assert (packets, size, out) == (1, len(frame) - 14, [0, 0])


def with_route(frame: bytes, *recorded: str) -> bytes:
    """Return a frame with a record route option for two addresses."""
    packet = Ether(frame)[IP]
    del packet.ihl, packet.len, packet.chksum
    routers = [*recorded, "0.0.0.0", "0.0.0.0"][:2]
    packet.options = [IPOption_RR(length=11, pointer=4 + 4 * len(recorded), routers=routers)]
    return build(ether() / packet)


def test_nat_keeps_the_options_of_an_error_and_translates_its_address(case: Callable[..., Case]) -> None:
    it = case("nat")
    toward_server = it.error(it.vip, build(it.reply()))
    quote = it.packet((it.server, REAL_PORT), (it.client, SPORT))
    expected = it.error(it.server, build(quote), ttl=63)
    assert it.sent(with_route(toward_server)) == with_route(expected, it.vip)[14:]
    toward_client = it.error(it.client, build(it.request()))
    quote = it.packet((it.client, SPORT), (it.vip, it.service.port))
    expected = it.error(it.client, build(quote), ttl=63, source=it.vip)
    assert it.sent(with_route(toward_client)) == with_route(expected, it.vip)[14:]


@each_method
def test_an_error_about_a_request_reaches_the_client(case: Callable[..., Case], method: str) -> None:
    it = case(method)
    frame = it.error(it.client, build(it.request()))
    before = it.counters()
    if method == "nat":
        quote = it.packet((it.client, SPORT), (it.vip, it.service.port))
        assert it.sent(frame) == it.error(it.client, build(quote), ttl=63, source=it.vip)[14:]
    else:
        it.ends(frame, PASSED)  # for this host to route, unchanged
    assert [now - then for now, then in zip(it.counters(), before, strict=True)] == [0, 0, 1, len(frame) - 14]


@pytest.mark.parametrize(("snat_reroute", "router"), [(1, server_mac(2)), (0, ROUTER_MAC)])
def test_an_error_of_a_nat_server_leaves_by_the_route_of_the_virtual_address(
    case: Callable[..., Case], snat_reroute: int, router: str
) -> None:
    it = case("nat")
    ip("rule", "add", "from", VIP4, "lookup", "200")
    ip("route", "add", "default", "via", server4(2), "table", "200")
    it.host.director.change_setting("snat_reroute", snat_reroute)
    try:
        with wire() as link:
            link.send(it.error(it.client, build(it.request())))
            (left,) = (Ether(each) for each in link.came() if Ether(each).haslayer(ICMP))
    finally:
        it.host.director.change_setting("snat_reroute", 1)
        ip("route", "flush", "table", "200")
        ip("rule", "del", "from", VIP4, "lookup", "200")
    assert (left.dst, left[IP].src, left[IP].dst) == (router, VIP4, it.client)


def test_icmp6_errors_of_nat_servers_are_dropped_as_in_ipvs(case: Callable[..., Case]) -> None:
    """IPVS sums the message without the pseudo header, so every checksum is wrong."""
    it = case("nat", True)
    it.ends(it.error(it.client, build(it.request())), DROPPED)


@each_way
@each_method
def test_errors_about_no_connection_pass(case: Callable[..., Case], method: str, six: bool) -> None:
    it = case(method, six)
    unknown = (it.client, SPORT + 1)
    for quote in (
        it.packet((it.vip, it.service.port), unknown),
        it.packet((it.vip, it.service.port + 1), (it.client, SPORT)),
        it.packet(unknown, (it.server, it.real_port)),
        network(it.vip, it.client) / UDP(sport=it.service.port, dport=SPORT) / b"other protocol",
    ):
        it.ends(it.error(it.vip, build(quote)), PASSED)
    echo = ICMPv6EchoRequest() if six else ICMP()
    it.ends(build(ether() / network(it.client, it.vip) / echo / build(it.reply())), PASSED)


def test_a_wrong_checksum_is_dropped(case: Callable[..., Case]) -> None:
    for method in METHODS:
        it = case(method)
        it.ends(it.error(it.vip, build(it.reply()), chksum=0x1234), DROPPED)
    it = case("nat")
    it.ends(it.error(it.client, build(it.request()), chksum=0x1234), DROPPED)
    it = case("dr", True)
    assert it.sent(it.error(it.vip, build(it.reply()), cksum=0x1234))[42:44] == b"\x12\x34", "IPVS does not look"


@each_way
@each_method
def test_a_quotation_may_end_behind_the_ports(case: Callable[..., Case], method: str, six: bool) -> None:
    it = case(method, six)
    whole, ports = build(it.reply()), (40 if six else 20) + 4
    for length in range(len(whole) + 1):
        frame = it.error(it.vip, whole[:length])
        done = it.host.run(frame, "tc")
        if length >= ports:
            assert done.verdict in SENT["tc"], length
        else:
            assert (done.verdict, done.data) == (PASSED["tc"], frame), length


@pytest.mark.parametrize(("protocol", "sent"), [(Protocol.TCP, True), (Protocol.UDP, False)])
def test_an_error_about_a_later_fragment_of_udp_to_this_host_passes(
    director_host: Host, protocol: Protocol, sent: bool
) -> None:
    """IPVS reads ports where the transport header would be, but not of UDP, which may be a tunnel's."""
    service = director_host.new_key(protocol)
    director_host.serve(service, 1)
    make = tcp if protocol == Protocol.TCP else udp
    director_host.run(make(sport=SPORT, dport=service.port), "tc")
    it = Case(director_host, service, "dr", False, service.port)
    layer = (TCP if protocol == Protocol.TCP else UDP)(sport=service.port, dport=SPORT)
    for offset, leaves in (0, True), (10, sent):
        frame = it.error(VIP4, build(IP(src=VIP4, dst=CLIENT4, flags="MF", frag=offset) / layer / bytes(40)))
        if leaves:
            assert len(it.sent(frame)) == len(frame) - 14
        else:
            it.ends(frame, PASSED)


@each_way
def test_an_error_itself_is_never_answered(case: Callable[..., Case], six: bool) -> None:
    for method in METHODS:
        it = case(method, six)
        done = it.host.run(it.error(it.vip, build(it.reply()), ttl=1), "tc")
        assert done.verdict == DROPPED["tc"]


def mutated(chance: random.Random, frame: bytes, six: bool) -> bytes:
    """Change some bytes, remove some at the end, and often correct lengths and outer checksums."""
    head = 14 + (40 if six else 20)
    body = bytearray(frame[head:])
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        body[chance.randrange(len(body))] = chance.randrange(256)
    if chance.random() < 0.3:
        del body[chance.randrange(len(body)) :]
    if chance.random() < 0.1:
        body = bytearray(chance.randbytes(chance.randrange(200)))
    outer: Any = (IPv6 if six else IP)(frame[14:head])
    for name in ("len", "chksum", "plen"):
        if name in outer.fields:
            delattr(outer, name)
    if len(body) >= 4 and chance.random() < 0.8 and not six:
        body[2:4] = b"\0\0"
        body[2:4] = int.to_bytes(internet_sum(bytes(body)), 2, "big")
    return build(ether() / outer / bytes(body))


def internet_sum(data: bytes) -> int:
    """Return the checksum of RFC 1071."""
    total = sum(int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big") for at in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@each_way
@each_method
def test_noise_never_leaves(case: Callable[..., Case], method: str, six: bool) -> None:
    """For any quotation, only a complete error about the one connection leaves."""
    it = case(method, six)
    chance = random.Random(f"{method} {six} 20261120")
    kinds = [it.error(it.vip, build(it.reply())), it.error(it.client, build(it.request()))]
    if method == "tun" and not six:
        kinds.append(it.error(OWN4, build(IP(src=OWN4, dst=it.server, proto=4) / it.request())))
    sent = 0
    for number in range(1200):
        frame = mutated(chance, kinds[number % len(kinds)], six)
        done = it.host.run(frame, "tc")
        if done.verdict not in SENT["tc"]:
            assert done.verdict in (PASSED["tc"], DROPPED["tc"])
            assert done.verdict == DROPPED["tc"] or done.data == frame
            continue
        sent += 1
        quoted = frame[14 + (40 if six else 20) + 8 :]
        mentioned = {ip_address(each).packed for each in (it.client, it.vip, it.server)}
        positions = (8, 24) if six else (12, 16)
        size = 16 if six else 4
        if method != "tun" or number % len(kinds) != 2:
            assert {quoted[at : at + size] for at in positions} <= mentioned
        left = done.data[14:]
        if not six:
            assert internet_sum(left[: (left[0] & 15) * 4]) == 0
            inner = left[20:] if left[9] == 4 else left
            assert internet_sum(inner[(inner[0] & 15) * 4 :]) == 0, "a wrong ICMP checksum left"
    assert sent > 50


def tunnelled(server: str, kind: str, packet: Any) -> bytes:
    """Return a tunnel's packet as the director sent it."""
    outer: Any = IP(src=OWN4, dst=server, id=7, ttl=60)
    if kind == "gre":
        return build(outer / GRE() / packet)
    if kind == "gue":
        return build(outer / UDP(sport=40000, dport=6080, chksum=0) / b"\0\4\0\0" / build(packet))
    return build(outer / packet)


@pytest.mark.parametrize("kind", ["ipip", "gre", "gue"])
def test_errors_about_a_tunnel_reach_the_client_and_set_the_path_mtu(director_host: Host, kind: str) -> None:
    service = director_host.new_key()
    director_host.serve(service, 0)
    destination = DestinationKey(ip_address(server4({"ipip": 2, "gre": 3, "gue": 4}[kind])), service.port)
    tunnel = Tunnel(TunnelKind[kind.upper()], port=6080 if kind == "gue" else 0)
    director_host.director.add_destination(service, Destination(destination, Method.TUNNEL, tunnel=tunnel))
    it = Case(director_host, service, "tun", False, service.port)
    director_host.run(tcp("S", SPORT, service.port), "tc")
    quote = it.request(flags="DF")
    tunnel_packet = tunnelled(str(destination.address), kind, quote)

    def icmp_error(code: int, rest: int = 0) -> Any:
        inner = ICMP(type=3, code=code, nexthopmtu=rest)
        return build(ether() / IP(src=ROUTER4, dst=OWN4) / inner / tunnel_packet)

    before = it.counters()
    left = IP(it.sent(icmp_error(1)))
    assert (left.src, left.dst, left[ICMP].type, left[ICMP].code) == (VIP4, CLIENT4, 3, 1)
    assert bytes(left[ICMP].payload) == build(quote)
    assert it.counters()[2] - before[2] == 2, "the error taken in, and the one sent"
    bytes_between = {"ipip": 0, "gre": 4, "gue": 12}[kind]
    assert IP(it.sent(icmp_error(4, 1200)))[ICMP].nexthopmtu == 1480, "as the packet was sent by"
    long = build(ether() / it.request(flags="DF", size=1300))
    answer = IP(it.sent(long))
    assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, 1180 - bytes_between)
    assert IP(it.sent(icmp_error(4, 1200)))[ICMP].nexthopmtu == 1180
    assert IP(it.sent(icmp_error(4, 100)))[ICMP].nexthopmtu == 532, "no less than a route takes"


def test_an_error_about_a_tunnel_has_its_own_ttl_behind_a_reply_that_was_too_long(
    case: Callable[..., Case], director_host: Host
) -> None:
    """The error to the NAT server is the one that IPVS would have translated, with one hop less."""
    nat, tun = case("nat"), case("tun")
    long = build(ether() / nat.packet((nat.server, REAL_PORT), (nat.client, SPORT), 1400, flags="DF"))
    error = nat.error(OWN4, tunnelled(tun.server, "ipip", tun.request(flags="DF")))
    ip("rule", "add", "from", VIP4, "lookup", "200")
    ip("route", "add", "default", "via", ROUTER4, "mtu", "lock", "1400", "table", "200")
    try:
        with on_cpu(min(os.sched_getaffinity(0))):
            before = nat.counters(), tun.counters()
            rejected = IP(nat.sent(long))
            left = IP(tun.sent(error))
    finally:
        ip("route", "flush", "table", "200")
        ip("rule", "del", "from", VIP4, "lookup", "200")
    assert (rejected.src, rejected.dst, rejected.ttl) == (VIP4, nat.server, 63)
    assert (rejected[ICMP].type, rejected[ICMP].code, rejected[ICMP].nexthopmtu) == (3, 4, 1400)
    assert (left.src, left.dst, left.ttl) == (VIP4, tun.client, 64)
    nat_counts, tun_counts = (
        [now - then for now, then in zip(it.counters(), was, strict=True)]
        for it, was in zip((nat, tun), before, strict=True)
    )
    assert nat_counts == [1, len(rejected), 1, len(long) - 14], "the error is a request, as in IPVS"
    assert tun_counts[0] == 0


def test_an_error_about_a_client_leaves_the_path_mtu_of_others(director_host: Host) -> None:
    service, other = director_host.new_key(), "198.18.0.77"
    director_host.serve(service, 0)
    destination = DestinationKey(ip_address(server4(5)), service.port)
    director_host.director.add_destination(service, Destination(destination, Method.TUNNEL))
    it = Case(director_host, service, "tun", False, service.port)
    for client in CLIENT4, other:
        for flags in "S", "A":
            director_host.run(tcp(flags, SPORT, service.port, source=client), "tc")
    quote = tunnelled(str(destination.address), "ipip", it.request(flags="DF"))
    for _ in range(2):
        it.sent(build(ether() / IP(src=ROUTER4, dst=OWN4) / ICMP(type=3, code=4, nexthopmtu=100) / quote))
    refused = IP(it.sent(build(ether() / it.request(flags="DF", size=1300))))
    assert (refused.src, refused[ICMP].code, refused[ICMP].nexthopmtu) == (VIP4, 4, 532)
    tcp_header = TCP(sport=SPORT, dport=service.port, flags="A")
    long = build(ether() / IP(src=other, dst=VIP4, flags="DF") / tcp_header / bytes(1300))
    assert IP(it.sent(long)).dst == server4(5)
    assert parsed(director_host.forwarded(long, "xdp"))[IP].dst == server4(5), "XDP knows the client's own path MTU"
    assert director_host.run(build(ether() / it.request(flags="DF", size=1300))).verdict == XDP_PASS


def test_an_error_about_a_client_of_ipv4_leaves_the_path_mtu_of_those_of_ipv6(director_host: Host) -> None:
    """Around IPv6 the outer header has no DF, so routers fragment it, and no honest error reports a path MTU."""
    services = director_host.new_key(), director_host.new_key(vip=VIP6)
    for service, client in zip(services, (CLIENT4, CLIENT6), strict=True):
        director_host.serve(service, 0)
        destination = DestinationKey(ip_address(server4(7)), service.port)
        director_host.director.add_destination(service, Destination(destination, Method.TUNNEL))
        for flags in "S", "A":
            director_host.run(tcp(flags, SPORT, service.port, client, str(service.address)), "tc")
    it = Case(director_host, services[0], "tun", False, services[0].port)
    quote = tunnelled(server4(7), "ipip", it.request(flags="DF"))
    for _ in range(2):
        it.sent(build(ether() / IP(src=ROUTER4, dst=OWN4) / ICMP(type=3, code=4, nexthopmtu=100) / quote))
    refused = IP(it.sent(build(ether() / it.request(flags="DF", size=1300))))
    assert (refused.src, refused[ICMP].code) == (VIP4, 4)
    director_host.wait_for_lookups()  # the other destination looks its next hop up again
    long = IPv6(src=CLIENT6, dst=VIP6) / TCP(sport=SPORT, dport=services[1].port, flags="A") / bytes(1300)
    sent = IP(it.sent(build(ether() / long)))
    assert (sent.dst, sent.flags.DF, len(sent)) == (server4(7), False, 20 + 40 + 20 + 1300)


@pytest.mark.parametrize("method", ["dr", "tun"])
@pytest.mark.parametrize(("flags", "counted"), [(ServiceFlag(0), 2), (ServiceFlag.ONE_PACKET, 0)])
def test_an_error_of_this_host_counts_as_a_reply_of_its_connection(
    director_host: Host, method: str, flags: ServiceFlag, counted: int
) -> None:
    """With one-packet scheduling there is no connection (IPVS-SEMANTICS 4.10, 8.2)."""
    service = director_host.new_key(Protocol.UDP)
    director_host.serve(service, 1, METHODS[method], flags=flags)
    it = Case(director_host, service, method, False, service.port)
    for number, fields in (11, {"ttl": 1}), (3, {"flags": "DF"}):
        long = IP(src=CLIENT4, dst=VIP4, **fields) / UDP(sport=SPORT, dport=service.port) / bytes(1473)
        assert IP(it.sent(build(ether() / long)))[ICMP].type == number
    packets, _, out_packets, out_bytes = it.counters()
    assert (packets, out_packets, out_bytes) == (2, counted, counted * 576)


def test_an_error_without_a_route_to_the_client_counts_nowhere(case: Callable[..., Case]) -> None:
    it = case("dr")
    before = it.counters()
    ip("route", "del", "default")
    try:
        assert it.host.run(build(ether() / it.request(ttl=1)), "tc").verdict == DROPPED["tc"]
    finally:
        ip("route", "add", "default", "via", ROUTER4)
    assert [now - then for now, then in zip(it.counters(), before, strict=True)] == [1, 80, 0, 0]


@pytest.mark.parametrize("deleted", ["server", "service"])
@pytest.mark.parametrize("tunnel", [Tunnel(TunnelKind.GRE), Tunnel(TunnelKind.GUE, 6080)], ids=["gre", "gue"])
def test_an_error_about_a_reply_of_a_deleted_server_takes_its_tunnel(
    director_host: Host, tunnel: Tunnel, deleted: str
) -> None:
    service = director_host.new_key()
    director_host.serve(service, 0)
    server = DestinationKey(ip_address(server4(1)), service.port)
    director_host.director.add_destination(service, Destination(server, Method.TUNNEL, tunnel=tunnel))
    director_host.run(tcp("S", SPORT, service.port), "tc")
    it = Case(director_host, service, "tun", False, service.port)
    frame = it.error(it.vip, build(it.reply()))

    def sent() -> bytes:
        header: Any = IP(it.sent(frame))
        del header.id, header.chksum
        return build(header)

    before = sent()
    assert IP(before).proto == (47 if tunnel.kind is TunnelKind.GRE else 17)
    if deleted == "server":
        director_host.director.delete_destination(service, server)
    else:
        director_host.director.delete_service(service)
        director_host.serve(director_host.new_key(), 0)  # without a service nothing is examined
    assert sent() == before


def known_hops(host: Host) -> int:
    """Return how many next hops of destinations the CPUs have cached."""
    form = abi.struct("percpu_destination")
    at = form.offset("hop.verdict")
    rows = host.director.tables.statistics.rows(struct.Struct(f"<{at}xI{form.size - at - 4}x"))
    return sum(verdict != 0 for (verdict,) in rows)  # HOP_UNKNOWN


def test_an_error_that_lowers_no_path_mtu_invalidates_no_next_hop(director_host: Host) -> None:
    quotes: dict[ServiceKey, bytes] = {}

    def invalidates(mtu: int, key: ServiceKey) -> bool:
        error = ICMP(type=3, code=4, nexthopmtu=mtu)
        before = known_hops(director_host)
        director_host.run(build(ether() / IP(src=ROUTER4, dst=OWN4) / error / quotes[key]), "tc")
        less = known_hops(director_host) < before
        director_host.run(tcp("A", SPORT, key.port), "tc")  # which looks the next hop up
        return less

    with on_cpu(min(os.sched_getaffinity(0))):
        for _ in range(2):  # two destinations with one address
            key = director_host.new_key()
            director_host.serve(key, 0)
            server = DestinationKey(ip_address(server4(8)), key.port)
            director_host.director.add_destination(key, Destination(server, Method.TUNNEL))
            for flags in "S", "A":
                director_host.run(tcp(flags, SPORT, key.port), "tc")
            it = Case(director_host, key, "tun", False, key.port)
            quotes[key] = tunnelled(server4(8), "ipip", it.request(flags="DF"))
        first, second = quotes
        lower = [invalidates(mtu, first) for mtu in (1300, 1300, 1400, 1200, 1200)]
        assert lower == [True, False, False, True, False]
        assert [invalidates(1200, second) for _ in range(2)] == [True, False]


def test_the_path_mtu_of_a_tunnel_is_not_that_of_direct_routing_to_the_same_server(director_host: Host) -> None:
    service, direct = director_host.new_key(), director_host.new_key()
    for key, method in (service, Method.TUNNEL), (direct, Method.ROUTE):
        director_host.serve(key, 0)
        server = DestinationKey(ip_address(server4(6)), key.port)
        director_host.director.add_destination(key, Destination(server, method))
        for flags in "S", "A":
            director_host.run(tcp(flags, SPORT, key.port), "tc")
    it = Case(director_host, service, "tun", False, service.port)
    quote = tunnelled(server4(6), "ipip", it.request(flags="DF"))
    for _ in range(2):
        it.sent(build(ether() / IP(src=ROUTER4, dst=OWN4) / ICMP(type=3, code=4, nexthopmtu=100) / quote))
    director_host.wait_for_lookups()
    assert IP(it.sent(build(ether() / it.request(flags="DF", size=1300))))[ICMP].nexthopmtu == 532
    long = IP(src=CLIENT4, dst=VIP4, flags="DF") / TCP(sport=SPORT, dport=direct.port, flags="A") / bytes(1300)
    done = director_host.run(build(ether() / long), "tc")
    assert (done.verdict in SENT["tc"], parsed(done.data)[IP].dst) == (True, VIP4)


def test_an_error_may_be_scheduled(director_host: Host) -> None:
    """With schedule_icmp, the connection has no state and a timeout of three seconds."""
    it = Case(director_host, director_host.new_key(), "nat", False, REAL_PORT)
    director_host.serve(it.service, 1, Method.MASQ, port=REAL_PORT)
    frame = it.error(it.vip, build(it.reply()))
    it.ends(frame, PASSED)
    director_host.director.change_setting("schedule_icmp", 1)
    try:
        assert IP(it.sent(frame)).dst == it.server
    finally:
        director_host.director.change_setting("schedule_icmp", 0)
    made = [row for row in director_host.director.connections() if row.virtual_port == it.service.port]
    assert [row.state for row in made] == ["NONE"]
    assert director_host.director.service(it.service).counters.connections == 1


@each_way
def test_a_server_without_a_connection_gets_an_icmp_error(director_host: Host, six: bool) -> None:
    """With nat_icmp_send, the real server gets an ICMP error, except for an RST; the client gets none."""
    vip, client = (VIP6, CLIENT6) if six else (VIP4, CLIENT4)
    it = Case(director_host, director_host.new_key(vip=vip), "nat", six, REAL_PORT)
    director_host.serve(it.service, 1, Method.MASQ, port=REAL_PORT)
    answer = tcp("A", REAL_PORT, 4999, it.server, client)
    it.ends(answer, PASSED)
    director_host.director.change_setting("nat_icmp_send", 1)
    try:
        left = (IPv6 if six else IP)(it.sent(answer))
        for frame in (
            tcp("RA", REAL_PORT, 4999, it.server, client),
            tcp("A", REAL_PORT + 1, 4999, it.server, client),
            udp(REAL_PORT, 4999, it.server, client),
            tcp("A", REAL_PORT, 4999, server6(2) if six else server4(2), client),
        ):
            it.ends(frame, PASSED)
    finally:
        director_host.director.change_setting("nat_icmp_send", 0)
    assert left.dst == it.server
    error = left[ICMPv6DestUnreach] if six else left[ICMP]
    assert (error.type, error.code) == ((1, 4) if six else (3, 3))
    quoted = bytes(error.payload)
    head = 40 if six else 20
    assert quoted[head:] == answer[14 + head :]
    assert quoted[7 if six else 8] == 63, "the host routed it first"
