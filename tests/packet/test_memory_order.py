"""The order in which other CPUs see what Python writes.

This machine's CPUs may keep more order than others. So the tests look for the barriers: around the store that
publishes, with nothing but that store between them.
"""

from __future__ import annotations

import multiprocessing
import os
import re
from collections.abc import Callable
from ipaddress import IPv4Address
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

import pytest

from pylvs.bpf import abi, maps
from pylvs.dataplane import vip_roles
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.tables import MASK32, Tables, Versions
from pylvs.dataplane.vip_roles import VipRoles
from pylvs.model.errors import Unsupported
from pylvs.model.service import Destination, DestinationKey, Method, ServiceKey, Timeouts, VirtualService
from pylvs.system import syscalls
from tests.packet.host import VIP4, Host, server4

Edit = Callable[[BpfDirector, ServiceKey], object]
ELEMENTS = 64  # of each array are compared


def server(number: int, port: int) -> DestinationKey:
    return DestinationKey(IPv4Address(server4(number)), port)


EDITS: dict[str, Edit] = {
    "another scheduler": lambda director, key: director.edit_service(VirtualService(key, "wlc")),
    "another weight": lambda director, key: director.edit_destination(key, Destination(server(1, key.port), weight=7)),
    "timeouts": lambda director, _: director.set_timeouts(Timeouts(tcp_s=77)),
    "one server less": lambda director, key: director.delete_destination(key, server(1, key.port)),
    "one server more": lambda director, key: director.add_destination(
        key, Destination(server(2, key.port), Method.MASQ)
    ),
    "a service less": lambda director, key: director.delete_service(key),
}


def memory(tables: Tables) -> dict[str, bytes]:
    """Return what packets read of an edit in shared memory."""
    arrays = {"members": tables.members}
    arrays |= {name: getattr(tables, name).array for name in ("root", "services", "destinations")}
    return {name: bytes(array.memory[: ELEMENTS * array.stride]) for name, array in arrays.items()}


def barriers(tables: Tables, act: Callable[[], object]) -> list[dict[str, bytes]]:
    """Record what packets could see at each barrier."""
    seen: list[dict[str, bytes]] = []
    with mock.patch.object(maps, "full_barrier", side_effect=lambda: seen.append(memory(tables))):
        act()
    return seen


def published(tables: Tables, field: str, act: Callable[[], object]) -> tuple[int, int]:
    """Return a field of the root before and after the store that publishes; all else must be stored before it."""
    before, after = barriers(tables, act)
    begin = tables.root.codec.offset(field)
    old, new = (int.from_bytes(each["root"][begin : begin + 8], "little") for each in (before, after))
    after["root"] = after["root"][:begin] + before["root"][begin : begin + 8] + after["root"][begin + 8 :]
    assert after == before, "something else was written between the barriers"
    return old, new


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_published_by_one_store_between_barriers(director_host: Host, name: str) -> None:
    service, director = director_host.new_key(), director_host.director
    director_host.serve(service, 1)
    old, new = published(director.tables, "live", lambda: EDITS[name](director, service))
    assert new == old + 1


def test_a_new_service_is_published_by_one_store(director_host: Host) -> None:
    service, director = director_host.new_key(), director_host.director

    def come() -> None:
        with director.batch():
            director_host.serve(service, 3)

    old, new = published(director.tables, "live", come)
    assert new == old + 1


def test_roles_are_published_by_one_store(director_host: Host) -> None:
    tables = director_host.director.tables
    addresses = frozenset({IPv4Address(VIP4)})
    assert published(tables, "standby", lambda: vip_roles.write(tables, VipRoles(standby=addresses))) == (0, 1)
    assert published(tables, "standby", lambda: vip_roles.write(tables, VipRoles(held=addresses))) == (1, 0)
    vip_roles.write(tables, VipRoles())


@pytest.mark.parametrize("machine", ["aarch64", "riscv64"])
def test_without_a_barrier_nothing_is_published_where_it_is_needed(director_host: Host, machine: str) -> None:
    service, director = director_host.new_key(), director_host.director
    director_host.serve(service, 1)
    with (
        mock.patch.object(os, "uname", return_value=os.uname_result(("", "", "", "", machine))),
        mock.patch.object(syscalls, "_SYS_MEMBARRIER_GENERIC", -1),
        pytest.raises(Unsupported, match="membarrier"),
    ):
        director.edit_service(VirtualService(service, "wlc"))
    assert director.service(service).service.scheduler == "rr"
    director.edit_service(VirtualService(service, "wlc"))
    assert director.service(service).service.scheduler == "wlc"


def test_this_kernel_has_the_barrier() -> None:
    with mock.patch.object(maps, "_ORDERED", ()):
        maps.full_barrier()


def _watch(path: str, index: int, allowed: set[int], peer: Connection) -> None:
    """Read a word until the peer sends something; send it the values that were not allowed."""
    strange: set[int] = set()
    with maps.MmapArray.open(path) as array:
        words = array.memory.cast("I")
        peer.send("ready")
        while not peer.poll():
            strange |= {words[index] for _ in range(10_000)} - allowed
    peer.send(strange)


def test_no_cpu_sees_half_a_generation(director_host: Host) -> None:
    """Written by bytes, another generation would appear, and a half that is not in force would count."""
    service, tables = director_host.new_key(), director_host.director.tables
    director_host.serve(service, 1)
    (slot,) = (slot for slot, _ in director_host.director.reader.versions.services(Versions(tables).live))
    versions = Versions(tables)
    fields, live = versions.version(slot), versions.live
    generations = [live + 0x01010101 & MASK32, live + 0x02020202 & MASK32]
    versions.write_version(slot, generations[0], fields)
    one, other = versions._generations(slot)
    half = (one, other).index(generations[0])
    index = (slot * tables.services.array.stride + half * abi.struct("service_version").size) // 4
    index += abi.struct("service_version").offset("generation") // 4
    mine, theirs = multiprocessing.Pipe()
    watcher = multiprocessing.get_context("fork").Process(
        target=_watch, args=(tables.path("services"), index, set(generations), theirs), daemon=True
    )
    watcher.start()
    assert mine.recv() == "ready"
    for number in range(20_000):
        versions.write_version(slot, generations[number & 1], fields)
    mine.send("stop")
    assert mine.recv() == set()
    watcher.join()
    versions.withdraw_version(slot, live)


def test_the_packet_path_orders_its_loads_by_dependencies() -> None:
    """The object contains AFTER of bpf/lib/bpf.h: a register and 0, which is added to a pointer."""
    content = (Path(abi.OBJECTS) / "director.bpf.o").read_bytes()
    assert len(re.findall(rb"\x57[\x00-\x09]\0\0\0\0\0\0\x0f[\x00-\x99]\0\0\0\0\0\0", content)) > 50
    constant = re.findall(rb"[\xb4\xb7]([\x00-\x09])\0\0\0\0\0\0\x57\1\0\0\0\0\0\0", content)
    assert not constant, "the compiler knows the value, so nothing depends on it"
