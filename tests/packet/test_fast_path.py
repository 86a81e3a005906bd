"""The fast paths of XDP and TC: frames that they forward leave as on the general path; all others stay for that one.

Only the fast path reads the timeouts in `percpu_destinations`. So a test writes some there that no setting has: they
show which path a connection's last packet took.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any
from unittest import mock

import pytest
from scapy.layers.inet import IP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.utils import checksum

from pylvs.bpf import abi, kernel
from pylvs.dataplane import load
from pylvs.dataplane.vip_roles import Standby
from pylvs.model.dataclass import dataclass
from pylvs.model.service import Method, Protocol, ServiceFlag, ServiceKey
from pylvs.netlink import links
from tests.packet.frames import CLIENT4, CLIENT6, build, ether, network, parsed, tcp, udp
from tests.packet.host import HOOKS, TC_PASS, VIP4, VIP6, XDP_PASS, Host, on_cpu, server4, server6
from tests.packet.host import SENT as VERDICTS
from tests.packet.table import TICKS, entry

CLIENT, VIP = {4: CLIENT4, 6: CLIENT6}, {4: VIP4, 6: VIP6}
SERVER = {4: (server4(1), server4(2)), 6: (server6(1), server6(2))}
PORT, MTU = 8080, 1500
HEADER = {4: 20, 6: 40}
PASSED = {"xdp": XDP_PASS, "tc": TC_PASS}
MARK_S, STEP_S = 1_000_000, 10_000
_ports = itertools.count(20000)  # no two connections of this file have the same client port
UNTUNNELED = (Method.ROUTE, Method.LOCAL, Method.MASQ)
XDP_KINDS = [
    *(("xdp", family, method, family) for family in (4, 6) for method in UNTUNNELED),
    *(("xdp", family, Method.TUNNEL, outside) for family in (4, 6) for outside in (4, 6)),
]
KINDS = [*XDP_KINDS, *(("tc", 4, method, 4) for method in UNTUNNELED)]
FAMILIES = [("xdp", 4), ("xdp", 6), ("tc", 4)]

SENT = (  # payload, TTL, DSCP and ECN, DF
    (b"x" * 20, 64, 0, False),
    (b"odd" * 7, 2, 0xBB, True),
    (bytes(400), 255, 0x03, False),
    (b"y" * 31, 64, 0xB9, True),
)


@dataclass(frozen=True, slots=True)
class Flow:
    """A client's connection, and frames of both sides."""

    service: ServiceKey
    method: Method
    outside: int  # version of the packet that leaves
    sport: int
    hook: str  # of the fast path

    @property
    def family(self) -> int:
        return self.service.address.version

    @property
    def is_tcp(self) -> bool:
        return self.service.protocol == Protocol.TCP

    def request(self, flags: str = "A", payload: bytes = b"x" * 20, ttl: int = 64) -> bytes:
        ends = (self.sport, self.service.port, CLIENT[self.family], VIP[self.family])
        return tcp(flags, *ends, payload, ttl) if self.is_tcp else udp(*ends, payload, ttl)

    def reply(self, flags: str = "A", payload: bytes = b"x" * 20, ttl: int = 64, server: int = 1) -> bytes:
        ends = (PORT, self.sport, SERVER[self.family][server - 1], CLIENT[self.family])
        return tcp(flags, *ends, payload, ttl) if self.is_tcp else udp(*ends, payload, ttl)

    def frame(self, is_reply: bool, flags: str = "A", payload: bytes = b"x" * 20, ttl: int = 64) -> bytes:
        return (self.reply if is_reply else self.request)(flags, payload, ttl)


