"""Rate limits of ICMP errors that the director sends."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from pylvs.bpf import maps
from pylvs.model.service import Method, ServiceKey
from tests.packet.frames import CLIENT4, build, ether, tcp
from tests.packet.host import PASSED, SENT, VIP4, VIP6, Host, on_cpu, server4

SOME = 4  # clients, or servers: each may share a window, by its hash, with one whose errors are suppressed
RATE = 8  # errors of a CPU in a second
_numbers = itertools.count(1)
FRAMES = 100_000  # at most, until errors are suppressed: slow machines send only few in a second
FAMILIES = [pytest.param(4, id="IPv4"), pytest.param(6, id="IPv6")]


@pytest.fixture
def host(director_host: Host) -> Iterator[Host]:
    root = director_host.director.tables.root
    before = root.get(0, "settings.icmp_per_second")
    with maps.PerCpuArray.open(director_host.director.tables.path("limiters")) as limiters:
        limiters.fill(0, bytes(limiters.value_size))  # of a test in this second
    root.set(0, "settings.icmp_per_second", RATE)
    with on_cpu(min(os.sched_getaffinity(0))):
        yield director_host
    root.set(0, "settings.icmp_per_second", before)


def new_clients(family: int) -> list[str]:
    """Return addresses of clients that no earlier test had."""
    return [f"198.18.1.{next(_numbers)}" if family == 4 else f"2001:db8:7::{next(_numbers)}" for _ in range(SOME)]


def serve(host: Host, family: int) -> ServiceKey:
    service = host.new_key(vip=VIP4 if family == 4 else VIP6)
    host.serve(service, 1, Method.TUNNEL)
    return service


def expired(service: ServiceKey, client: str) -> bytes:
    """Return a frame that is answered with "time exceeded"."""
    return tcp(dport=service.port, source=client, target=str(service.address), ttl=1)


def too_long(service: ServiceKey, client: str) -> bytes:
    """Return a frame that is too long for the tunnel."""
    six = service.address.version == 6
    head = IPv6(src=client, dst=VIP6) if six else IP(src=client, dst=VIP4, flags="DF")
    return build(ether() / head / TCP(sport=4000, dport=service.port) / bytes(1500 - len(head) - 20))


def is_sent(host: Host, frame: bytes) -> bool:
    return host.run(frame, "tc").verdict in SENT["tc"]


def exhaust(host: Host, frame: bytes) -> None:
    """Send a frame until its error is suppressed."""
    before = host.reason("ICMP_RATE_LIMITED")
    for _ in range(FRAMES):
        if not is_sent(host, frame):
            break
    assert host.reason("ICMP_RATE_LIMITED") == before + 1


@pytest.mark.parametrize("family", FAMILIES)
def test_other_errors_do_not_suppress_the_path_mtu(host: Host, family: int) -> None:
    service = serve(host, family)
    clients = new_clients(family)
    for client in clients:
        exhaust(host, expired(service, client))
    assert any(is_sent(host, too_long(service, client)) for client in clients)
    assert host.reason("TOO_BIG")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("frame", [expired, too_long])
def test_errors_to_one_client_do_not_suppress_those_to_others(
    host: Host, family: int, frame: Callable[[ServiceKey, str], bytes]
) -> None:
    service = serve(host, family)
    first, *others = new_clients(family)
    exhaust(host, frame(service, first))
    assert any(is_sent(host, frame(service, other)) for other in others)


def test_packets_of_other_ports_do_not_suppress_errors_to_nat_servers(host: Host) -> None:
    host.serve(host.new_key(), SOME, Method.MASQ, port=8080)
    host.director.change_setting("nat_icmp_send", 1)
    servers = [server4(number) for number in range(1, SOME + 1)]
    try:
        for server in servers:
            for sport in range(9000, 9000 + 2 * RATE):
                assert host.run(tcp("A", sport, 4999, server, CLIENT4), "tc").verdict == PASSED["tc"]
        assert any(is_sent(host, tcp("A", 8080, 4999, server, CLIENT4)) for server in servers)
        exhaust(host, tcp("A", 8080, 4999, server4(1), CLIENT4))
    finally:
        host.director.change_setting("nat_icmp_send", 0)
