"""Edits are atomic: after a kill at any instant, the table is the one before or the one after, and usable."""

from __future__ import annotations

import itertools
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from scapy.layers.inet import ICMP

import pylvs.dataplane
from pylvs.bpf import abi
from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import State
from pylvs.dataplane.transaction import NatServers
from pylvs.model.director import Director
from pylvs.model.errors import PylvsError
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceChange,
    ServiceKey,
    Timeouts,
    VirtualService,
)
from tests.memory import MemoryDirector
from tests.packet.frames import parsed, tcp
from tests.packet.host import PASSED, SENT, Host, key, new_host, server4

Edit = Callable[[Director], object]
View = tuple[Any, ...]
SERVICES = [key(port) for port in (80, 81, 82)] + [
    ServiceKey.of_mark(7),
    key(83, Protocol.UDP),
    key(84, vip="fd77::100"),
]
DATAPLANE = str(Path(pylvs.dataplane.__file__).parent)


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    with new_host(connections=1 << 15, expires=False) as made:
        yield made


@pytest.fixture
def host(shared: Host) -> Host:
    """Return the file's host with an empty table; slots of earlier tests wait to be freed, as after any edits."""
    shared.director.flush()
    shared.director.set_timeouts(Timeouts())
    return shared


@pytest.fixture
def fresh() -> Iterator[Host]:
    """Return a host without any edit, because the work of a recovery grows with all used slots."""
    with new_host(connections=1024, expires=False) as made:
        yield made


def view(director: Director) -> View:
    """Return a listing without what packets count."""
    rows = sorted(director.services(), key=lambda row: str(row.service.key))
    services = [replace(row.service, netmask=row.service.mask) for row in rows]
    lists = [tuple(each.destination for each in row.destinations) for row in rows]
    return tuple(zip(services, lists, strict=True)), director.timeouts()


def views_of_edits(start: View, edits: Sequence[Edit]) -> list[View]:
    """Return the table before the first edit and after each, from a Director in memory that starts with this view."""
    memory = MemoryDirector()
    services, timeouts = start
    for service, destinations in services:
        memory.add_service(service)
        for destination in reversed(destinations):
            memory.add_destination(service.key, destination)
    memory.set_timeouts(timeouts)
    found = [view(memory)]
    assert found == [start], "the test's own arithmetic"
    for edit in edits:
        with suppress(PylvsError):
            edit(memory)
        found.append(view(memory))
    return found


def facts(director: BpfDirector) -> tuple[Any, ...]:
    """Return what packets read besides the lists: counts of services, and thresholds of destinations."""
    found = director.reader.versions.facts()
    held = []
    for _, version in director.reader.versions.services(director.reader.versions.live):
        for slot, _, upper, lower, _, _ in director.reader.members(version):
            counts = director.tables.conn_counts.read(slot)
            held.append((counts["upper"], counts["lower"]) == (upper, lower))
    rows = director.services()
    wanted = [sum(row.service.key.address.version == version for row in rows) for version in (4, 6)]
    return (
        list(found.get("services")) == wanted,
        all(held),
        director.reader.versions.facts().get("marks")[0] == sum(bool(row.service.key.mark) for row in rows),
    )


def indexed(director: BpfDirector) -> list[tuple[bytes, int]]:
    """Return the destinations by which packets find their NAT server, with their keys."""
    index = NatServers(director.tables)
    return sorted((key, slot) for key in list(director.tables.nat_servers.keys()) for slot in index.chain(key))


def used_by_nat(director: BpfDirector) -> list[tuple[bytes, int]]:
    tables, found = director.tables, []
    for slot in range(tables.book.get(0, "destination_top")):
        fields = tables.destinations.read(slot)
        if fields["used"] == abi.constant("DESTINATION_USED_BY_NAT"):
            found.append((struct.pack("<16sHBx", fields["address"], fields["port"], fields["family"]), slot))
    return sorted(found)


