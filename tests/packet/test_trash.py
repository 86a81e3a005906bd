"""How long a deleted server keeps its counters (IPVS-SEMANTICS 1.8), by the clock of deletions."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.dataplane import transaction
from pylvs.dataplane.destinations import DestinationSlots
from pylvs.dataplane.transaction import GRACE_S, VISIT_S, Trash
from pylvs.model import director as model
from pylvs.model.director import Deleted
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceKey, VirtualService
from tests.packet.frames import tcp, udp
from tests.packet.host import Host

LONG_AGO_S = 1000  # longer than a server without connections can be revived
SERVERS = 3


class Clock:
    """The clock of deletions: that of packets, and more."""

    def __init__(self) -> None:
        self.begin_s = transaction.now_s()
        self.more_s = 0

    def __call__(self) -> int:
        return self.begin_s + self.more_s


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    with mock.patch.object(transaction, "now_s", made):
        yield made


@pytest.fixture
def host(director_host: Host) -> Iterator[Host]:
    """Return a host whose trash is empty."""
    director_host.director.tables.book.set(0, "swept_s", 0)
    with mock.patch.object(transaction, "now_s", return_value=1 << 31):
        director_host.director.apply(())
    director_host.director.tables.book.set(0, "swept_s", 0)
    yield director_host
    director_host.director.change_setting("expire_nodest_conn", 0)
    director_host.director.tables.book.set(0, "swept_s", 0)


def connections(host: Host, service: ServiceKey, server: DestinationKey) -> int:
    """Return how many connections a server has had by its counters."""
    rows = {row.destination.key: row for row in host.director.service(service).destinations}
    return rows[server].counters.connections


def end_orphans(host: Host) -> None:
    """End the connections of deleted servers now."""
    other = host.new_key()
    (server,) = host.serve(other, 1)
    host.director.change_setting("expire_nodest_conn", 1)
    host.director.delete_destination(other, server)


def test_the_time_begins_with_the_end_of_the_last_connection(host: Host, clock: Clock) -> None:
    service = host.new_key(Protocol.UDP)
    servers = host.serve(service, SERVERS)
    for sport in range(2000, 2000 + SERVERS):
        host.run(udp(sport, service.port), "tc")
    clock.more_s = -LONG_AGO_S
    for server in servers:
        host.director.delete_destination(service, server)
    clock.more_s = 0
    end_orphans(host)
    found = []
    for server, clock.more_s in zip(servers, (2, GRACE_S, GRACE_S + 2 * VISIT_S), strict=True):
        host.director.add_destination(service, Destination(server))
        found.append(connections(host, service, server))
    assert found == [1, 1, 0]


def test_a_cache_of_lblc_refers_to_a_server_as_well(host: Host, clock: Clock) -> None:
    director, service = host.director, host.new_key()
    (server,) = host.serve(service, 1, scheduler="lblc")
    host.run(tcp("S", 2000, service.port), "tc")
    slot = DestinationSlots(director.tables).find(service, server)
    assert slot is not None
    director.change_setting("expire_nodest_conn", 1)
    clock.more_s = -LONG_AGO_S
    director.delete_destination(service, server)
    director.tables.conn_counts.set(slot, "idle_s", 0)  # when its connection ended
    clock.more_s = 0
    assert director.tables.destinations.get(slot, "cached")
    director.edit_service(VirtualService(service, "rr"))  # it forgets the cache
    assert not director.tables.destinations.get(slot, "cached")
    clock.more_s = 2
    director.add_destination(service, Destination(server))
    assert connections(host, service, server) == 1


@pytest.mark.parametrize(("again_s", "found"), [(179, 1), (180, 0)])
def test_a_deletion_into_a_trash_with_another_server_is_freed_by_the_visits_of_that_one(
    host: Host, clock: Clock, again_s: int, found: int
) -> None:
    host.director.change_setting("expire_nodest_conn", 1)
    one, two = (host.new_key(Protocol.UDP) for _ in range(2))
    (first,), (second,) = host.serve(one, 1), host.serve(two, 1)
    host.run(udp(2000, two.port), "tc")
    for clock.more_s, service, server in (1000, one, first), (1055, two, second):
        host.director.delete_destination(service, server)
    clock.more_s = 1000 + again_s
    host.director.add_destination(two, Destination(second))
    assert connections(host, two, second) == found


def test_the_numbers_are_those_of_the_model() -> None:
    assert (VISIT_S, GRACE_S) == (model.TRASH_PERIOD_S, model.TRASH_GRACE_S)


OPERATIONS = st.tuples(
    st.integers(0, 25).map(lambda number: 10 * number),  # seconds
    st.sampled_from(["delete", "add", "end"]),
    st.integers(0, SERVERS - 1),
)


@given(st.lists(OPERATIONS, max_size=30), st.sets(st.integers(0, SERVERS - 1)))
def test_any_deletions_and_ends_of_connections(shared: Host, steps: list[tuple[int, str, int]], held: set[int]) -> None:
    """Compare with the reference model: what it still has, this one has not freed."""
    director, service = shared.director, shared.new_key()
    keys = shared.serve(service, SERVERS)
    slots = [slot for each in keys if (slot := DestinationSlots(director.tables).find(service, each)) is not None]
    counts, held = director.tables.conn_counts, set(held)
    for number in held:
        counts.set(slots[number], "active", 1)
    ours, reference, clock = Trash(director.tables), model.Trash[int](held.__contains__), Clock()
    before = ours.slots()
    ours.keep([])
    deleted = set[int]()

    with mock.patch.object(transaction, "now_s", clock):
        for wait_s, kind, number in steps:
            clock.more_s += wait_s
            reference.advance(clock())
            if kind == "end" and number in held:
                held.remove(number)
                counts.set(slots[number], "active", 0)
                counts.set(slots[number], "idle_s", clock())
            elif kind == "delete" and number not in deleted:
                deleted.add(number)
                ours.put(slots[number])
                reference.put(service, keys[number], Deleted(number, service), clock())
            elif kind == "add" and number in deleted:
                deleted.remove(number)
                reference.take(service, keys[number])
                ours.revive({slots[number]})
            kept = {number for number in deleted if (service, keys[number]) in reference._deleted}
            assert kept == {number for number in deleted if not ours.has_freed(slots[number])}
    for slot in slots:
        counts.set(slot, "active", 0)
        counts.set(slot, "idle_s", 0)
    ours.keep(before)
    director.delete_service(service)
