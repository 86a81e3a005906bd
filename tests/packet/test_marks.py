"""Firewall marks in the packet path: which packets get a mark, and what the service of a mark does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import TCP, UDP

from pylvs.bpf import kernel
from pylvs.model.errors import InvalidOperation, NoSpace
from pylvs.model.marks import (
    ALL_BITS,
    MOST_RULES,
    NOTHING_TURNED,
    TO_THE_END,
    MarkRule,
    Not,
    Packet,
    checked,
    mark_of,
)
from pylvs.model.marks.words import rule_of
from pylvs.model.service import Destination, DestinationKey, Method, ServiceFlag, ServiceKey, VirtualService
from tests.packet import frames
from tests.packet.host import (
    DROPPED,
    HOOKS,
    OWN4,
    PASSED,
    ROUTER_MAC,
    SENT,
    SERVERS,
    VIP4,
    VIP6,
    Host,
    ip,
    new_host,
    server4,
    server6,
    server_mac,
)
from tests.packet.test_half_open import from_client

FAR4, FAR6 = "203.0.113.9", "2001:db8:9::9"  # beyond the router
V4, V6 = 2, 10  # AF_INET, AF_INET6


@pytest.fixture
def host(director_host: Host) -> Iterator[Host]:
    """Return the file's host, and remove its rules afterwards."""
    yield director_host
    director_host.director.change_mark_rules(lambda _: [])


def rules(host: Host, *wanted: MarkRule) -> None:
    host.director.change_mark_rules(lambda _: list(wanted))


def serve_mark(
    host: Host, mark: int, server: int = 1, method: Method = Method.ROUTE, port: int = 0, **more: object
) -> ServiceKey:
    """Add a service of a mark with one server, in the family that `more` names."""
    family = int(str(more.pop("family", V4)))
    service = ServiceKey.of_mark(mark, family)
    host.director.add_service(VirtualService(service, "rr", **more))  # type: ignore[arg-type]  # flags, timeout_s
    address = ip_address(server4(server) if family == V4 else server6(server))
    host.director.add_destination(service, Destination(DestinationKey(address, port), method))
    return service


def receiver(host: Host, frame: bytes, hook: str, mark: int = 0) -> int:
    """Return the number of the server that gets a frame.

    0: the frame passed twice, because XDP sometimes passes one to TC.
    """
    passed = 0
    for _ in range(4):
        done = host.run(frame, hook, mark)
        passed += done.verdict == PASSED[hook]
        if passed == 2:
            return 0
        if done.verdict in SENT[hook] and done.data[:6] != frame[:6]:
            target = done.data[:6].hex(":")
            return next(number for number in range(1, SERVERS + 1) if server_mac(number) == target)
    raise AssertionError(f"verdict {done.verdict} at {hook}, reasons {host.reasons()}")


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(("family", "target"), [(V4, VIP4), (V6, VIP6)])
def test_the_service_of_its_mark_gets_a_marked_packet(host: Host, hook: str, family: int, target: str) -> None:
    serve_mark(host, 5, 2, family=family)
    rules(host, rule_of("5", proto="tcp", dst=target, dports="80,443"))
    source = frames.CLIENT4 if family == V4 else frames.CLIENT6
    assert receiver(host, frames.tcp(sport=4001, target=target, source=source), hook) == 2
    assert receiver(host, frames.tcp(sport=4002, dport=443, target=target, source=source), hook) == 2
    assert receiver(host, frames.tcp(sport=4003, dport=444, target=target, source=source), hook) == 0
    assert receiver(host, frames.udp(sport=4004, dport=80, target=target, source=source), hook) == 0


def test_the_mark_precedes_the_address(host: Host) -> None:
    host.serve(ServiceKey(host.new_key().protocol, ip_address(VIP4), 80))
    serve_mark(host, 5, 2)
    rules(host, rule_of("5", dst=VIP4, src="198.18.0.0/16"))
    for hook in HOOKS:
        assert receiver(host, frames.tcp(sport=4100, source="198.18.0.7"), hook) == 2
    # Unless a rule decides, XDP passes the packet to TC, where an earlier filter may mark it.
    assert receiver(host, frames.tcp(sport=4101, source="198.19.0.7"), "xdp") == 0
    assert receiver(host, frames.tcp(sport=4101, source="198.19.0.7"), "tc") == 1


