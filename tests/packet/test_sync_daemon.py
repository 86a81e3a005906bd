"""The sync daemons as processes: they start, send, store, end, and start again when they are killed."""

from __future__ import annotations

import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path

import pytest
from click.testing import CliRunner
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from pylvs.cli.director import down
from pylvs.dataplane import load
from pylvs.dataplane.state import State
from pylvs.dataplane.sync import feed as feed_module
from pylvs.dataplane.sync.feed import SyncFeed
from pylvs.model.director import Connection
from pylvs.model.errors import DaemonRuns, NoDaemon, PylvsError
from pylvs.model.sync.connection import SyncedConnection
from pylvs.model.sync.daemons import BACKUP, MASTER, ROLES, SyncDaemon
from pylvs.sync import control, director, request, wire, worker
from pylvs.sync.backup import Backup
from pylvs.sync.director import DirectorTables
from pylvs.sync.files import DaemonFiles
from pylvs.sync.master import Master
from pylvs.system.processes.asyncio_loop import AsyncioLoop
from pylvs.system.syscalls import CAPABILITIES
from tests.packet.frames import CLIENT4, tcp
from tests.packet.host import ROUTER_MAC, SENT, VIP4, Host, new_host, server4
from tests.waiting import until

SYNCID = 7
_UDP_AT = 14 + 20 + 8  # bytes before a message in a frame


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(recycled=True) as made:
        try:
            yield made
        finally:
            for role in ROLES:
                with suppress(NoDaemon):
                    control.stop(role)


@contextmanager
def opened_link() -> Iterator[socket.socket]:
    """Yield a socket of what arrives at the other end of d0."""
    with closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))) as made:
        made.bind(("d1", 0))
        made.setblocking(False)
        yield made


@pytest.fixture
def link(host: Host) -> Iterator[socket.socket]:
    with opened_link() as made:
        yield made


@pytest.fixture
def running(host: Host, link: socket.socket) -> Host:
    """A host with a master; the socket is open before its first message."""
    control.start(SyncDaemon(MASTER, "d0", SYNCID))
    return host


def connect(host: Host, port: int, service_port: int) -> None:
    """Send three packets of a connection: the third one is due."""
    for flags in ("S", "A", "A"):
        assert host.run(tcp(flags, port, service_port), "tc").verdict in SENT["tc"]


def received(link: socket.socket, port: int) -> SyncedConnection:
    """Wait for a message about this port of a client."""

    def look() -> SyncedConnection | None:
        with suppress(BlockingIOError):
            while True:
                frame = link.recv(4096)
                if frame[14 + 9] == 17 and frame[30:34] == bytes((224, 0, 0, 81)):
                    for connection in wire.parse(frame[_UDP_AT:], SYNCID, Counter()):
                        if connection.client_port == port:
                            return connection
        return None

    found = until(look, f"a message about port {port}")
    assert found
    return found


def send_about(link: socket.socket, service_port: int) -> None:
    """Send a message about a connection of port 6000 to the first real server."""
    address, vip, server = (ip_address(each) for each in ("198.51.100.7", VIP4, server4(1)))
    message = wire.Message(1, SYNCID, 1472, 0.0, bytearray())
    message.add(wire.encode(SyncedConnection(6, address, 6000, vip, service_port, server, service_port, 0x83, 1, 600)))
    datagram = IP(src="10.77.0.254", dst="224.0.0.81", ttl=1) / UDP(sport=8848, dport=8848) / message.encoded()
    link.send(bytes(Ether(dst="01:00:5e:00:00:51", src=ROUTER_MAC) / datagram))


def worker_of(role: str) -> int:
    """The process that works, below the supervisor."""
    (daemon,) = (each for each in control.running() if each.daemon.role == role)
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children")
    return int(until(lambda: children.read_text().split(), "a worker")[0])


def test_a_master_sends_what_is_due(running: Host, link: socket.socket) -> None:
    key = running.new_key()
    running.serve(key, 1)
    connect(running, 5000, key.port)
    found = received(link, 5000)
    assert (str(found.client), str(found.virtual), str(found.server)) == (CLIENT4, VIP4, server4(1))
    assert until(lambda: control.counts(MASTER).get("connections"), "it is counted") == 1


def test_a_daemon_is_listed_while_it_runs(host: Host) -> None:
    daemon = SyncDaemon(MASTER, "d0", 3, 1000, ip_address("239.1.2.3"), 9000, 7)
    control.start(daemon)
    (found,) = control.running()
    assert (found.daemon, found.maxlen, found.owner) == (daemon, 1000, "")
    with pytest.raises(DaemonRuns):
        control.start(SyncDaemon(MASTER, "d0"))
    control.start(SyncDaemon(BACKUP, "d0"))
    assert [each.daemon.role for each in control.running()] == [MASTER, BACKUP]
    for role in ROLES:
        control.stop(role)
    assert list(control.running()) == []
    assert not os.path.exists(DaemonFiles().directory)
    with pytest.raises(NoDaemon):
        control.stop(MASTER)