class FastPath:
    """Tells which path takes a frame."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._timeout_s = MARK_S

    def new_flow(self, service: ServiceKey, method: Method, outside: int = 0, hook: str = "xdp") -> Flow:
        """Open a connection; both sides have sent a packet, and TCP has shaken hands."""
        flow = Flow(service, method, outside or service.address.version, next(_ports), hook)
        turns = (("S", "SA"), ("A", "A")) if flow.is_tcp else (("", ""), ("", ""))
        for requests, replies in turns:
            self.host.forwarded(flow.request(requests), "tc")
            if method == Method.MASQ:
                self.host.forwarded(flow.reply(replies), "tc")
        if not flow.is_tcp:  # TC confirms nothing within a tick
            self.host.forwarded(flow.request(), "xdp")
        return flow

    def mark(self) -> None:
        """Give the fast path other timeouts."""
        self._timeout_s += STEP_S
        ticks = round(self._timeout_s * load.ticks_per_second())
        self._change({"timeout_tcp": ticks, "timeout_udp": ticks})

    def general(self, frame: bytes) -> bytes:
        """Return the frame as the general path of TC sends it."""
        self._change({"ingress": bytes(2 * abi.struct("fast_ingress").size)})
        return self.host.forwarded(frame, "tc")

    def _change(self, fields: dict[str, Any]) -> None:
        """Change what all CPUs keep of all destinations."""
        form = abi.struct("percpu_destination")
        percpu = self.host.director.tables.statistics
        for index in range(
            -(-self.host.director.tables.book.get(0, "destination_top") // abi.constant("PERCPU_DESTINATIONS"))
        ):
            raw = bytearray(percpu.get(index) or b"")
            for at in range(0, len(raw), form.size):
                form.pack_into(raw, at, **fields)
            percpu.put(index, bytes(raw))

    def took(self, flow: Flow) -> bool:
        """Return whether the fast path took the last packet of a connection, since `mark`."""
        tables = self.host.director.tables
        left_s = (entry(tables, flow.sport).expiry - load.clock(tables.state) & TICKS) / load.ticks_per_second()
        return abs(left_s - self._timeout_s) < STEP_S / 2

    def sends(self, flow: Flow, frame: bytes) -> bytes:
        """Return the frame as the fast path sends it. The general path takes one packet a second."""
        for _ in range(50):
            self.host.forwarded(frame, flow.hook)
            self.mark()
            done = self.host.run(frame, flow.hook)
            if self.took(flow):
                assert done.verdict in VERDICTS[flow.hook]
                return done.data
        raise AssertionError(f"the general path takes it; reasons {self.host.reasons()}")

    def refuses(self, flow: Flow, good: bytes, frame: bytes) -> kernel.Run:
        """Return what the general path does with a frame, immediately after one that the fast path took."""
        self.sends(flow, good)
        self.mark()
        done = self.host.run(frame, flow.hook)
        assert not self.took(flow)
        return done

    def passes(self, flow: Flow, good: bytes, frame: bytes) -> None:
        """Assert that the fast path leaves a frame, immediately after one that it took. XDP passes it unmodified."""
        done = self.refuses(flow, good, frame)
        assert flow.hook == "tc" or (done.verdict, done.data) == (XDP_PASS, frame)


@pytest.fixture
def path(director_host: Host) -> Iterator[FastPath]:
    with on_cpu(min(os.sched_getaffinity(0))):
        yield FastPath(director_host)


def serve(
    path: FastPath, family: int, method: Method, outside: int, protocol: Protocol = Protocol.TCP, servers: int = 1
) -> ServiceKey:
    service = path.host.new_key(protocol, VIP[family])
    path.host.serve(service, servers, method, port=PORT if method == Method.MASQ else None, family=outside)
    return service


def comparable(frame: bytes, is_tunnel: bool) -> bytes:
    """Return the frame without the random identification of an outer header of IPv4, whose checksum must be right."""
    packet = parsed(frame)
    for number in range(1, 1 + packet.layers().count(IP)):
        header = packet.getlayer(IP, number)
        assert checksum(bytes(header)[: header.ihl * 4]) == 0
    if is_tunnel and IP in packet and IPv6 not in packet.layers()[:2] and "DF" not in packet[IP].flags:
        packet[IP].id, packet[IP].chksum = 0, 0
    return build(packet)


def marked(frame: bytes, tos: int, df: bool) -> bytes:
    """Return the frame with these bits of DSCP and ECN, and with DF of IPv4."""
    packet = parsed(frame)
    if IPv6 in packet:
        packet[IPv6].tc = tos
    else:
        packet[IP].tos, packet[IP].flags, packet[IP].chksum = tos, "DF" if df else 0, None
    return build(packet)


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP], ids=lambda protocol: protocol.name)
@pytest.mark.parametrize(("hook", "family", "method", "outside"), KINDS)
def test_it_sends_what_the_general_path_sends(
    path: FastPath, hook: str, family: int, method: Method, outside: int, protocol: Protocol
) -> None:
    service = serve(path, family, method, outside, protocol)
    flow = path.new_flow(service, method, outside, hook)
    before = path.host.director.service(service).counters
    sent, replied, is_tunnel = 0, 0, method == Method.TUNNEL
    for is_reply in (False, True) if method == Method.MASQ else (False,):
        for payload, ttl, tos, df in SENT:
            frame = marked(flow.frame(is_reply, payload=payload, ttl=ttl), tos, df)
            wanted = path.general(frame)
            assert comparable(path.sends(flow, frame), is_tunnel) == comparable(wanted, is_tunnel)
            padded = path.sends(flow, frame + bytes(6))
            assert comparable(padded, is_tunnel) == comparable(wanted, is_tunnel), "link padding is removed"
            assert parsed(wanted)[IP if outside == 4 else IPv6].version == outside
        sent, replied = (sent, replied + 1) if is_reply else (sent + 1, replied)
    after = path.host.director.service(service).counters
    assert (after.in_packets > before.in_packets, after.out_packets > before.out_packets) == (True, bool(replied))


def options(flow: Flow, frame: bytes) -> bytes:
    """Return the packet with an option of IPv4, or an extension header."""
    packet = parsed(frame)
    if flow.family == 4:
        del packet[IP].ihl, packet[IP].len, packet[IP].chksum
        packet[IP].options = [IPOption_NOP()] * 4
        return build(packet)
    inner = packet[IPv6].payload
    return build(ether() / network(packet[IPv6].src, packet[IPv6].dst) / IPv6ExtHdrDestOpt() / inner)


def fragment(flow: Flow, frame: bytes) -> bytes:
    """Return a first fragment."""
    packet = parsed(frame)
    if flow.family == 4:
        packet[IP].flags = "MF"
        del packet[IP].chksum
        return build(packet)
    inner = packet[IPv6].payload
    return build(ether() / network(packet[IPv6].src, packet[IPv6].dst) / IPv6ExtHdrFragment(m=1) / inner)


def too_long(flow: Flow, is_reply: bool) -> bytes:
    """Return a packet that exceeds the MTU by one byte when it leaves."""
    outer = HEADER[flow.outside] if flow.method == Method.TUNNEL else 0
    return flow.frame(is_reply, payload=bytes(MTU - outer - HEADER[flow.family] - 20 + 1))


REFUSED: dict[str, Callable[[Flow, bool], bytes]] = {
    "TTL 1": lambda flow, is_reply: flow.frame(is_reply, ttl=1),
    "too long": too_long,
    "truncated": lambda flow, is_reply: flow.frame(is_reply)[:-1],
    "another MAC address": lambda flow, is_reply: b"\x02\0\0\0\x09\x09" + flow.frame(is_reply)[6:],
    "options": lambda flow, is_reply: options(flow, flow.frame(is_reply)),
    "fragment": lambda flow, is_reply: fragment(flow, flow.frame(is_reply)),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize(("hook", "family", "method", "outside"), KINDS)
def test_it_leaves_what_it_cannot_finish(
    path: FastPath, hook: str, family: int, method: Method, outside: int, what: str
) -> None:
    flow = path.new_flow(serve(path, family, method, outside), method, outside, hook)
    for is_reply in (False, True) if method == Method.MASQ else (False,):
        path.passes(flow, flow.frame(is_reply), REFUSED[what](flow, is_reply))


@pytest.mark.parametrize(("hook", "family", "method", "outside"), KINDS)
def test_a_packet_that_fits_exactly_is_sent(
    path: FastPath, hook: str, family: int, method: Method, outside: int
) -> None:
    flow = path.new_flow(serve(path, family, method, outside), method, outside, hook)
    outer = HEADER[outside] if method == Method.TUNNEL else 0
    for is_reply in (False, True) if method == Method.MASQ else (False,):
        frame = flow.frame(is_reply, payload=bytes(MTU - outer - HEADER[family] - 20))
        assert len(path.sends(flow, frame)) == 14 + MTU


@pytest.mark.parametrize("flags", ["FA", "RA", "S"])
@pytest.mark.parametrize(("hook", "family", "method", "outside"), KINDS)
def test_it_leaves_packets_that_may_change_the_state(
    path: FastPath, hook: str, family: int, method: Method, outside: int, flags: str
) -> None:
    service = serve(path, family, method, outside)
    for is_reply in (False, True) if method == Method.MASQ else (False,):
        flow = path.new_flow(service, method, outside, hook)
        path.refuses(flow, flow.frame(is_reply), flow.frame(is_reply, flags))


@pytest.mark.parametrize(("hook", "family", "method", "outside"), KINDS)
def test_it_takes_packets_behind_a_forged_rst(
    path: FastPath, hook: str, family: int, method: Method, outside: int
) -> None:
    """The connection stays in the state CLOSE, as in IPVS. The general path would clear the bit that the test sets."""
    flow, unused = path.new_flow(serve(path, family, method, outside), method, outside, hook), 1 << 44
    tables, closed = path.host.director.tables, abi.constant("STATE_CLOSE")
    path.host.run(flow.request("R"))
    for is_reply in (False, True) if method == Method.MASQ else (False,):
        frame = flow.frame(is_reply)

        def is_taken(frame: bytes = frame) -> bool:
            path.host.forwarded(frame, hook)
            before = entry(tables, flow.sport)
            assert before.word >> abi.constant("WORD_STATE") & (abi.constant("STATES") - 1) == closed
            before.change(before.word | unused)
            assert path.host.run(frame, hook).verdict in VERDICTS[hook]
            return bool(entry(tables, flow.sport).word & unused)

        assert any(is_taken() for _ in range(50))


@pytest.mark.parametrize(("hook", "family"), FAMILIES)
@pytest.mark.parametrize("is_reply", [False, True])
def test_nat_leaves_udp_without_a_checksum(path: FastPath, hook: str, family: int, is_reply: bool) -> None:
    flow = path.new_flow(serve(path, family, Method.MASQ, family, Protocol.UDP), Method.MASQ, hook=hook)
    packet = parsed(flow.frame(is_reply))
    packet[UDP].chksum = 0
    path.passes(flow, flow.frame(is_reply), build(packet))


@pytest.mark.parametrize(("hook", "family"), FAMILIES)
def test_a_reply_is_of_the_connection_s_own_server(path: FastPath, hook: str, family: int) -> None:
    """The table's hash does not include the server's address."""
    serve(path, family, Method.MASQ, family, servers=2)
    flow = path.new_flow(serve(path, family, Method.MASQ, family), Method.MASQ, hook=hook)
    path.passes(flow, flow.reply(), flow.reply(server=2))


@pytest.mark.parametrize(("hook", "family", "method", "outside"), KINDS)
def test_packets_of_another_device_come_by_the_general_path_first(
    path: FastPath, hook: str, family: int, method: Method, outside: int
) -> None:
    flow = path.new_flow(serve(path, family, method, outside), method, outside, hook)
    other = links.device("d1")
    for is_reply in (False, True) if method == Method.MASQ else (False,):
        frame = flow.frame(is_reply)
        path.sends(flow, frame)
        path.mark()
        with mock.patch.object(path.host, "ifindex", other.index):
            path.host.run(other.mac + frame[6:], hook)
        assert not path.took(flow)


@pytest.mark.parametrize(("hook", "family", "method", "outside"), KINDS)
def test_an_edit_ends_it(path: FastPath, hook: str, family: int, method: Method, outside: int) -> None:
    service = serve(path, family, method, outside)
    flow = path.new_flow(service, method, outside, hook)
    for is_reply in (False, True) if method == Method.MASQ else (False,):
        path.sends(flow, flow.frame(is_reply))
        path.host.serve(path.host.new_key(vip=VIP[family]))
        path.mark()
        path.host.run(flow.frame(is_reply), hook)
        assert not path.took(flow)


@pytest.mark.parametrize(("hook", "family", "method", "outside"), KINDS)
def test_its_caches_are_valid_for_a_second(
    path: FastPath, hook: str, family: int, method: Method, outside: int
) -> None:
    flow = path.new_flow(serve(path, family, method, outside), method, outside, hook)
    for is_reply in (False, True) if method == Method.MASQ else (False,):
        path.sends(flow, flow.frame(is_reply))
        path.host.wait_for_lookups()
        path.mark()
        path.host.run(flow.frame(is_reply), hook)
        assert not path.took(flow)


@pytest.mark.parametrize(("hook", "family", "method", "outside"), KINDS)
def test_a_standby_address_ends_it(path: FastPath, hook: str, family: int, method: Method, outside: int) -> None:
    flow = path.new_flow(serve(path, family, method, outside), method, outside, hook)
    standby = Standby()
    try:
        for is_reply in (False, True) if method == Method.MASQ else (False,):
            path.sends(flow, flow.frame(is_reply))
            standby.set_standby(frozenset({ip_address(VIP[family])}))
            path.mark()
            frame = flow.frame(is_reply)
            done = path.host.run(frame, hook)
            assert (done.verdict, done.data, path.took(flow)) == (PASSED[hook], frame, False)
            standby.set_standby(frozenset())
    finally:
        standby.close()


@pytest.mark.parametrize(("hook", "family"), FAMILIES)
def test_the_general_path_takes_udp_replies_that_assure_a_template(path: FastPath, hook: str, family: int) -> None:
    service = path.host.new_key(Protocol.UDP, VIP[family])
    path.host.serve(service, 1, Method.MASQ, port=PORT, flags=ServiceFlag.PERSISTENT)
    flow = path.new_flow(service, Method.MASQ, hook=hook)
    for _ in range(3):
        path.host.forwarded(flow.reply(), hook)
        path.mark()
        path.host.run(flow.reply(), hook)
        assert not path.took(flow)


@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ])
def test_both_hooks_are_fast_for_one_destination(path: FastPath, method: Method) -> None:
    """A device with XDP, and one at TC alone, for instance the link of a container."""
    service = serve(path, 4, method, 4)
    flows = [path.new_flow(service, method, hook=hook) for hook in HOOKS]
    for is_reply in (False, True) if method == Method.MASQ else (False,):

        def are_taken(is_reply: bool = is_reply) -> bool:
            for flow in flows:
                path.host.forwarded(flow.frame(is_reply), flow.hook)
            path.mark()
            for flow in flows * 2:
                path.host.run(flow.frame(is_reply), flow.hook)
            return all(map(path.took, flows))

        assert any(are_taken() for _ in range(50))