def test_a_mark_of_tc_counts_where_no_rule_changes_it(host: Host) -> None:
    serve_mark(host, 5, 2)
    serve_mark(host, 6, 3)
    rules(host, rule_of("6", dst=VIP4, dports="443", proto="tcp"), rule_of("0x2/0xf", dst=VIP4, if_mark="0x10/0xf0"))
    assert receiver(host, frames.tcp(sport=4200), "tc", mark=5) == 2
    assert receiver(host, frames.tcp(sport=4201, dport=443), "tc", mark=5) == 3
    assert receiver(host, frames.tcp(sport=4202), "xdp") == 0  # XDP does not know which mark a filter will set
    assert receiver(host, frames.tcp(sport=4202, dport=443), "xdp") == 3  # with any mark of a filter
    serve_mark(host, 0x12, 4)
    assert receiver(host, frames.tcp(sport=4203), "tc", mark=0x1D) == 4


def test_families_have_services_of_their_own(host: Host) -> None:
    serve_mark(host, 5, 2)
    rules(host, rule_of("5", dst=VIP4), rule_of("5", dst=VIP6))
    assert receiver(host, frames.tcp(sport=4300), "tc") == 2
    assert receiver(host, frames.tcp(sport=4300, source=frames.CLIENT6, target=VIP6), "tc") == 0


def test_a_servers_port_counts_without_persistence_only(host: Host) -> None:
    service = serve_mark(host, 5, 2, Method.MASQ, port=8088)
    rules(host, rule_of("5", dst=VIP4))
    assert frames.parsed(host.forwarded(frames.tcp(sport=4400, dport=8001), "tc")).dport == 8088
    host.director.edit_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT, 60))
    assert frames.parsed(host.forwarded(frames.tcp(sport=4401, dport=8001), "tc")).dport == 8001


def test_one_template_for_all_protocols_ports_and_addresses_of_a_mark(host: Host) -> None:
    service = serve_mark(host, 300, 1, flags=ServiceFlag.PERSISTENT, timeout_s=60)
    for number in 2, 3:
        key = DestinationKey(ip_address(server4(number)), 0)
        host.director.add_destination(service, Destination(key, Method.ROUTE))
    rules(host, rule_of("300", dst=VIP4), rule_of("300", dst=OWN4))
    source = "198.18.7.7"
    first = receiver(host, frames.tcp(sport=4500, source=source), "tc")
    for frame in (
        frames.tcp(sport=4501, dport=443, source=source),
        frames.udp(sport=4502, source=source),
        frames.tcp(sport=4503, source=source, target=OWN4),
    ):
        assert receiver(host, frame, "tc") == first
    assert receiver(host, frames.tcp(sport=4504, source="198.18.7.8"), "tc") not in (0, first)
    [template] = [
        each for each in host.director.connections() if each.client == ip_address(source) and not each.protocol
    ]
    assert (str(template.virtual), template.virtual_port, template.destination_port) == ("0.0.1.44", 0, 0)


def test_a_template_of_port_0_belongs_to_the_address(host: Host) -> None:
    serve_mark(host, 7, 1, Method.MASQ, port=8088, flags=ServiceFlag.PERSISTENT, timeout_s=60)
    rules(host, rule_of("7", dst=VIP4))
    host.forwarded(frames.udp(sport=4600, dport=0, source="198.18.8.8"), "tc")
    [template] = [
        each for each in host.director.connections() if str(each.client) == "198.18.8.8" and not each.client_port
    ]
    assert (template.protocol, str(template.virtual), template.virtual_port) == (17, VIP4, 0)
    assert template.destination_port == 8088