def a_destination(chance: random.Random, service: ServiceKey) -> Destination:
    version = service.address.version
    address = server4(chance.randint(1, 8)) if version == 4 else f"fd77::{chance.randint(11, 18)}"
    upper = chance.choice([0, 0, 5, 9])
    return Destination(
        DestinationKey(ip_address(address), service.port or 80),
        chance.choice([Method.ROUTE, Method.MASQ, Method.TUNNEL]),
        chance.randint(0, 9),
        upper,
        chance.randint(0, upper),
    )


def an_edit(chance: random.Random, director: Director) -> Edit:
    """Return a random edit that most often can succeed."""
    rows = director.services()
    missing = [service for service in SERVICES if service not in {row.service.key for row in rows}]
    kinds = ["-a", "-a", "-a", "-a", "-e", "-e", "-d", "-E", "--set", "-A", "-A", "-D", "-C"]
    kind = chance.choice(kinds) if rows else "-A"
    scheduler = chance.choice(["rr", "wrr", "lc", "wlc"])
    if kind == "-A":
        service = VirtualService(chance.choice(missing or SERVICES), scheduler)
        return lambda director: director.add_service(service)
    row = chance.choice(rows)
    name = row.service.key
    if kind == "-D":
        return lambda director: director.delete_service(name)
    if kind == "-E":
        edited = replace(row.service, scheduler=scheduler, timeout_s=chance.randint(0, 99))
        return lambda director: director.edit_service(edited)
    if kind == "-C":
        return lambda director: director.flush()
    if kind == "--set":
        timeouts = Timeouts(chance.randint(1, 900), chance.randint(1, 900), chance.randint(1, 900))
        return lambda director: director.set_timeouts(timeouts)
    if kind == "-a" or not row.destinations:
        added = a_destination(chance, name)
        return lambda director: director.add_destination(name, added)
    old = chance.choice(row.destinations).destination.key
    if kind == "-d":
        return lambda director: director.delete_destination(name, old)
    fresh = replace(a_destination(chance, name), key=old)
    return lambda director: director.edit_destination(name, fresh)


def in_child(work: Callable[[], object], kill_after_s: float | None = None) -> bool:
    """Run it in another process; return whether it finished, with or without an error of the table."""
    child = os.fork()
    if not child:
        status = 9
        try:
            work()
            status = 0
        except PylvsError:
            status = 1
        finally:
            os._exit(status)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) in (0, 1), "the edit crashed"
    return True


# functions of the data plane that store what packets or peers read
STORES = {
    "set",
    "write",
    "clear",
    "put",
    "remove",
    "pack_into",
    "pack_row_into",
    "replace",
    "store_state",
    "set_base",
    "set_bit",
    "add",
    "_write",
    "_set_link",
    "new_service",
    "withdraw_version",
    "write_list",
    "list_fields",
    "commit",
    "write_bitmaps",
}


def stores_of(work: Callable[[], object]) -> int:
    """Return how many lines that may store something the work runs, in another process."""
    reading, writing = os.pipe()

    def counted() -> None:
        lines = 0

        def one_more() -> None:
            nonlocal lines
            lines += 1

        watched(work, one_more)()
        os.write(writing, struct.pack("I", lines))

    assert in_child(counted)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        return int(struct.unpack("I", answer.read())[0])


def killed_at(store: int, work: Callable[[], object]) -> Callable[[], None]:
    """Run the work, with a SIGKILL before this line of those that may store something."""
    left = store

    def kill_at_last() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return watched(work, kill_at_last)


def watched(work: Callable[[], object], before_store: Callable[[], None]) -> Callable[[], None]:
    """Run the work, and a function before each line that may store something."""

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "call":
            ours = frame.f_code.co_filename.startswith(DATAPLANE) and frame.f_code.co_name in STORES
            return trace if ours else None
        if event == "line":
            before_store()
        return trace

    def traced() -> None:
        sys.settrace(trace)
        try:
            work()
        finally:
            sys.settrace(None)

    return traced


