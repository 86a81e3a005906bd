"""The library edits and reads the tables that ipvsadm and packets use; an edit happens as a whole or not at all."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import os
import pickle
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from unittest import mock

import pytest

import pylvs
from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.saved import save_owned
from pylvs.dataplane.destinations import DestinationSlots
from pylvs.dataplane.scheduler_tables import HashTables
from pylvs.dataplane.transaction import Transaction
from pylvs.library.translation import translated
from pylvs.model.director import STATES
from pylvs.model.errors import NoSpace
from tests.packet.frames import parsed, tcp
from tests.packet.host import SENT, VIP4, Host, populated_namespace, server4, server_mac
from tests.packet.test_library_tables import KEYS, books


@pytest.fixture
def director(director_host: Host) -> Iterator[pylvs.Director]:
    """Return a director over the file's tables, which are empty."""
    with pylvs.Director() as opened:
        yield opened


def web(*numbers: int, port: int = 80, **fields: object) -> pylvs.Service:
    """Return a service with these real servers, by direct routing."""
    return pylvs.Service("tcp", VIP4, port, [pylvs.Server(server4(each), port) for each in numbers], **fields)  # type: ignore[arg-type]


_ports = itertools.count(20000)


def chosen(host: Host, count: int, port: int = 80) -> list[str]:
    """Return the link addresses that so many clients' first packets are sent to."""
    found = []
    for _ in range(count):
        _, done = host.receive(tcp(sport=next(_ports), dport=port))
        assert done.verdict in (*SENT["xdp"], *SENT["tc"])
        found.append(parsed(done.data).dst)
    return found


def macs(*numbers: int) -> list[str]:
    return [server_mac(each) for each in numbers]


def test_round_robin_continues_where_it_was(director_host: Host, director: pylvs.Director) -> None:
    """Several changes of a list move the cursor as the same changes one by one: the next server is the same."""
    director.apply([web(1, 2, 3, 4, 5, scheduler="rr")])
    turn = chosen(director_host, 5)
    assert sorted(turn) == macs(1, 2, 3, 4, 5)
    assert chosen(director_host, 2) == turn[:2]
    gone = turn[0][-1]  # a server that had its turn leaves, and two new ones come
    left = [each for each in (1, 2, 3, 4, 5) if str(each) != gone]
    director.apply([web(*left, 6, 7, scheduler="rr")])
    assert chosen(director_host, 3) == turn[2:]


def test_packets_follow_an_edit_of_many_services(director_host: Host, director: pylvs.Director) -> None:
    director.apply([web(1), web(2, port=81), web(3, port=82, scheduler="sh"), web(4, port=83, scheduler="mh")])
    assert [chosen(director_host, 1, port) for port in (80, 81, 82, 83)] == [macs(each) for each in (1, 2, 3, 4)]
    director.apply([web(5), web(6, port=82, scheduler="sh"), web(7, port=83, scheduler="mh"), web(8, port=84)])
    assert [chosen(director_host, 1, port) for port in (80, 82, 83, 84)] == [macs(each) for each in (5, 6, 7, 8)]


@pytest.mark.parametrize("fails", ["bring", "adopt", "count_service", "commit"])
def test_an_edit_that_fails_leaves_everything(director_host: Host, director: pylvs.Director, fails: str) -> None:
    """Memory or a table may be full at any step."""
    director.apply([web(1, 2, 3, scheduler="rr"), web(4, port=81), web(5, port=83)])
    director.delete_server(web(), pylvs.ServerKey(server4(3), 80))
    chosen(director_host, 1)
    before, services = books(director_host), director.services()
    owner = Transaction if fails in ("count_service", "commit") else DestinationSlots
    desired = [web(2, 3, 6, scheduler="wrr"), web(7, 8, port=82), web(5, port=83, scheduler="mh")]
    full = NoSpace("the table is full", "virtual services", 3)
    with mock.patch.object(owner, fails, side_effect=full), pytest.raises(pylvs.NoSpace) as caught:
        director.apply(desired)
    assert (str(caught.value), caught.value.table, caught.value.limit) == ("the table is full", "virtual services", 3)
    assert books(director_host) == before
    assert director.services() == services
    director.apply(desired)
    assert set(director.services()) == set(desired)


