"""The tables in BPF maps list, order and refuse edits exactly as the tables in memory."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from ipaddress import ip_address
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylvs.bpf import abi, maps
from pylvs.bpf.maps import PerCpuArray
from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.dataplane import transaction
from pylvs.dataplane.destinations import SWEEP_S
from pylvs.dataplane.reader import Reader
from pylvs.dataplane.transaction import GRACE_S, VISIT_S, Book, list_class
from pylvs.model.director import Director
from pylvs.model.errors import NoSpace, PylvsError
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceChange,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    Tunnel,
    TunnelFlag,
    TunnelKind,
    VirtualService,
)
from pylvs.reference.director import ReferenceDirector
from tests.memory import MemoryDirector
from tests.packet.frames import parsed, tcp
from tests.packet.fuzz.twin import the_network
from tests.packet.host import OWN6, VIP4, VIP6, Host, server_mac

Edit = Callable[[Director], object]
KEYS = [
    ServiceKey(Protocol.TCP, ip_address(VIP4), 80),
    ServiceKey(Protocol.UDP, ip_address(VIP4), 80),
    ServiceKey(Protocol.TCP, ip_address(VIP4), 21),
    ServiceKey(Protocol.TCP, ip_address(VIP4), 0),
    ServiceKey(Protocol.TCP, ip_address("10.77.0.200"), 80),
    ServiceKey(Protocol.TCP, ip_address(VIP6), 80),
    ServiceKey.of_mark(7),
    ServiceKey.of_mark(7, socket.AF_INET6),
]
ADDRESSES = [
    *(["10.77.0.11", "10.77.0.12", "10.77.0.13", "fd77::11", "fd77::12", "fd77::13"] * 3),
    "10.77.0.255",
    "224.0.0.1",
    "0.0.0.1",
    "127.0.0.1",
    "255.255.255.255",
    "fe80::1",
    "ff02::1",
    "::",
    "::ffff:10.0.0.1",
    OWN6,
]
TOP = (1 << 31) - 1

keys = st.sampled_from(KEYS)
services = st.builds(
    VirtualService,
    key=keys,
    scheduler=st.sampled_from([*SCHEDULERS, "none", "no-such"]),
    flags=st.sampled_from([ServiceFlag(0), ServiceFlag.PERSISTENT, ServiceFlag.ONE_PACKET, ServiceFlag.SCHED_1]),
    timeout_s=st.sampled_from([0, 1, 300, 31 * 24 * 3600]),
    netmask=st.sampled_from([-1, -1, 1, 64, 128, 129, 0xFFFFFF00]),
    engine=st.sampled_from(["", "", "", "sip", "unknown"]),
)
destination_keys = st.builds(
    DestinationKey, address=st.sampled_from(ADDRESSES).map(ip_address), port=st.sampled_from([0, 80, 80, 81])
)
tunnels = st.builds(
    Tunnel,
    kind=st.sampled_from(TunnelKind),
    port=st.sampled_from([0, 6080, 65535]),
    flags=st.sampled_from([TunnelFlag(0), TunnelFlag.CSUM, TunnelFlag.REMCSUM]),
)
destinations = st.builds(
    Destination,
    key=destination_keys,
    method=st.sampled_from(Method),
    weight=st.sampled_from([0, 1, 1, 7, TOP, TOP + 1, -1]),
    upper=st.sampled_from([0, 0, 0, 5, TOP, TOP + 1, -1]),
    lower=st.sampled_from([0, 0, 0, 2, 9]),
    tunnel=tunnels,
)


def _edit(name: str, *arguments: Any) -> Edit:
    def edit(director: Director) -> object:
        return getattr(director, name)(*arguments)

    edit.__qualname__ = f"{name}{arguments}"  # what a failing example shows
    return edit


def _renaming(key: ServiceKey, former: DestinationKey, other: DestinationKey) -> Edit:
    """Return an edit that gives a destination the port of another one, or mostly."""
    name = DestinationKey(former.address, other.port) if other.address.version == former.address.version else other
    return _edit("rename_destination", key, former, name)


edits = st.one_of(
    st.builds(_edit, st.sampled_from(["add_service", "add_service", "edit_service"]), services),
    st.builds(_edit, st.just("delete_service"), keys),
    st.builds(_edit, st.sampled_from(["add_destination", "add_destination", "edit_destination"]), keys, destinations),
    st.builds(_edit, st.sampled_from(["add_destination", "edit_destination"]), keys, destinations),
    st.builds(_edit, st.just("delete_destination"), keys, destination_keys),
    st.builds(_edit, st.just("zero"), st.one_of(st.none(), keys)),
    st.builds(_edit, st.just("set_timeouts"), st.builds(Timeouts, *[st.integers(0, 900)] * 3)),
    st.builds(
        _edit,
        st.just("change_setting"),
        st.sampled_from(["conn_reuse_mode", "net.ipv4.vs.sloppy_tcp", "expire_nodest_conn", "no_such_thing"]),
        st.integers(-1, 4),
    ),
)
edits_and_renaming = st.one_of(edits, edits, st.builds(_renaming, keys, destination_keys, destination_keys))


def result(director: Director, edit: Edit) -> str:
    """Return how an edit ended."""
    try:
        edit(director)
    except PylvsError as error:
        return type(error).__name__
    return "done"


def listed(director: Director) -> Any:
    """Return services and destinations in order, without counts and counters: there are no packets."""
    rows = {
        row.service.key: (
            replace(row.service, netmask=row.service.mask),
            [each.destination for each in row.destinations],
            [(each.active, each.inactive, each.persistent, each.counters) for each in row.destinations],
            row.counters,
        )
        for row in director.services()
    }
    settings = {name: value for name, value in director.settings().items() if name != "conn_max"}
    return rows, director.timeouts(), settings


@pytest.mark.parametrize("method", [Method.ROUTE, Method.TUNNEL])
def test_connections_stay_with_a_server_that_gets_another_port(director_host: Host, method: Method) -> None:
    host = director_host
    service = host.new_key()
    former, other = host.serve(service, 2, method, scheduler="sh", port=0)
    before = {sport: host.forwarded(tcp("S", sport, service.port), "tc")[:6] for sport in range(3000, 3008)}
    name = DestinationKey(former.address, service.port)
    host.director.rename_destination(service, former, name)
    assert {row.destination.key for row in host.director.service(service).destinations} == {name, other}
    after = {sport: host.forwarded(tcp("A", sport, service.port), "tc")[:6] for sport in before}
    assert after == before
    counts = {row.destination.key: row.counters.connections for row in host.director.service(service).destinations}
    assert sum(counts.values()) == len(before)
    host.director.add_destination(service, Destination(former, method))
    host.director.delete_destination(service, name)
    host.director.add_destination(service, Destination(name, method))
    kept = {row.destination.key: row.counters.connections for row in host.director.service(service).destinations}
    assert kept == counts | {former: 0}


def test_any_sequence_of_edits_leaves_the_same_tables_and_errors_as_in_memory(director_host: Host) -> None:
    real = director_host.director
    defaults = MemoryDirector().settings()

    @settings(max_examples=60, deadline=None)
    @given(st.lists(edits_and_renaming, max_size=40), st.booleans())
    def holds(sequence: list[Edit], together: bool) -> None:
        real.flush()
        real.set_timeouts(Timeouts())
        for name in "conn_reuse_mode", "sloppy_tcp", "expire_nodest_conn":
            real.change_setting(name, defaults[name])
        memory = MemoryDirector(
            schedulers=SCHEDULERS,
            broadcasts=[ip_address("10.77.0.255")],
            local=[ip_address(each) for each in (OWN6, VIP6)],
        )
        with real.batch() if together else nullcontext():
            for edit in sequence:
                assert result(real, edit) == result(memory, edit), edit
            assert listed(real) == listed(memory)
        assert listed(real) == listed(memory)
        for key in KEYS:
            assert result(real, _edit("service", key)) == result(memory, _edit("service", key))

    holds()


def test_the_tables_in_memory_are_those_of_the_reference_after_any_sequence_of_edits() -> None:
    """Other tests rely on them; recordings of IPVS check only ipvsadm's commands."""

    @settings(max_examples=300, deadline=None)
    @given(st.lists(edits, max_size=40))
    def holds(sequence: list[Edit]) -> None:
        reference = ReferenceDirector(the_network())
        memory = MemoryDirector(local=[ip_address(each) for each in (OWN6, VIP6)])
        for edit in sequence:
            assert result(memory, edit) == result(reference, edit), edit
        assert listed(memory) == listed(reference)

    holds()


