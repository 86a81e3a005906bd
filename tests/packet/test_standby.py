"""A standby virtual address: packets to it pass unmodified, with any table."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Timestamp, fragment
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    fragment6,
)

from pylvs.bpf import abi
from pylvs.cli.director import show
from pylvs.dataplane import load, vip_roles
from pylvs.dataplane.devices.attach import attached
from pylvs.dataplane.state import roles_directory
from pylvs.dataplane.tables import address_bit, address_bytes
from pylvs.dataplane.vip_roles import Standby
from pylvs.model.addresses import Address
from pylvs.model.errors import Busy, NoSpace
from pylvs.model.marks import MarkRule
from pylvs.model.service import Method, Protocol, ServiceKey, VirtualService
from tests.packet import frames
from tests.packet.frames import CLIENT4, CLIENT6, build, ether, tcp
from tests.packet.host import HOOKS, OWN4, PASSED, ROUTER4, SENT, VIP4, VIP6, Host, ip, new_host, server4, server6
from tests.packet.table import words

BOTH = frozenset({ip_address(VIP4), ip_address(VIP6)})
VIP = {4: VIP4, 6: VIP6}
CLIENT = {4: CLIENT4, 6: CLIENT6}
SERVER = {4: server4(1), 6: server6(1)}
METHODS = (Method.ROUTE, Method.MASQ, Method.TUNNEL)
SPORT, REAL_PORT = 4000, 8080
CUT4: Any = fragment
CUT6: Any = fragment6


@pytest.fixture
def word(director_host: Host) -> Iterator[Standby]:
    made = Standby()
    yield made
    made.close()


@pytest.fixture
def host(director_host: Host, word: Standby) -> Host:
    return director_host


def state(host: Host) -> Any:
    """Return all that packets write."""
    tables = host.director.tables
    rows = [
        (str(row.service.key), row.counters, [(each.active, each.inactive, each.counters) for each in row.destinations])
        for row in host.director.services()
    ]
    there = {key: word for family in (4, 6) for key, word, _ in words(tables, family)}
    return sorted(rows), there, {name: count for name, count in host.reasons().items() if name != "to_tc"}


def passes_unmodified(host: Host, frame: bytes, hooks: tuple[str, ...] = HOOKS) -> None:
    """Assert that both hooks pass the frame unmodified, and that no table changes."""
    before = state(host)
    for hook in hooks:
        done = host.run(frame, hook)
        assert (done.verdict, done.data) == (PASSED[hook], frame), hook
    assert state(host) == before


def established(host: Host, method: Method, family: int) -> ServiceKey:
    """Add a service with one server and one connection."""
    service = host.new_key(vip=VIP[family])
    host.serve(service, 1, method, port=REAL_PORT if method == Method.MASQ else None)
    for flags in "S", "A":
        host.forwarded(segment(service, flags), "tc")
    return service


def segment(service: ServiceKey, flags: str = "PA", **fields: Any) -> bytes:
    family = service.address.version
    return tcp(flags, SPORT, service.port, CLIENT[family], str(service.address), **fields)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("method", METHODS)
def test_an_established_connection_is_unchanged_while_its_address_is_standby(
    host: Host, word: Standby, method: Method, family: int, hook: str
) -> None:
    service = established(host, method, family)
    before = host.forwarded(segment(service), hook)
    word.set_standby(BOTH)
    passes_unmodified(host, segment(service))
    word.set_standby(frozenset())
    assert host.forwarded(segment(service), hook)[:6] == before[:6]


@pytest.mark.parametrize("family", [4, 6])
def test_nothing_is_scheduled(host: Host, word: Standby, family: int) -> None:
    service = host.new_key(vip=VIP[family])
    host.serve(service, 2)
    word.set_standby(BOTH)
    for flags in "S", "A", "FA", "R":
        passes_unmodified(host, segment(service, flags))
    other = host.new_key(Protocol.UDP, VIP[family])
    host.serve(other, 2)
    passes_unmodified(host, frames.udp(SPORT, other.port, CLIENT[family], VIP[family]))


def test_other_virtual_addresses_are_served(host: Host, word: Standby) -> None:
    """Those of another family, or with the same bit in the bitmaps."""
    service, six = established(host, Method.ROUTE, 4), established(host, Method.ROUTE, 6)
    word.set_standby(frozenset({ip_address(VIP6)}))
    passes_unmodified(host, segment(six))
    for hook in HOOKS:
        host.forwarded(segment(service), hook)
    word.set_standby(frozenset({twin_of(host, ip_address(VIP4))}))
    for hook in HOOKS:
        host.forwarded(segment(service), hook)


def twin_of(host: Host, address: Address) -> Address:
    """Return another address with the same bit in the bitmaps."""
    keys = host.director.tables.root.get(0, "address_keys")
    wanted = address_bit(address_bytes(address), 4, keys)
    drawn = random.Random(1)  # the hash spreads random addresses; of consecutive ones, some keys give none this bit
    others = (ip_address(drawn.getrandbits(32)) for _ in range(1 << 22))
    return next(each for each in others if each != address and address_bit(address_bytes(each), 4, keys) == wanted)


RARE: dict[str, Callable[[int], list[Any]]] = {
    "options": lambda port: [
        ether()
        / IP(src=CLIENT4, dst=VIP4, options=[IPOption_Timestamp(flg=0)])
        / TCP(sport=SPORT, dport=port, flags="S")
    ],
    "fragments": lambda port: [
        ether() / each for each in CUT4(IP(src=CLIENT4, dst=VIP4, id=7) / TCP(sport=SPORT, dport=port) / bytes(64), 32)
    ],
    "fragments of IPv6": lambda port: [
        ether() / each
        for each in CUT6(
            IPv6(src=CLIENT6, dst=VIP6) / IPv6ExtHdrFragment(id=7) / UDP(sport=SPORT, dport=port) / bytes(2000), 1280
        )
    ],
    "extension headers": lambda port: [
        ether() / IPv6(src=CLIENT6, dst=VIP6) / IPv6ExtHdrDestOpt() / TCP(sport=SPORT, dport=port, flags="S")
    ],
    "short": lambda port: [ether() / IP(src=CLIENT4, dst=VIP4, proto=6) / bytes(6)],
    "SCTP": lambda port: [frames.sctp(frames.chunk(1, bytes(16)), dport=port)],
    "SCTP cut short": lambda port: [frames.carrying(132, b"\0")],
    "IPsec": lambda port: [frames.carrying(50, bytes(16))],
    "echo": lambda port: [ether() / IP(src=CLIENT4, dst=VIP4) / ICMP() / b"ping"],
    "echo of IPv6": lambda port: [ether() / IPv6(src=CLIENT6, dst=VIP6) / ICMPv6EchoRequest()],
    "ICMP cut short": lambda port: [ether() / IP(src=CLIENT4, dst=VIP4, proto=1) / b"\3\3"],
    "last hop": lambda port: [ether() / IP(src=CLIENT4, dst=VIP4, ttl=1) / TCP(sport=SPORT, dport=port, flags="S")],
    "padded": lambda port: [build(ether() / IP(src=CLIENT4, dst=VIP4) / TCP(sport=SPORT, dport=port)) + bytes(9)],
}


@pytest.mark.parametrize("kind", RARE)
def test_rare_packets_pass_unmodified(host: Host, word: Standby, kind: str) -> None:
    port = host.new_key().port
    for vip in VIP4, VIP6:
        for protocol in Protocol.TCP, Protocol.UDP, Protocol.SCTP:
            host.serve(ServiceKey(protocol, ip_address(vip), port), 1)
    word.set_standby(BOTH)
    for packet in RARE[kind](port):
        passes_unmodified(host, build(packet))


@pytest.mark.parametrize("method", METHODS)
def test_icmp_errors_about_its_connections_pass(host: Host, word: Standby, method: Method) -> None:
    service = established(host, method, 4)
    quoted = IP(src=CLIENT4, dst=VIP4) / TCP(sport=SPORT, dport=service.port, flags="PA")
    if method == Method.MASQ:
        quoted = IP(src=CLIENT4, dst=server4(1)) / TCP(sport=SPORT, dport=REAL_PORT, flags="PA")
    reply = IP(src=VIP4, dst=CLIENT4) / TCP(sport=service.port, dport=SPORT, flags="PA")
    errors = [
        ether() / IP(src=ROUTER4, dst=VIP4) / ICMP(type=3, code=3) / reply,
        ether() / IP(src=ROUTER4, dst=OWN4) / ICMP(type=3, code=3) / reply,
        ether() / IP(src=server4(1), dst=CLIENT4) / ICMP(type=3, code=3) / quoted,
    ]
    if method == Method.TUNNEL:
        outer = IP(src=OWN4, dst=server4(1), proto=4) / quoted / bytes(64)
        errors.append(ether() / IP(src=ROUTER4, dst=OWN4) / ICMP(type=3, code=4, nexthopmtu=1400) / outer)
    before = [host.run(build(each), "tc").verdict for each in errors[:1]]
    assert before == [SENT["tc"][0]]
    host.director.change_setting("schedule_icmp", 1)
    word.set_standby(BOTH)
    try:
        for each in errors:
            passes_unmodified(host, build(each), ("tc",))
    finally:
        host.director.change_setting("schedule_icmp", 0)


def test_icmp6_errors_about_its_connections_pass(host: Host, word: Standby) -> None:
    service = established(host, Method.ROUTE, 6)
    reply = IPv6(src=VIP6, dst=CLIENT6) / TCP(sport=service.port, dport=SPORT, flags="PA")
    error = build(ether() / IPv6(src="fd77::fe", dst=VIP6) / ICMPv6DestUnreach(code=4) / reply)
    assert host.run(error, "tc").verdict in SENT["tc"]
    word.set_standby(BOTH)
    passes_unmodified(host, error)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ])
def test_replies_from_it_are_neither_rewritten_nor_counted(
    host: Host, word: Standby, method: Method, family: int
) -> None:
    service = established(host, method, family)
    source = (SERVER[family], REAL_PORT) if method == Method.MASQ else (VIP[family], service.port)
    answer = build(
        ether(source="02:00:00:00:01:01")
        / frames.network(source[0], CLIENT[family])
        / TCP(sport=source[1], dport=SPORT, flags="PA")
    )
    setting = Path("/proc/sys/net/ipv4/conf/d0/accept_local")  # the device still has the address
    setting.write_text("1", encoding="ascii")
    try:
        host.director.follow_host()
        counted = host.director.service(service).counters.out_packets
        host.run(answer, "tc")
        assert host.director.service(service).counters.out_packets == counted + 1
        word.set_standby(BOTH)
        passes_unmodified(host, answer)
    finally:
        setting.write_text("0", encoding="ascii")


def test_no_icmp_error_is_sent_about_its_replies(host: Host, word: Standby) -> None:
    service = established(host, Method.MASQ, 4)
    stray = build(
        ether(source="02:00:00:00:01:01")
        / IP(src=server4(1), dst=CLIENT4)
        / TCP(sport=REAL_PORT, dport=SPORT + 1, flags="A")
    )
    assert service.port != REAL_PORT
    host.director.change_setting("nat_icmp_send", 1)
    try:
        assert host.run(stray, "tc").verdict in SENT["tc"]
        word.set_standby(BOTH)
        passes_unmodified(host, stray, ("tc",))
    finally:
        host.director.change_setting("nat_icmp_send", 0)


def test_a_mark_does_not_make_it_active(host: Host, word: Standby) -> None:
    service = ServiceKey.of_mark(7)
    host.serve(service, 1, port=0)
    host.director.change_mark_rules(lambda rules: [*rules, MarkRule(value=7, target=ip_network("10.77.0.0/24"))])
    try:
        for hook in HOOKS:
            host.forwarded(tcp(sport=SPORT + 7, dport=7777), hook)
        word.set_standby(BOTH)
        passes_unmodified(host, tcp(sport=SPORT + 7, dport=7777))
        passes_unmodified(host, tcp(sport=SPORT + 8, dport=7777))
    finally:
        host.director.change_mark_rules(lambda _: [])


def test_packets_of_this_host_itself_pass(host: Host, word: Standby) -> None:
    service = established(host, Method.ROUTE, 4)
    word.set_standby(BOTH)
    link, host.ifindex = host.ifindex, socket.if_nametoindex("lo")
    try:
        passes_unmodified(host, segment(service, "S"), ("tc",))
    finally:
        host.ifindex = link


# --- before, after and beside the tables ---


def stored_roles(host: Host) -> vip_roles.VipRoles:
    return vip_roles.in_force(host.director.tables)


def test_roles_that_were_set_before_the_tables_apply_to_their_first_packet() -> None:
    with new_host(recycled=True) as host:
        load.take_down(host.director.state)
        word = Standby()
        word.set_standby(frozenset({ip_address(VIP4)}), frozenset({ip_address(VIP6)}))
        service = host.new_key()
        host.serve(service)
        host.close_programs()
        assert stored_roles(host) == vip_roles.VipRoles(frozenset({ip_address(VIP4)}), frozenset({ip_address(VIP6)}))
        passes_unmodified(host, segment(service, "S"))
        word.set_standby(frozenset())
        host.forwarded(segment(service, "S"), "tc")
        load.take_down(host.director.state)
        word.set_standby(BOTH)  # there is no table yet
        host.serve(service)
        assert stored_roles(host).standby == BOTH
        word.close()
        assert stored_roles(host) == vip_roles.VipRoles()
        assert not os.path.exists(roles_directory(host.director.state.cookie))


def test_it_outlives_another_size_of_the_table_and_a_killed_writer(host: Host, word: Standby) -> None:
    service = established(host, Method.ROUTE, 4)
    word.set_standby(BOTH)
    host.director.change_setting("conn_max", 8192, drop=True)
    host.close_programs()
    passes_unmodified(host, segment(service, "S"))
    host.director.tables.book.set(0, "pending", 1)
    host.director.add_service(VirtualService(host.new_key(), "rr"))
    assert host.director.tables.book.get(0, "pending") == 0
    passes_unmodified(host, segment(service, "S"))
    word.set_standby(frozenset())
    host.forwarded(segment(service, "S"))


_SET_STANDBY = """
import sys, time
from ipaddress import ip_address
from pylvs.dataplane.vip_roles import Standby
word = Standby()
word.set_standby(frozenset({ip_address(sys.argv[1])}))
print("done", flush=True)
time.sleep(600)
"""


@contextmanager
def standby_process(vip: str) -> Iterator[None]:
    """Let another process make an address standby, and kill it at the end."""
    with subprocess.Popen([sys.executable, "-c", _SET_STANDBY, vip], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"done\n"
            yield
        finally:
            process.kill()


def test_the_capabilities_of_pylvs_vrrp_are_enough(director_host: Host) -> None:
    code = "import sys; from ipaddress import ip_address; from pylvs.dataplane.vip_roles import Standby\n"
    code += "from pylvs.system import sandbox; from pylvs.vrrp.router_service import CAPABILITIES\n"
    code += "Standby.prepare(); sandbox.keep_only(*CAPABILITIES)\n"
    code += "Standby().set_standby(frozenset({ip_address(sys.argv[1])}))"
    subprocess.run([sys.executable, "-c", code, VIP4], check=True)
    assert vip_roles.in_force(director_host.director.tables).standby == {ip_address(VIP4)}
    Standby().close()


def test_it_stays_when_its_process_is_killed_and_the_next_process_continues(director_host: Host) -> None:
    host = director_host
    service = established(host, Method.ROUTE, 4)
    with standby_process(VIP4):
        passes_unmodified(host, segment(service))
        with pytest.raises(Busy):
            Standby()
    passes_unmodified(host, segment(service))
    host.director.add_service(VirtualService(host.new_key(), "rr"))
    passes_unmodified(host, segment(service))
    word = Standby()
    word.set_standby(frozenset({ip_address(VIP6)}))
    host.forwarded(segment(service))
    word.close()


def test_tables_made_after_its_process_was_killed_do_not_have_it() -> None:
    with new_host(recycled=True) as host:
        with standby_process(VIP4):
            pass
        assert stored_roles(host).standby == {ip_address(VIP4)}
        load.take_down(host.director.state)
        assert not os.path.exists(roles_directory(host.director.state.cookie))
        service = host.new_key()
        host.serve(service)
        host.close_programs()
        host.forwarded(segment(service, "S"), "tc")


def test_too_many_addresses_are_refused_and_change_nothing(host: Host, word: Standby) -> None:
    word.set_standby(BOTH)
    most = abi.constant("STANDBY_ADDRESSES")
    with pytest.raises(NoSpace, match=str(most)):
        word.set_standby(frozenset(ip_address(0x0A000000 + number) for number in range(most + 1)))
    assert stored_roles(host).standby == BOTH
    many = frozenset(ip_address(0x0A000000 + number) for number in range(most))
    word.set_standby(many)
    others = frozenset(ip_address(0x0B000000 + number) for number in range(most))
    word.set_standby(others)
    assert stored_roles(host) == vip_roles.VipRoles(others)


# --- take-over ---


@pytest.mark.parametrize("family", [4, 6])
def test_an_address_is_served_at_once_even_before_a_device_has_it(host: Host, word: Standby, family: int) -> None:
    vip = "10.99.0.1" if family == 4 else "fd99::1"  # no network of this host's, and not in its routing tables
    service = host.new_key(vip=vip)
    host.serve(service)
    for hook in HOOKS:
        passes_as_not_ours(host, segment(service, "S"), hook)
    word.set_standby(frozenset({ip_address(vip)}))
    for hook in HOOKS:
        passes_unmodified(host, segment(service, "S"), (hook,))
    word.set_standby(frozenset(), frozenset({ip_address(vip)}))
    host.wait_ticks()  # what the very first packet found of the address counts for one
    for hook in HOOKS:
        host.forwarded(segment(service, "S"), hook)


def passes_as_not_ours(host: Host, frame: bytes, hook: str) -> None:
    """Assert as `passes_unmodified`, but for a packet that counts as not for this host."""
    done = host.run(frame, hook)
    assert (done.verdict, done.data) == (PASSED[hook], frame)


def test_show_lists_the_roles(host: Host, word: Standby) -> None:
    word.set_standby(frozenset({ip_address(VIP6)}), frozenset({ip_address(VIP4)}))
    shown = CliRunner().invoke(show, []).output
    assert f"{VIP4}: master (" in shown
    assert f"{VIP6}: standby (" in shown
    parsed = json.loads(CliRunner().invoke(show, ["--json"]).output)
    assert (parsed["standby"], parsed["master"]) == ([VIP6], [VIP4])


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Host]:
    """Make another host with other devices. The file's host cannot be used afterwards: this thread has left it."""
    with new_host(expires=False, recycled=True) as made:
        ip("link", "add", "e0", "type", "veth", "peer", "name", "e1")
        ip("addr", "add", "10.88.0.1/24", "dev", "e0")
        ip("link", "set", "e0", "up")
        ip("link", "add", "vrrp.51", "link", "d0", "type", "macvlan", "mode", "private")
        ip("link", "set", "vrrp.51", "up")
        yield made


@pytest.mark.parametrize("prefix", ["32", "24"])
@pytest.mark.parametrize("vip", ["10.77.0.200", "10.99.0.200"], ids=["of the link", "of no link"])
def test_a_take_over_attaches_nothing(elsewhere: Host, vip: str, prefix: str) -> None:
    host, address = elsewhere, ip_address(vip)
    host.director.flush()
    host.director.follow_host()
    word = Standby()
    try:
        word.set_standby(frozenset({address}))
        host.serve(host.new_key(vip=vip))
        host.director.follow_host()
        before = attached(host.director.state)
        assert {each.device for each in before} == {"lo", "d0", "e0", "e1", "vrrp.51"}
        for device in "d0", "vrrp.51":
            word.set_standby(frozenset(), frozenset({address}))
            ip("addr", "add", f"{vip}/{prefix}", "dev", device)
            host.director.follow_host()
            assert attached(host.director.state) == before
            ip("addr", "del", f"{vip}/{prefix}", "dev", device)
            word.set_standby(frozenset({address}))
            host.director.follow_host()
            assert attached(host.director.state) == before
    finally:
        word.close()
