"""Connections of a deleted service continue, with or without other services, until they end or the service is back."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig
from scapy.layers.sctp import SCTP
from scapy.packet import Packet

from pylvs.dataplane import load
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService
from tests.packet.frames import CLIENT4, CLIENT6, chunk, ether, network, parsed, sctp, tcp, udp
from tests.packet.host import (
    DROPPED,
    HOOKS,
    PASSED,
    SENT,
    VIP4,
    VIP6,
    XDP_PASS,
    Host,
    count_packets,
    new_host,
    on_cpu,
    server4,
    server6,
)
from tests.packet.table import TICKS, shorten
from tests.packet.test_fast_path import FastPath
from tests.packet.test_fragments import fragments

CLIENT, VIP = {4: CLIENT4, 6: CLIENT6}, {4: VIP4, 6: VIP6}
SERVER = {4: server4(1), 6: server6(1)}
PORT = 8080  # of the real server, with NAT
MARK = 7
INIT, INIT_ACK, COOKIE_ECHO, DATA = chunk(1, bytes(16)), chunk(2, bytes(16)), chunk(10, bytes(4)), chunk(0, bytes(16))
_ports = itertools.count(30000)  # no two connections of this file have the same client port


@pytest.fixture
def host(director_host: Host) -> Iterator[Host]:
    """Return the file's host, without mark rules and with the default settings afterwards."""
    yield director_host
    director_host.director.change_setting("expire_nodest_conn", 0)
    director_host.director.change_mark_rules(lambda _: [])


@dataclass(frozen=True, slots=True)
class Flow:
    """A client's connection with a service of one server."""

    service: ServiceKey
    method: Method
    sport: int
    port: int  # of the packets to the virtual address

    @property
    def family(self) -> int:
        return self.service.address.version

    @property
    def server(self) -> Destination:
        port = PORT if self.method == Method.MASQ else self.service.port
        return Destination(DestinationKey(ip_address(SERVER[self.family]), port), self.method)

    def opening(self) -> list[tuple[bool, bytes]]:
        """Return the frames that establish it: whether the server sends, and the frame."""
        if self.service.protocol == Protocol.SCTP:
            chunks = [(False, INIT), (True, INIT_ACK), (False, COOKIE_ECHO), (True, chunk(11))]
            return [(back, self._frame(back, data=body)) for back, body in chunks]
        return [(back, self._frame(back, flags)) for back, flags in ((False, "S"), (True, "SA"), (False, "A"))]

    def request(self, size: int = 20) -> bytes:
        return self._frame(False, size=size)

    def reply(self, size: int = 20) -> bytes:
        return self._frame(True, size=size)

    def _frame(self, back: bool, flags: str = "A", data: bytes = DATA, size: int = 20) -> bytes:
        ends = (self.sport, self.port, CLIENT[self.family], VIP[self.family])
        if back:
            nat = self.method == Method.MASQ
            source = SERVER[self.family] if nat else VIP[self.family]
            ends = (self.server.key.port if nat else self.port, self.sport, source, CLIENT[self.family])
        if self.service.protocol == Protocol.SCTP:
            return sctp(data, *ends)
        return tcp(flags, *ends, b"x" * size) if self.service.protocol == Protocol.TCP else udp(*ends, b"x" * size)


def new_flow(
    host: Host,
    family: int = 4,
    method: Method = Method.MASQ,
    protocol: Protocol = Protocol.TCP,
    flags: ServiceFlag = ServiceFlag(0),
    mark: int = 0,
) -> Flow:
    """Add a service with one server, and return a connection that has not begun."""
    key = host.new_key(protocol, VIP[family])
    port = key.port
    if mark:
        key = ServiceKey.of_mark(mark, socket.AF_INET if family == 4 else socket.AF_INET6)
    flow = Flow(key, method, next(_ports), port)
    add(host, flow, flags)
    return flow


