"""The director itself as real server and client: its own sockets, over lo and over a link to another host."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, IPv6, IPv6ExtHdrFragment, fragment6

from pylvs.bpf import kernel
from pylvs.dataplane import load
from pylvs.dataplane.destinations import DestinationSlots
from pylvs.dataplane.devices import attach
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey, VirtualService
from tests.packet import frames
from tests.packet.frames import CLIENT4, CLIENT6, build, ether, network
from tests.packet.host import HOOKS, OWN4, OWN6, PASSED, TC_DROP, TC_PASS, VIP4, VIP6, Host, server4
from tests.waiting import PATIENCE_S

OWN = {4: OWN4, 6: OWN6}
VIP = {4: VIP4, 6: VIP6}
CLIENT = {4: CLIENT4, 6: CLIENT6}
CUT4: Any = fragment
CUT6: Any = fragment6
L4 = {4: 34, 6: 54}  # where the transport header of a frame begins
LOOPBACK = {4: "127.0.0.1", 6: "::1"}


def kind(family: int) -> socket.AddressFamily:
    return socket.AF_INET if family == 4 else socket.AF_INET6


@contextmanager
def answering(address: str, port: int) -> Iterator[list[str]]:
    """Serve by TCP: return each client its own port, and record the clients."""
    came: list[str] = []
    with socket.create_server((address, port), family=kind(6 if ":" in address else 4)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, name = server.accept()
                    with peer:
                        came.append(name[0])
                        peer.sendall(b"%d" % port)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield came
        server.shutdown(socket.SHUT_RDWR)
    thread.join(PATIENCE_S)


def ask(address: str, port: int, source: str = "") -> str:
    """Return a server's answer."""
    with socket.create_connection(
        (address, port), timeout=PATIENCE_S, source_address=(source, 0) if source else None
    ) as peer:
        return peer.makefile().read()


def serve(host: Host, service: ServiceKey, address: str, method: Method, port: int) -> None:
    """Add a service with this one real server."""
    host.director.add_service(VirtualService(service, "rr"))
    host.director.add_destination(service, Destination(DestinationKey(ip_address(address), port), method))


def packets(host: Host, service: ServiceKey) -> tuple[int, int]:
    """Return packets of the service's real server: requests and replies."""
    key = host.director.service(service).destinations[0].destination.key
    slot = DestinationSlots(host.director.tables).listed(service, key)
    assert slot is not None
    _, came_in, went_out, *_ = host.director.reader.statistics.counted(slot)
    return came_in, went_out


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("address", [OWN, LOOPBACK])
def test_a_client_on_the_director_is_served_by_nat_on_the_director(
    director_host: Host, family: int, address: dict[int, str]
) -> None:
    service = director_host.new_key(vip=VIP[family])
    port = service.port + 20000
    serve(director_host, service, address[family], Method.MASQ, port)
    with answering(address[family], port) as came:
        assert ask(VIP[family], service.port, OWN[family]) == str(port)
        assert came == [OWN[family]]
    row = director_host.director.service(service).destinations[0]
    assert (row.active, row.inactive) == (0, 1), "both directions were seen: it is closed"
    came_in, went_out = packets(director_host, service)
    assert came_in >= 4
    assert went_out >= 4


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("method", [Method.ROUTE, Method.TUNNEL])
def test_a_client_on_the_director_is_served_as_it_asked(director_host: Host, family: int, method: Method) -> None:
    service = director_host.new_key(vip=VIP[family])
    serve(director_host, service, OWN[family], method, service.port)
    with answering(VIP[family], service.port):
        assert ask(VIP[family], service.port) == str(service.port)
    row = director_host.director.service(service).destinations[0]
    assert (row.active, row.inactive) == (0, 1)
    assert packets(director_host, service)[1] >= 4


