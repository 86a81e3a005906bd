"""Sources are validated as routing does before IPVS: by rp_filter, for new connections and changes of their state."""

from __future__ import annotations

import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP

from pylvs.bpf import kernel
from pylvs.dataplane.devices import attachments, rp_filter
from pylvs.dataplane.devices.modes import Mode
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey, VirtualService
from pylvs.netlink import codec, links, tc
from tests.iproute import ip_batch
from tests.packet.frames import CLIENT4, build, ether, tcp, udp
from tests.packet.host import ROUTER4, VIP4, Host, ip, on_cpu
from tests.packet.unfinished import until_veth_up, veth
from tests.waiting import until

CONF, NETSTAT = Path("/proc/sys/net/ipv4/conf"), Path("/proc/thread-self/net/netstat")
SERVER, FOREIGN, UNROUTED = "10.66.0.11", "10.66.0.77", "192.0.2.7"  # the first two are behind s0
MAC = "02:00:00:00:04:01"
OFF, STRICT, LOOSE = 0, 1, 2
ETH_P_IP = 0x0800


class Wires:
    """Two links: `d1` leads to clients, `s1` to real servers."""

    def __init__(self, closing: ExitStack) -> None:
        self._ends = {}
        for name in "d1", "s1":
            end = self._ends[name] = closing.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            end.bind((name, 0))

    def send(self, name: str, frame: bytes) -> None:
        """Send a frame to the director. It has been handled when this returns: a softirq of this CPU does that."""
        self._ends[name].send(links.device(f"{name[0]}0").mac + frame[6:])


@pytest.fixture(scope="module")
def wires(shared: Host) -> Iterator[Wires]:
    with ExitStack() as closing:
        closing.enter_context(on_cpu(min(os.sched_getaffinity(0))))
        ip_batch(veth("s"))
        until_veth_up("s")
        lines = [f"link set s0 address {MAC}", "addr add 10.66.0.1/24 dev s0", f"route add blackhole {UNROUTED}"]
        lines += [f"neigh add {each} lladdr 02:00:00:00:04:11 nud permanent dev s0" for each in (SERVER, FOREIGN)]
        ip_batch(lines)
        attachments.release(shared.director.tables, "s1")
        yield Wires(closing)


@pytest.fixture(autouse=True)
def unfiltered(wires: Wires) -> Iterator[None]:
    yield
    for device in "all", "d0", "s0":
        set_filter(device, OFF)


@pytest.fixture(params=["tc", "generic"])
def host(shared: Host, wires: Wires, request: pytest.FixtureRequest) -> Iterator[Host]:
    mode: Mode = request.param
    with shared.director.batch():
        for device in "d0", "s0":
            attachments.request(shared.director.tables, device, mode)
    yield shared
    shared.director.flush()


def set_filter(device: str, value: int) -> None:
    (CONF / device / "rp_filter").write_text(str(value))


def filtered(host: Host, value: int, service: ServiceKey, method: Method = Method.MASQ) -> None:
    """Set rp_filter of both devices, and add a service: the edit reads it."""
    for device in "d0", "s0":
        set_filter(device, value)
    host.director.add_service(VirtualService(service, "rr"))
    host.director.add_destination(service, Destination(DestinationKey(ip_address(SERVER), service.port), method))


def dropped_by_routing() -> int:
    """Return how many packets rp_filter has dropped in this namespace."""
    names, values = (line.split() for line in re.findall("^TcpExt: (.*)", NETSTAT.read_text(), re.MULTILINE))
    return int(values[names.index("IPReversePathFilter")])


def states(host: Host, service: ServiceKey) -> list[str]:
    return [each.state for each in host.director.connections() if each.virtual_port == service.port]


def established(host: Host, wires: Wires, sport: int, service: ServiceKey) -> None:
    wires.send("d1", tcp("S", sport, service.port))
    wires.send("s1", tcp("SA", service.port, sport, SERVER, CLIENT4))
    for _ in range(3):
        wires.send("d1", tcp("A", sport, service.port))
        wires.send("s1", tcp("A", service.port, sport, SERVER, CLIENT4))
    until(lambda: states(host, service) == ["ESTABLISHED"], lambda: f"{states(host, service)} {host.reasons()}")


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ])
@pytest.mark.parametrize(
    ("value", "source", "passes"),
    [
        *((OFF, source, True) for source in (CLIENT4, FOREIGN, UNROUTED)),
        *((LOOSE, source, source != UNROUTED) for source in (CLIENT4, FOREIGN, UNROUTED)),
        *((STRICT, source, source == CLIENT4) for source in (CLIENT4, FOREIGN, UNROUTED)),
    ],
)
def test_a_source_opens_a_connection_if_rp_filter_lets_it(
    host: Host, wires: Wires, value: int, source: str, passes: bool, method: Method, protocol: Protocol
) -> None:
    service = host.new_key(protocol)
    filtered(host, value, service, method)
    before = dropped_by_routing()
    frame = tcp("S", 5000, service.port, source) if protocol is Protocol.TCP else udp(5000, service.port, source)
    wires.send("d1", frame)
    assert len(states(host, service)) == passes
    assert dropped_by_routing() - before == (not passes)