def test_a_killed_worker_is_started_again_and_sends_everything(running: Host, link: socket.socket) -> None:
    key = running.new_key()
    running.serve(key, 1)
    connect(running, 5001, key.port)
    received(link, 5001)
    first = worker_of(MASTER)
    os.kill(first, signal.SIGKILL)
    until(lambda: worker_of(MASTER) != first, "another worker")
    received(link, 5001)
    connect(running, 5002, key.port)
    received(link, 5002)


def test_after_a_killed_daemon_the_next_one_sends_everything(running: Host, link: socket.socket) -> None:
    key = running.new_key()
    running.serve(key, 1)
    connect(running, 5003, key.port)
    received(link, 5003)
    (daemon,) = control.running()
    os.kill(daemon.pid, signal.SIGKILL)
    until(lambda: not list(control.running()), "the worker ends with its supervisor")
    control.start(SyncDaemon(MASTER, "d0", SYNCID))
    received(link, 5003)


def test_a_stop_sends_what_was_collected(running: Host, link: socket.socket) -> None:
    key = running.new_key()
    running.serve(key, 1)
    connect(running, 5004, key.port)
    control.stop(MASTER)
    received(link, 5004)


def send_notice(link: socket.socket, notice: request.Notice) -> None:
    datagram = IP(src="10.77.0.254", dst="224.0.0.81", ttl=1) / UDP(sport=8848, dport=8848)
    datagram /= request.encode(notice, SYNCID)
    link.send(bytes(Ether(dst="01:00:5e:00:00:51", src=ROUTER_MAC) / datagram))


def notice_on(link: socket.socket, kind: request.Kind) -> request.Notice:
    """Wait for a notice of this kind."""

    def look() -> request.Notice | None:
        with suppress(BlockingIOError):
            while True:
                found = request.decode(link.recv(4096)[_UDP_AT:], SYNCID)
                if found is not None and found.kind is kind:
                    return found
        return None

    found = until(look, f"a notice: {kind.name}")
    assert found
    return found


def test_a_master_sends_its_whole_table_to_a_backup_that_requests_it(running: Host, link: socket.socket) -> None:
    key = running.new_key()
    running.serve(key, 1)
    connect(running, 5006, key.port)
    received(link, 5006)
    send_notice(link, request.Notice(request.Kind.WANTED, b"a backup"))
    again = received(link, 5006)
    assert again.age_ms is not None
    assert notice_on(link, request.Kind.SENT).token == b"a backup"


def test_a_backup_requests_whole_tables_and_works_when_they_are_here(host: Host, link: socket.socket) -> None:
    key = host.new_key()
    host.serve(key, 1)
    with ThreadPoolExecutor() as other:
        starting = other.submit(control.start, SyncDaemon(BACKUP, "d0", SYNCID), announce=True)
        token = notice_on(link, request.Kind.WANTED).token
        send_notice(link, request.Notice(request.Kind.BEGUN, token, b"a master"))
        send_about(link, key.port)
        send_notice(link, request.Notice(request.Kind.SENT, token, b"a master"))
        starting.result()
    assert [each.client_port for each in host.director.connections()] == [6000]


def test_a_backup_that_missed_messages_requests_whole_tables_again(host: Host, link: socket.socket) -> None:
    with ThreadPoolExecutor() as other:
        starting = other.submit(control.start, SyncDaemon(BACKUP, "d0", SYNCID), announce=True)
        first = notice_on(link, request.Kind.WANTED).token
        for kind in request.Kind.BEGUN, request.Kind.SENT:
            send_notice(link, request.Notice(kind, first, b"a master"))
        starting.result()
    for number in 1, 9:
        send_notice(link, request.alive(number, b"a master"))
    while (again := notice_on(link, request.Kind.WANTED).token) == first:
        pass
    assert again[: request.BACKUP_BYTES] == first[: request.BACKUP_BYTES]
    assert until(lambda: control.counts(BACKUP).get("requests") == 2, "it is counted")


def test_a_backup_stores_what_it_receives(host: Host, link: socket.socket) -> None:
    key = host.new_key()
    host.serve(key, 1)
    control.start(SyncDaemon(BACKUP, "d0", SYNCID))
    send_about(link, key.port)

    def found() -> list[Connection]:
        return [each for each in host.director.connections() if each.client_port == 6000]

    stored = until(found, "it is stored")
    assert [(each.state, str(each.destination)) for each in stored] == [("ESTABLISHED", server4(1))]
    assert until(lambda: control.counts(BACKUP).get("created"), "it is counted") == 1


