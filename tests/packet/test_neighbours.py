"""XDP lets the kernel send one packet to each neighbour every 16 seconds.

Otherwise the kernel would not know that the neighbour is in use, and would never ask for a changed MAC address.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import pytest

from pylvs.bpf import abi, maps
from pylvs.dataplane import load
from pylvs.model.service import Method
from tests.packet.frames import CLIENT4, CLIENT6, tcp
from tests.packet.host import SENT, VIP4, VIP6, Host, new_host, on_cpu, server4, server6

CLIENT, VIP, SERVER = {4: CLIENT4, 6: CLIENT6}, {4: VIP4, 6: VIP6}, {4: server4(1), 6: server6(1)}
PORT, SPORT = 8080, 4000
STAMP = struct.Struct("<I")
STAMPS = {  # of cached lookups: map, structure, field
    "percpu_destinations": ("percpu_destination", "hop.stamp"),
    "client_hops": ("client_hop", "hop.stamp"),
    "client_routes": ("client_route", "stamp"),
    "client_routes6": ("client_route6", "stamp"),
}


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    with new_host(expires=False, confirms=True) as made:
        yield made


def age(host: Host) -> None:
    """Make all cached lookups a period older."""
    earlier = load.confirm_ticks()
    for name, (structure, field) in STAMPS.items():
        codec = abi.struct(structure)
        with maps.PerCpuArray.open(host.director.tables.path(name)) as found:
            for index in range(found.max_entries):
                raw = bytearray(found.get(index) or b"")
                for at in range(codec.offset(field), len(raw), codec.size):
                    (stamp,) = STAMP.unpack_from(raw, at)
                    if stamp:
                        STAMP.pack_into(raw, at, stamp - earlier & 0xFFFFFFFF)
                found.put(index, bytes(raw))


def assert_confirmed(host: Host, frame: bytes) -> None:
    """Assert that TC sends the first frame of the next period, and XDP those after it."""
    host.forwarded(frame)
    age(host)
    hook, done = host.receive(frame)
    assert (hook, done.verdict in SENT["tc"]) == ("tc", True)
    host.forwarded(frame)


@pytest.mark.parametrize("method", [Method.ROUTE, Method.TUNNEL, Method.MASQ], ids=lambda method: method.name)
@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_sends_a_request_of_each_period(director_host: Host, family: int, method: Method) -> None:
    service = director_host.new_key(vip=VIP[family])
    director_host.serve(service, 1, method)
    with on_cpu(min(os.sched_getaffinity(0))):
        director_host.forwarded(tcp("S", SPORT, service.port, CLIENT[family], VIP[family]), "tc")
        frame = tcp("A", SPORT, service.port, CLIENT[family], VIP[family])
        assert_confirmed(director_host, frame)


@pytest.mark.parametrize("family", [4, 6])
def test_the_kernel_sends_a_reply_of_each_period(director_host: Host, family: int) -> None:
    """A client's router may get another MAC address, too."""
    service = director_host.new_key(vip=VIP[family])
    director_host.serve(service, 1, Method.MASQ, port=PORT)
    with on_cpu(min(os.sched_getaffinity(0))):
        director_host.forwarded(tcp("S", SPORT, service.port, CLIENT[family], VIP[family]), "tc")
        for flags in "SA", "A":
            director_host.forwarded(tcp(flags, PORT, SPORT, SERVER[family], CLIENT[family]), "tc")
        frame = tcp("A", PORT, SPORT, SERVER[family], CLIENT[family])
        assert_confirmed(director_host, frame)