REFUSED: dict[str, tuple[Callable[[pylvs.Director], object], type[pylvs.Error], str]] = {
    "a multicast address": (
        lambda d: d.apply([web(1), pylvs.Service("udp", VIP4, 53, [pylvs.Server("224.0.0.1", 53)])]),
        pylvs.InvalidValue,
        "UDP 10.77.0.100:53: 224.0.0.1:53: address: 224.0.0.1: not the address of a single host",
    ),
    "a broadcast address": (
        lambda d: d.add_server(web(), pylvs.Server("10.77.0.255", 80)),
        pylvs.InvalidValue,
        "TCP 10.77.0.100:80: 10.77.0.255:80: address: 10.77.0.255: not the address of a single host",
    ),
    "a service twice": (
        lambda d: d.apply([web(1), web(2)]),
        pylvs.InvalidValue,
        "desired: 'TCP 10.77.0.100:80': is listed twice",
    ),
    "a text": (
        lambda d: d.apply("tcp"),  # type: ignore[arg-type]
        pylvs.InvalidValue,
        "desired: 'tcp': must be services, as [Service('tcp', '192.0.2.1', 80)]",
    ),
    "an unknown service": (
        lambda d: d.add_server(web(port=99), pylvs.Server(server4(1), 99)),
        pylvs.NotFound,
        "TCP 10.77.0.100:99: the service does not exist",
    ),
    "an unknown server": (
        lambda d: d.edit_server(web(), pylvs.ServerKey(server4(9), 80), weight=2),
        pylvs.NotFound,
        "TCP 10.77.0.100:80: 10.77.0.19:80 does not exist",
    ),
    "a known service": (
        lambda d: d.add_service(web(2)),
        pylvs.Exists,
        "TCP 10.77.0.100:80: the service exists already",
    ),
    "a known server": (
        lambda d: d.add_server(web(), pylvs.Server(server4(1), 80)),
        pylvs.Exists,
        "TCP 10.77.0.100:80: 10.77.0.11:80 exists already",
    ),
    "a weight": (
        lambda d: d.edit_server(web(), pylvs.ServerKey(server4(1), 80), weight=-1),
        pylvs.InvalidValue,
        "10.77.0.11:80: weight: -1: must be a whole number from 0 to 2147483647",
    ),
    "a scheduler": (
        lambda d: d.edit_service(web(), scheduler="robin"),
        pylvs.InvalidValue,
        f"TCP 10.77.0.100:80: scheduler: 'robin': must be one of: {', '.join(SCHEDULERS)}, none",
    ),
    "a port of direct routing": (
        lambda d: d.add_server(web(), pylvs.Server(server4(2), 8080)),
        pylvs.InvalidValue,
        '10.77.0.12:8080: port: 8080: forwarding="dr" keeps the port of the service, 80; only "nat" changes it',
    ),
    "a setting": (
        lambda d: d.change_setting("secure_tcp", 9),
        pylvs.InvalidValue,
        "secure_tcp: 9: must be a whole number from 0 to 3",
    ),
    "a setting's default as a float": (
        lambda d: d.change_setting("secure_tcp", 0.0),  # type: ignore[arg-type]
        pylvs.InvalidValue,
        "secure_tcp: 0.0: must be a whole number from 0 to 3",
    ),
    "a state that does not exist": (
        lambda d: d.connections(state="ESTAB"),
        pylvs.InvalidValue,
        f"state: 'ESTAB': must be one of: {', '.join(STATES)}",
    ),
    "a tunnel that is false": (
        lambda d: d.edit_server(web(), pylvs.ServerKey(server4(1), 80), tunnel=0),  # type: ignore[arg-type]
        pylvs.InvalidValue,
        '10.77.0.11:80: tunnel: 0: must be a Tunnel, of a server with forwarding "tun"',
    ),
    "a namespace with half a surrogate pair": (
        lambda _: pylvs.Director("\ud800"),
        pylvs.InvalidValue,
        "namespace: '\\ud800': must be a name of `ip netns`, or a path",
    ),
    "a pause that no clock can count": (
        lambda d: d.watch(interval_s=float("inf")),
        pylvs.InvalidValue,
        "interval_s: inf: must be a number of seconds above 0, up to 2678400",
    ),
    "a timeout": (
        lambda d: d.set_timeouts(tcp_s=0),
        pylvs.InvalidValue,
        "tcp_s: 0: must be a whole number from 1 to 2678400",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_names_the_field_and_changes_nothing(
    director_host: Host, director: pylvs.Director, what: str
) -> None:
    edit, kind, text = REFUSED[what]
    director.apply([web(1)])
    before = books(director_host)
    with pytest.raises(pylvs.Error) as caught:
        edit(director)
    assert (type(caught.value), str(caught.value)) == (kind, text)
    if isinstance(caught.value, pylvs.InvalidValue):
        assert isinstance(caught.value, ValueError)
        assert caught.value.field
    assert books(director_host) == before


def test_a_scope_keeps_the_services_of_other_programs(director_host: Host, director: pylvs.Director) -> None:
    mine, former, strange = web(1), web(2, port=81), web(3, port=82)
    director.apply([former, strange])
    director.apply([mine], scope=[former.key])
    assert set(director.services()) == {mine, strange}
    director.apply([], scope=["TCP 10.77.0.100:80"])
    assert set(director.services()) == {strange}
    director.apply([mine], scope=lambda key: key.port != 82)
    assert set(director.services()) == {mine, strange}
    director.apply([mine], scope=lambda key: True)
    assert set(director.services()) == {mine}
    for wrong in "TCP 10.77.0.100:80", 7, ["nonsense"]:
        with pytest.raises(pylvs.InvalidValue):
            director.apply([], scope=wrong)  # type: ignore[arg-type]
    with pytest.raises(pylvs.InvalidValue, match="scope"):
        director.apply([], scope=[mine], prune=False)
    assert set(director.services()) == {mine}


def test_a_drain_waits_for_the_connections_of_its_server(director_host: Host, director: pylvs.Director) -> None:
    director.apply([web(7), web(8, port=81)])
    ports = [next(_ports) for _ in range(3)]
    server = f"{server4(7)}:80"
    for flags, active in ("S", 3), ("FA", 0):
        for port in ports:
            director_host.receive(tcp(flags, sport=port, dport=80))
        assert director.connections_left("TCP 10.77.0.100:80", server, active_only=True) == active
        assert director.connections_left("TCP 10.77.0.100:80", server) == 3
    assert not director.drain(web(), server, timeout_s=0.02, interval_s=0.01)
    assert director.service(web()).servers[0].weight == 0
    assert director.drain(web(), server, active_only=True)
    assert director.drain("TCP 10.77.0.100:81", f"{server4(8)}:81")
    assert {connection.protocol for connection in director.connections()} == {pylvs.Protocol.TCP}
    assert isinstance(next(director.connections()).protocol, pylvs.Protocol)
    with pytest.raises(pylvs.NotFound):
        director.connections_left(web(), "10.77.0.99:80")
    director.delete_server("TCP 10.77.0.100:80", server)
    director.delete_service("TCP 10.77.0.100:80")
    assert [each.port for each in director.services()] == [81]


def test_mh_begins_with_as_many_servers_as_it_has_slots(director_host: Host, director: pylvs.Director) -> None:
    director.apply([web(1, 2, 3)])
    before = books(director_host)
    with mock.patch.object(HashTables, "most", return_value=2):
        for edit in (web(1, 2, 3, scheduler="mh"), web(4, 5, 6, port=81, scheduler="mh")):
            with pytest.raises(pylvs.InvalidValue) as caught:
                director.apply([edit], prune=False)
            assert (caught.value.field, caught.value.value) == ("scheduler", "mh")
            assert books(director_host) == before


def test_bad_input_makes_no_tables(director_host: Host) -> None:
    """In a namespace without tables, neither an error, nor a dry run, nor a listing makes any."""
    with populated_namespace() as (name, _), pylvs.Director(name) as director:
        with pytest.raises(pylvs.InvalidValue):
            director.apply([pylvs.Service("tcp", VIP4, 80, [pylvs.Server("224.0.0.1", 80)])])
        with pytest.raises(pylvs.NotFound):
            director.delete_service(web())
        assert director.apply([web(1)], dry_run=True)
        assert not director.apply([])
        director.zero()
        assert (director.services(), list(director.connections()), director.edition()) == ((), [], 0)
        use = director.table_use()
        assert (use, use.fill, use.half_open_share) == (pylvs.TableUse(0, 0, 0), 0.0, 0.0)


def test_single_edits_change_what_they_name(director: pylvs.Director) -> None:
    one, two = pylvs.Server(server4(1), 80), pylvs.Server(server4(2), 8080, forwarding="nat", upper=9, lower=3)
    director.add_service(web(1, scheduler="wrr"))
    director.add_server(web(), two)
    assert director.edit_server(web(), two, weight=7) == dataclasses.replace(two, weight=7)
    assert director.edit_server(web(), two.key, upper=20) == dataclasses.replace(two, weight=7, upper=20)
    edited = director.edit_service(web(), scheduler="sh", flags=pylvs.Flag.FALLBACK)
    assert edited == director.service(web())
    assert (edited.scheduler, edited.flags, edited.persistence) == ("sh", pylvs.Flag.FALLBACK, None)
    director.edit_service(web(), persistence=pylvs.Persistence(60))
    assert director.edit_service(web(), scheduler="rr").persistence == pylvs.Persistence(60)
    assert director.edit_service(web(), persistence=None).persistence is None
    tunnel = pylvs.Tunnel("gue", 6080)
    director.edit_server(web(), one, forwarding="tun", tunnel=tunnel)
    assert director.edit_server(web(), one, forwarding="tun", weight=3).tunnel == tunnel
    assert director.service(web()).server(one) == director.service(web()).server(one.key) != one
    director.delete_server(web(), one)
    assert [each.key for each in director.service(web()).servers] == [two.key]
    director.delete_service(web())
    assert director.services() == ()
    assert director.set_timeouts(udp_s=77) == director.timeouts() == pylvs.Timeouts(900, 120, 77)
    director.change_setting("net.ipv4.vs.conn_reuse_mode", 0)
    assert director.settings()["conn_reuse_mode"] == 0


def test_apply_without_prune_leaves_other_services(director: pylvs.Director) -> None:
    director.apply([web(1), web(2, port=81)])
    found = director.apply([web(3)], prune=False)
    assert [each.key for each in found.services] == [web().key]
    assert set(director.services()) == {web(3), web(2, port=81)}


def test_ipvsadm_lists_what_the_library_made(director: pylvs.Director) -> None:
    service = pylvs.Service(
        "udp",
        VIP4,
        53,
        [
            pylvs.Server(server4(1), 53, forwarding="tun", tunnel=pylvs.Tunnel("gue", 6080, remote_checksum=True)),
            pylvs.Server(server4(2), 5353, forwarding="nat", weight=3),
        ],
        scheduler="sh",
        persistence=pylvs.Persistence(60, 24),
        flags=pylvs.Flag.ONE_PACKET | pylvs.Flag.FALLBACK,
    )
    director.add_service(service)
    command = [sys.executable, "-c", "from pylvs.ipvsadm.main import main; main()", "-Sn"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "-A -u 10.77.0.100:53 -s sh -p 60 -M 255.255.255.0 -o -b sh-fallback",
        "-a -u 10.77.0.100:53 -r 10.77.0.11:53 -i -w 1 --tun-type gue --tun-port 6080 --tun-remcsum",
        "-a -u 10.77.0.100:53 -r 10.77.0.12:5353 -m -w 3",
    ]
    director.clear()
    restore = [sys.executable, "-c", "from pylvs.ipvsadm.main import main; main()", "-R"]
    subprocess.run(restore, input=done.stdout, text=True, check=True)
    assert director.services() == (service,)


def test_statistics_and_connections_are_those_of_packets(director_host: Host, director: pylvs.Director) -> None:
    director.apply([web(1, 2, port=90, scheduler="rr"), web(3, port=91)])
    director.zero()
    chosen(director_host, 4, port=90)
    chosen(director_host, 1, port=91)
    found = director.statistics()
    service = found.services[web(port=90).key]
    assert (found.totals.connections, service.counters.connections) == (5, 4)
    assert {each.counters.connections for each in service.servers.values()} == {2}
    assert {each.active for each in service.servers.values()} == {2}
    ours = list(director.connections(service=web(port=90), state="syn_recv"))
    assert len(ours) == 4
    assert {each.virtual_port for each in ours} == {90}
    third = pylvs.ServerKey(server4(3), 91)
    assert [each.destination_port for each in director.connections(server=third, client="198.18.0.0/15")] == [91]
    assert list(director.connections(client="192.0.2.0/24")) == []
    assert list(director.connections(protocol="udp")) == []
    with pytest.raises(pylvs.InvalidValue, match="client"):
        director.connections(client="192.0.2.1/24")
    director.zero(web(port=90))
    assert director.statistics().services[web(port=90).key].counters == pylvs.Counters()
    assert director.table_use().used >= 5


def test_a_watch_yields_what_others_edit(director_host: Host, director: pylvs.Director) -> None:
    director.apply([web(1)])
    known = director.services()
    director_host.director.delete_service(web().key.to_model())
    changes = director.watch(interval_s=0.001, since=known)
    assert next(changes).removed == (web(1),), "what came between the listing and the watch is not lost"
    with pylvs.Director() as other:
        other.apply([web(1, 2)])
        other.apply([web(2, 3)])
    found = next(changes)
    assert found.added == (web(2, 3),), "edits between two looks are one difference"
    watcher = director.watcher()
    assert not watcher.look()
    director.zero()
    assert not watcher.look()


def test_a_named_namespace_has_tables_of_its_own(director: pylvs.Director) -> None:
    director.apply([web(2)])
    here = os.readlink("/proc/thread-self/ns/net")
    with populated_namespace() as (name, _):
        inside = os.readlink("/proc/thread-self/ns/net")
        assert inside != here
        with pylvs.Director(name) as by_name, pylvs.Director(f"/run/netns/{name}") as by_path:
            by_name.apply([web(1)])
            assert by_path.services() == (web(1),)
            assert director.services() == (web(2),)
        with pylvs.Director() as own:
            own.clear()
    assert os.readlink("/proc/thread-self/ns/net") == here
    with pytest.raises(pylvs.NamespaceNotFound) as caught:
        pylvs.Director("no-such")
    assert caught.value.namespace == "no-such"


def test_a_closed_director_refuses_calls(director_host: Host) -> None:
    director = pylvs.Director()
    director.close()
    director.close()
    with pytest.raises(pylvs.Closed):
        director.services()


def test_a_lock_keeps_others_out(director: pylvs.Director) -> None:
    director.apply([web(1)])
    with pylvs.Director() as other, mock.patch("pylvs.system.lock.TIMEOUT_S", 0):
        with director.locked():
            weight = director.service(web()).servers[0].weight
            director.edit_server(web(), web(1).servers[0], weight=weight + 1)
            lock = other._opened.state.lock(0)  # type: ignore[union-attr]
            with pytest.raises(pylvs.Busy, match="locked by") as caught, translated():
                lock.__enter__()
            assert caught.value.holder == os.getpid()
        other.edit_server(web(), web(1).servers[0], weight=9)
    assert director.service(web()).servers[0].weight == 9


def without_privileges(user: int) -> list[str]:
    """Return what reading and editing raise for a user without any capability, in another process."""
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        found = []
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            os.setresuid(user, user, user)
            assert libc.capset(struct.pack("Ii", 0x20080522, 0), bytes(24)) == 0  # _LINUX_CAPABILITY_VERSION_3
            for work in (lambda d: d.services(), lambda d: list(d.connections()), lambda d: d.apply([web(2)])):
                try:
                    with pylvs.Director() as director:
                        found.append(str(len(work(director))))
                except pylvs.PermissionNeeded as error:
                    found.append(" ".join(error.capabilities))
        finally:
            os.write(sending, "\n".join(found).encode())
            os._exit(0)
    os.close(sending)
    os.waitpid(child, 0)
    with os.fdopen(receiving) as answer:
        return answer.read().split("\n")


def test_reading_needs_the_files_alone_and_errors_name_what_is_missing(
    director_host: Host, director: pylvs.Director
) -> None:
    """Root reads without any capability, as in a container. Another user gets an error, not an empty table."""
    director.apply([web(1, port=95)])
    chosen(director_host, 1, port=95)
    services, connections, edit = without_privileges(0)
    assert (services, edit) == ("1", "CAP_BPF CAP_NET_ADMIN")
    assert int(connections) >= 1
    assert without_privileges(65534) == ["CAP_DAC_OVERRIDE"] * 3
    assert director.services() == (web(1, port=95),)


def test_services_of_a_running_daemon_are_left_to_it(director: pylvs.Director) -> None:
    """Its services are refused, all others may be edited; `ignore_daemon` edits all."""
    director.apply([web(1), web(2, port=81)])
    state = StateDirectory()
    state.path.mkdir(parents=True)
    try:
        save_owned(state, {web().key.to_model(): frozenset()})
        state.pid_path.write_text(f"{os.getpid()}\n")
        for edit in (
            lambda: director.apply([web(1, 3), web(2, port=81)]),
            lambda: director.apply([web(2, port=81)]),
            lambda: director.edit_server(web(), web(1).servers[0], weight=0),
            lambda: director.delete_service(web()),
            director.clear,
        ):
            with pytest.raises(pylvs.OwnedByDaemon) as caught:
                edit()
            assert (caught.value.service, caught.value.pid) == (web().key, os.getpid())
        assert set(director.services()) == {web(1), web(2, port=81)}
        assert director.apply([web(1), web(3, port=81)])
        assert director.apply([web(4, port=81)], prune=False)
        with pylvs.Director(ignore_daemon=True) as anyway:
            anyway.clear()
    finally:
        shutil.rmtree(state.path)


def test_values_are_values() -> None:
    service = web(1, 2)
    assert pickle.loads(pickle.dumps(service)) == service
    assert service == web(2, 1)
    assert {service: 1}[web(2, 1)] == 1
    assert dataclasses.replace(service, scheduler="rr") != service
    assert dataclasses.replace(service.servers[0], weight=5).weight == 5
    for key in KEYS:
        assert pylvs.ServiceKey.parse(str(key)) == key
    with pytest.raises(AttributeError):
        service.port = 1  # type: ignore[misc]
