"""A backup that was cut off from its master: it notices that, and has the whole table again."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from pylvs.model.sync.connection import SyncedConnection
from pylvs.model.sync.daemons import BACKUP, MASTER, SyncDaemon
from pylvs.sync import backup as backup_module
from pylvs.sync.backup import Backup
from pylvs.sync.master import Master
from pylvs.sync.receiver import Receiver

SYNCID, LONGEST, TURN_S = 5, 1472, 0.1
_HERE = IPv4Address("192.0.2.1")


def connection(port: int) -> SyncedConnection:
    return SyncedConnection(6, _HERE, port, _HERE, 80, _HERE, 80, 3, 1, 60)


class Table:
    """The tables of one director: what is in them, and what is due to be sent."""

    def __init__(self) -> None:
        self.all: list[SyncedConnection] = []
        self.due: list[SyncedConnection] = []
        self.replaced = self.lost = 0

    def settings(self) -> Mapping[str, int]:
        return {"sync_version": 1, "sync_qlen_max": 1000}

    def feed(self) -> Table:
        return self

    def open(self, *ports: int) -> None:
        found = [connection(port) for port in ports]
        self.all += found
        self.due += found

    def read(self) -> list[SyncedConnection]:
        due, self.due = self.due, []
        return due

    def announce_all(self) -> Iterator[SyncedConnection]:
        yield from (replace(each, age_ms=0) for each in list(self.all))

    def store(self, connections: Sequence[SyncedConnection] | None = None) -> Any:
        if connections is None:
            return self
        self.all += [each for each in connections if each.client_port not in self.ports]
        return {"created": len(connections)}

    @property
    def ports(self) -> set[int]:
        return {each.client_port for each in self.all}

    def renew(self) -> None:
        pass

    def close(self) -> None:
        pass


class Running:
    """The process of the receiver, which runs."""

    up = True

    def __init__(self, *_: object, **__: object) -> None:
        pass


class Pair:
    """A master and a backup, and the link between them. `play` lets time pass."""

    def __init__(self, stack: ExitStack) -> None:
        self.now = 1000.0
        self.is_cut = False
        sent, self._sent = self._ends(stack)
        asks, self._asks = self._ends(stack)
        self._asked, asked = self._ends(stack)
        self._arrived, arrived = self._ends(stack)
        self.here, self.there = Table(), Table()
        self._ends_of_master = sent, asked
        self.master = self._make()
        daemon = SyncDaemon(BACKUP, "e0", SYNCID)
        self.backup = Backup(self, daemon, self.there, [], LONGEST, asks)  # type: ignore[arg-type]
        own = bytes.fromhex(self.backup._arguments[2])
        self._received = arrived
        self._receiver = Receiver([arrived], SYNCID, LONGEST, self._receive, lambda: False, own)

    def _ends(self, stack: ExitStack) -> tuple[socket.socket, socket.socket]:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in ends:
            end.setblocking(False)
            stack.enter_context(end)
        return ends

    def _make(self) -> Master:
        sent, asked = self._ends_of_master
        return Master(SyncDaemon(MASTER, "e0", SYNCID), self.here, [sent], LONGEST, asked)

    def _receive(self, message: dict[str, object]) -> None:
        self.backup._receive(json.loads(json.dumps(message)))

    def restart_master(self, announce: bool) -> None:
        self.master = self._make()
        if announce:
            self.master.announce_all()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while True:
                data = one.recv(65535)
                if not self.is_cut:
                    other.send(data)
        except BlockingIOError:
            pass

    def play(self, seconds: float) -> None:
        for _ in range(round(seconds / TURN_S)):
            self.now += TURN_S
            self.master.work(self.now)
            self.backup.work(self.now)
            self.backup.has_tables(self.now)
            self._carry(self._sent, self._arrived)
            self._carry(self._asks, self._asked)
            self._receiver._read(self._received)

    @property
    def requests(self) -> int:
        return self.backup.counts["requests"]


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr(backup_module, "Child", Running)
    with ExitStack() as stack:
        yield Pair(stack)


@pytest.mark.parametrize("announces", [False, True])
@pytest.mark.parametrize("cut_s", [4.0, 60.0])
def test_a_link_that_was_cut_costs_no_connection(pair: Pair, cut_s: float, announces: bool) -> None:
    """With and without a master that has sent its whole table at its start."""
    if announces:
        pair.master.announce_all()
    pair.here.open(1, 2)
    pair.play(30)
    assert (pair.there.ports, pair.requests) == ({1, 2}, 1)
    pair.is_cut = True
    pair.here.open(*range(10, 200))
    pair.play(cut_s)
    assert pair.there.ports == {1, 2}
    pair.is_cut = False
    pair.play(12)
    assert pair.there.ports == pair.here.ports
    before = pair.requests
    pair.here.open(3)
    pair.play(120)
    assert pair.requests == before, "once it has everything"
    assert 3 in pair.there.ports


def test_the_whole_table_is_requested_when_the_link_was_down_at_the_start(pair: Pair) -> None:
    pair.here.open(1, 2)
    pair.master.announce_all()
    pair.is_cut = True
    pair.play(40)
    pair.is_cut = False
    pair.play(12)
    assert pair.there.ports == {1, 2}


@pytest.mark.parametrize("announces", [False, True])
def test_after_another_start_of_the_master_a_cut_is_noticed_again(pair: Pair, announces: bool) -> None:
    pair.here.open(1, 2)
    pair.play(30)
    pair.restart_master(announces)
    pair.play(30)
    pair.is_cut = True
    pair.here.open(3)
    pair.play(60)
    pair.is_cut = False
    pair.play(12)
    assert pair.there.ports == {1, 2, 3}


def test_a_single_lost_notice_is_no_reason(pair: Pair) -> None:
    pair.master.announce_all()
    pair.play(30)
    pair.is_cut = True
    pair.play(1)
    pair.is_cut = False
    pair.play(30)
    assert pair.requests == 1


def test_a_master_without_a_request_sends_what_ipvs_sends(pair: Pair) -> None:
    pair.is_cut = True
    pair.here.open(1)
    pair.play(60)
    assert pair.master.counts["messages"] == 1