def add(host: Host, flow: Flow, flags: ServiceFlag = ServiceFlag(0)) -> None:
    """Add the service of a connection, with its server."""
    timeout_s = 300 if flags & ServiceFlag.PERSISTENT else 0
    with host.director.batch():
        host.director.add_service(VirtualService(flow.service, "rr", flags, timeout_s))
        host.director.add_destination(flow.service, flow.server)


def establish(host: Host, flow: Flow, hook: str, mark: int = 0) -> None:
    """Open a connection; replies of direct routing and tunnels do not come by the director."""
    hook = "tc" if mark or flow.service.protocol == Protocol.SCTP else hook
    for back, frame in flow.opening():
        if not back or flow.method == Method.MASQ:
            assert host.run(frame, hook, mark).verdict in SENT[hook], host.reasons()


def sent(host: Host, frame: bytes, hook: str) -> bytes:
    """Return the IP packet that leaves, twice alike: at XDP the second one may take the fast path."""
    first, second = (_sent_once(host, frame, hook) for _ in range(2))
    assert first == second
    return first


def _sent_once(host: Host, frame: bytes, hook: str) -> bytes:
    """Return the packet without the id and the checksum of IPv4's header: a tunnel chooses its outer id."""
    if parsed(frame).haslayer(SCTP):  # the kernel writes the link addresses after this
        done = host.run(frame, "tc")
        assert done.verdict in SENT["tc"], host.reasons()
        found = done.data
    else:
        found = host.forwarded(frame, hook)
    is_ipv4 = found[12:14] == b"\x08\x00"
    return found[14:18] + found[20:24] + found[26:] if is_ipv4 else found[14:]


def outcome(host: Host, frame: bytes, hook: str) -> str:
    """Return what becomes of a frame: "sent", "dropped" or "passed"."""
    verdict = host.run(frame, hook).verdict
    if hook == "xdp" and verdict == XDP_PASS:
        verdict, hook = host.run(frame, "tc").verdict, "tc"
    names = {**dict.fromkeys(SENT[hook], "sent"), DROPPED[hook]: "dropped", PASSED[hook]: "passed"}
    return names[verdict]


def only_others_left(host: Host, service: ServiceKey, alone: bool) -> None:
    """Delete the service; another one of the family remains, unless `alone`."""
    if not alone:
        host.serve(host.new_key(Protocol.TCP, VIP[service.address.version]))
    host.director.delete_service(service)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("alone", [True, False], ids=["no-service", "another-service"])
@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP, Protocol.SCTP], ids=["tcp", "udp", "sctp"])
@pytest.mark.parametrize("method", [Method.MASQ, Method.ROUTE, Method.TUNNEL])
@pytest.mark.parametrize("family", [4, 6])
def test_packets_of_a_deleted_service_leave_as_before_until_and_after_it_is_back(
    host: Host, family: int, method: Method, protocol: Protocol, alone: bool, hook: str
) -> None:
    flow = new_flow(host, family, method, protocol)
    establish(host, flow, hook)
    frames = [flow.request(), flow.reply()] if method == Method.MASQ else [flow.request()]
    before = [sent(host, frame, hook) for frame in frames]
    counted = host.counts(flow.service)
    only_others_left(host, flow.service, alone)
    assert [sent(host, frame, hook) for frame in reversed(frames)] == before[::-1]
    add(host, flow)
    assert [sent(host, frame, hook) for frame in frames] == before
    assert host.counts(flow.service) == counted
    assert sum(counted[SERVER[family]]) == 1