@pytest.mark.parametrize("role", ROLES)
def test_a_worker_keeps_the_capabilities_that_it_uses(host: Host, role: str) -> None:
    control.start(SyncDaemon(role, "d0", SYNCID))
    status = Path(f"/proc/{worker_of(role)}/status").read_text(encoding="ascii")
    kept = int(dict(line.split(":", 1) for line in status.splitlines())["CapPrm"], 16)
    assert kept == sum(1 << CAPABILITIES[each] for each in worker.CAPABILITIES)


@pytest.fixture
def own_host() -> Iterator[Host]:
    """A host whose tables a test replaces or removes."""
    with new_host() as made:
        try:
            yield made
        finally:
            control.stop_all()


def test_daemons_without_their_other_capabilities_follow_to_another_table(own_host: Host) -> None:
    with opened_link() as link:
        for role in ROLES:
            control.start(SyncDaemon(role, "d0", SYNCID))
        key = own_host.new_key()
        own_host.serve(key, 1)
        connect(own_host, 5010, key.port)
        received(link, 5010)
        own_host.director.change_setting("conn_max", 8192)
        own_host.close_programs()
        received(link, 5010)  # again: all that is in the other table
        send_about(link, key.port)
        assert until(lambda: control.counts(BACKUP).get("created"), "it is stored") == 1
        assert not control.counts(BACKUP).get("no tables")


def take_down(host: Host) -> None:
    host.close_programs()
    load.take_down(host.director.state)


@pytest.fixture
def polls_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each use look for tables that were made anew."""
    monkeypatch.setattr(director, "LOOK_S", 0.0)


@pytest.mark.usefixtures("polls_always")
def test_a_master_waits_for_tables_that_were_removed(own_host: Host) -> None:
    tables = DirectorTables(make=True)
    master = Master(SyncDaemon(MASTER, "d0", SYNCID), tables, [], 1472)
    master.work(0.0)
    take_down(own_host)
    assert isinstance(master._feed, SyncFeed)
    master._feed._renewed_s -= feed_module.LEASE_S
    for _ in range(2):
        with pytest.raises(PylvsError, match="no tables in this network namespace"):
            master.work(0.0)
    own_host.director.make()
    master.work(0.0)
    master.close(0.0)


@pytest.mark.usefixtures("polls_always")
def test_a_store_ends_with_the_tables(own_host: Host) -> None:
    tables = DirectorTables(make=True)
    store = tables.store()
    store.renew()
    take_down(own_host)
    store.close()
    for use in store.renew, store.end, tables.store:
        with pytest.raises(PylvsError, match="no tables in this network namespace"):
            use()
    own_host.director.make()
    again = tables.store()
    again.renew()
    again.close()


@pytest.mark.parametrize("role", ROLES)
def test_another_worker_does_not_make_tables_that_were_removed(own_host: Host, role: str) -> None:
    control.start(SyncDaemon(role, "d0", SYNCID))
    take_down(own_host)
    first = worker_of(role)
    os.kill(first, signal.SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{first}"), "the worker ends")
    counts = Path(DaemonFiles().counts(role))
    counts.unlink(missing_ok=True)
    until(counts.exists, "another worker works")
    assert not State.open().exists


def test_down_stops_the_daemons(own_host: Host) -> None:
    for role in ROLES:
        control.start(SyncDaemon(role, "d0", SYNCID))
    own_host.close_programs()
    done = CliRunner().invoke(down, [])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[:2] == ["the master sync daemon is stopped", "the backup sync daemon is stopped"]
    assert list(control.running()) == []
    assert not os.path.exists(DaemonFiles().directory)


def test_a_daemon_that_cannot_start_leaves_nothing(host: Host) -> None:
    with pytest.raises(PylvsError, match="nosuch0: no such device"):
        control.start(SyncDaemon(BACKUP, "nosuch0"))
    assert list(control.running()) == []
    assert not os.path.exists(DaemonFiles().directory)


@pytest.mark.usefixtures("polls_always")
def test_a_backup_without_tables_keeps_no_descriptors(own_host: Host) -> None:
    backup = Backup(AsyncioLoop(), SyncDaemon(BACKUP, "d0", SYNCID), DirectorTables(make=True), [], 1472)
    found = list[int]()
    for _ in range(2):
        backup.work(0.0)
        found.append(len(os.listdir("/proc/self/fd")))
        take_down(own_host)
        for _ in range(2):
            with pytest.raises(PylvsError, match="no tables in this network namespace"):
                backup.work(0.0)
        own_host.director.make()
    backup.work(0.0)
    found.append(len(os.listdir("/proc/self/fd")))
    assert len(set(found[1:])) == 1, found
