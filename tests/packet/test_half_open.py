"""A SYN flood: half-open connections give way to others, and established ones are never ended."""

from __future__ import annotations

import itertools
import os
import struct
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from unittest import mock

import pytest

from pylvs.bpf.maps import ArrayMap
from pylvs.dataplane import load
from pylvs.dataplane.devices import attachments
from pylvs.model.service import Destination, DestinationKey, Method, ServiceFlag, ServiceKey, VirtualService
from pylvs.reference.packet import ETHER_BYTES, checksum
from tests.packet.frames import CLIENT4, CLIENT6, parsed, tcp
from tests.packet.host import HOOKS, SENT, VIP4, VIP6, Host, new_host, on_cpu, server4, server6

CAPACITY = 4096
METHODS = (Method.ROUTE, Method.MASQ, Method.TUNNEL)
HOLDING = 200  # established connections


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with new_host(connections=CAPACITY, expires=False) as made, on_cpu(min(os.sched_getaffinity(0))):
        yield made


_clients = itertools.count(1)  # numbers of client addresses, each used once


def packet(flags: str, service: ServiceKey, sport: int) -> bytes:
    client = CLIENT4 if service.address.version == 4 else CLIENT6
    return tcp(flags, source=client, target=str(service.address), sport=sport, dport=service.port)


def flood(host: Host, service: ServiceKey, count: int, hook: str = "xdp") -> None:
    """Receive SYNs, each of another client."""
    frame, version = bytearray(packet("S", service, 1024)), service.address.version
    saddr, check = (ETHER_BYTES + 12, ETHER_BYTES + 10) if version == 4 else (ETHER_BYTES + 20, 0)
    for number in itertools.islice(_clients, count):
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


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_flood_of_ten_times_the_table_leaves_established_connections_and_space(
    host: Host, method: Method, family: int, hook: str
) -> None:
    service, full = serve(host, family, method), host.reason("TABLE_FULL_STATELESS")
    for sport in range(2000, 2000 + HOLDING):
        host.run(packet("S", service, sport), hook)
        host.run(packet("A", service, sport), hook)
    flood(host, service, 10 * CAPACITY, hook)
    assert states(host, service)["ESTABLISHED"] == HOLDING
    assert host.pool("used") <= CAPACITY * 7 // 8  # with the half-open ones of several cases
    assert host.reason("TABLE_FULL_STATELESS") == full
    assert host.reason("TABLE_FULL_DROPPED") == 0


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_handshakes_complete_during_a_flood(host: Host, method: Method) -> None:
    service = serve(host, 4, method)
    flood(host, service, CAPACITY)
    for sport in range(3000, 3050):
        first = host.forwarded(packet("S", service, sport))
        flood(host, service, CAPACITY // 16)
        second = host.forwarded(packet("A", service, sport))
        assert parsed(first).dst == parsed(second).dst
    assert states(host, service)["ESTABLISHED"] == 50


@pytest.mark.parametrize("family", [4, 6])
def test_another_service_keeps_its_half_open_connections(host: Host, family: int) -> None:
    attacked, quiet = serve(host, family, Method.ROUTE), serve(host, family, Method.ROUTE)
    flood(host, attacked, CAPACITY)
    for sport in range(3000, 3020):
        host.run(packet("S", quiet, sport))
    flood(host, attacked, 2 * CAPACITY)
    assert states(host, quiet) == {"SYN_RECV": 20}


def test_templates_of_unfinished_handshakes_end_with_them(host: Host) -> None:
    service = serve(host, 4, Method.ROUTE, ServiceFlag.PERSISTENT)
    host.run(packet("S", service, 3000))
    host.run(packet("A", service, 3000))
    for _ in range(16):
        flood(host, service, CAPACITY // 8)
        host.expiry.run(host.director)
    found = states(host, service)
    assert found["ESTABLISHED"] == 1
    assert found["SYN_RECV"] > 0
    assert found["template"] == found["SYN_RECV"] + 1


def test_no_handshake_is_ended_in_a_table_less_than_half_full() -> None:
    with new_host(connections=CAPACITY, expires=False) as host, on_cpu(min(os.sched_getaffinity(0))):
        service = serve(host, 4, Method.ROUTE)
        flood(host, service, CAPACITY // 2 - 64)
        assert states(host, service) == {"SYN_RECV": CAPACITY // 2 - 64}
        assert host.reason("HALF_OPEN_ENDED") == 0
        flood(host, service, CAPACITY)
        assert host.reason("HALF_OPEN_ENDED") > 0


def test_half_open_connections_give_way_in_a_nearly_full_table() -> None:
    with new_host(connections=CAPACITY, expires=False) as host, on_cpu(min(os.sched_getaffinity(0))):
        service, other = serve(host, 4, Method.MASQ), serve(host, 4, Method.ROUTE)
        flood(host, service, CAPACITY)
        sport = 2000
        while host.pool("used") < CAPACITY * 15 // 16:
            host.run(packet("S", other, sport))
            host.run(packet("A", other, sport))
            sport += 1
        for number in range(50):
            host.run(packet("S", service, 5000 + number))
            host.run(packet("A", service, 5000 + number))
        assert states(host, service)["ESTABLISHED"] == 50
        assert host.reason("TABLE_FULL_DROPPED") == 0


def test_programs_loaded_after_a_hotplug_use_the_rings_of_the_table(tmp_path: Path) -> None:
    last = max(os.sched_getaffinity(0))
    (tmp_path / "present").write_text("0-63\n")
    with new_host(connections=CAPACITY, expires=False, mode="tc") as host, on_cpu(last):
        with mock.patch.object(load, "_PRESENT_CPUS", str(tmp_path / "present")):
            assert load.half_open_rings() == 64
            with host.director.batch():  # loads the programs of XDP
                attachments.request(host.director.tables, "d0", "generic")
        service = host.new_key()
        host.serve(service, 1)
        for number, hook in enumerate(("tc", "xdp")):
            assert host.run(packet("S", service, 2000 + number), hook).verdict in SENT[hook]
        with ArrayMap.open(host.director.tables.path("half_opens")) as rings:
            first = load.half_opens_each(CAPACITY, load.half_open_rings()) * last
            slots = [struct.unpack_from("<I", rings.get(first + number) or b"")[0] for number in range(2)]
        assert all(slots), "both are in the ring of this CPU"
