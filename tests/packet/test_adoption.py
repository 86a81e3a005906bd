"""`pylvs adopt` and `pylvs adopt --back`, killed after each step: IPVS or pylvs serves, never none and never both.

A stand-in has the table and the connections of the kernel's IPVS; the real one is in guests (tests/interop). What
passes to the stack is IPVS's: here the stack answers it by a RST, because nothing else takes it.
"""

from __future__ import annotations

import itertools
import os
import pickle
import select
import signal
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pylvs.bpf import kernel
from pylvs.dataplane import load
from pylvs.dataplane.devices.move import is_open
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.exchange.insertion import Insertion
from pylvs.dataplane.overview import overview
from pylvs.dataplane.state import RESTORE, State
from pylvs.doctor.facts import Facts
from pylvs.doctor.probes.data_plane import move
from pylvs.ipvs import adopt, back, listing
from pylvs.ipvs.adopt import Adoption, give_up
from pylvs.ipvs.back import Return
from pylvs.ipvs.feed import key_of
from pylvs.ipvs.frames import ends_of
from pylvs.ipvs.kernel import KernelRow
from pylvs.ipvs.listing import Line, words_of
from pylvs.ipvs.messages import KernelDestination, KernelService
from pylvs.ipvs.shadow import Shadow, _Capture
from pylvs.model.errors import Busy, NoSpace, Unsupported
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    VirtualService,
)
from pylvs.model.sync.connection import SyncedConnection
from pylvs.sync import control
from tests.packet.frames import CLIENT4, CLIENT6, tcp, udp
from tests.packet.host import ROUTER_MAC, VIP4, VIP6, Host, key, new_host, server4, server6, server_mac
from tests.packet.test_killed_load import NEEDED, FewPrograms
from tests.packet.wire import Wire, wire
from tests.waiting import until

pytestmark = pytest.mark.timeout(1200)  # each kill costs two loads of the programs
SERVICE, PERSISTENT = key(80), key(81)
OPEN = range(20_000, 20_003)  # ports of clients whose connections IPVS has
CLIENT = ip_address(CLIENT4).packed


def line(
    port: int, service: ServiceKey = SERVICE, server: int = 1, state: str = "ESTABLISHED", left_s: int = 800
) -> Line:
    server_address = ip_address(server4(server)).packed
    return Line(6, CLIENT, port, service.address.packed, service.port, server_address, service.port, state, left_s)


def text_of(connection: Line) -> bytes:
    """Return a line as the kernel prints it."""
    server = words_of((6, connection.server, connection.server_port, b"", 0))[1:3]
    columns = *words_of(connection.key), *server, b"%-11s" % connection.state.encode(), b"%7d" % connection.expires_s
    return b"%-3s " % columns[0] + b" ".join(columns[1:]) + b"\n"


class Programs(FewPrograms):
    """The object without the programs that no packet of this test reaches."""

    NEEDED = (*NEEDED, "persist", "trace")


class Stored:
    """What IPVS has, in a file: a process that is killed has changed it, too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: list[KernelRow] = []
        self.lines: dict[Any, Line] = {}
        self.skipped: list[set[Any]] = []  # what the next listings lack, though it is there
        self.settings = {"sloppy_tcp": "1", "conn_reuse_mode": "0", "sync_threshold": "3\t50", "backup_only": "0"}

    def load(self) -> None:
        if self._path.exists():
            self.rows, self.lines = pickle.loads(self._path.read_bytes())

    def save(self) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(pickle.dumps((self.rows, self.lines)))
        fresh.rename(self._path)


class StandIn:
    """The part of `KernelIpvs` that adoptions use."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored

    def rows(self) -> list[KernelRow]:
        self.stored.load()
        return list(self.stored.rows)

    def timeouts(self) -> Timeouts:
        return Timeouts(700, 60, 50)

    def settings(self) -> dict[str, str]:
        return self.stored.settings

    def daemons(self) -> list[Any]:
        return []

    def connections(self) -> Iterator[Line]:
        self.stored.load()
        skipped = self.stored.skipped.pop(0) if self.stored.skipped else set()
        yield from (each for name, each in self.stored.lines.items() if name not in skipped)

    def connection_lines(self) -> Iterator[bytes]:
        yield b"Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n"
        yield from map(text_of, self.connections())

    def flush(self) -> None:
        self.stored.rows = []
        self.stored.save()

    def set_timeouts(self, timeouts: Timeouts) -> None:
        pass

    def add_service(self, service: VirtualService) -> None:
        self.stored.rows.append(KernelRow(KernelService(service, int(service.flags)), ()))
        self.stored.save()

    def add_destination(self, service: ServiceKey, destination: Destination) -> None:
        at = next(at for at, row in enumerate(self.stored.rows) if row.service.service.key == service)
        row = self.stored.rows[at]
        fresh = KernelDestination(destination, destination.method, 0, 0, 0, 0)
        self.stored.rows[at] = KernelRow(row.service, (fresh, *row.destinations))
        self.stored.save()