def many(director_host: Host, count: int) -> tuple[ServiceKey, list[Destination]]:
    """Return a key and this many destinations."""
    service = director_host.new_key()
    first = int(ip_address("10.200.0.1"))
    return service, [Destination(DestinationKey(ip_address(first + n), service.port)) for n in range(count)]


def test_a_service_has_thousands_of_destinations_and_releases_them(director_host: Host) -> None:
    """Restore them at once; then edit and delete one like any other."""
    director = director_host.director
    service, wanted = many(director_host, 2000)
    with director.batch():
        director.add_service(VirtualService(service, "rr"))
        for each in wanted:
            director.add_destination(service, each)
    assert [row.destination for row in director.service(service).destinations] == wanted[::-1]
    director.edit_destination(service, replace(wanted[777], weight=5))
    director.delete_destination(service, wanted[1234].key)
    rows = director.service(service).destinations
    assert len(rows) == 1999
    assert [row.destination.weight for row in rows if row.destination.key == wanted[777].key] == [5]


def test_a_service_has_ten_thousand_destinations(director_host: Host) -> None:
    """The list is written as after as many additions; then one is added, and one is deleted."""
    director = director_host.director
    service, wanted = many(director_host, 10000)
    with director.batch():
        director.add_service(VirtualService(service, "wlc"))
        for each in wanted:
            director.add_destination(service, each)
    rows = director.service(service).destinations
    assert [row.destination for row in rows] == wanted[::-1]
    frame = tcp(sport=2000, dport=service.port)
    director_host.receive(frame)
    assert director.service(service).destinations[0].active == 1
    director.delete_service(service)