@pytest.mark.parametrize("flags", ["R", "FA"])
@pytest.mark.parametrize("by_client", [False, True])
@pytest.mark.parametrize("value", [OFF, STRICT])
def test_a_forged_end_from_the_other_side_changes_no_state(
    host: Host, wires: Wires, value: int, by_client: bool, flags: str
) -> None:
    """The source is one end of the connection, the device that of the other."""
    service, sport = host.new_key(), 6000 + value
    filtered(host, value, service)
    established(host, wires, sport, service)
    before = dropped_by_routing()
    if by_client:
        wires.send("d1", tcp(flags, service.port, sport, SERVER, CLIENT4))
    else:
        wires.send("s1", tcp(flags, sport, service.port))
    assert (states(host, service) == ["ESTABLISHED"]) == (value == STRICT)
    assert dropped_by_routing() - before == (value == STRICT)
    if value == STRICT:  # from the right side it does
        wires.send("d1", tcp(flags, sport, service.port))
        assert states(host, service) != ["ESTABLISHED"]


@pytest.mark.parametrize("value", [OFF, STRICT])
def test_an_icmp_error_of_a_forged_source_reaches_no_real_server(
    host: Host, wires: Wires, packets: socket.socket, value: int
) -> None:
    service, sport = host.new_key(), 7000 + value
    filtered(host, value, service)
    established(host, wires, sport, service)
    arrived(packets)
    before = dropped_by_routing()
    about = IP(src=VIP4, dst=CLIENT4) / TCP(sport=service.port, dport=sport, flags="A")
    wires.send("d1", build(ether() / IP(src=FOREIGN, dst=VIP4) / ICMP(type=3, code=1) / about))
    assert arrived(packets) == ([FOREIGN] if value == OFF else [])
    assert dropped_by_routing() - before == (value == STRICT)


def test_every_path_of_a_route_back_is_valid(host: Host, wires: Wires) -> None:
    ip("route", "add", "198.51.100.0/24", "nexthop", "dev", "d0", "nexthop", "dev", "s0")
    try:
        service = host.new_key()
        filtered(host, STRICT, service)
        before = dropped_by_routing()
        for number in range(20):
            wires.send("d1", tcp("S", 5000, service.port, f"198.51.100.{number + 1}"))
        assert len(states(host, service)) == 20
        wires.send("d1", tcp("S", 5000, service.port, UNROUTED))
        assert (len(states(host, service)), dropped_by_routing() - before) == (20, 1)
    finally:
        ip("route", "del", "198.51.100.0/24")


def test_loose_costs_nothing_while_every_source_has_a_route(shared: Host, wires: Wires) -> None:
    set_filter("d0", LOOSE)
    index = links.device("d0").index
    assert rp_filter.current() == {index: rp_filter.LOOSE}
    ip("route", "del", "blackhole", UNROUTED)
    assert rp_filter.current() == {}
    ip("rule", "add", "to", UNROUTED, "prohibit")
    assert rp_filter.current() == {index: rp_filter.LOOSE}
    ip("rule", "del", "to", UNROUTED, "prohibit")
    ip("route", "del", "default")
    assert rp_filter.current() == {index: rp_filter.LOOSE}
    ip("route", "add", "default", "via", ROUTER4)
    ip("route", "add", "blackhole", UNROUTED)


def test_the_greater_value_of_all_and_of_the_device_counts(shared: Host, wires: Wires) -> None:
    def modes() -> tuple[int, int]:
        found = rp_filter.current()
        return found.get(links.device("d0").index, 0), found.get(links.device("s0").index, 0)

    set_filter("d0", STRICT)
    set_filter("s0", OFF)
    assert modes() == (rp_filter.STRICT, rp_filter.UNCHECKED)
    set_filter("all", LOOSE)
    assert modes() == (rp_filter.LOOSE, rp_filter.LOOSE)
    set_filter("all", STRICT)
    assert modes() == (rp_filter.STRICT, rp_filter.STRICT)