class StandInFeed:
    """The part of `Feed` that a return uses: IPVS takes what it is sent."""

    def __init__(self, kernel: StandIn) -> None:
        self._stored = kernel.stored
        self.renew: Callable[[], None] = lambda: None

    def __enter__(self) -> StandInFeed:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def send(self, connections: Iterable[SyncedConnection]) -> None:
        for connection in connections:
            state = "NONE" if not connection.client_port else ("NONE", "ESTABLISHED")[connection.state == 1]
            ends = *key_of(connection), connection.server.packed, connection.server_port
            self._stored.lines[key_of(connection)] = Line(*ends, state, connection.timeout_s or 0)
        self._stored.save()

    def missing(self, connections: Iterable[SyncedConnection]) -> list[SyncedConnection]:
        self.renew()
        return []


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    small = mock.patch.object(kernel, "connection_limit", return_value=1024)
    with mock.patch.object(load, "BpfObject", Programs), new_host(connections=1024) as made, small:
        made.expiry.close()  # its descriptor of a program
        yield made


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    """Return an IPVS with services and connections."""
    made = Stored(tmp_path / "ipvs")
    ipvs = StandIn(made)
    ipvs.add_service(VirtualService(SERVICE, "rr"))
    ipvs.add_service(VirtualService(PERSISTENT, "rr", ServiceFlag.PERSISTENT, 300))
    for number in 1, 2:
        for service in SERVICE, PERSISTENT:
            ipvs.add_destination(
                service, Destination(DestinationKey(ip_address(server4(number)), service.port), Method.ROUTE)
            )
    found = [line(port) for port in OPEN]
    template = Line(
        6,
        CLIENT,
        0,
        PERSISTENT.address.packed,
        PERSISTENT.port,
        ip_address(server4(2)).packed,
        PERSISTENT.port,
        "NONE",
        250,
    )
    found += [line(OPEN[0], PERSISTENT, 2), template]
    made.lines = {each.key: each for each in found}
    made.save()
    return made