def test_packets_of_no_service_pass_unmodified(host: Host) -> None:
    serve_mark(host, 5)
    rules(host, rule_of("5", dst=VIP4, dports="80", proto="tcp"))
    short = frames.build(
        frames.ether() / frames.network(frames.CLIENT4, FAR4, proto=6) / bytes.fromhex("0fa10050000000010000")
    )
    for hook in HOOKS:
        for frame in frames.tcp(target=FAR4, dport=22), frames.udp(target=FAR4), frames.tcp("A", dport=80), short:
            done = host.run(frame, hook)
            assert (done.verdict, done.data) == (PASSED[hook], frame)


def _refresh_routes(host: Host) -> None:
    """Run an edit: before Linux 6.10 only edits can look up a mark's route."""
    if kernel.release() < (6, 10):
        with host.director.batch():
            pass


def test_a_foreign_address_is_served_once_policy_routing_makes_it_local(host: Host) -> None:
    for family, far, source in ("-4", FAR4, frames.CLIENT4), ("-6", FAR6, frames.CLIENT6):
        serve_mark(host, 5, 2, family=V4 if family == "-4" else V6)
        rules(host, rule_of("5", dst=far, dports="80", proto="tcp"))
        frame = frames.tcp(sport=4700, target=far, source=source)
        assert receiver(host, frame, "tc") == 0
        ip(family, "rule", "add", "fwmark", "5", "lookup", "100")
        ip(family, "route", "add", "local", "default", "dev", "lo", "table", "100")
        _refresh_routes(host)
        try:
            assert receiver(host, frame, "tc") == 2
            other = frames.tcp(sport=4701, dport=81, target=far, source=source)
            assert receiver(host, other, "tc") == 0
            assert receiver(host, other, "tc", mark=5) == 2
        finally:
            ip(family, "rule", "del", "fwmark", "5", "lookup", "100")
            ip(family, "route", "flush", "table", "100")
        _refresh_routes(host)
        assert receiver(host, frames.tcp(sport=4702, target=far, source=source), "tc") == 0
        host.director.flush()
    tables = host.director.tables
    assert tables.routed_marks.max_entries == tables.service_states.count, "each service may have a mark of its own"


def test_without_any_route_the_snapshot_of_policy_routing_decides(host: Host) -> None:
    serve_mark(host, 5, 2)
    ip("route", "del", "default")
    try:
        rules(host, rule_of("5", dst=FAR4))
        assert receiver(host, frames.tcp(sport=4710, target=FAR4), "tc") == 0
        ip("rule", "add", "fwmark", "0x5/0x7", "lookup", "100")
        ip("route", "add", "local", "default", "dev", "lo", "table", "100")
        rules(host, rule_of("5", dst=FAR4))  # every edit looks up the routes
        assert receiver(host, frames.tcp(sport=4711, target=FAR4), "tc") == 2
    finally:
        ip("route", "replace", "default", "via", "10.77.0.254")
        subprocess.run(["ip", "rule", "del", "fwmark", "0x5/0x7", "lookup", "100"], check=False)
        ip("route", "flush", "table", "100")


def test_bypass_forwards_without_a_server(host: Host) -> None:
    service = ServiceKey.of_mark(9)
    host.director.add_service(VirtualService(service, "rr"))
    rules(host, rule_of("9", dst="0.0.0.0/0"))
    ip("rule", "add", "fwmark", "9", "lookup", "100")
    ip("route", "add", "local", "default", "dev", "lo", "table", "100")
    host.director.change_setting("cache_bypass", 1)  # an edit looks up policy routing
    try:
        refused = host.reason("NO_DESTINATION")
        syn = frames.tcp(sport=4800, target=FAR4, ttl=9)
        sent = [host.run(syn, "tc") for _ in range(3)][-1]
        assert sent.verdict in SENT["tc"]
        assert frames.parsed(sent.data).ttl == 8
        assert frames.parsed(sent.data).dst in (
            ROUTER_MAC,
            frames.parsed(syn).dst,
        )  # the kernel may write it with a delay
        [entry] = [each for each in host.director.connections() if each.client_port == 4800]
        assert (entry.state, str(entry.virtual), str(entry.destination), entry.destination_port) == (
            "SYN_RECV",
            FAR4,
            "0.0.0.0",
            0,
        )
        assert host.director.service(service).counters.in_packets == 0
        assert host.run(frames.tcp("A", sport=4800, target=FAR4), "tc").verdict in SENT["tc"]
        [entry] = [each for each in host.director.connections() if each.client_port == 4800]
        assert entry.state == "ESTABLISHED"
        assert host.reason("NO_DESTINATION") == refused
        host.run(frames.tcp(sport=4801), "tc")  # the virtual address is this host's, so an error is the answer
        assert host.reason("NO_DESTINATION") == refused + 1
        host.director.delete_service(service)
        left = host.run(frames.tcp("A", sport=4800, target=FAR4), "tc").verdict
        assert left == PASSED["tc"], "without a service of a family IPVS handles none of its packets"
    finally:
        host.director.change_setting("cache_bypass", 0)
        ip("rule", "del", "fwmark", "9", "lookup", "100")
        ip("route", "flush", "table", "100")