def test_a_client_on_the_director_gets_an_error_without_a_server(director_host: Host) -> None:
    service = director_host.new_key(Protocol.UDP)
    director_host.director.add_service(VirtualService(service, "rr"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((VIP4, service.port))
        client.settimeout(PATIENCE_S)
        client.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)


def egress(host: Host) -> set[str]:
    """Return the devices with a program at egress."""
    return {each.device for each in attach.attached(host.director.state) if each.egress}


def test_egress_is_attached_only_while_a_real_server_is_here(director_host: Host) -> None:
    service, other, former = (director_host.new_key() for _ in range(3))
    for each in former, service:
        director_host.serve(each, 2)
    director_host.director.change_setting("expire_nodest_conn", 1)  # a deletion ends connections of earlier tests
    director_host.director.delete_service(former)
    director_host.director.change_setting("expire_nodest_conn", 0)
    assert egress(director_host) == set()
    own = DestinationKey(ip_address(OWN4), service.port)
    director_host.director.add_destination(service, Destination(own, Method.ROUTE))
    assert egress(director_host) == {"d0"}
    serve(director_host, other, LOOPBACK[4], Method.MASQ, 8080)
    director_host.director.delete_destination(service, own)
    assert egress(director_host) == {"d0"}
    director_host.director.delete_service(other)
    assert egress(director_host) == set()


def test_other_hosts_cannot_reach_a_loopback_address(director_host: Host) -> None:
    service = director_host.new_key()
    serve(director_host, service, LOOPBACK[4], Method.MASQ, 8080)
    assert director_host.run(frames.tcp(dport=service.port), "tc").verdict == TC_DROP
    assert director_host.counts(service) == {"127.0.0.1": (1, 0)}, "the connection is there all the same"
    assert director_host.reason("LOCAL_REFUSED")


def sent(host: Host, frame: bytes) -> bytes:
    """Return a packet of this host as it leaves by d0."""
    done = kernel.run_program(host.program("tc_egress"), frame, struct.pack("<40xI148x", host.ifindex))
    assert done.verdict == TC_PASS
    return done.data[14:]


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_replies_leave_with_the_virtual_address(director_host: Host, protocol: Protocol) -> None:
    service = director_host.new_key(protocol)
    serve(director_host, service, OWN4, Method.MASQ, 8080)
    frame = frames.tcp if protocol == Protocol.TCP else frames.udp
    request = frame(dport=service.port)
    done = director_host.run(request, "tc")
    assert done.verdict == TC_PASS
    assert done.data == frame(dport=8080, target=OWN4), "rewritten, and not aged"
    answer = frame(sport=8080, dport=4000, source=OWN4, target=CLIENT4)
    assert sent(director_host, answer) == frame(sport=service.port, dport=4000, source=VIP4, target=CLIENT4)[14:]
    unknown = frame(sport=8080, dport=4001, source=OWN4, target=CLIENT4)
    assert sent(director_host, unknown) == unknown[14:]


@pytest.mark.parametrize("family", [4, 6])
def test_a_connection_to_a_server_here_continues_after_its_service_is_deleted(director_host: Host, family: int) -> None:
    service, ends = director_host.new_key(vip=VIP[family]), {"source": OWN[family], "target": CLIENT[family]}
    serve(director_host, service, OWN[family], Method.MASQ, 8080)
    request = frames.tcp(dport=service.port, source=CLIENT[family], target=VIP[family])
    there = director_host.run(request, "tc")
    reply = frames.tcp("SA", sport=8080, dport=4000, **ends)
    back = sent(director_host, reply)
    assert (there.verdict, back != reply[14:]) == (TC_PASS, True)
    director_host.director.flush()
    assert egress(director_host) == {"d0"}
    assert director_host.run(request, "tc").data == there.data
    assert sent(director_host, reply) == back


@pytest.mark.parametrize("program", ["tc_egress", "tc"])
def test_a_reply_waits_while_its_connection_may_be_copied(director_host: Host, program: str) -> None:
    service, pool = director_host.new_key(), director_host.director.tables.pool
    serve(director_host, service, OWN4, Method.MASQ, 8080)
    reply, other = (frames.tcp("SA", sport=sport, source=OWN4, target=CLIENT4) for sport in (8080, 8081))
    ifindex = director_host.ifindex
    if program == "tc":  # between sockets of this host, by lo
        director_host.ifindex = 1
        reply, other = (bytes(12) + each[12:] for each in (reply, other))
    try:
        assert director_host.run(reply, program).verdict == TC_PASS
        held = director_host.reason("REFUSED_TABLE_COPY")
        now = load.clock(director_host.director.state)
        pool.set(0, "copy_until", now + round(60 * load.ticks_per_second()) & 0xFFFFFFFF)
        assert director_host.run(reply, program).verdict == TC_DROP
        assert director_host.run(other, program).verdict == TC_PASS
        assert director_host.reason("REFUSED_TABLE_COPY") == held + 1
    finally:
        pool.set(0, "copy_until", 0)
        director_host.ifindex = ifindex


def test_malformed_packets_leave_unmodified(director_host: Host) -> None:
    service = director_host.new_key()
    serve(director_host, service, OWN4, Method.MASQ, 8080)
    director_host.run(frames.tcp(dport=service.port), "tc")
    whole = frames.tcp("SA", sport=8080, dport=4000, source=OWN4, target=CLIENT4)
    assert sent(director_host, whole) != whole[14:]
    for length in range(34, len(whole)):  # the kernel refuses to run shorter frames
        assert sent(director_host, whole[:length]) == whole[14:length]
    for at in range(14, 34):
        spoilt = whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :]
        assert sent(director_host, spoilt) == spoilt[14:]


