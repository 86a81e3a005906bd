"""The master: which messages leave, when, and what it drops."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from ipaddress import IPv4Address, IPv6Address

import pytest

from pylvs.model.errors import PylvsError
from pylvs.model.sync.connection import SyncedConnection
from pylvs.model.sync.daemons import MASTER, SyncDaemon
from pylvs.sync import request, wire
from pylvs.sync.master import ANNOUNCED_AT_ONCE, COUNTERS, FLUSH_S, LOOK_S, LOST_S, Master, Packer

_HERE, _HERE6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
_LONGEST, _FULL = 1472, 40  # bytes, and records of IPv4 that fit


def connection(port: int, version: int = 4) -> SyncedConnection:
    address = _HERE if version == 4 else _HERE6
    return SyncedConnection(6, address, port, address, 80, address, 80, 3, 1, 60)


def ports_of(messages: Sequence[bytes]) -> list[list[int]]:
    """The clients' ports in each message."""
    return [[each.client_port for each in wire.parse(data, 0, Counter())] for data in messages]


def queued(packer: Packer) -> list[list[int]]:
    return ports_of([data for _, data, _ in packer.queue])


def test_a_full_message_waits_for_the_connection_that_does_not_fit() -> None:
    packer = Packer(5, _LONGEST, 1)
    for port in range(_FULL):
        packer.add(connection(port), 1, 9, 0.0)
    assert not packer.queue
    packer.add(connection(_FULL), 1, 9, 0.0)
    assert queued(packer) == [list(range(_FULL))]


def test_a_message_is_sent_at_its_age() -> None:
    packer = Packer(5, _LONGEST, 1)
    packer.add(connection(1), 1, 9, 10.0)
    packer.add(connection(2), 1, 9, 11.9)
    packer.flush(9.9, 9)
    assert not packer.queue
    packer.flush(10.0, 9)
    assert queued(packer) == [[1, 2]]


def test_a_change_of_the_version_begins_a_message() -> None:
    packer = Packer(5, _LONGEST, 1)
    packer.add(connection(1), 1, 9, 0.0)
    packer.add(connection(2), 0, 9, 0.0)
    packer.flush(0.0, 9)
    assert queued(packer) == [[1], [2]]
    assert packer.queue[1][1][0] == 1  # of version 0: the number of connections comes first


def test_version_0_has_no_ipv6() -> None:
    packer = Packer(5, _LONGEST, 1)
    packer.add(connection(1, 6), 0, 9, 0.0)
    packer.flush(0.0, 9)
    assert (queued(packer), packer.counts) == ([], {"not in version 0": 1})


def test_a_full_queue_drops_connections_and_counts_them() -> None:
    packer = Packer(5, _LONGEST, 1)
    for port in range(5 * _FULL):
        packer.add(connection(port), 1, 2, 0.0)
    packer.flush(0.0, 2)
    assert len(packer.queue) == 2
    assert packer.counts == {"queue full": 3 * _FULL}


def test_a_connection_is_always_sent_to_the_same_port() -> None:
    packer = Packer(5, _LONGEST, 8)
    for _ in range(3):
        for port in range(100):
            packer.add(connection(port), 1, 99, 0.0)
        packer.flush(0.0, 99)
    thread_of: dict[int, int] = {}
    for thread, data, _ in packer.queue:
        for port in ports_of([data])[0]:
            assert thread_of.setdefault(port, thread) == thread
    assert len(thread_of) == 100
    assert set(thread_of.values()) == set(range(8))


class Table:
    """Tables whose feed has what a test puts there."""

    def __init__(self) -> None:
        self.due: list[SyncedConnection] = []
        self.all: list[SyncedConnection] = []
        self.there = True
        self.opened = 0
        self.replaced = self.lost = 0
        self.most_waiting = 1000
        self.refuses_close = False

    def settings(self) -> Mapping[str, int]:
        return {"sync_version": 1, "sync_qlen_max": self.most_waiting}

    def feed(self) -> Table:
        if not self.there:
            raise PylvsError("no tables")
        self.opened += 1
        return self

    def store(self) -> None:  # a master has none
        raise AssertionError

    def read(self) -> list[SyncedConnection]:
        if not self.there:
            raise PylvsError("no tables")
        due, self.due = self.due, []
        return due

    def announce_all(self) -> Iterator[SyncedConnection]:
        yield from self.all

    def close(self) -> None:
        if self.refuses_close:
            raise PylvsError("no tables")