def test_lists_that_grow_and_shrink_do_not_use_up_the_table(director_host: Host) -> None:
    """Released chunks are used again, so the used part of the table stops growing."""
    director = director_host.director
    service, wanted = many(director_host, 65)
    director.add_service(VirtualService(service, "rr"))

    def tops() -> tuple[int, ...]:
        return tuple(director.tables.book.get(0, name) for name in ("member_top", "destination_top"))

    used = [tops()]
    with mock.patch.object(transaction, "MANY_RELEASED", 1):  # so each edit finds what the ones before have released
        for _ in range(6):
            for each in wanted:
                director.add_destination(service, each)
            for each in wanted:
                director.delete_destination(service, each.key)
            used.append(tops())
    assert used[2:] == [used[2]] * 5, used


def test_adding_and_deleting_services_does_not_use_up_the_table(director_host: Host) -> None:
    director, service = director_host.director, director_host.new_key()
    tops = []
    with mock.patch.object(transaction, "MANY_RELEASED", 8):
        for _ in range(30):
            director.add_service(VirtualService(service, "rr"))
            director.add_destination(service, Destination(DestinationKey(ip_address("10.77.0.11"), service.port)))
            director.delete_service(service)
            tops.append(director.tables.book.get(0, "service_top"))
    assert tops[-1] - tops[0] < 8, tops