# What drops in place of netfilter's rules before IPVS (docs/differences.md).


@pytest.fixture
def at_tc(shared: Host, wires: Wires) -> Iterator[Host]:
    with shared.director.batch():
        for device in "d0", "s0":
            attachments.request(shared.director.tables, device, "tc")
    yield shared
    shared.director.flush()


@pytest.fixture
def packets(wires: Wires) -> Iterator[socket.socket]:
    """Return what real servers receive."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP)) as there:
        there.bind(("s1", ETH_P_IP))
        there.setblocking(False)
        yield there


def arrived(there: socket.socket) -> list[str]:
    """Return the sources of the packets that came to real servers."""
    found = []
    with suppress(BlockingIOError):
        while True:
            frame, (*_, kind, _, _) = there.recvfrom(2048)
            if kind != socket.PACKET_OUTGOING:
                found.append(socket.inet_ntoa(frame[26:30]))
    return found


def nft_count() -> int:
    """Return how many packets the only rule has dropped."""
    text = subprocess.run(["nft", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
    return int(re.findall(r"counter packets (\d+)", text)[0])


@pytest.mark.skipif(not shutil.which("nft"), reason="needs nft")
@pytest.mark.parametrize(("hook", "device"), [("ingress", "d0"), ("egress", "s0")])
def test_the_netdev_hooks_of_nftables_see_no_forwarded_packet(
    at_tc: Host, wires: Wires, packets: socket.socket, hook: str, device: str
) -> None:
    """The kernel runs the one at ingress behind TC, and skips the one at egress for packets that TC redirects."""
    service = at_tc.new_key()
    filtered(at_tc, OFF, service, Method.ROUTE)
    chain = f"chain netdev f c {{ type filter hook {hook} device {device} priority -500; }}"
    rules = f"add table netdev f\nadd {chain}\nadd rule netdev f c ip saddr {FOREIGN} counter drop\n"
    subprocess.run(["nft", "-f", "-"], input=rules, check=True, text=True)
    try:
        wires.send("d1", tcp("S", 5000, service.port, FOREIGN))
        wires.send("d1", tcp("S", 5000, service.port, CLIENT4))
        assert arrived(packets) == [FOREIGN, CLIENT4]
        assert nft_count() == 0
    finally:
        subprocess.run(["nft", "delete", "table", "netdev", "f"], check=True)


def test_a_filter_of_tc_with_a_smaller_preference_drops_first(
    at_tc: Host, wires: Wires, packets: socket.socket
) -> None:
    """As `tc filter add dev d0 ingress pref 1 protocol ip u32 match ip src ADDRESS action drop`, in eBPF."""
    service = at_tc.new_key()
    filtered(at_tc, OFF, service, Method.ROUTE)
    foreign = int.from_bytes(socket.inet_aton(FOREIGN), "little", signed=True)
    code = b"".join(
        struct.pack("<BBhi", *line)
        for line in (
            (0xBF, 0x16, 0, 0),  # r6 = r1
            (0xB7, 0, 0, -1),  # r0 = TC_ACT_UNSPEC
            (0x61, 0x62, 76, 0),  # r2 = skb->data
            (0x61, 0x63, 80, 0),  # r3 = skb->data_end
            (0xBF, 0x24, 0, 0),  # r4 = r2
            (0x07, 4, 0, 34),  # r4 += 34
            (0x2D, 0x34, 3, 0),  # if r4 > r3: exit
            (0x61, 0x25, 26, 0),  # r5 = saddr
            (0x56, 5, 1, foreign),  # if w5 != foreign: exit
            (0xB7, 0, 0, 2),  # r0 = TC_ACT_SHOT
            (0x95, 0, 0, 0),
        )
    )
    program = kernel.load_instructions(kernel.PROG_TYPE_SCHED_CLS, "theirs", code)
    target = struct.pack("=BxxxiIII", 0, links.device("d0").index, 0, tc.INGRESS, 1 << 16 | 0x0300)
    options = codec.nested(2, codec.u32(6, program), codec.text(7, "theirs"), codec.u32(8, 1))
    with codec.Netlink() as link:
        link.request(44, target + codec.text(1, "bpf") + options, codec.CREATE | codec.EXCL)
        os.close(program)
        try:
            wires.send("d1", tcp("S", 5000, service.port, FOREIGN))
            wires.send("d1", tcp("S", 5000, service.port, CLIENT4))
            assert arrived(packets) == [CLIENT4]
        finally:
            link.request(45, target + codec.text(1, "bpf"))