@pytest.fixture(autouse=True)
def backup_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let IPVS be the stand-in, and return the file of its only setting."""
    monkeypatch.setattr(back, "Feed", StandInFeed)
    monkeypatch.setattr(back, "SETTINGS", str(tmp_path))
    path = tmp_path / "backup_only"
    path.write_text("0\n")
    return path


def director() -> BpfDirector:
    return BpfDirector(State.open())


def adopted(stored: Stored, report: Callable[[str], None] = lambda _: None, force: bool = False) -> Any:
    return Adoption(director(), StandIn(stored), report).run(force)  # type: ignore[arg-type]  # a stand-in


def returned(stored: Stored, report: Callable[[str], None] = lambda _: None) -> Any:
    return Return(director(), StandIn(stored), report).run()  # type: ignore[arg-type]  # a stand-in


def reached(clients: Wire, flags: str, sport: int, dport: int) -> str:
    """Send a packet, and return who took it: the number of a server that pylvs sent it to, or "stack"."""
    clients.send(tcp(flags, sport, dport))
    found = []
    ends = sport.to_bytes(2, "big") + dport.to_bytes(2, "big")
    for frame in clients.came():
        if frame[34:38] == ends:
            found += [str(number) for number in (1, 2) if frame[:6].hex(":") == server_mac(number)]
        elif frame[34:38] == ends[2:] + ends[:2]:
            found.append("stack")
    assert len(found) == 1, f"a packet reached {found}"
    return found[0]


def who(clients: Wire) -> str:
    """Return who serves: all packets must agree."""
    took = {reached(clients, "A", port, SERVICE.port) for port in OPEN} | {
        reached(clients, "A", OPEN[0], PERSISTENT.port)
    }
    if took == {"stack"}:
        return "ip_vs"
    assert took == {"1", "2"}, took
    assert [reached(clients, "A", port, SERVICE.port) for port in OPEN] == ["1"] * 3
    assert reached(clients, "A", OPEN[0], PERSISTENT.port) == "2"
    return "pylvs"


def table(rows: Iterable[KernelRow]) -> set[tuple[object, ...]]:
    """Return services and destinations, in list order."""
    found = set[tuple[object, ...]]()
    for row in rows:
        service, destinations = row.wanted
        found.add((service.key, service.scheduler, service.flags, service.timeout_s, service.mask, destinations))
    return found


def steps(work: Callable[[Callable[[str], None]], object]) -> list[str]:
    found: list[str] = []
    work(found.append)
    return found


def killed_after(step: str, work: Callable[[Callable[[str], None]], object]) -> None:
    """Do it in another process, which is killed after this step."""

    def report(name: str) -> None:
        if name == step:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        try:
            work(report)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"it was not killed after {step}"


def test_an_adoption_that_is_killed_after_any_step_leaves_one_that_serves(host: Host, stored: Stored) -> None:
    before = pickle.dumps((stored.rows, stored.lines))

    def reset() -> None:
        stored.rows, stored.lines = pickle.loads(before)
        stored.save()

    with wire() as clients:
        assert who(clients) == "ip_vs"
        names = steps(lambda report: adopted(stored, report))
        assert names[0] == "gate closed"
        assert who(clients) == "pylvs"
        assert not stored.rows
        for name in names:
            load.take_down(State.open())
            reset()
            killed_after(name, lambda report: adopted(stored, report))
            serving = who(clients)
            assert serving == ("pylvs" if names.index(name) >= names.index("gate open") else "ip_vs"), name
            if names.index(name) < names.index("gate withdrawn"):
                with pytest.raises(Busy, match="pylvs adopt"):
                    director().add_service(VirtualService(key(99)))
                again = adopted(stored)
                assert again.was_interrupted == (serving == "pylvs")
            director().add_service(VirtualService(key(99)))  # edits are possible again, and the next one tidies up
            state = State.open()
            assert not [each for each in os.listdir(state.path) if "gate" in each]
            assert not os.path.exists(state.loaded_path(RESTORE))
            assert who(clients) == "pylvs"
            assert reached(clients, "S", 30_000, PERSISTENT.port) == "2", "the client's template"
        load.take_down(State.open())


def test_a_return_that_is_killed_after_any_step_leaves_one_that_serves(host: Host, stored: Stored) -> None:
    before = pickle.dumps((stored.rows, stored.lines))
    with wire() as clients:
        adopted(stored)
        names = steps(lambda report: returned(stored, report))
        assert who(clients) == "ip_vs"
        assert table(stored.rows) == table(pickle.loads(before)[0])
        for name in names[:-1]:  # after the last one there is nothing left to do
            adopted(stored)
            killed_after(name, lambda report: returned(stored, report))
            serving = who(clients)
            assert serving == ("ip_vs" if names.index(name) >= names.index("gate closed") else "pylvs"), name
            assert returned(stored).was_interrupted
            assert who(clients) == "ip_vs"
            assert not State.open().exists


@pytest.mark.parametrize(("of_ip_vs", "of_pylvs"), [(0, 1), (1, 0)])
def test_backup_only_is_given_back_behind_the_backup_daemon(
    host: Host, stored: Stored, backup_only: Path, of_ip_vs: int, of_pylvs: int
) -> None:
    """With both IPVS passes all packets to the stack, which resets connections."""
    adopted(stored)
    director().change_setting("backup_only", of_pylvs)
    backup_only.write_text(f"{of_ip_vs}\n")
    seen = dict[str, int]()

    def report(name: str) -> None:
        seen[name] = int(backup_only.read_text())

    returned(stored, report)
    names = list(seen)
    while_it_runs = names[names.index("daemon started") : names.index("gate closed") + 1]
    assert {seen[name] for name in while_it_runs} == {0}
    assert int(backup_only.read_text()) == of_pylvs


def test_a_return_stops_the_sync_daemons_before_it_removes_the_tables(
    host: Host, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would wait for tables from then on. A master sends its last messages before."""

    def stop_all() -> list[str]:
        assert State.open().exists
        return ["master"]

    monkeypatch.setattr(control, "stop_all", stop_all)
    adopted(stored)
    assert returned(stored).sync_daemons == ["master"]