def test_a_flood_that_bypasses_a_service_leaves_space() -> None:
    capacity, flood = 4096, frames.tcp(sport=4800, target=FAR4)
    with new_host(connections=capacity, expires=False, recycled=True) as host:
        host.director.add_service(VirtualService(ServiceKey.of_mark(9), "rr"))
        rules(host, rule_of("9", dst="0.0.0.0/0"))
        ip("rule", "add", "fwmark", "9", "lookup", "100")
        ip("route", "add", "local", "default", "dev", "lo", "table", "100")
        host.director.change_setting("cache_bypass", 1)
        for number in range(4 * capacity):
            host.run(from_client(number, flood), "tc")
        assert capacity // 8 < host.pool("used") <= capacity * 5 // 8
        assert host.reason("TABLE_FULL_DROPPED") == 0


def test_one_packet_scheduling_leaves_no_connection(host: Host) -> None:
    serve_mark(host, 5, 3, flags=ServiceFlag.ONE_PACKET)
    rules(host, rule_of("5", dst=VIP4))
    assert receiver(host, frames.udp(sport=4900), "tc") == 3
    assert not [each for each in host.director.connections() if each.client_port == 4900]


def test_a_list_too_long_changes_nothing(host: Host) -> None:
    rules(host, rule_of("5", dst=VIP4))
    with pytest.raises(NoSpace, match="1025 mark rules"):
        rules(host, *[rule_of("6", dst=VIP4)] * (MOST_RULES + 1))
    with pytest.raises(InvalidOperation):
        rules(host, rule_of("6", dst=VIP4, src="::1"))
    assert [rule.value for rule in host.director.mark_rules()] == [5]


def test_the_longest_list_is_evaluated_to_its_end(host: Host) -> None:
    serve_mark(host, 5, 2)
    others = [rule_of("6", dst="192.0.2.1")] * (MOST_RULES - 1)
    rules(host, *others, rule_of("5", dst=VIP4))
    assert receiver(host, frames.tcp(sport=4950), "tc") == 2
    assert receiver(host, frames.tcp(sport=4951), "xdp") == 2


# --- any list of rules ---

NETWORKS = [ip_network(text) for text in ("198.18.0.0/15", "198.18.0.7/32", "198.18.0.0/31", "0.0.0.0/0")]
TARGETS = [ip_network(text) for text in (f"{VIP4}/32", f"{OWN4}/32", "10.77.0.0/24", "10.77.0.64/26")]
PORTS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 3)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    min_size=1,
    max_size=16,
).map(tuple)


def maybe(strategy: st.SearchStrategy[object], missing: object) -> st.SearchStrategy[object]:
    return st.one_of(st.just(missing), strategy)


def pairs(most: int) -> st.SearchStrategy[tuple[int, int]]:
    """Draw a value within a mask."""
    return st.tuples(st.integers(0, most), st.integers(0, most)).map(lambda pair: (pair[0] & pair[1], pair[1]))