class Lab:
    """A master between a table and a socket pair."""

    def __init__(self) -> None:
        self.table = Table()
        ours, self.other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.setblocking(False)
        self.other.setblocking(False)
        self.ours = ours
        asked, self.backup = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        asked.setblocking(False)
        self.asked = asked
        daemon = SyncDaemon(MASTER, "eth0", 5)
        self.master = Master(daemon, self.table, [ours], _LONGEST, asked)  # type: ignore[arg-type]
        self.now = 100.0

    def work(self, seconds: float = 0.0) -> list[list[int]]:
        """Let time pass, then work once; what was sent."""
        self.now += seconds
        self.master.work(self.now)
        return self.sent()

    def sent(self) -> list[list[int]]:
        return ports_of(self.datagrams())

    def datagrams(self) -> list[bytes]:
        found = []
        while True:
            try:
                found.append(self.other.recv(65535))
            except BlockingIOError:
                return found


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    with closing(made.ours), closing(made.other), closing(made.asked), closing(made.backup):
        yield made


def test_what_is_due_is_sent(lab: Lab) -> None:
    lab.table.due = [connection(port) for port in range(_FULL + 2)]
    assert lab.work() == [list(range(_FULL))]
    assert lab.work(LOOK_S) == []
    assert lab.work(FLUSH_S) == [[_FULL, _FULL + 1]]
    assert lab.master.counts == {"messages": 2, "connections": _FULL + 2, "lost": 0}


def test_a_restart_sends_the_whole_table(lab: Lab) -> None:
    lab.table.all = [connection(port) for port in range(3 * ANNOUNCED_AT_ONCE)]
    assert lab.work() == []
    lab.master.announce_all()
    found = [port for _ in range(5) for message in lab.work(FLUSH_S + LOOK_S) for port in message]
    assert found == list(range(3 * ANNOUNCED_AT_ONCE))


def test_a_request_is_answered_and_the_whole_table_is_sent_before_the_end(lab: Lab) -> None:
    lab.table.all = [connection(port) for port in range(ANNOUNCED_AT_ONCE + 5)]
    for _ in range(2):
        lab.backup.send(request.encode(request.Notice(request.Kind.WANTED, b"a backup"), 5))
    for _ in range(5):
        lab.now += 0.02
        lab.master.work(lab.now)
    found = lab.datagrams()
    notices = [
        notice for each in found if (notice := request.decode(each, 5)) and notice.kind is not request.Kind.ALIVE
    ]
    begun, sent = request.Kind.BEGUN, request.Kind.SENT
    assert [(each.kind, each.token) for each in notices] == [(begun, b"a backup")] * 2 + [(sent, b"a backup")]
    assert request.decode(found[-1], 5) == notices[-1], "behind all connections"
    ports = [port for message in ports_of(found) for port in message]
    assert ports == list(range(ANNOUNCED_AT_ONCE + 5)), "once"


def test_a_master_that_was_asked_shows_once_a_second_that_it_runs(lab: Lab) -> None:
    for _ in range(30):
        lab.work(0.1)
    assert lab.datagrams() == []
    lab.backup.send(request.encode(request.Notice(request.Kind.WANTED, b"a backup"), 5))
    found = list[request.Notice]()
    for _ in range(30):
        lab.now += 0.1
        lab.master.work(lab.now)
        found += [notice for each in lab.datagrams() if (notice := request.decode(each, 5))]
    numbers = [int.from_bytes(each.token) for each in found if each.kind is request.Kind.ALIVE]
    assert numbers == [1, 2, 3]
    assert len({each.sender for each in found}) == 1


@pytest.mark.parametrize("how", ["not read in time", "queue full"])
def test_a_loss_that_has_ended_is_followed_by_the_whole_table(lab: Lab, how: str) -> None:
    lab.table.all, lab.table.most_waiting = [connection(port) for port in range(3)], 3
    sent = list[list[int]]()
    for _ in range(4):  # it continues: the whole table would add to it
        if how == "queue full":
            lab.table.due = [connection(port) for port in range(100, 100 + 9 * _FULL)]
        else:
            lab.table.lost += 1
        sent += lab.work(LOST_S - 1)
    sent += lab.work(LOST_S - 1)
    assert [0, 1, 2] not in sent
    assert lab.work(1) == [[0, 1, 2]]
    for _ in range(9):
        assert lab.work(LOST_S) == [], "once"
    assert bool(lab.master.counts["queue full"]) == (how == "queue full")


