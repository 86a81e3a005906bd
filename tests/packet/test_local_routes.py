"""Addresses that no device has, but that routing delivers to this host: of services and of real servers.

Connections to a virtual address that this host no longer has pass to the stack, which routes them.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from scapy.layers.inet import ICMP, IP, TCP, IPOption
from scapy.layers.inet6 import IPv6

from pylvs.dataplane import editor, watch
from pylvs.dataplane.devices import attach
from pylvs.dataplane.upgrade.migrate import Migration
from pylvs.model.marks import MarkRule
from pylvs.model.service import Destination, DestinationKey, Method, ServiceKey, VirtualService
from pylvs.netlink.local_routes import local_networks
from tests.packet import frames
from tests.packet.frames import CLIENT4, CLIENT6, build, ether
from tests.packet.host import (
    DROPPED,
    HOOKS,
    PASSED,
    ROUTER4,
    ROUTER6,
    SENT,
    VIP4,
    VIP6,
    Host,
    ip,
    new_host,
    server4,
    server6,
    server_mac,
)

NETWORK = {4: "10.99.0.0/24", 6: "fd99::/64"}
LARGER = {4: "10.98.0.0/15", 6: "fd99::/16"}
ROUTED = {4: "10.99.0.7", 6: "fd99::7"}
VIP = {4: VIP4, 6: VIP6}
CLIENT = {4: CLIENT4, 6: CLIENT6}
ROUTER = {4: ROUTER4, 6: ROUTER6}
PORTS = iter(range(20000, 60000))  # of clients: each opens a connection of its own


@contextmanager
def changed(host: Host, family: int, *words: str) -> Iterator[None]:
    """Add something by `ip OBJECT add ...`, in force for packets, until the block ends."""
    name, *rest = words
    ip(f"-{family}", name, "add", *rest)
    try:
        noticed(host)
        yield
    finally:
        ip(f"-{family}", name, "del", *rest)
        noticed(host)


@contextmanager
def without_default_route(host: Host, family: int) -> Iterator[None]:
    ip(f"-{family}", "route", "del", "default")
    try:
        noticed(host)
        yield
    finally:
        ip(f"-{family}", "route", "add", "default", "via", ROUTER[family])
        noticed(host)


def noticed(host: Host) -> None:
    """Return when the packet path knows a change of this host."""
    host.director.follow_host()
    host.wait_ticks()


def syn(address: str, port: int, family: int) -> bytes:
    return frames.tcp("S", next(PORTS), port, CLIENT[family], address)


def to_stack(host: Host, address: str, port: int, family: int) -> bool:
    """Return whether a new connection passes to the stack; otherwise assert that the first server receives it."""
    _, done = host.receive(syn(address, port, family))
    if done.verdict == PASSED["tc"]:
        return True
    assert done.verdict in SENT["xdp"] + SENT["tc"]
    assert done.data[:6].hex(":") == server_mac(1)
    return False


def routed_service(host: Host, family: int) -> ServiceKey:
    service = host.new_key(vip=ROUTED[family])
    host.serve(service, 1)
    return service


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("has_default", [True, False])
def test_a_virtual_address_with_a_local_route_is_served(director_host: Host, family: int, has_default: bool) -> None:
    host, port = director_host, routed_service(director_host, family).port
    assert to_stack(host, ROUTED[family], port, family)
    with changed(host, family, "route", "local", NETWORK[family], "dev", "lo"):
        assert not to_stack(host, ROUTED[family], port, family)
        if not has_default:
            with without_default_route(host, family):
                assert not to_stack(host, ROUTED[family], port, family)
    assert to_stack(host, ROUTED[family], port, family)
    with without_default_route(host, family):
        assert to_stack(host, ROUTED[family], port, family), "no route is no local route"


@pytest.mark.parametrize("has_default", [True, False])
@pytest.mark.parametrize("beside", [(), ("10.99.0.6/32", "10.99.0.5/32")])
def test_a_virtual_address_that_came_after_the_last_edit_is_served(
    director_host: Host, has_default: bool, beside: tuple[str, ...]
) -> None:
    """So a script may add it behind `ipvsadm`, where no daemon follows the addresses."""
    host, port = director_host, routed_service(director_host, 4).port
    with without_default_route(host, 4) if not has_default else nullcontext():
        assert to_stack(host, ROUTED[4], port, 4)
        added = ("10.99.0.7/24", *beside)
        for each in added:
            ip("addr", "add", each, "dev", "d0")
        try:
            host.wait_ticks()
            assert not to_stack(host, ROUTED[4], port, 4)
        finally:
            for each in reversed(added):
                ip("addr", "del", each, "dev", "d0")
        host.wait_ticks()
        assert to_stack(host, ROUTED[4], port, 4)


def test_errors_come_from_a_virtual_address_that_came_after_the_last_edit(director_host: Host) -> None:
    """With firewall marks, an address that only policy routing delivers gets no error of IPv4."""
    host, service = director_host, routed_service(director_host, 4)
    host.director.add_service(VirtualService(ServiceKey.of_mark(77), "rr"))
    ip("addr", "add", "10.99.0.7/24", "dev", "d0")
    try:
        host.wait_ticks()
        expiring = frames.tcp("S", next(PORTS), service.port, CLIENT4, ROUTED[4], ttl=1)
        sent = frames.parsed(host.run(expiring, "tc").data)
        assert (sent[IP].src, sent[IP].dst, sent[ICMP].type) == (ROUTED[4], CLIENT4, 11)
    finally:
        ip("addr", "del", "10.99.0.7/24", "dev", "d0")


def test_an_address_of_lo_makes_its_network_local(director_host: Host) -> None:
    port = routed_service(director_host, 4).port
    with changed(director_host, 4, "addr", "10.99.0.1/24", "dev", "lo"):
        assert not to_stack(director_host, ROUTED[4], port, 4)


@pytest.mark.parametrize("family", [4, 6])
def test_a_mark_needs_no_rule_of_policy_routing_for_an_address_with_a_local_route(
    director_host: Host, family: int
) -> None:
    service, host = ServiceKey.of_mark(9, socket.AF_INET if family == 4 else socket.AF_INET6), director_host
    host.director.add_service(VirtualService(service, "rr"))
    server = ip_address(server4(1) if family == 4 else server6(1))
    host.director.add_destination(service, Destination(DestinationKey(server, 0)))
    host.director.change_mark_rules(lambda _: [MarkRule(value=9)])
    try:
        with without_default_route(host, family):
            assert to_stack(host, ROUTED[family], 80, family)
            with changed(host, family, "route", "local", NETWORK[family], "dev", "lo"):
                assert not to_stack(host, ROUTED[family], 80, family)
    finally:
        host.director.change_mark_rules(lambda _: [])


@pytest.mark.parametrize("family", [4, 6])
def test_of_policy_routing_tables_count_that_all_packets_reach(director_host: Host, family: int) -> None:
    """Without a default route, only the snapshot tells a local route from none."""
    host, port = director_host, routed_service(director_host, family).port
    rules: list[tuple[str, bool]] = [
        ("lookup 77", True),
        (f"to {ROUTED[family]} lookup 77", True),
        (f"to {LARGER[family]} lookup 77", True),
        (f"to {VIP[family]} lookup 77", False),
        (f"from {VIP[family]} lookup 77", False),
        ("iif d0 lookup 77", False),
        ("fwmark 5 lookup 77", False),
        (f"not to {VIP[family]} lookup 77", False),
        ("ipproto udp lookup 77", False),
    ]
    with (
        without_default_route(host, family),
        changed(host, family, "route", "local", NETWORK[family], "dev", "lo", "table", "77"),
    ):
        for words, counts in rules:
            with changed(host, family, "rule", "pref", "100", *words.split()):
                assert to_stack(host, ROUTED[family], port, family) is not counts, words


def test_the_networks_of_local_routes_by_the_kernel(director_host: Host) -> None:
    assert (2, 8, bytes([127, 0, 0, 0])) in local_networks()
    assert (10, 128, ip_address("fd77::").packed) in local_networks(), "the routers' anycast address (RFC 4291 2.6.1)"
    with changed(director_host, 4, "route", "local", "10.99.0.0/16", "dev", "lo"):
        assert (2, 16, bytes([10, 99, 0, 0])) in local_networks()


@pytest.mark.parametrize(
    ("family", "server"), [(4, ROUTED[4]), (6, ROUTED[6]), (4, "127.0.0.9")], ids=["IPv4", "IPv6", "loopback"]
)
def test_a_real_server_with_a_local_route_is_on_this_host(director_host: Host, family: int, server: str) -> None:
    host, service = director_host, director_host.new_key(vip=VIP[family])
    host.director.add_service(VirtualService(service, "rr"))
    here = DestinationKey(ip_address(server), service.port)
    with (
        changed(host, family, "route", "local", NETWORK[family], "dev", "lo"),
        without_default_route(host, family),
    ):
        host.director.add_destination(service, Destination(here, Method.ROUTE))
        before = host.reason("SERVER_LOCAL")
        assert to_stack(host, VIP[family], service.port, family)
        assert host.reason("SERVER_LOCAL") == before + 1
        host.director.follow_host()
        (d0,) = (each for each in attach.attached(host.director.state) if each.device == "d0")
        assert d0.egress, "its replies leave there"


def test_a_packet_to_an_address_with_a_local_route_bypasses_no_service(director_host: Host) -> None:
    host = director_host
    host.director.add_service(VirtualService(ServiceKey.of_mark(9), "rr"))
    host.director.change_mark_rules(lambda _: [MarkRule(value=9)])
    host.director.change_setting("cache_bypass", 1)
    try:
        with changed(host, 4, "route", "local", NETWORK[4], "dev", "lo"):
            before = host.reason("NO_DESTINATION")
            host.receive(syn(ROUTED[4], 80, 4))
            assert host.reason("NO_DESTINATION") == before + 1, "the client gets an ICMP error"
    finally:
        host.director.change_setting("cache_bypass", 0)
        host.director.change_mark_rules(lambda _: [])


def test_a_timestamp_for_an_address_with_a_local_route_is_written(director_host: Host) -> None:
    """RFC 791: flag 3, only the named hosts write their time."""
    host, service = director_host, director_host.new_key()
    host.serve(service, 1)
    option = bytes((68, 12, 5, 3)) + ip_address(ROUTED[4]).packed + bytes(4)
    packet = IP(src=CLIENT4, dst=VIP4, options=[IPOption(option)]) / TCP(sport=next(PORTS), dport=service.port)

    def pointer() -> int:
        done = host.run(build(ether() / packet), "tc")
        assert done.verdict in SENT["tc"]
        return done.data[14 + 20 + 2]

    assert pointer() == 5
    with changed(host, 4, "route", "local", NETWORK[4], "dev", "lo"):
        assert pointer() == 13


@pytest.mark.parametrize("words", ["route add local 10.99.0.0/24 dev lo", "rule add to 10.99.0.0/24 lookup 77"])
@pytest.mark.parametrize("family", [4, 6])
def test_a_watcher_notices_routes_and_rules(family: int, words: str) -> None:
    with new_host(mode=None, recycled=True), watch.listen() as kernel:
        watch.drain(kernel)
        ip(f"-{family}", *words.replace(NETWORK[4], NETWORK[family]).split())
        assert watch.drain(kernel)


def test_a_migration_fills_the_snapshot_before_packets_use_it(director_host: Host) -> None:
    host = director_host
    with changed(host, 4, "route", "local", NETWORK[4], "dev", "lo"):
        tables = host.director.tables
        keys = set(tables.local_routes.keys())
        assert keys
        for each in keys:
            tables.local_routes.remove(each)
        with mock.patch.object(editor, "own_addresses"):  # edits would fill it, too, but later
            Migration.of(host.director.state).copy(tables)
        assert set(tables.local_routes.keys()) == keys


# --- connections to an address that this host has no longer ---


def passes(host: Host, frame: bytes) -> bool:
    """Return whether both hooks pass the frame; otherwise assert that both forward it."""
    verdicts = {hook: host.run(frame, hook).verdict for hook in HOOKS}
    if verdicts == PASSED:
        return True
    for hook in HOOKS:
        host.forwarded(frame, hook)
    return False


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ, Method.TUNNEL])
def test_a_connection_passes_while_its_address_is_gone(director_host: Host, family: int, method: Method) -> None:
    host, service = director_host, routed_service(director_host, family)
    host.director.flush()
    host.serve(service, 1, method)
    client = next(PORTS)
    opening, later = (frames.tcp(flags, client, service.port, CLIENT[family], ROUTED[family]) for flags in ("S", "A"))
    with changed(host, family, "route", "local", NETWORK[family], "dev", "lo"):
        for frame in opening, later, later:
            host.forwarded(frame)
        assert not passes(host, later)
    host.wait_for_lookups()
    packets = host.director.service(service).counters.in_packets
    assert passes(host, later)
    assert host.director.service(service).counters.in_packets == packets, "the director does not count it"
    with changed(host, family, "route", "local", NETWORK[family], "dev", "lo"):
        assert not passes(host, later), "at once: the stack would reset the connection"


# --- truncated headers ---


def truncated(address: str, family: int, kind: str) -> bytes:
    """Return a frame whose IP packet ends within its transport header, or before it."""
    source = CLIENT[family]
    if kind == "options":  # IPv6: the extension header is longer than the packet
        return build(ether() / IPv6(src=source, dst=address, nh=60, plen=8) / bytes([6, 4, 1, 4, 0, 0, 0, 0]))
    fields: dict[str, Any] = {"proto" if family == 4 else "nh": {"tcp": 6, "udp": 17, "sctp": 132}[kind]}
    return build(ether() / frames.network(source, address, **fields) / (b"\x23\x88" if kind == "sctp" else bytes(7)))


@pytest.mark.parametrize(
    ("family", "kind"), [(4, "tcp"), (4, "udp"), (4, "sctp"), (6, "tcp"), (6, "udp"), (6, "sctp"), (6, "options")]
)
def test_a_truncated_header_is_dropped_only_for_an_address_of_this_host(
    director_host: Host, family: int, kind: str
) -> None:
    routed_service(director_host, family)
    frame = truncated(ROUTED[family], family, kind)
    for hook in HOOKS:
        done = director_host.run(frame, hook)
        assert (done.verdict, done.data) == (PASSED[hook], frame)
    with changed(director_host, family, "route", "local", NETWORK[family], "dev", "lo"):
        assert director_host.receive(frame)[1].verdict == DROPPED["tc"]


@pytest.mark.parametrize("family", [4, 6])
def test_the_stack_resets_no_connection_while_forwarding_of_lo_is_off(director_host: Host, family: int) -> None:
    """Routing then answers no lookup (`echo 0 > /proc/sys/net/ipv4/ip_forward`), until it is turned on again."""
    host, service = director_host, director_host.new_key(vip=VIP[family])
    host.serve(service, 1)
    for flags in "S", "A":
        host.receive(frames.tcp(flags, 4000, service.port, CLIENT[family], VIP[family]))
    forwarding = Path(f"/proc/sys/net/ipv{family}/conf/lo/forwarding")
    forwarding.write_text("0")
    try:
        host.wait_for_lookups()
        for flags, sport in ("A", 4000), ("S", 4001):
            _, done = host.receive(frames.tcp(flags, sport, service.port, CLIENT[family], VIP[family]))
            assert done.verdict != PASSED["tc"]
    finally:
        forwarding.write_text("1")
    host.wait_for_lookups()
    _, done = host.receive(frames.tcp("A", 4000, service.port, CLIENT[family], VIP[family]))
    assert done.verdict in SENT["xdp"] + SENT["tc"]