RULES = st.builds(
    MarkRule,
    mask=st.sampled_from((ALL_BITS, ALL_BITS, 0xF, 0x6, 0)),
    value=st.integers(0, 8),
    family=st.sampled_from((0, 4, 4, 6)),
    protocol=st.sampled_from((0, 6, 17)),
    source=maybe(st.sampled_from(NETWORKS), None),
    target=maybe(st.sampled_from(TARGETS), None),
    source_ports=maybe(PORTS, ()),
    target_ports=maybe(PORTS, ()),
    device=st.sampled_from(("", "", "d0", "d1", "gone")),
    link=st.sampled_from((b"", b"", bytes.fromhex(ROUTER_MAC.replace(":", "")), bytes(6))),
    tcp_flags=maybe(st.sampled_from(((2, 0x17), (0x10, 0x10), (2, 2))), None),
    tos=maybe(pairs(0xFC), None),
    mark=maybe(pairs(0xF), None),
    turned=st.one_of(st.just(NOTHING_TURNED), st.integers(0, 0x3FF).map(Not)),
    then_skip=st.sampled_from((0, 0, 0, 1, 2, TO_THE_END)),
    else_skip=st.sampled_from((0, 0, 0, 1, TO_THE_END)),
)


def fitting(rule: MarkRule) -> MarkRule:
    """Draw a valid rule: families agree, and ports have a protocol."""
    if rule.source or rule.target:
        rule = replace(rule, family=4)
    if not rule.protocol or Not.PROTOCOL in rule.turned:
        rule = replace(rule, source_ports=(), target_ports=())
    turned = rule.turned
    for there, bit in (
        (rule.source is not None, Not.SOURCE),
        (rule.target is not None, Not.TARGET),
        (rule.source_ports, Not.SOURCE_PORTS),
        (rule.target_ports, Not.TARGET_PORTS),
    ):
        turned &= ~Not(0) if there else ~bit
    return checked(replace(rule, turned=turned))


PACKETS = st.builds(
    Packet,
    source=st.sampled_from(("198.18.0.1", "198.18.0.7", "198.19.255.1", "192.0.2.200")).map(ip_address),
    target=st.sampled_from((VIP4, OWN4)).map(ip_address),
    protocol=st.sampled_from((6, 17)),
    source_port=st.integers(0, 12).filter(lambda port: port != 20),
    target_port=st.integers(0, 12),
    device=st.just("d0"),
    link=st.just(bytes.fromhex(ROUTER_MAC.replace(":", ""))),
    tcp_flags=st.sampled_from((0x02, 0x12, 0x42)),
    tos=st.sampled_from((0, 0x10, 0xB8)),
)


def frame_of(packet: Packet) -> bytes:
    head = frames.ether() / frames.network(str(packet.source), str(packet.target), tos=packet.tos)
    if packet.protocol == 17:
        return frames.build(head / UDP(sport=packet.source_port, dport=packet.target_port) / b"?")
    return frames.build(head / TCP(sport=packet.source_port, dport=packet.target_port, flags=packet.tcp_flags))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    listed=st.lists(RULES.map(fitting), max_size=8),
    packets=st.lists(st.tuples(PACKETS, st.integers(0, 8)), min_size=1, max_size=12),
)
def test_any_rules_give_the_marks_that_the_model_gives(
    host: Host, listed: list[MarkRule], packets: list[tuple[Packet, int]]
) -> None:
    """Every mark has its own server, so that the receiver shows the mark."""
    host.director.flush()
    host.director.change_setting("expire_nodest_conn", 1)  # no connection outlives its example
    rules(host, *listed)
    assert host.director.mark_rules() == listed
    for number in range(1, SERVERS + 1):
        serve_mark(host, number, number, flags=ServiceFlag.ONE_PACKET)
    seen: set[tuple[object, ...]] = set()
    for packet, before in packets:
        ends = (packet.source, packet.source_port, packet.target, packet.target_port, packet.protocol)
        if ends in seen:
            continue  # it would belong to a connection
        seen.add(ends)
        wanted = mark_of(listed, packet, before)
        expected = wanted if 1 <= wanted <= SERVERS else 0
        frame = frame_of(packet)
        at_xdp = host.run(frame, "xdp")
        assert at_xdp.verdict != DROPPED["xdp"]
        if at_xdp.verdict in SENT["xdp"]:  # XDP decides for any mark of a filter
            assert at_xdp.data[:6].hex(":") == server_mac(expected)
        assert receiver(host, frame, "tc", before) == expected
    host.director.flush()
