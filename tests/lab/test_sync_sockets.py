"""Messages of sync daemons between two network namespaces: they arrive, and a flood of others costs only counters."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from pylvs.model.errors import NoSuchDevice, PylvsError
from pylvs.model.sync.connection import SyncedConnection
from pylvs.model.sync.daemons import BACKUP, MASTER, SyncDaemon
from pylvs.sync import request, sockets, wire
from pylvs.sync.backup import COUNTERS, Backup
from pylvs.sync.receiver import DROPPED, MOST_USELESS, SLICE_S
from pylvs.sync.request import Kind, Notice
from pylvs.system.namespaces import NAMED, inside_network
from pylvs.system.processes.asyncio_loop import AsyncioLoop, closed
from tests.iproute import ip_batch
from tests.waiting import PATIENCE_S, until_async, until_up

_HERE, _THERE = (f"pylvs-sync{os.getpid()}{end}" for end in "ab")
_IP_RECVTTL = 12  # linux/in.h
GROUPS = ["224.0.0.81", "ff02::51"]


@pytest.fixture(scope="module")
def wire_between() -> Iterator[None]:
    """Two namespaces; e0 of each leads to the other."""
    ip_batch(
        [
            f"netns add {_HERE}",
            f"netns add {_THERE}",
            f"link add e0 netns {_HERE} type veth peer name e0 netns {_THERE}",
        ]
    )
    try:
        for name, host in (_HERE, 1), (_THERE, 2):
            lines = [
                f"address add 10.81.0.{host}/24 dev e0",
                f"address add fd81::{host}/64 dev e0 nodad",
                "link set e0 up",
            ]
            ip_batch(lines, name)
        for name in _HERE, _THERE:
            with inside_network(NAMED / name):
                until_up("e0")
        yield
    finally:
        ip_batch([f"netns delete {_HERE}", f"netns delete {_THERE}"])


class Stored:
    """The tables of the backup: what was stored."""

    def __init__(self) -> None:
        self.connections: list[SyncedConnection] = []
        self.there = True
        self.renewed = 0

    def settings(self) -> Mapping[str, int]:
        return {}

    def feed(self) -> None:  # a backup has none
        raise AssertionError

    def store(self, connections: Sequence[SyncedConnection] | None = None) -> Stored | Mapping[str, int]:
        if not self.there:
            raise PylvsError("no tables")
        if connections is None:
            return self
        self.connections += connections
        return {"created": len(connections)}

    def renew(self) -> None:
        self.renewed += 1

    def close(self) -> None:
        pass


class Lab:
    """A backup on one side, whose receiver is the real process, and a sender on the other side."""

    def __init__(self, stack: ExitStack, group: str, syncid: int = 0, port: int = 8848) -> None:
        self.daemon = SyncDaemon(BACKUP, "e0", syncid, group=ip_address(group), port=port)
        master = SyncDaemon(MASTER, "e0", syncid, group=ip_address(group), port=port)
        with inside_network(NAMED / _HERE):
            (received,) = sockets.opened(self.daemon, 1, 0)
        with inside_network(NAMED / _THERE):
            (self.sender,) = sockets.opened(master, 1, 0)
        for each in (received, self.sender):
            stack.enter_context(each)
        self.tables = Stored()
        self.backup = Backup(AsyncioLoop(), self.daemon, self.tables, [received], 1472)  # type: ignore[arg-type]

    def send(self, data: bytes) -> None:
        self.sender.setblocking(True)
        self.sender.send(data)

    def counted(self, name: str) -> int:
        return self.backup.counts[name]


@contextmanager
def lab_of(group: str, syncid: int = 0) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(stack, group, syncid)


async def running(lab: Lab, play: Callable[[], object]) -> None:
    """Play while the receiver runs."""
    lab.backup.start()
    try:
        await until_async(lambda: lab.backup.up, "the receiver is up")
        result = play()
        if asyncio.iscoroutine(result):
            await result
    finally:
        await closed(lab.backup._child)


def message(*ports: int, syncid: int = 5) -> bytes:
    made = wire.Message(1, syncid, 60000, 0.0, bytearray())
    here = ip_address("192.0.2.1")
    for port in ports:
        assert made.add(wire.encode(SyncedConnection(6, here, port, here, 80, here, 80, 3, 1, 60)))
    return made.encoded()


@pytest.mark.parametrize("group", GROUPS)
def test_connections_arrive(wire_between: None, group: str) -> None:
    with lab_of(group) as lab:

        async def play() -> None:
            lab.send(message(*range(40)))
            await until_async(lambda: len(lab.tables.connections) == 40, "the connections are stored")
            await until_async(lambda: lab.counted("messages") == 1, "the message is counted")

        asyncio.run(running(lab, play))
        assert [each.client_port for each in lab.tables.connections] == list(range(40))
        assert lab.backup.counts == {"messages": 1, "connections": 40, "created": 40}


@pytest.mark.parametrize("group", GROUPS)
def test_a_message_has_the_address_and_ttl_of_its_daemon(wire_between: None, group: str) -> None:
    address = ip_address(group)
    with ExitStack() as stack:
        with inside_network(NAMED / _HERE):
            backup = SyncDaemon(BACKUP, "e0", group=address, port=9000)
            received = stack.enter_context(sockets.receiver(backup, 1, 0))
        with inside_network(NAMED / _THERE):
            sender = stack.enter_context(
                sockets.sender(SyncDaemon(MASTER, "e0", group=address, port=9000, ttl=7), 1, 0)
            )
        received.setblocking(True)
        if address.version == 4:
            received.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)
        else:
            received.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
        sender.send(b"x")
        data, more, _, source = received.recvmsg(100, 100)
        assert (data, source[0].split("%")[0]) == (
            b"x",
            "10.81.0.2" if address.version == 4 else source[0].split("%")[0],
        )
        assert struct.unpack("=i", more[0][2])[0] == 7


def test_a_receiver_has_no_privileges(wire_between: None) -> None:
    with lab_of(GROUPS[0]) as lab:

        def play() -> None:
            status = Path(f"/proc/{lab.backup._child.pid}/status").read_text()
            found = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert found["Uid"].split()[0] != "0"
            assert [int(found[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")] == [0, 0, 0]
            assert found["NoNewPrivs"] == "1"
            assert not os.listdir(f"/proc/{lab.backup._child.pid}/root/")

        asyncio.run(running(lab, play))


@pytest.mark.parametrize(
    ("useless", "name"),
    [(message(1, syncid=7), "other syncid"), (message(1)[:-1], "bad size"), (message(), "")],
)
def test_a_flood_costs_only_counters(wire_between: None, useless: bytes, name: str) -> None:
    """100,000 messages of which none has a connection; what comes after them is stored."""
    many = 100_000
    with lab_of(GROUPS[0], syncid=5) as lab:

        async def play() -> None:
            loop = asyncio.get_running_loop()
            began = loop.time()
            for number in range(many):
                lab.send(useless)
                if not number % 1000:
                    await asyncio.sleep(0)
            slices = (loop.time() - began) / SLICE_S + 2

            def all_counted() -> bool:
                return lab.counted("messages") + lab.counted(DROPPED) >= many

            await until_async(all_counted, lambda: f"all are counted: {lab.backup.counts}")
            assert lab.counted("messages") <= (slices + 50) * MOST_USELESS
            assert lab.counted("messages") + lab.counted(DROPPED) == many
            if name:
                assert lab.counted(name) == lab.counted("messages")
            assert lab.tables.connections == []
            while not lab.tables.connections:
                lab.send(message(9))
                await asyncio.sleep(0.05)

        asyncio.run(running(lab, play))
        assert lab.backup.counts.keys() <= {*wire.COUNTERS, *COUNTERS, "created"}
        assert lab.counted("receiver restarts") == 0


def test_a_killed_receiver_is_started_again(wire_between: None) -> None:
    with lab_of(GROUPS[0]) as lab:

        async def play() -> None:
            os.kill(lab.backup._child.pid, 9)
            await until_async(lambda: lab.backup._child.restarts == 1, "the end is noticed")
            await until_async(lambda: lab.backup.up, "it is up again")
            lab.send(message(3))
            await until_async(lambda: lab.tables.connections, "the connection is stored")

        asyncio.run(running(lab, play))
        assert lab.counted("receiver restarts") == 1


def test_connections_without_tables_are_counted(wire_between: None) -> None:
    with lab_of(GROUPS[0]) as lab:

        async def play() -> None:
            lab.tables.there = False
            lab.send(message(1, 2))
            await until_async(lambda: lab.counted("no tables") == 2, "they are counted")
            lab.tables.there = True
            lab.send(message(3))
            await until_async(lambda: lab.tables.connections, "the next one is stored")

        asyncio.run(running(lab, play))
        assert [each.client_port for each in lab.tables.connections] == [3]


@pytest.mark.parametrize("group", GROUPS)
def test_the_kernel_passes_requests_alone_to_a_master(wire_between: None, group: str) -> None:
    """A master is root."""
    wanted = Notice(Kind.WANTED, b"a backup")
    asked = request.encode(wanted, 5)
    with ExitStack() as stack:
        with inside_network(NAMED / _HERE):
            master = SyncDaemon(MASTER, "e0", 5, group=ip_address(group))
            received = stack.enter_context(sockets.for_requests(master))
        with inside_network(NAMED / _THERE):
            backup = SyncDaemon(BACKUP, "e0", 5, group=ip_address(group))
            sender = stack.enter_context(sockets.for_requests(backup))
        others = [
            message(80),
            asked + b"x",
            asked[:-1],
            request.encode(wanted, 6),
            request.encode(wanted._replace(kind=Kind.SENT), 5),
            asked.replace(request.NAME, b"another"),
        ]
        received.setblocking(True)
        received.settimeout(PATIENCE_S)
        for each in (*others, request.encode(wanted, 0), *others, asked):
            sender.send(each)
        assert [received.recv(2000) for _ in range(2)] == [request.encode(wanted, 0), asked]


def test_a_device_that_is_not_there(wire_between: None) -> None:
    with inside_network(NAMED / _HERE), pytest.raises(NoSuchDevice):
        sockets.opened(SyncDaemon(BACKUP, "nosuch0"), 1, 0)


def test_each_port_has_a_socket(wire_between: None) -> None:
    with ExitStack() as stack, inside_network(NAMED / _HERE):
        opened = sockets.opened(SyncDaemon(BACKUP, "e0"), 4, 1 << 20)
        for each in opened:
            stack.enter_context(each)
        assert [each.getsockname()[1] for each in opened] == [8848, 8849, 8850, 8851]
        assert Counter(each.getsockname()[0] for each in opened) == {"224.0.0.81": 4}
