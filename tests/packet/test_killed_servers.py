"""After a kill or Ctrl-C at any step of its edit, a server can be added again, edited and deleted."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import ip_address
from unittest import mock

import pytest

from pylvs.dataplane import transaction
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import State
from pylvs.model.dataclass import replace
from pylvs.model.errors import DestinationExists
from pylvs.model.service import Destination, DestinationKey, Method, ServiceKey, VirtualService
from tests.packet import test_kill
from tests.packet.frames import tcp
from tests.packet.host import Host, new_host, server4
from tests.packet.test_kill import in_child, indexed, used_by_nat, watched

# functions that store something of a destination; test_kill stops the others
STORES = {"bring", "_begin_anew", "adopt", "begin", "zero_destination", "_add_to_base", "put", "keep", "revive"}
STORES |= {"sweep", "_forget", "free_destination"}
FREED_S = transaction.VISIT_S + transaction.GRACE_S  # every deleted server without connections is free by then
Stop = Callable[[int, Callable[[], object]], bool]


class Clock:
    """The clock of deletions."""

    def __init__(self) -> None:
        self.now_s = 1000

    def __call__(self) -> int:
        return self.now_s


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    with (
        mock.patch.object(transaction, "now_s", made),
        mock.patch.object(test_kill, "STORES", STORES),
    ):
        yield made


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(connections=1024, expires=False, recycled=True) as made:
        yield made


def killed_at(store: int, work: Callable[[], object]) -> bool:
    """Do the work in another process, with a SIGKILL before this line that may store; return whether it finished."""
    return in_child(test_kill.killed_at(store, work))


def interrupted_at(store: int, work: Callable[[], object]) -> bool:
    """Do the work with a KeyboardInterrupt, as by Ctrl-C, before this line; return whether it finished."""
    left = store

    def perhaps_interrupt() -> None:
        nonlocal left
        left -= 1
        if left == -1:
            raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        watched(work, perhaps_interrupt)()
        return True
    return False


STOPS = pytest.mark.parametrize("stopped_at", [killed_at, interrupted_at])


def peer() -> BpfDirector:
    """Return the director of a new process."""
    return BpfDirector(State.open())


def server(number: int, service: ServiceKey, method: Method = Method.ROUTE) -> Destination:
    return Destination(DestinationKey(ip_address(server4(number)), service.port), method)


def let_time_pass(clock: Clock, service: ServiceKey) -> None:
    """Let the edits of another server free the slots of deleted servers."""
    clock.now_s += 2 * FREED_S
    peer().add_destination(service, server(8, service))
    peer().delete_destination(service, server(8, service).key)


def listed(service: ServiceKey) -> list[Destination]:
    return [row.destination for row in peer().service(service).destinations]


def add_again(clock: Clock, service: ServiceKey, added: Destination) -> None:
    """Add a server that may be there, let time pass, and edit and delete it."""
    with suppress(DestinationExists):
        peer().add_destination(service, added)
    assert listed(service) == [added]
    let_time_pass(clock, service)
    with pytest.raises(DestinationExists):
        peer().add_destination(service, added)
    assert listed(service) == [added]
    edited = replace(added, weight=7)
    peer().edit_destination(service, edited)
    assert listed(service) == [edited]
    counters = peer().service(service).counters
    assert max(counters.connections, counters.in_packets, counters.in_bytes) < 1 << 32, "less than 0"
    assert indexed(peer()) == used_by_nat(peer())
    peer().delete_destination(service, added.key)
    assert listed(service) == []
    let_time_pass(clock, service)


def killed_at_every_store(stopped_at: Stop, work: Callable[[], object], after: Callable[[], None]) -> None:
    """Stop the work before its n-th store for each n, and check what each stop leaves."""
    for store in itertools.count():
        done = stopped_at(store, work)
        after()
        if done:
            assert store > 10, "stores of the work"
            return


def check_slots(host: Host) -> None:
    """Assert that each used slot has a name, each name a used slot, and that slots are used again."""
    tables = host.director.tables
    top = tables.book.get(0, "destination_top")
    used = {slot for slot in range(top) if tables.destinations.get(slot, "used")}
    assert {int.from_bytes(value, "little") for _, value in tables.names.items()} == used
    assert top <= 4, "two servers, each in two slots at most"


@STOPS
def test_an_addition(host: Host, clock: Clock, stopped_at: Stop) -> None:
    service = host.new_key()
    added = server(1, service, Method.MASQ)
    peer().add_service(VirtualService(service, "rr"))

    def after() -> None:
        add_again(clock, service, added)
        check_slots(host)

    killed_at_every_store(stopped_at, lambda: peer().add_destination(service, added), after)


@STOPS
def test_an_edit_that_frees_the_slot(host: Host, clock: Clock, stopped_at: Stop) -> None:
    service = host.new_key()
    added, other = server(1, service, Method.MASQ), server(8, service)
    peer().add_service(VirtualService(service, "rr"))

    def delete() -> None:
        peer().add_destination(service, added)
        peer().delete_destination(service, added.key)
        clock.now_s += 2 * FREED_S

    def after() -> None:
        with suppress(DestinationExists):
            peer().add_destination(service, other)
        peer().delete_destination(service, other.key)
        add_again(clock, service, added)
        check_slots(host)
        delete()

    delete()
    killed_at_every_store(stopped_at, lambda: peer().add_destination(service, other), after)


@STOPS
def test_an_addition_to_a_service_that_was_deleted_with_the_server(host: Host, clock: Clock, stopped_at: Stop) -> None:
    """Its slot has counted packets."""
    service = host.new_key()
    added = server(1, service)
    ports = itertools.count(2000)

    def begin() -> None:
        peer().add_service(VirtualService(service, "rr"))
        peer().add_destination(service, added)
        host.run(tcp(sport=next(ports), dport=service.port), "tc")
        peer().delete_service(service)
        peer().add_service(VirtualService(service, "rr"))

    def after() -> None:
        add_again(clock, service, added)
        peer().delete_service(service)
        begin()

    begin()
    killed_at_every_store(stopped_at, lambda: peer().add_destination(service, added), after)
