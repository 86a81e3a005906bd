"""The timer clears what lblc and lblcr remember in short runs."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from unittest import mock

import pytest
from scapy.utils import checksum

from pylvs.bpf import abi, kernel
from pylvs.bpf.libbpf import open_pin
from pylvs.dataplane import load, scheduler_tables
from pylvs.dataplane.destinations import DestinationSlots
from pylvs.dataplane.state import CACHE_SWEEP
from pylvs.model.service import Destination, DestinationKey, ServiceFlag, ServiceKey, VirtualService
from tests.packet.frames import udp
from tests.packet.host import PASSED, Host, ip, new_host, server4, stop_timer

MOST = 24576  # entries of a service (IPVS-SEMANTICS 3.9)
ADDRESSES = 0x0A800000
MARKED = 0x10  # a bit of all marks here: policy routing delivers such packets to this host


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    """Return a host whose timer does not clear caches, which it would do once a minute; the tests do."""
    with new_host(expires=False, recycled=True) as made:
        stop_timer(made.director, "cache_sweepers")
        yield made


@pytest.fixture(autouse=True)
def _marked_is_local(director_host: Host) -> Iterator[None]:
    rule = ("fwmark", f"{MARKED}/{MARKED}", "lookup", "100")
    ip("rule", "add", *rule)
    ip("route", "add", "local", "default", "dev", "lo", "table", "100")
    yield
    ip("rule", "del", *rule)
    ip("route", "flush", "table", "100")


def serve_mark(host: Host, mark: int, scheduler: str, servers: int = 2) -> ServiceKey:
    """Add a service of a mark for one-packet connections."""
    service = ServiceKey.of_mark(MARKED | mark)
    with host.director.batch():
        host.director.add_service(VirtualService(service, scheduler, ServiceFlag.ONE_PACKET))
        for number in range(1, servers + 1):
            host.director.add_destination(service, Destination(DestinationKey(ip_address(server4(number)), 0)))
    return service


def ask_for(host: Host, mark: int, first: int, count: int) -> None:
    """Send a marked packet to each of this many addresses."""
    frame = bytearray(udp())
    frame[40:42] = bytes(2)  # without a checksum of UDP
    for address in range(ADDRESSES + first, ADDRESSES + first + count):
        frame[24:26] = bytes(2)
        frame[30:34] = address.to_bytes(4, "big")
        frame[24:26] = checksum(bytes(frame[14:34])).to_bytes(2, "big")
        assert host.run(bytes(frame), "tc", MARKED | mark).verdict != PASSED["tc"]


def remembered(host: Host, service: ServiceKey) -> int:
    """Return how many cache entries refer to the service's servers, including deleted ones."""
    find = DestinationSlots(host.director.tables).find
    slots = [find(service, DestinationKey(ip_address(server4(number)), 0)) for number in (1, 2)]
    return sum(host.director.tables.destinations.get(slot, "cached") for slot in slots if slot is not None)


@contextmanager
def sweep_program(host: Host) -> Iterator[int]:
    program = open_pin(host.director.state.loaded_path(CACHE_SWEEP))
    assert program is not None
    try:
        yield program
    finally:
        os.close(program)


def test_the_cache_of_a_service_is_cleared_in_several_runs_and_other_caches_stay(director_host: Host) -> None:
    host, table = director_host, director_host.director.tables.cache
    large, small = serve_mark(host, 1, "lblc"), serve_mark(host, 2, "lblcr")
    ask_for(host, 2, 0, 40)
    ask_for(host, 1, 0, MOST + 100)
    ask_for(host, 2, 40, 60)
    assert (len(table), remembered(host, large), remembered(host, small)) == (MOST + 100, MOST, 100)
    with mock.patch.object(scheduler_tables, "sweep"):
        host.director.delete_service(large)
    left = [len(table)]
    with sweep_program(host) as program:
        while kernel.run_program(program, bytes(64)).verdict:
            left.append(len(table))
            assert remembered(host, large) == left[-1] - 100
    assert len(left) > 4
    assert sorted(left, reverse=True) == left
    assert (len(table), remembered(host, large), remembered(host, small)) == (100, 0, 100)
    ask_for(host, 2, 0, 100)
    assert (len(table), remembered(host, small)) == (100, 100)
    host.director.delete_service(small)
    assert (len(table), remembered(host, small)) == (0, 0)


def test_a_change_of_scheduler_and_back_gives_a_service_all_its_entries_again(director_host: Host) -> None:
    host, table = director_host, director_host.director.tables.cache
    service = serve_mark(host, 3, "lblc")
    for first in range(0, 3 * MOST, MOST):
        ask_for(host, 3, first, MOST + 10)
        assert (len(table), remembered(host, service)) == (MOST, MOST)
        for scheduler in "wlc", "lblc":
            host.director.edit_service(VirtualService(service, scheduler, ServiceFlag.ONE_PACKET))
        assert (len(table), remembered(host, service)) == (0, 0)


def test_only_expired_entries_are_removed(director_host: Host) -> None:
    host, tables = director_host, director_host.director.tables
    service = serve_mark(host, 4, "lblc")
    host.director.change_setting("lblc_expiration", 3600)
    ask_for(host, 4, 0, 6000)
    codec, hour = abi.struct("cached"), round(3600 * load.ticks_per_second())
    for key, value in list(tables.cache.items()):
        if key[11] % 3:
            raw = bytearray(value)
            codec.pack_into(raw, 0, {"used": codec.unpack_from(raw, 0)["used"] - 2 * hour & 0xFFFFFFFF})
            tables.cache.put(key, bytes(raw))
    kept = {key for key, _ in tables.cache.items() if not key[11] % 3}
    slot = host.director.slot(service)
    assert slot is not None
    versions = host.director.reader.versions
    for half in 0, 1:  # its scheduler began three hours ago
        offset = versions._half_offset(slot, half) + abi.struct("service_version").offset("epoch_tick")
        struct.pack_into(
            "<I", tables.services.array.memory, offset, load.clock(host.director.state) - 3 * hour & 0xFFFFFFFF
        )
    scheduler_tables.sweep(host.director.state)
    assert {key for key, _ in tables.cache.items()} == kept
    assert remembered(host, service) == len(kept)