def in_new_process(edits: Sequence[Edit]) -> Callable[[], None]:
    """Run the edits in a new process: one alone, or several under one lock as ipvsadm -R does."""

    def work() -> None:
        director = BpfDirector(State.open())
        if len(edits) == 1:
            edits[0](director)
            return
        with director.batch():
            for edit in edits:
                with suppress(PylvsError):
                    edit(director)

    return work


def check(host: Host, allowed: Sequence[View]) -> View:
    """Assert that the table is one of these for a new reader, that it can be edited, and that packets see the same."""
    fresh = BpfDirector(State.open())
    now = view(fresh)
    assert now in allowed
    extra = key(999)
    fresh.add_service(VirtualService(extra, "rr"))
    fresh.add_destination(extra, Destination(DestinationKey(ip_address(server4(1)), 999), Method.ROUTE))
    assert host.receive(tcp(sport=next(_ports), dport=999))[1].verdict in (*SENT["xdp"], *SENT["tc"])
    fresh.delete_service(extra)
    assert view(fresh) == now
    assert facts(fresh) == (True, True, True)
    assert indexed(fresh) == used_by_nat(fresh)
    packets_see(host, fresh)
    return now


_ports = itertools.cycle(range(10000, 60000))


def packets_see(host: Host, director: BpfDirector) -> None:
    """Assert that a SYN to a service is sent to one of its servers, or refused if none is usable.

    Without the service it passes.
    """
    rows = {row.service.key: row for row in director.services()}
    for service in SERVICES[:3]:
        hook, done = host.receive(tcp(sport=next(_ports), dport=service.port))
        if service not in rows:
            assert (hook, done.verdict) == ("tc", PASSED["tc"])
            continue
        usable = {str(each.destination.key.address) for each in rows[service].destinations if each.destination.weight}
        assert done.verdict in (*SENT["xdp"], *SENT["tc"])
        packet = parsed(done.data).payload
        if ICMP in packet:
            assert (packet[ICMP].type, packet[ICMP].code) == (3, 3)
            assert all(each.destination.upper or not each.destination.weight for each in rows[service].destinations)
        else:
            assert usable


def start_table(director: BpfDirector) -> None:
    """Add services of all kinds; one destination was deleted and can be revived."""
    for number, service in enumerate(SERVICES[:5]):
        director.add_service(VirtualService(service, SCHEDULERS[number % 4]))
    for service in SERVICES[:3]:
        for number in 1, 2, 3:
            director.add_destination(service, server(service, number, weight=number))
    director.delete_destination(SERVICES[0], server(SERVICES[0], 3).key)
    director.add_service(VirtualService(LATE, "rr"))
    director.add_destination(LATE, server(LATE, 2))
    director.delete_service(LATE)


def server(service: ServiceKey, number: int, **fields: Any) -> Destination:
    return Destination(DestinationKey(ip_address(server4(number)), service.port), **fields)


@pytest.mark.timeout(600)
def test_two_hundred_edits_killed_at_random_instants(host: Host) -> None:
    chance = random.Random(20261120)
    director = host.director
    start_table(director)
    took_s = 0.05
    killed = 0
    for number in range(200):
        edits = [an_edit(chance, director) for _ in range(5 if number % 8 == 0 else 1)]
        allowed = views_of_edits(view(director), edits)
        if in_child(in_new_process(edits), chance.uniform(0, took_s)):
            took_s = max(0.005, 0.8 * took_s)
        else:
            killed += 1
            took_s = min(0.5, 1.1 * took_s)
        check(host, allowed)
    assert killed > 50


A, B, C = SERVICES[:3]
NEW, LATE = SERVICES[5], key(85)


def restore(director: Director) -> None:
    """Add services with their first servers, one of which was deleted before, as ipvsadm -R does."""
    with director.batch():
        director.add_service(VirtualService(NEW, "wrr"))
        for number in 11, 12:
            director.add_destination(NEW, Destination(DestinationKey(ip_address(f"fd77::{number}"), NEW.port)))
        director.add_service(VirtualService(LATE, "mh"))
        for number in 1, 2, 3:
            director.add_destination(LATE, server(LATE, number, method=Method.MASQ, upper=number))