def test_what_is_released_is_used_again_only_after_a_grace_period(director_host: Host) -> None:
    director, events = director_host.director, list[tuple[str, int]]()
    let_service_go, let_list_go, take = Book.let_service_go, Book.let_list_go, Book.take_service
    take_list, grace_period = Book.take_list, maps.grace_period

    def release_service(book: Book, slot: int) -> None:
        events.append(("release service", slot))
        let_service_go(book, slot)

    def release_list(book: Book, chunk: int, count: int) -> None:
        if count:
            events.append(("release list", chunk))
        let_list_go(book, chunk, count)

    def taken_service(book: Book) -> int:
        slot = take(book)
        events.append(("take service", slot))
        return slot

    def taken_list(book: Book, count: int) -> int:
        chunk = take_list(book, count)
        if count:
            events.append(("take list", chunk))
        return chunk

    def wait() -> None:
        grace_period()
        events.append(("grace period", 0))

    with (
        mock.patch.object(transaction, "MANY_RELEASED", 5),
        mock.patch.object(maps, "grace_period", wait),
        mock.patch.multiple(
            Book,
            let_service_go=release_service,
            let_list_go=release_list,
            take_service=taken_service,
            take_list=taken_list,
        ),
    ):
        for _ in range(12):
            service = director_host.new_key()
            director_host.serve(service, 2)
            director.delete_service(service)
    reused = 0
    for at, (event, what) in enumerate(events):
        verb, _, kind = event.partition(" ")
        release = (f"release {kind}", what)
        if verb == "take" and release in events[:at]:
            released = max(number for number, each in enumerate(events[:at]) if each == release)
            assert ("grace period", 0) in events[released:at], (event, what)
            reused += 1
    assert reused > 10, events


def test_no_chunk_is_in_two_lists(director_host: Host) -> None:
    director = director_host.director
    made = [director_host.new_key() for _ in range(20)]
    for number, service in enumerate(made):
        director.add_service(VirtualService(service, "rr"))
        for address in range(1, 2 + number % 9):
            director.add_destination(service, Destination(DestinationKey(ip_address(f"10.200.1.{address}"), 80)))
        if number % 3 == 2:
            director.delete_service(made[number - 1])
    reader: Reader = director.reader
    taken: set[int] = set()
    for _, version in reader.versions.services(reader.versions.live):
        if version["count"]:
            chunk = set(range(version["list"], version["list"] + (1 << list_class(version["count"]))))
            assert not chunk & taken
            taken |= chunk
    assert taken


def test_a_full_table_refuses_one_more_service_and_still_works(director_host: Host) -> None:
    """The service that does not fit leaves no trace; after a deletion it fits."""
    director, book = director_host.director, director_host.director.tables.book
    first, second = director_host.new_key(), director_host.new_key()
    director.add_service(VirtualService(first, "rr"))
    top = book.get(0, "service_top")
    for name in "service_free", "service_released":
        book.set(0, name, abi.constant("NOTHING"))
    book.set(0, "service_top", director.tables.services.count)
    try:
        before = listed(director)
        with pytest.raises(NoSpace) as caught:
            director.add_service(VirtualService(second, "rr"))
    finally:
        book.set(0, "service_top", top)
    assert (caught.value.table, caught.value.limit) == ("virtual services", director.tables.services.count)
    assert listed(director) == before
    director.add_service(VirtualService(second, "rr"))
    director.add_destination(second, Destination(DestinationKey(ip_address("10.77.0.11"), second.port)))
    assert parsed(director_host.forwarded(tcp(dport=second.port))).dst == server_mac(1)


def test_a_full_table_accepts_a_service_after_a_deletion(director_host: Host) -> None:
    """The edit waits for its slot, even within one batch."""
    director, book = director_host.director, director_host.director.tables.book
    first, second = director_host.new_key(), director_host.new_key()
    director.add_service(VirtualService(first, "rr"))
    top = book.get(0, "service_top")
    for name in "service_free", "service_released":
        book.set(0, name, abi.constant("NOTHING"))
    book.set(0, "service_top", director.tables.services.count)
    try:
        with director.batch():
            director.delete_service(first)
            director.add_service(VirtualService(second, "rr"))
    finally:
        book.set(0, "service_top", top)
    assert director.service(second).service.key == second


def test_counters_begin_at_zero_in_a_service_with_a_used_slot(director_host: Host) -> None:
    """Its slot belonged to another service, whose destinations are remembered for a while."""
    director = director_host.director
    before = director.tables.book.get(0, "service_top")
    with mock.patch.object(transaction, "MANY_RELEASED", 1):
        for _ in range(8):
            service = director_host.new_key()
            director_host.serve(service, 2)
            fresh = director.service(service)
            assert fresh.counters.connections == fresh.counters.in_packets == 0
            director_host.forwarded(tcp(dport=service.port))
            assert director.service(service).counters.connections == 1
            director.zero(service)
            assert director.service(service).counters.connections == 0
            director.delete_service(service)
    assert director.tables.book.get(0, "service_top") - before < 8, "no slot was used twice"