def test_losses_and_requests_share_a_run_through_the_table(lab: Lab) -> None:
    lab.table.all, lab.table.lost = [connection(7)], 1
    lab.work()
    lab.backup.send(request.encode(request.Notice(request.Kind.WANTED, b"a backup"), 5))
    lab.now += LOST_S
    lab.master.work(lab.now)
    lab.now += FLUSH_S + LOOK_S
    lab.master.work(lab.now)
    found = lab.datagrams()
    assert [ports for ports in ports_of(found) if ports] == [[7]]
    notices = [notice for each in found if (notice := request.decode(each, 5))]
    assert {each.token for each in notices if each.kind is not request.Kind.ALIVE} == {b"a backup"}


def test_other_tables_are_sent_again(lab: Lab) -> None:
    lab.work()
    lab.table.all, lab.table.replaced = [connection(7)], 1
    lab.work()
    assert lab.work(FLUSH_S + LOOK_S) == [[7]]


def test_a_master_waits_for_tables_that_are_gone(lab: Lab) -> None:
    lab.work()
    lab.table.lost = 3
    lab.table.there = False
    for _ in range(2):
        with pytest.raises(PylvsError):
            lab.work()
    lab.table.there, lab.table.due, lab.table.lost = True, [connection(9)], 2
    lab.work()
    assert lab.work(FLUSH_S + LOOK_S) == [[9]]
    assert lab.table.opened == 2
    assert lab.master.counts["lost"] == 5


def test_other_tables_are_sent_again_also_after_there_were_none(lab: Lab) -> None:
    lab.work()
    lab.table.there = False
    with pytest.raises(PylvsError):
        lab.work()
    lab.table.there, lab.table.all = True, [connection(7)]
    lab.work()
    assert lab.work(FLUSH_S + LOOK_S) == [[7]]
    assert lab.work(FLUSH_S + LOOK_S) == []


def test_a_request_waits_while_there_are_no_tables(lab: Lab) -> None:
    lab.table.all = [connection(port) for port in range(ANNOUNCED_AT_ONCE + 5)]
    lab.backup.send(request.encode(request.Notice(request.Kind.WANTED, b"a backup"), 5))
    lab.work()
    lab.table.there = False
    with pytest.raises(PylvsError):
        lab.work()
    lab.table.there, lab.table.all = True, [connection(port) for port in range(ANNOUNCED_AT_ONCE + 7)]
    lab.datagrams()
    lab.work()
    lab.now += 0.02
    lab.master.work(lab.now)
    found = lab.datagrams()
    (sent,) = (notice for each in found if (notice := request.decode(each, 5)))
    assert (sent.kind, sent.token) == (request.Kind.SENT, b"a backup")
    assert request.decode(found[-1], 5) == sent, "behind all connections"
    assert ANNOUNCED_AT_ONCE + 6 in [port for message in ports_of(found) for port in message]


def test_a_master_leaves_a_feed_that_cannot_be_closed(lab: Lab) -> None:
    lab.work()
    lab.table.there, lab.table.refuses_close = False, True
    with pytest.raises(PylvsError):
        lab.work()
    lab.table.there, lab.table.due = True, [connection(9)]
    lab.work()
    assert lab.table.opened == 2


def test_an_end_sends_what_was_collected(lab: Lab) -> None:
    lab.table.due = [connection(4)]
    lab.work()
    lab.table.due = [connection(5)]
    lab.master.close(lab.now)
    assert lab.sent() == [[4, 5]]


def test_a_network_that_takes_nothing_delays_messages_and_drops_none(lab: Lab) -> None:
    lab.table.due = [connection(port) for port in range(400 * _FULL + 1)]
    found = lab.work()
    assert 0 < len(found) < 400
    while more := lab.work():
        found += more
    assert [port for message in found for port in message] == list(range(400 * _FULL))


def test_a_network_that_refuses_messages_is_counted(lab: Lab) -> None:
    lab.other.close()
    lab.table.due = [connection(port) for port in range(_FULL + 1)]
    lab.master.work(lab.now)
    assert lab.master.counts["send errors"] == 1
    assert lab.master.counts.keys() <= COUNTERS.keys()
