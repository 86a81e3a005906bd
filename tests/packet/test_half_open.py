"""A SYN flood: half-open connections take a bounded share of the table, and established ones are never ended."""

from __future__ import annotations

import itertools
import os
import struct
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pylvs.dataplane import load
from pylvs.model.service import Destination, DestinationKey, Method, ServiceFlag, ServiceKey, VirtualService
from pylvs.reference.packet import ETHER_BYTES, checksum
from tests.packet.frames import CLIENT4, CLIENT6, parsed, tcp
from tests.packet.host import HOOKS, VIP4, VIP6, Host, new_host, on_cpu, server4, server6

CAPACITY = 4096
METHODS = (Method.ROUTE, Method.MASQ, Method.TUNNEL)
HOLDING = 200  # established connections


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with new_host(connections=CAPACITY, expires=False) as made, on_cpu(min(os.sched_getaffinity(0))):
        yield made


_strangers = itertools.count(1)  # numbers of client addresses, each used once


def packet(flags: str, service: ServiceKey, sport: int) -> bytes:
    client = CLIENT4 if service.address.version == 4 else CLIENT6
    return tcp(flags, source=client, target=str(service.address), sport=sport, dport=service.port)


def flood(host: Host, service: ServiceKey, count: int, hook: str = "xdp") -> None:
    """Receive SYNs, each of another client."""
    frame, version = bytearray(packet("S", service, 1024)), service.address.version
    saddr, check = (ETHER_BYTES + 12, ETHER_BYTES + 10) if version == 4 else (ETHER_BYTES + 20, 0)
    for number in itertools.islice(_strangers, count):
        struct.pack_into("!I", frame, saddr, (198 << 24 | 18 << 16) + number if version == 4 else number)
        if check:
            struct.pack_into("!H", frame, check, 0)
            struct.pack_into("!H", frame, check, checksum(frame[ETHER_BYTES : ETHER_BYTES + 20]))
        host.run(bytes(frame), hook)


def serve(host: Host, family: int, method: Method, flags: ServiceFlag = ServiceFlag(0)) -> ServiceKey:
    service = host.new_key(vip=VIP4 if family == 4 else VIP6)
    host.director.add_service(VirtualService(service, "rr", flags, timeout_s=300))
    for number in 1, 2, 3:
        address = ip_address(server4(number) if family == 4 else server6(number))
        host.director.add_destination(service, Destination(DestinationKey(address, service.port), method))
    return service


def states(host: Host, service: ServiceKey) -> Counter[str]:
    found = [each for each in host.director.connections() if each.virtual_port == service.port]
    return Counter(each.state if each.client_port else "template" for each in found)


def ring() -> int:
    return load.half_opens_each(CAPACITY)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_flood_of_ten_times_the_table_leaves_established_connections_and_room(
    host: Host, method: Method, family: int, hook: str
) -> None:
    service, full = serve(host, family, method), host.reason("TABLE_FULL_STATELESS")
    for sport in range(2000, 2000 + HOLDING):
        host.run(packet("S", service, sport), hook)
        host.run(packet("A", service, sport), hook)
    before = host.pool("used")
    flood(host, service, 10 * CAPACITY, hook)
    found = states(host, service)
    assert found["ESTABLISHED"] == HOLDING
    assert 0 < found["SYN_RECV"] <= ring()
    assert host.pool("used") <= before + ring() + 32  # a CPU reserves some for itself
    assert host.reason("TABLE_FULL_STATELESS") == full
    assert host.reason("TABLE_FULL_DROPPED") == 0


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_handshakes_complete_during_a_flood(host: Host, method: Method) -> None:
    service = serve(host, 4, method)
    flood(host, service, ring())
    for sport in range(3000, 3050):
        first = host.forwarded(packet("S", service, sport))
        flood(host, service, ring() // 2)
        second = host.forwarded(packet("A", service, sport))
        assert parsed(first).dst == parsed(second).dst
    assert states(host, service)["ESTABLISHED"] == 50


@pytest.mark.parametrize("family", [4, 6])
def test_another_service_keeps_its_half_open_connections(host: Host, family: int) -> None:
    attacked, quiet = serve(host, family, Method.ROUTE), serve(host, family, Method.ROUTE)
    flood(host, attacked, 2 * ring())
    for sport in range(3000, 3020):
        host.run(packet("S", quiet, sport))
    flood(host, attacked, 4 * ring())
    assert states(host, quiet) == {"SYN_RECV": 20}
    assert states(host, attacked)["SYN_RECV"] <= ring()


def test_templates_of_unfinished_handshakes_end_with_them(host: Host) -> None:
    service = serve(host, 4, Method.ROUTE, ServiceFlag.PERSISTENT)
    host.run(packet("S", service, 3000))
    host.run(packet("A", service, 3000))
    flood(host, service, 4 * ring())
    host.expiry.run(host.director)
    found = states(host, service)
    assert found["ESTABLISHED"] == 1
    assert found["SYN_RECV"] <= ring()
    assert found["template"] <= ring() + 1


def test_no_handshake_is_ended_while_the_share_suffices() -> None:
    with new_host(connections=CAPACITY, expires=False) as host, on_cpu(min(os.sched_getaffinity(0))):
        service = serve(host, 4, Method.ROUTE)
        flood(host, service, ring())
        assert states(host, service) == {"SYN_RECV": ring()}
        assert host.reason("HALF_OPEN_ENDED") == 0
        flood(host, service, 1)
        assert states(host, service) == {"SYN_RECV": ring()}
        assert host.reason("HALF_OPEN_ENDED") == 1