def test_totals_decrease_only_when_everything_is_zeroed(director_host: Host) -> None:
    director, keys = director_host.director, [director_host.new_key() for _ in range(2)]
    director.zero()

    def total() -> tuple[int, int]:
        found = director.packet_counts().totals
        return found.connections, found.in_packets

    assert total() == (0, 0)
    for key in keys:
        director_host.serve(key, 1)
        for flags in "SA":
            director_host.forwarded(tcp(flags, dport=key.port))
    assert total() == (2, 4)
    director.delete_service(keys[0])
    assert total() == (2, 4)
    director_host.serve(keys[0], 1)  # in the slot of the former
    assert total() == (2, 4)
    director.zero(keys[1])
    assert total() == (2, 4)
    director_host.forwarded(tcp("A", dport=keys[1].port))
    assert total() == (2, 5)
    director.flush()
    assert total() == (2, 5)
    director.zero()
    assert total() == (0, 0)


def test_a_destination_that_is_added_again_keeps_its_counters_within_its_service(director_host: Host) -> None:
    director = director_host.director
    service = director_host.new_key()
    (key,) = director_host.serve(service, 1)
    director_host.forwarded(tcp(dport=service.port))
    was = director.service(service)
    director.delete_destination(service, key)
    assert director.service(service).counters == was.counters
    director.add_destination(service, Destination(key))
    again = director.service(service)
    assert (again.destinations[0].active, again.destinations[0].counters) == (1, was.destinations[0].counters)
    assert again.counters == was.counters
    director.delete_service(service)
    director_host.serve(service, 1)
    anew = director.service(service)
    assert anew.destinations[0].active == 1, "its connections count again"
    assert anew.counters.connections == anew.destinations[0].counters.connections == 0


def test_zeroing_all_counters_walks_the_destinations_once_for_any_number_of_services(director_host: Host) -> None:
    director, made = director_host.director, [director_host.new_key() for _ in range(6)]
    for service in made:
        director_host.serve(service, 2)
        for sport in 2000, 2001:
            director_host.forwarded(tcp(sport=sport, dport=service.port))
    director.delete_destination(made[0], director.service(made[0]).destinations[0].destination.key)
    assert {row.counters.connections for row in director.services()} == {2}
    with (
        mock.patch.object(Reader, "owned_by_service", autospec=True, side_effect=Reader.owned_by_service) as walks,
        mock.patch.object(PerCpuArray, "sums", autospec=True, side_effect=PerCpuArray.sums) as single_reads,
    ):
        director.zero()
    assert (walks.call_count, single_reads.call_count) == (1, 0)
    for row in director.services():
        assert {row.counters.connections, *(each.counters.connections for each in row.destinations)} == {0}


def test_a_server_that_an_edit_adds_again_is_not_freed_by_a_later_part_of_it(director_host: Host) -> None:
    """Every ten seconds an edit frees deleted servers, and that time may come while another one is written."""
    director, book = director_host.director, director_host.director.tables.book
    one, two, start_s = director_host.new_key(), director_host.new_key(), 1 << 30
    first, second = (Destination(key) for key in director_host.serve(one, 2))
    with mock.patch.object(transaction, "now_s", return_value=start_s - VISIT_S - GRACE_S):
        director.delete_destination(one, second.key)
    book.set(0, "swept_s", start_s - SWEEP_S + 1)
    changes = [
        ServiceChange(one, VirtualService(one, "rr"), added=(second,)),
        ServiceChange(two, VirtualService(two, "rr"), is_new=True, added=(first,)),
    ]
    try:
        with mock.patch.object(transaction, "now_s", side_effect=itertools.count(start_s)):
            director.apply(changes)
    finally:
        book.set(0, "swept_s", 0)
    assert [row.destination for row in director.service(one).destinations] == [second, first]
    director.edit_destination(one, replace(second, weight=5))
    for number in 1, 2:
        sent = parsed(director_host.forwarded(tcp(sport=3000 + number, dport=one.port)))
        assert sent.dst in (server_mac(1), server_mac(2))