def test_settings_reach_the_kernel(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting of the stack stands for those of IPVS, which this kernel may lack."""
    monkeypatch.setattr(back, "SETTINGS", "/proc/sys/net/ipv4")
    back._write_settings({"ip_default_ttl": 77, "lacking": 1})
    assert Path("/proc/sys/net/ipv4/ip_default_ttl").read_text() == "77\n"


def test_the_two_numbers_of_sync_threshold_are_given_back_together(backup_only: Path) -> None:
    path = backup_only.with_name("sync_threshold")
    path.write_text("3\t50\n")
    back._write_settings({"sync_period": 60, "sync_threshold": 4})
    assert path.read_text().split() == ["4", "60"]


def test_what_changes_during_an_adoption_is_followed(host: Host, stored: Stored) -> None:
    """A connection opens, another one ends, and a server is added, between the first pass and the last one."""
    late, gone = line(21_000, server=2), line(OPEN[2])

    def report(name: str) -> None:
        if name == "pass 1":
            del stored.lines[gone.key]
            stored.lines[late.key] = late
            StandIn(stored).add_destination(SERVICE, Destination(DestinationKey(ip_address(server4(3)), SERVICE.port)))

    with wire() as clients:
        done = adopted(stored, report)
        assert done.connections == 5
        assert reached(clients, "A", 21_000, SERVICE.port) == "2"
        servers = [str(row.destination.key.address) for row in director().service(SERVICE).destinations]
        assert servers == [server4(3), server4(2), server4(1)]
        listed = {(each.client_port, each.virtual_port) for each in director().connections()}
        assert (gone.client_port, SERVICE.port) not in listed
        settings = director().settings()
        assert (settings["sloppy_tcp"], settings["conn_reuse_mode"]) == (1, 0)
        assert tuple(director().timeouts()) == (700, 60, 50)
    load.take_down(State.open())


def test_packets_wait_only_while_changed_connections_are_copied(
    host: Host, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All lines are read, and those are parsed that differ in more than their time."""
    late, before = line(21_000, server=2), stored.lines[line(OPEN[0]).key]
    texts = list[bytes]()

    def parsed(text: bytes) -> Line:
        texts.append(text)
        return listing.parsed(text)

    def report(name: str) -> None:
        if name == "gate open":
            texts.clear()
            stored.lines[late.key] = late
            stored.lines[before.key] = before._replace(expires_s=before.expires_s + 1)
            stored.save()
        if name == "connections copied":
            assert texts == [text_of(late)]

    monkeypatch.setattr(adopt, "parsed", parsed)
    with wire():
        assert adopted(stored, report).connections == 6
    load.take_down(State.open())


def test_new_connections_wait_only_while_changed_ones_are_given(
    host: Host, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[int]()
    send = StandInFeed.send

    def noted(self: StandInFeed, connections: Iterable[SyncedConnection]) -> None:
        found = list(connections)
        given.extend(each.client_port for each in found)
        send(self, found)

    monkeypatch.setattr(StandInFeed, "send", noted)
    with wire() as clients:
        adopted(stored)

        def report(name: str) -> None:
            if name == "pass 1":
                given.clear()
                clients.send(tcp("S", 23_000, SERVICE.port))
                clients.came()
            if name == "gate closed":
                assert given == [23_000]

        assert returned(stored, report).connections == 6
        assert (23_000, SERVICE.port) in {(each.client_port, each.virtual_port) for each in stored.lines.values()}


def test_connections_that_a_listing_skips_are_not_lost(host: Host, stored: Stored) -> None:
    """The kernel lists by position: when one connection ends, the listing skips another one that lives."""
    late, gone = [line(port, server=2) for port in (21_000, 21_001)], line(OPEN[2])

    def report(name: str) -> None:
        if name == "gate open":
            stored.lines |= {each.key: each for each in late}
            del stored.lines[gone.key]
            stored.save()
            stored.skipped = [{*(each.key for each in late), line(OPEN[0]).key}]
        if name == "connections copied":
            took.extend(reached(clients, "A", port, SERVICE.port) for port in (21_000, 21_001, OPEN[0]))

    took: list[str] = []
    with wire() as clients:
        assert adopted(stored, report).connections == 6
        assert took == ["2", "2", "1"]
        listed = {(each.client_port, each.virtual_port) for each in director().connections()}
        assert (gone.client_port, SERVICE.port) not in listed
    load.take_down(State.open())


def test_an_adoption_that_cannot_carry_all_changes_nothing(host: Host, stored: Stored) -> None:
    mark = VirtualService(ServiceKey.of_mark(7), "rr")
    StandIn(stored).add_service(mark)
    ftp_data = line(0, state="LISTEN")
    stored.lines[ftp_data.key] = ftp_data
    stored.save()
    with pytest.raises(Unsupported, match=r"FWM 7: pylvs has no rule .*; 1 connection: FTP data"):
        adopted(stored)
    assert not State.open().exists
    assert adopted(stored, force=True).left.counts.total() == 1
    load.take_down(State.open())


def test_an_adoption_can_be_given_up_while_ip_vs_serves(host: Host, stored: Stored) -> None:
    with wire() as clients:
        killed_after("pass 1", lambda report: adopted(stored, report))
        give_up(director())
        assert who(clients) == "ip_vs"
        assert not State.open().exists
        killed_after("gate open", lambda report: adopted(stored, report))
        with pytest.raises(Busy, match="pylvs serves already"):
            give_up(director())
    adopted(stored)
    load.take_down(State.open())


def test_an_interrupted_move_is_shown_with_the_command_that_completes_it(host: Host, stored: Stored) -> None:
    """By `pylvs show`, and by the doctor."""
    adopting: list[str] = []

    def report(name: str) -> None:
        if name == "gate open":
            adopting.append(overview()["move"])

    killed_after("services filled", lambda report: adopted(stored, report))
    assert overview()["move"].startswith("pylvs adopt was interrupted: ip_vs serves")
    assert overview()["move"].endswith("pylvs adopt completes it, and pylvs adopt --abort gives up")
    killed_after("gate open", lambda report: adopted(stored, report))
    assert overview()["move"].startswith("pylvs adopt was interrupted: pylvs serves")
    (found,) = move.findings(Facts())
    assert (found.id, found.fix_command) == ("move_unfinished", "pylvs adopt")
    adopted(stored)
    assert "move" not in overview()
    assert list(move.findings(Facts())) == []
    killed_after("gate closed", lambda report: returned(stored, report))
    (found,) = move.findings(Facts())
    assert (found.id, found.fix_command) == ("move_unfinished", "pylvs adopt --back")
    returned(stored)
    adopted(stored, report)
    assert adopting == [f"pylvs adopt runs, process {os.getpid()}: pylvs serves, and edits of the table are refused"]
    load.take_down(State.open())


def test_services_of_pylvs_are_not_overwritten(host: Host, stored: Stored) -> None:
    director().add_service(VirtualService(key(90)))
    with pytest.raises(Busy, match="pylvs has services"):
        adopted(stored)
    load.take_down(State.open())


def test_a_shadow_compares_decisions_and_forwards_nothing(host: Host, stored: Stored) -> None:
    """Of the packets of a window, one SYN has another server in IPVS than its client's template says."""
    other = line(22_000, PERSISTENT, server=1)
    with wire() as clients:
        beside = Shadow(director(), StandIn(stored))  # type: ignore[arg-type]  # a stand-in
        with beside.beside(force=False):
            assert who(clients) == "ip_vs"
            stored.lines |= {each.key: each for each in (line(21_000, PERSISTENT, 2), other, line(21_001, server=2))}
            stored.save()
            known = [tcp("A", port, SERVICE.port) for port in OPEN] + [tcp("A", OPEN[0], PERSISTENT.port)]
            first = [
                tcp("S", 21_000, PERSISTENT.port),
                tcp("S", 22_000, PERSISTENT.port),
                tcp("S", 21_001, SERVICE.port),
            ]
            unknown = [tcp("R", 23_000, SERVICE.port)]
            frames = [(frame, host.ifindex, ends_of(frame)) for frame in (*known, *first, *unknown)]
            beside.compare(frames)  # type: ignore[arg-type]  # each has ends
        found = beside.shadowed
        assert (found.compared, found.equal, found.by_turn) == (7, 6, 1)
        (difference,) = found.differing
        assert difference.startswith(f"{CLIENT4}:22000 > {VIP4}:81: ip_vs {server4(1)}:81, pylvs {server4(2)}:81")
        assert not State.open().exists
        assert who(clients) == "ip_vs"


def test_a_shadow_finds_no_difference_in_what_a_listing_skips(host: Host, stored: Stored) -> None:
    with wire():
        beside = Shadow(director(), StandIn(stored))  # type: ignore[arg-type]  # a stand-in
        with beside.beside(force=False):
            frames = [(frame, host.ifindex, ends_of(frame)) for frame in (tcp("A", OPEN[0], SERVICE.port),)]
            stored.skipped = [{line(OPEN[0]).key}]
            for _ in range(2):
                beside.compare(frames)  # type: ignore[arg-type]  # each has ends
        assert not beside.shadowed.differing
        assert (beside.shadowed.compared, beside.shadowed.ended) == (1, 1)


def test_a_connection_whose_copy_has_expired_is_no_difference(host: Host, stored: Stored) -> None:
    """A slow machine decides long after it has copied."""
    with wire():
        beside = Shadow(director(), StandIn(stored))  # type: ignore[arg-type]  # a stand-in
        with beside.beside(force=False):
            short = line(21_000, state="TIME_WAIT", left_s=1)
            stored.lines[short.key] = short
            stored.save()
            decide = beside._programs.decide

            def late(frame: bytes, device: int) -> Any:
                until(lambda: all(each.client_port != 21_000 for each in director().connections()))
                return decide(frame, device)

            frame = tcp("A", 21_000, SERVICE.port)
            with mock.patch.object(beside._programs, "decide", late):
                beside.compare([(frame, host.ifindex, ends_of(frame))])  # type: ignore[list-item]  # it has ends
        assert not beside.shadowed.differing
        assert (beside.shadowed.compared, beside.shadowed.ended) == (0, 1)


def test_ip_vs_keeps_the_connections_that_pylvs_refuses(host: Host, stored: Stored) -> None:
    """Also after the gate is open: the next run completes the adoption."""
    copy = Adoption.copy

    def refusing(self: Adoption, insertion: Insertion, *arguments: Any, **named: Any) -> int:
        changed = copy(self, insertion, *arguments, **named)
        insertion.refused = int(is_open(State.open()))
        return changed

    with wire() as clients:
        with mock.patch.object(Adoption, "copy", refusing), pytest.raises(NoSpace, match="refuses 1 connection of ip_"):
            adopted(stored)
        assert stored.rows
        assert who(clients) == "pylvs"
        assert adopted(stored).was_interrupted
        assert not stored.rows
        assert who(clients) == "pylvs"
    load.take_down(State.open())


def test_a_connection_that_cannot_return_to_the_table_is_refused(host: Host, stored: Stored) -> None:
    """It was there after an earlier pass, has ended since, and finds no space."""
    with wire():
        beside = Shadow(director(), StandIn(stored))  # type: ignore[arg-type]  # a stand-in
        with beside.beside(force=False):
            insertion, changed = beside._insertion, line(OPEN[0], state="FIN_WAIT", left_s=100)
            assert changed.key in insertion.there
            stored.lines[changed.key] = changed
            stored.save()
            with mock.patch.object(insertion._records, "get", return_value=0):  # the slot
                beside.compare([])
            assert (changed.key in insertion.there, beside.shadowed.refused) == (False, 1)
            beside.compare([])
            assert (changed.key in insertion.there, beside.shadowed.refused) == (True, 1)


def test_a_shadow_compares_no_packet_of_a_service_that_keeps_no_connections(host: Host, stored: Stored) -> None:
    single = key(53, Protocol.UDP)
    StandIn(stored).add_service(VirtualService(single, "rr", ServiceFlag.ONE_PACKET))
    StandIn(stored).add_destination(single, Destination(DestinationKey(ip_address(server4(1)), 53), Method.ROUTE))
    with wire():
        beside = Shadow(director(), StandIn(stored))  # type: ignore[arg-type]  # a stand-in
        with beside.beside(force=False):
            frame = udp(1000, 53)
            beside.compare([(frame, host.ifindex, ends_of(frame))])  # type: ignore[list-item]  # it has ends
        assert not beside.shadowed.differing
        assert beside.shadowed.by_turn == 1


def test_connections_of_either_family_and_of_nat_continue(host: Host, stored: Stored) -> None:
    six, nat, names = key(80, vip=VIP6), key(82), key(53, Protocol.UDP)
    ipvs, client6 = StandIn(stored), ip_address(CLIENT6).packed
    for service, server, port, method in (
        (six, server6(2), 80, Method.ROUTE),
        (nat, server4(2), 8080, Method.MASQ),
        (names, server4(1), 53, Method.ROUTE),
    ):
        ipvs.add_service(VirtualService(service, "rr"))
        ipvs.add_destination(service, Destination(DestinationKey(ip_address(server), port), method))
    found = [
        Line(6, client6, 1000, six.address.packed, 80, ip_address(server6(2)).packed, 80, "ESTABLISHED", 800),
        Line(6, CLIENT, 1000, nat.address.packed, 82, ip_address(server4(2)).packed, 8080, "ESTABLISHED", 800),
        Line(17, CLIENT, 1000, names.address.packed, 53, ip_address(server4(1)).packed, 53, "UDP", 250),
    ]
    stored.lines |= {each.key: each for each in found}
    stored.save()
    adopted(stored)
    with wire() as clients:
        clients.send(tcp("A", 1000, 80, CLIENT6, VIP6))
        clients.send(tcp("A", 1000, nat.port))
        clients.send(udp(1000, names.port))
        clients.send(tcp("A", 8080, 1000, server4(2), CLIENT4))  # the NAT server's answer
        sent = clients.came()
    assert [frame[:6].hex(":") for frame in sent] == [server_mac(2), server_mac(2), server_mac(1), ROUTER_MAC]
    assert sent[1][30:38] == ip_address(server4(2)).packed + (1000).to_bytes(2, "big") + (8080).to_bytes(2, "big")
    assert sent[3][26:36] == ip_address(VIP4).packed + CLIENT + nat.port.to_bytes(2, "big")
    listed = {(each.client_port, each.virtual_port, each.state) for each in director().connections()}
    assert listed >= {(1000, 80, "ESTABLISHED"), (1000, 82, "ESTABLISHED"), (1000, 53, "UDP")}
    load.take_down(State.open())


def test_a_shadow_compares_all_packets_that_came_by_the_end_of_its_time(host: Host, stored: Stored) -> None:
    """Those that come while a window is compared wait; it may take longer than the whole time."""
    with wire() as clients:
        beside = Shadow(director(), StandIn(stored))  # type: ignore[arg-type]  # a stand-in
        compare, windows = beside.compare, list[int]()

        def slow(window: Any) -> None:
            windows.append(len(window))
            if len(windows) == 1:
                for port in OPEN:
                    clients.send(tcp("A", port, SERVICE.port))
            compare(window)

        with mock.patch.object(beside, "compare", slow):
            found = beside.run(1e-9)
        assert (found.compared, found.equal, found.lost) == (3, 3, 0)
        assert sum(windows) == 3


def test_a_window_of_a_shadow_ends_while_packets_come(host: Host) -> None:
    """Each packet is followed by another before it is read, as on a director whose traffic is faster than a shadow."""
    with wire() as clients, _Capture() as capture:
        sent = 0

        def wait(*arguments: Any) -> object:
            nonlocal sent
            assert sent < 100
            clients.send(tcp("A", 1000 + sent, SERVICE.port))
            sent += 1
            return real(*arguments)

        real = select.select
        with (
            mock.patch("pylvs.ipvs.shadow.select.select", wait),
            mock.patch("pylvs.ipvs.shadow.time.monotonic", side_effect=itertools.count()),
        ):
            window = capture.window(end=10)
        assert 0 < len(window) < sent + 1 < 20
        assert capture.stop() == 0
        assert len(window) + len(capture.rest()) == sent
        assert not capture.rest()