def test_a_passing_reply_of_direct_routing_shows_both_directions(director_host: Host) -> None:
    """Afterwards the client's FIN gives CLOSE_WAIT, otherwise FIN_WAIT (IPVS-SEMANTICS 4.3)."""
    seen, unseen = director_host.new_key(), director_host.new_key()
    with open("/proc/sys/net/ipv4/conf/d0/accept_local", "w", encoding="ascii") as file:
        file.write("1")
    for service in seen, unseen:
        director_host.serve(service, 1)
        director_host.forwarded(frames.tcp(dport=service.port))
        director_host.forwarded(frames.tcp("A", dport=service.port))
    answer = frames.tcp("A", sport=seen.port, dport=4000, source=VIP4, target=CLIENT4)
    for hook in HOOKS:
        done = director_host.run(answer, hook)
        assert (done.verdict, done.data) == (PASSED[hook], answer)
    states = {}
    for service in seen, unseen:
        director_host.forwarded(frames.tcp("FA", dport=service.port))
        states[service] = packets(director_host, service)
    found = {each.virtual_port: each.state for each in director_host.director.connections()}
    assert states == {seen: (3, 1), unseen: (3, 0)}
    assert (found[seen.port], found[unseen.port]) == ("CLOSE_WAIT", "FIN_WAIT")


def test_a_forged_own_address_opens_nothing(director_host: Host) -> None:
    service = director_host.new_key()
    with open("/proc/sys/net/ipv4/conf/d0/accept_local", "w", encoding="ascii") as file:
        file.write("0")
    director_host.serve(service, 1)
    for source in OWN4, VIP4, "127.0.0.1", "0.1.2.3", "224.0.0.9", "255.255.255.255":
        for hook in HOOKS:
            assert director_host.run(frames.tcp(dport=service.port, source=source), hook).verdict == PASSED[hook]
    assert director_host.counts(service) == {server4(1): (0, 0)}


@pytest.mark.parametrize("family", [4, 6])
def test_a_service_on_a_loopback_address_is_for_this_host_alone(director_host: Host, family: int) -> None:
    """From other hosts the kernel rejects such a daddr (RFC 1122 3.2.1.3 g, RFC 4291 2.5.3)."""
    service = director_host.new_key(vip=LOOPBACK[family])
    director_host.serve(service, 1)
    frame = frames.tcp(dport=service.port, source=CLIENT[family], target=LOOPBACK[family])
    for hook in HOOKS:
        assert director_host.run(frame, hook).verdict == PASSED[hook]
    assert director_host.director.service(service).counters.connections == 0
    assert not [each for each in director_host.director.connections() if each.virtual_port == service.port]


