"""A daemon that starts or reloads shows no table with less than the former and the new one have in common.

Each commit is observed as another process sees it. The daemon's edits come in the smallest slices.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from unittest import mock

import pytest

from pylvs.daemon.table.cache import DesiredTable, TableCache
from pylvs.dataplane import load
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import State
from pylvs.dataplane.transaction import Transaction
from pylvs.model.service import Destination, DestinationKey, ServiceKey, VirtualService
from pylvs.model.wanted import WantedRow
from tests.packet.host import Host, key, new_host, server4

View = Mapping[ServiceKey, frozenset[DestinationKey]]  # the servers of each service
ONE, TWO, THREE, NEW = (key(port) for port in (80, 81, 82, 83))
KILLED = 9
FORMER = {ONE: (1, 2), TWO: (3,), THREE: (4, 5)}
NEXT = {ONE: (2, 1), TWO: (6, 7), NEW: (8, 1, 2)}
OTHER = {NEW: (1, 2, 3)}  # nothing in common


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """Return a host without a table; no pause of the machine divides a service."""
    monkeypatch.setattr("pylvs.daemon.table.cache.WHOLE_S", math.inf)
    with new_host(expires=False) as made:
        yield made


def table_of(services: Mapping[ServiceKey, Collection[int]]) -> list[WantedRow]:
    """Return the rows of these services, by the numbers of their servers."""
    return [
        WantedRow(VirtualService(each), tuple(Destination(DestinationKey(ip_address(server4(n)), 80)) for n in servers))
        for each, servers in services.items()
    ]


def view_of(rows: Collection[WantedRow]) -> View:
    return {row.service.key: frozenset(each.key for each in row.destinations) for row in rows}


def seen_by_others() -> View:
    """Return the table in force."""
    rows = BpfDirector(State.open()).services()
    return {row.service.key: frozenset(each.destination.key for each in row.destinations) for row in rows}


def start(rows: list[WantedRow], owned: Collection[ServiceKey]) -> None:
    """Do what a daemon does until its first table is complete, or what a reload does."""
    cache = TableCache(BpfDirector(State.open()))
    desired = DesiredTable(rows, owned)
    rest = cache.plan(desired).edits
    while rest:
        count, refused = cache.apply(rest, budget_s=0)
        assert not refused
        rest = rest[count:]
    assert not cache.plan(desired).edits


@contextmanager
def at_each_commit(before: Callable[[], None], after: Callable[[], None]) -> Iterator[None]:
    commit = Transaction.commit

    def watched(edit: Transaction) -> None:
        before()
        commit(edit)
        after()

    with mock.patch.object(Transaction, "commit", watched):
        yield


@contextmanager
def observed() -> Iterator[list[View]]:
    """Yield the table after each commit of the block, in order."""
    views: list[View] = []
    with at_each_commit(lambda: None, lambda: views.append(seen_by_others())):
        yield views


def check(view: View, former: View, desired: View) -> None:
    """Assert that a client of either table finds a server of either table."""
    assert view, "an empty table"
    for service in former.keys() & desired.keys():
        assert view.get(service), f"{service} has no server"
    for service, servers in view.items():
        assert servers, f"{service} has no server"
        assert servers <= former.get(service, frozenset()) | desired.get(service, frozenset())


@pytest.mark.parametrize("there", [FORMER, NEXT, OTHER], ids=["former", "same", "other"])
def test_a_start_over_a_table_replaces_it_without_a_gap(
    host: Host, there: Mapping[ServiceKey, tuple[int, ...]]
) -> None:
    former, desired = table_of(there), table_of(NEXT)
    start(former, ())
    with observed() as views:
        start(desired, there.keys())
    for view in views:
        check(view, view_of(former), view_of(desired))
    assert seen_by_others() == view_of(desired)
    assert bool(views) == (there is not NEXT)


def test_the_first_table_appears_by_one_commit(host: Host) -> None:
    """At the first start, and after `pylvs down`."""
    desired = table_of(NEXT)
    for _ in range(2):
        with observed() as views:
            start(desired, ())
        assert views == [view_of(desired)]
        load.take_down(State.open())


def test_a_deleted_table_comes_back_by_one_commit(host: Host) -> None:
    """After a daemon that deleted its services, with slots and servers that are used again."""
    desired = table_of(NEXT)
    start(desired, ())
    start([], NEXT.keys())
    assert seen_by_others() == {}
    with observed() as views:
        start(desired, NEXT.keys())
    assert views == [view_of(desired)]


@pytest.mark.parametrize("committed", [False, True], ids=["before", "after"])
def test_a_daemon_that_is_killed_at_any_commit_leaves_a_table_and_so_does_the_next_one(
    host: Host, committed: bool
) -> None:
    former, desired = table_of(FORMER), table_of(NEXT)
    owned = FORMER.keys() | NEXT.keys()
    for step in itertools.count():
        start(former, owned)
        status = _killed(lambda: start(desired, owned), step, committed)
        check(seen_by_others(), view_of(former), view_of(desired))
        with observed() as views:
            start(desired, owned)
        for view in views:
            check(view, view_of(former), view_of(desired))
        assert seen_by_others() == view_of(desired)
        if status != KILLED:
            assert status == 0
            break
    assert step > len(NEXT)


def _killed(work: Callable[[], None], step: int, committed: bool) -> int:
    """Run it in a child, which ends at this commit without tidying; return the exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    numbers = itertools.count()

    def end() -> None:
        if next(numbers) == step:
            os._exit(KILLED)

    status = 1
    try:
        with at_each_commit(*((lambda: None, end) if committed else (end, lambda: None))):
            work()
        status = 0
    finally:
        os._exit(status)