@pytest.mark.parametrize("alone", [True, False], ids=["no-service", "another-service"])
@pytest.mark.parametrize("method", [Method.MASQ, Method.ROUTE, Method.TUNNEL])
@pytest.mark.parametrize("family", [4, 6])
def test_the_fast_path_serves_connections_of_a_deleted_service(
    host: Host, family: int, method: Method, alone: bool
) -> None:
    with on_cpu(min(os.sched_getaffinity(0))):
        path = FastPath(host)
        service = host.new_key(Protocol.TCP, VIP[family])
        host.serve(service, 1, method, port=PORT if method == Method.MASQ else None)
        flow = path.new_flow(service, method)
        frames = [flow.request(), flow.reply()] if method == Method.MASQ else [flow.request()]
        before = [path.sends(flow, frame)[-40:] for frame in frames]
        only_others_left(host, service, alone)
        assert [path.sends(flow, frame)[-40:] for frame in frames] == before


@pytest.mark.parametrize("alone", [True, False], ids=["no-service", "another-service"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("method", [Method.MASQ, Method.ROUTE])
def test_a_connection_of_a_mark_continues(host: Host, family: int, method: Method, alone: bool) -> None:
    flow = new_flow(host, family, method, mark=MARK)
    establish(host, flow, "tc", MARK)
    before = sent(host, flow.request(), "xdp")
    only_others_left(host, flow.service, alone)
    assert sent(host, flow.request(), "xdp") == before
    if method == Method.MASQ:
        assert ip_address(VIP[family]).packed in sent(host, flow.reply(), "xdp")


@pytest.mark.parametrize("hook", HOOKS)
def test_a_persistent_client_finds_its_server_again(host: Host, hook: str) -> None:
    """The template lives on as well, so a new connection comes to the server of the former ones."""
    flow = new_flow(host, flags=ServiceFlag.PERSISTENT)
    establish(host, flow, hook)
    before = sent(host, flow.request(), hook)
    host.director.flush()
    assert sent(host, flow.request(), hook) == before
    other = Destination(DestinationKey(ip_address(server4(2)), PORT), Method.MASQ, weight=1000)
    with host.director.batch():
        add(host, flow, ServiceFlag.PERSISTENT)
        host.director.add_destination(flow.service, other)
    assert sent(host, flow.request(), hook) == before
    later = replace(flow, sport=next(_ports))
    establish(host, later, hook)
    assert host.counts(flow.service) == {server4(1): (2, 0), server4(2): (0, 0)}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", [4, 6])
def test_new_connections_of_a_deleted_service_pass_to_the_stack(host: Host, family: int, hook: str) -> None:
    flow = new_flow(host, family)
    establish(host, flow, hook)
    host.director.flush()
    other = replace(flow, sport=next(_ports))
    assert outcome(host, other.opening()[0][1], hook) == "passed"
    assert outcome(host, other.request(), hook) == "passed"
    assert outcome(host, other.reply(), hook) == "passed"


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", [4, 6])
def test_a_server_that_was_deleted_alone_gets_no_requests_also_without_its_service(
    host: Host, family: int, hook: str
) -> None:
    """As in IPVS: the operator, or a health check, has taken it out. Its replies are translated."""
    flow = new_flow(host, family)
    establish(host, flow, hook)
    reply = sent(host, flow.reply(), hook)
    host.director.delete_destination(flow.service, flow.server.key)
    for served in True, False:
        if not served:
            host.director.flush()
        assert outcome(host, flow.request(), hook) == "dropped"
        assert sent(host, flow.reply(), hook) == reply
    add(host, flow)
    assert outcome(host, flow.request(), hook) == "sent"


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("first", [True, False], ids=["set-before", "set-after"])
@pytest.mark.parametrize("family", [4, 6])
def test_with_expire_nodest_conn_they_end(host: Host, family: int, first: bool, hook: str) -> None:
    flow = new_flow(host, family)
    establish(host, flow, hook)
    sent(host, flow.request(), hook)
    if first:
        host.director.change_setting("expire_nodest_conn", 1)
    host.director.flush()
    host.director.change_setting("expire_nodest_conn", 1)
    if not first:
        host.wait_for_lookups()  # the fast path asks once a second
    assert outcome(host, flow.request(), hook) == "passed"
    assert outcome(host, flow.reply(), hook) == "passed"


@pytest.mark.parametrize("family", [4, 6])
def test_fragments_of_such_connections_are_reassembled(host: Host, family: int) -> None:
    flow = new_flow(host, family, Method.MASQ, Protocol.UDP)
    establish(host, flow, "tc")
    host.director.flush()
    cut = fragments(family, flow.sport, 3000, 1000, flow.port)
    found = [outcome(host, frame, "tc") for frame in cut]
    assert found[:-1] == ["dropped"] * (len(found) - 1)  # they are held
    assert found[-1] == "sent"


@pytest.mark.parametrize("family", [4, 6])
def test_they_learn_the_path_mtu(host: Host, family: int) -> None:
    """Of other ICMP errors the stack takes care, as in IPVS without a service."""
    flow = new_flow(host, family)
    establish(host, flow, "tc")
    host.director.flush()
    reply = parsed(host.forwarded(flow.reply(), "tc"))[1]
    router = "203.0.113.1" if family == 4 else "2001:db8:f::1"
    head = ether() / network(router, VIP[family])
    too_big: Packet = ICMP(type=3, code=4, nexthopmtu=1400) if family == 4 else ICMPv6PacketTooBig(mtu=1400)
    refused: Packet = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
    assert outcome(host, bytes(head / too_big / reply), "tc") == "sent"
    assert outcome(host, bytes(head / refused / reply), "tc") == "passed"


@pytest.mark.parametrize("hook", HOOKS)
def test_they_end_by_their_timers(hook: str) -> None:
    with new_host(expires=False, recycled=True) as host:
        flow = new_flow(host)
        establish(host, flow, hook)
        host.director.flush()
        assert outcome(host, flow.request(), hook) == "sent"
        shorten(host.director.tables, 0)
        host.expiry.run(host.director)
        assert list(host.director.connections()) == []
        assert outcome(host, flow.request(), hook) == "passed"
        assert outcome(host, flow.reply(), hook) == "passed"
        add(host, flow)
        assert host.counts(flow.service) == {server4(1): (0, 0)}


def test_they_survive_a_resize_of_the_table() -> None:
    with new_host(expires=False) as host:
        flow = new_flow(host)
        establish(host, flow, "tc")
        frames = flow.request(), flow.reply()
        before = [sent(host, frame, "tc") for frame in frames]
        host.director.flush()
        host.director.change_setting("conn_max", 2 * host.director.settings()["conn_max"])
        host.close_programs()
        assert [sent(host, frame, "tc") for frame in frames] == before
        add(host, flow)
        assert sum(host.counts(flow.service)[server4(1)]) == 1


def test_while_connections_are_copied_their_packets_wait(host: Host) -> None:
    """Else the stack would end by RST what is not copied yet."""
    flow = new_flow(host)
    host.director.flush()
    pool = host.director.tables.pool
    now = load.clock(host.director.state)
    pool.set(0, "copy_until", now + round(60 * load.ticks_per_second()) & TICKS)
    try:
        assert outcome(host, flow.request(), "xdp") == "dropped"
        assert outcome(host, flow.opening()[0][1], "xdp") == "passed"
    finally:
        pool.set(0, "copy_until", 0)


@pytest.mark.parametrize("hook", HOOKS)
def test_packets_while_it_is_deleted_do_not_count_for_the_service_that_is_back(host: Host, hook: str) -> None:
    """IPVS counts nothing for a deleted server. A rate must not have packets of a long time."""
    flow = new_flow(host, method=Method.ROUTE)
    establish(host, flow, hook)
    count_packets(host.director.tables)
    host.director.delete_service(flow.service)
    sent(host, flow.request(), hook)
    add(host, flow)
    sent(host, flow.request(), hook)
    count_packets(host.director.tables)
    (row,) = host.director.service(flow.service).destinations
    assert row.counters.in_packets == 2
    assert host.director.service(flow.service).counters.in_packets == 2
