"""A state directory has one daemon at a time, and its files survive the daemon."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

import pytest

from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.saved import SavedOverrides, load_overrides, load_owned, save_overrides, save_owned
from pylvs.daemon.table.ownership import adoptable_rows, owned_services
from pylvs.health.events import Override, ServiceIdentity, Standing
from pylvs.model.dataclass import replace
from pylvs.model.errors import Busy, PylvsError, Unsupported
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceKey, VirtualService
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from pylvs.system import files, undo_log
from pylvs.system.sockets import address_of

WEB = ServiceKey(Protocol.TCP, ip_address("192.0.2.1"), 80)
SIX = ServiceKey(Protocol.UDP, ip_address("2001:db8::1"), 53)
MARK = ServiceKey.of_mark(7)

HOLD = """
import sys
from pathlib import Path
from pylvs.daemon.state.directory import StateDirectory
StateDirectory(Path(sys.argv[1])).acquire()
print("taken", flush=True)
sys.stdin.read()
"""


def server(number: int) -> DestinationKey:
    return DestinationKey(ip_address(f"10.0.0.{number}"), 80)


def configuration(*servers: int, keys: tuple[ServiceKey, ...] = (WEB,)) -> Configuration:
    wanted = tuple(WantedServer(Destination(server(number))) for number in servers)
    return Configuration((WantedService("web", keys, servers=wanted),))


def test_a_second_daemon_is_refused_in_one_line_with_the_first_ones_number(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path / "state")
    first.acquire()
    with pytest.raises(Busy) as refused:
        StateDirectory(tmp_path / "state").acquire()
    assert str(refused.value) == (
        f"pylvs run is there already, process {os.getpid()}, with {tmp_path}/state; stop it first"
    )
    assert first.pid_path.read_text() == f"{os.getpid()}\n"
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o700
    first.release()
    assert not first.path.exists()
    second = StateDirectory(tmp_path / "state")
    second.acquire()
    second.release()


def test_a_killed_daemon_leaves_no_lock_but_its_state(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "taken\n"
        with pytest.raises(Busy, match=f"process {holder.pid}"):
            StateDirectory(tmp_path).acquire()
        (tmp_path / "control").touch()
        holder.send_signal(signal.SIGKILL)
    mine = StateDirectory(tmp_path)
    mine.write("something", [1])
    mine.acquire()
    assert mine.read("something") == [1]
    assert not mine.socket_path.exists()
    assert mine.pid_path.read_text() == f"{os.getpid()}\n"
    mine.release()
    assert [path.name for path in tmp_path.iterdir()] == ["something.json"]


def test_a_directory_of_another_user_is_refused_and_nothing_in_it_is_written(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("important")
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    (theirs / "pid").symlink_to(precious)
    os.chown(theirs, 65534, 65534)
    with pytest.raises(Unsupported, match="theirs: belongs to user 65534; chown it, or choose another --state-dir"):
        StateDirectory(theirs).acquire()
    assert precious.read_text() == "important"


def test_links_instead_of_the_directory_or_its_files_are_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text('["important"]')
    mine = tmp_path / "mine"
    mine.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(mine)
    with pytest.raises(Unsupported, match="is a symbolic link; name the directory itself"):
        StateDirectory(tmp_path / "link").acquire()
    for name in ("pid", "services.json", ".services.json.new"):
        (mine / name).symlink_to(precious)
    with pytest.raises(Unsupported, match="pid"):
        StateDirectory(mine).acquire()
    with pytest.raises(Unsupported, match="damaged"):
        StateDirectory(mine).read("services")
    StateDirectory(mine).write("services", ["mine"])
    assert precious.read_text() == '["important"]'
    assert StateDirectory(mine).read("services") == ["mine"]


def test_an_unusable_directory_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unsupported, match="choose another --state-dir"):
        StateDirectory(tmp_path / "file" / "state").acquire()


def test_a_state_file_is_replaced_atomically_and_an_empty_one_is_removed(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert state.read("name") is None
    state.write("name", {"a": 1})
    state.write("name", {"a": 2})
    assert json.loads((tmp_path / "name.json").read_text()) == {"version": 1, "content": {"a": 2}}
    assert state.read("name") == {"a": 2}
    state.write("name", {})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "name.json").write_text("{")
    with pytest.raises(Unsupported, match=r"name\.json: damaged .*; remove it"):
        state.read("name")
    with pytest.raises(PylvsError, match="would be lost"):
        StateDirectory(tmp_path / "gone").write("name", [1])


def test_the_socket_can_be_reached_under_a_long_path(tmp_path: Path) -> None:
    for length in (3, 200):
        state = StateDirectory(tmp_path / ("x" * length))
        state.acquire()
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
            with address_of(state.socket_path) as address:
                listener.bind(address)
            listener.listen()
            with address_of(state.socket_path) as address:
                client.connect(address)
        assert state.socket_path.exists()
        state.release()


def test_owned_services_and_overrides_are_restored(tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    assert load_owned(state) == {}
    assert load_overrides(state) == SavedOverrides()
    own = owned_services(configuration(1, 2, keys=(WEB, SIX, MARK)))
    save_owned(state, own)
    with_ports = {
        key: frozenset(DestinationKey(server(n).address, key.port) for n in (1, 2)) for key in (WEB, SIX, MARK)
    }
    assert load_owned(state) == own == with_ports
    overrides = {
        ("web", server(1)): Override(Standing.DRAINED),
        ("web", DestinationKey(SIX.address, 0)): Override(weight=0),
    }
    services = {"web": ServiceIdentity((WEB, SIX, MARK), frozenset({*(key for _, key in overrides), server(2)}))}
    save_overrides(state, SavedOverrides(overrides, services))
    assert load_overrides(state) == SavedOverrides(overrides, services)
    save_overrides(state, SavedOverrides())
    assert not state.file("overrides").exists()


@pytest.mark.parametrize("content", ['{"a": 1}', "[1]", '[["TCP", "x", 1, 0, []]]', '[{"service": 1}]', "7"])
def test_a_damaged_file_is_reported_in_one_line(tmp_path: Path, content: str) -> None:
    state = StateDirectory(tmp_path)
    for name in "services", "overrides":
        state.file(name).write_text(f'{{"version": 1, "content": {content}}}')
    with pytest.raises(Unsupported, match="remove it"):
        load_owned(state)
    with pytest.raises(Unsupported, match="remove it"):
        load_overrides(state)


@pytest.mark.parametrize("content", ['[["TCP", "192.0.2.1", 80, 0, []]]', '{"content": []}', '{"version": 1}', "7"])
def test_a_file_without_a_version_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    state = StateDirectory(tmp_path)
    state.file("services").write_text(content)
    with pytest.raises(Unsupported, match=r"services\.json: damaged .*; remove it$"):
        load_owned(state)


def test_a_file_of_another_version_is_refused_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state file of the daemon, and the settings that virtual routers and real servers have changed."""
    state, memory = StateDirectory(tmp_path), undo_log.Memory(tmp_path / "settings", devices_up=["eth0"])
    with monkeypatch.context() as later:
        later.setattr(files, "VERSION", 2)
        state.write("services", [1])
        memory.save()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for path, read in (
        (state.file("services"), lambda: load_owned(state)),
        (memory.path, lambda: undo_log.load(memory.path)),
    ):
        with pytest.raises(Unsupported) as caught:
            read()
        assert str(caught.value) == f"{path}: of another pylvs (version 2, not 1); remove it"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_only_known_servers_are_adopted_from_the_table() -> None:
    own = owned_services(configuration(1, 2, 3))
    rows = [
        ServiceRow(VirtualService(WEB), (DestinationRow(Destination(server(1))),)),
        ServiceRow(VirtualService(MARK)),
        ServiceRow(VirtualService(SIX)),
    ]
    fresh = configuration(1, 2, 4, keys=(WEB, MARK))
    (row,) = adoptable_rows(rows, own, fresh)
    assert [each.destination.key for each in row.destinations] == [server(1), server(4)]
    assert adoptable_rows(rows, {}, fresh) == []


def test_a_server_under_another_port_is_the_one_of_before() -> None:
    """It is in the table, or its absence means that it is down."""

    def under(number: int, port: int) -> DestinationKey:
        return DestinationKey(server(number).address, port)

    own = {WEB: frozenset({under(1, 0), under(2, 0)})}
    (service,) = configuration(1, 2, 3, keys=(WEB,)).services
    with_sorry = Configuration((replace(service, sorry_server=Destination(server(9))),))

    def adoptable(*table: Destination) -> list[tuple[DestinationKey, int]]:
        rows = [ServiceRow(VirtualService(WEB), tuple(map(DestinationRow, table)))]
        (row,) = adoptable_rows(rows, own, with_sorry)
        return [(each.destination.key, each.destination.weight) for each in row.destinations]

    assert adoptable(Destination(under(1, 0), weight=7)) == [(server(1), 7), (server(3), 1)]
    assert adoptable(Destination(under(9, 0), weight=5)) == [(server(9), 5), (server(3), 1)]
