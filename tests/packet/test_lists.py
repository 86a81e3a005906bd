"""Lists of services never share a chunk, and no edit writes to a list in force, however few members are free."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pylvs
from pylvs.bpf import maps
from pylvs.dataplane import load, transaction
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.transaction import Book, chunks, list_class
from pylvs.model.dataclass import replace
from pylvs.model.errors import NoSpace
from tests.packet.frames import tcp
from tests.packet.host import SENT, VIP4, Host, new_host

DESTINATIONS = 128
MEMBERS = 2 * DESTINATIONS  # of all lists together


@contextmanager
def small_host() -> Iterator[Host]:
    """Make a host with few members."""
    few = mock.patch.multiple(load, _MOST_DESTINATIONS=DESTINATIONS, _LEAST_DESTINATIONS=DESTINATIONS)
    with few, new_host(expires=False) as made:
        assert made.director.tables.members.max_entries == MEMBERS
        yield made


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    with small_host() as made:
        yield made


@pytest.fixture
def host() -> Iterator[Host]:
    """Return a host without any edit: nothing is fragmented."""
    with small_host() as made:
        yield made


def service(port: int, servers: int, weight: int = 1) -> pylvs.Service:
    """Return a service; its servers have the same addresses each time, so that they take the same slots again."""
    found = [pylvs.Server(f"10.77.1.{number + 1}", port, weight=weight) for number in range(servers)]
    return pylvs.Service("tcp", VIP4, port, found, scheduler="rr")


def in_force(director: BpfDirector) -> list[tuple[int, int]]:
    versions = director.versions
    return chunks(version for _, version in versions.services(versions.live))


def overlap(taken: list[tuple[int, int]]) -> bool:
    return any(start + size > following for (start, size), (following, _) in pairwise(sorted(taken)))


class Watched:
    """Checks each chunk that an edit takes: no list in force has it, nor another list of the same edit."""

    def __init__(self, director: BpfDirector) -> None:
        self._director = director
        self._edit: Book | None = None
        self._taken: list[tuple[int, int]] = []

    def __enter__(self) -> None:
        take = Book.take_list

        def watched(book: Book, count: int) -> int:
            start = take(book, count)
            if count:
                if book is not self._edit:
                    self._edit, self._taken = book, []
                self._taken.append((start, 1 << list_class(count)))
                lists = sorted([*in_force(self._director), *self._taken])
                assert not overlap(lists), lists
                assert lists[-1][0] + lists[-1][1] <= MEMBERS
            return start

        self._patch = mock.patch.object(Book, "take_list", watched)
        self._patch.start()

    def __exit__(self, *_: object) -> None:
        self._patch.stop()


PORTS = range(5000, 5010)


def test_one_edit_of_all_lists_that_does_not_fit_changes_nothing(host: Host) -> None:
    """Ten lists take 160 of 256 members. The new ones need as many; after six of them none is free."""
    director = pylvs.Director()
    before = [service(port, 9) for port in PORTS]
    director.apply(before)
    lists, live = in_force(host.director), host.director.versions.live
    with Watched(host.director), pytest.raises(pylvs.NoSpace, match="its lists hold 256 real servers"):
        director.apply([service(port, 9, weight=2) for port in PORTS])
    assert set(director.services()) == set(before)
    assert (in_force(host.director), host.director.versions.live) == (lists, live)
    for row in BpfDirector(host.director.state).services():
        assert host.run(tcp(dport=row.service.key.port), "tc").verdict in SENT["tc"]
    after = [service(port, 9, weight=1 + (port < 5006)) for port in PORTS]
    with Watched(host.director):
        director.apply(after)
    assert set(director.services()) == set(after)


def test_an_edit_takes_what_the_one_before_has_just_released(host: Host) -> None:
    """Packets may still read it, so the edit waits."""
    director, waits = pylvs.Director(), []
    director.apply([service(port, 9) for port in PORTS])
    with mock.patch.object(maps, "grace_period", side_effect=maps.grace_period) as grace_period:
        for weight in range(2, 6):
            for ports in PORTS[:6], PORTS[4:]:
                with Watched(host.director):
                    director.apply([service(port, 9, weight) for port in ports], prune=False)
                waits.append(grace_period.call_count)
                grace_period.reset_mock()
    assert set(waits) <= {0, 1}
    assert any(waits)


def test_an_edit_without_space_withdraws_what_it_has_added(host: Host) -> None:
    """New services, new servers and deletions of the same edit come to nothing, and the next edit finds all space."""
    director, tables = pylvs.Director(), host.director.tables
    before = [service(port, 9) for port in PORTS]
    director.apply(before)

    def facts() -> tuple[object, ...]:
        counted = host.director.versions.facts().get("services")
        return counted, *(tables.root.get(0, name) for name in ("vip_bits", "reply_bits"))

    found = facts()
    for _ in range(3):
        changed = [service(port, 8, weight=2) for port in PORTS[1:]]
        with Watched(host.director), pytest.raises(pylvs.NoSpace):
            director.apply([*changed, service(5010, 12), service(5011, 12)])
        assert set(director.services()) == set(before)
        assert facts() == found
    large = service(5010, 26)
    with Watched(host.director):
        director.apply([large])
    assert director.services() == (large,)


sizes = st.sampled_from([0, 1, 3, 5, 9, 17])
tables = st.lists(st.tuples(sizes, st.integers(1, 2)), min_size=6, max_size=6)
kinds = st.sampled_from(["all at once", "all at once", "one server", "restore"])
steps = st.tuples(kinds, tables, st.sampled_from([1, 4, 1000]))


def make(real: BpfDirector, kind: str, wanted: list[pylvs.Service]) -> None:
    """Make an edit of this kind. Raises NoSpace."""
    if kind == "all at once":
        with pylvs.Director() as director:
            director.apply(wanted)
    elif kind == "restore":
        real.flush()
        with real.batch():
            for desired in wanted:
                real.add_service(desired.to_model())
                for server in desired.servers:
                    real.add_destination(desired.key.to_model(), server.to_model())
    elif rows := real.services():
        edited = rows[0].destinations[0].destination
        real.edit_destination(rows[0].service.key, replace(edited, weight=edited.weight + 1))


@settings(max_examples=25)
@given(st.lists(steps, min_size=1, max_size=8))
def test_no_sequence_of_edits_puts_two_lists_into_one_chunk(
    shared: Host, sequence: list[tuple[str, list[tuple[int, int]], int]]
) -> None:
    """An edit succeeds as a whole, or finds no space and changes nothing; of a restore each part does."""
    real = shared.director
    real.flush()
    with pylvs.Director() as director, Watched(real):
        for kind, table, many in sequence:
            wanted = [service(5000 + number, count, weight) for number, (count, weight) in enumerate(table) if count]
            before = director.services()
            try:
                with mock.patch.object(transaction, "MANY_RELEASED", many):
                    make(real, kind, wanted)
                assert kind == "one server" or set(director.services()) == set(wanted)
            except (NoSpace, pylvs.NoSpace):
                assert kind == "restore" or director.services() == before
            assert not overlap(in_force(real))