def requested(host: Host, protocol: Protocol, family: int, method: Method, frame: bytes = b"") -> ServiceKey:
    """Add a service with a server on the director, and receive a request from port 4000."""
    service = host.new_key(protocol, VIP[family])
    serve(host, service, OWN[family], method, service.port)
    make = frames.udp if protocol == Protocol.UDP else frames.tcp
    frame = frame or make(dport=service.port, source=CLIENT[family], target=VIP[family])
    frame = frame[: L4[family]] + struct.pack("!HH", 4000, service.port) + frame[L4[family] + 4 :]
    assert host.run(frame, "tc").verdict == TC_PASS
    assert went_out(host, service) == (0, 0)
    return service


def went_out(host: Host, service: ServiceKey) -> tuple[int, int]:
    """Return packets and bytes that went out, after the request."""
    counted = host.director.service(service).counters
    assert counted.in_packets == 1
    return counted.out_packets, counted.out_bytes


def leaves(host: Host, packet: Any) -> int:
    """Send a packet of this host, which leaves unmodified; return its length."""
    frame = build(ether() / packet)
    assert sent(host, frame) == frame[14:]
    return len(frame) - 14


two_methods = pytest.mark.parametrize("method", [Method.ROUTE, Method.TUNNEL])
two_families = pytest.mark.parametrize("family", [4, 6])


@two_families
@two_methods
def test_the_error_of_a_closed_port_counts_as_a_reply(director_host: Host, family: int, method: Method) -> None:
    service = requested(director_host, Protocol.UDP, family, method)
    client, vip = CLIENT[family], VIP[family]
    inner: Any = ICMP(type=3, code=3) if family == 4 else ICMPv6DestUnreach(code=4)
    echo: Any = ICMP(type=0) if family == 4 else ICMPv6EchoReply()
    quote = network(client, vip) / UDP(sport=4000, dport=service.port) / b"?"
    other = network(client, vip) / UDP(sport=4001, dport=service.port) / b"?"
    for packet in inner / build(other), echo / build(quote), inner / build(quote)[:-10]:
        leaves(director_host, network(vip, client) / packet)
    assert went_out(director_host, service) == (0, 0)
    length = leaves(director_host, network(vip, client) / inner / build(quote))
    assert went_out(director_host, service) == (1, length)


@two_families
@two_methods
def test_a_fragmented_reply_counts_once(director_host: Host, family: int, method: Method) -> None:
    service = requested(director_host, Protocol.UDP, family, method)
    datagram = UDP(sport=service.port, dport=4000) / bytes(3000)
    whole = network(VIP[family], CLIENT[family]) / datagram
    if family == 4:
        fragments = CUT4(whole, 1480)
    else:
        fragments = CUT6(IPv6(src=VIP6, dst=CLIENT6) / IPv6ExtHdrFragment() / datagram, 1500)
    assert len(fragments) > 2
    for each in fragments:
        leaves(director_host, each)
    assert went_out(director_host, service) == (1, len(build(whole)))


@two_methods
def test_a_reply_with_options_counts(director_host: Host, method: Method) -> None:
    service = requested(director_host, Protocol.TCP, 4, method)
    reply = IP(src=VIP4, dst=CLIENT4, options=[IPOption_NOP()] * 4) / TCP(sport=service.port, dport=4000, flags="R")
    length = leaves(director_host, reply)
    assert went_out(director_host, service) == (1, length)
    assert director_host.counts(service) == {OWN4: (0, 1)}, "closed by the reply"


@two_families
@two_methods
def test_an_sctp_reply_sets_the_state(director_host: Host, family: int, method: Method) -> None:
    request = frames.sctp(frames.chunk(1, bytes(16)), source=CLIENT[family], target=VIP[family])
    service = requested(director_host, Protocol.SCTP, family, method, request)
    reply = frames.sctp(frames.chunk(2, bytes(16)), service.port, 4000, VIP[family], CLIENT[family])
    assert sent(director_host, reply) == reply[14:]
    assert went_out(director_host, service) == (1, len(reply) - 14)
    found = {each.state for each in director_host.director.connections() if each.virtual_port == service.port}
    assert found == {"C-SENT"}