CHANGES = [
    ServiceChange(B, None),
    ServiceChange(
        A,
        VirtualService(A, "wrr"),
        deleted=(server(A, 2).key,),
        edited=(server(A, 1, weight=0, upper=4),),
        added=(server(A, 3, weight=7), server(A, 5, method=Method.MASQ)),
    ),
    ServiceChange(C, VirtualService(C, SCHEDULERS[2]), added=(server(C, 6),)),
    ServiceChange(LATE, VirtualService(LATE, "sh"), is_new=True, added=(server(LATE, 2), server(LATE, 4))),
]


def apply(director: Director) -> None:
    """Make all changes at once; one by one in memory, where no packet sees what is between."""
    if isinstance(director, BpfDirector):
        director.apply(CHANGES)
        return
    for change in CHANGES:
        if change.service is None:
            director.delete_service(change.key)
            continue
        (director.add_service if change.is_new else director.edit_service)(change.service)
        for gone in change.deleted:
            director.delete_destination(change.key, gone)
        for each in change.edited:
            director.edit_destination(change.key, each)
        for each in change.added:
            director.add_destination(change.key, each)


def rename(director: Director) -> None:
    """Give a destination another port, which no command does."""
    assert isinstance(director, BpfDirector | MemoryDirector)
    former = server(C, 2).key
    director.rename_destination(C, former, DestinationKey(former.address, 81))


EDITS: dict[str, Edit] = {
    "apply": apply,
    "-A": lambda d: d.add_service(VirtualService(NEW, "wrr")),
    "-R": restore,
    "-E": lambda d: d.edit_service(VirtualService(A, "lc")),
    "-D": lambda d: d.delete_service(B),
    "-C": lambda d: d.flush(),
    "-a": lambda d: d.add_destination(B, server(B, 5, method=Method.MASQ, upper=9, lower=3)),
    "-a of one deleted": lambda d: d.add_destination(A, server(A, 3, weight=7, upper=5)),
    "-e": lambda d: d.edit_destination(C, server(C, 2, weight=0, upper=8, lower=2)),
    "-d": lambda d: d.delete_destination(A, server(A, 2).key),
    "another port": rename,
    "--set": lambda d: d.set_timeouts(Timeouts(7, 8, 9)),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_killed_before_any_of_its_stores(host: Host, kind: str) -> None:
    """Kill at forty stores of the edit, then let it finish. Slots wait to be freed, which is work as well."""
    edit = EDITS[kind]
    start_table(host.director)
    begin = view(host.director)
    _, end = views_of_edits(begin, [edit])
    stores = stores_of(in_new_process([edit]))
    restart(host, begin)
    seen = set()
    chance = random.Random(kind)
    sampled = sorted({0, stores - 1, *(chance.randrange(stores) for _ in range(40))})
    # the work grows with the slots that earlier edits have released: the first count is an estimate
    for store in itertools.chain(sampled, itertools.count(stores, 5)):
        done = in_child(killed_at(store, in_new_process([edit])))
        now = check(host, [begin, end])
        seen.add(now == end)
        if done and store >= stores:
            assert now == end
            break
        if now == end:
            restart(host, begin)
    assert seen == {False, True}


def restart(host: Host, begin: View) -> None:
    """Restore the first table."""
    host.director.flush()
    host.director.set_timeouts(Timeouts())
    start_table(host.director)
    assert view(host.director) == begin


@pytest.mark.timeout(600)
def test_a_recovery_killed_before_any_of_its_stores_is_done_by_the_next(fresh: Host) -> None:
    host = fresh
    start_table(host.director)
    begin = view(host.director)
    assert not in_child(killed_at(10, in_new_process([EDITS["-a"]])))
    store, done = 0, False
    while not done:
        host.director.tables.book.set(0, "pending", 1)
        done = in_child(killed_at(store, in_new_process([EDITS["--set"]])))
        now = view(BpfDirector(State.open()))
        assert now[0] == begin[0]
        store += 7
    check(host, [now])
    assert store > 200
