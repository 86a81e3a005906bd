"""The default capacity of the connection table, and its growth when it is nearly full."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner

from pylvs.bpf import kernel
from pylvs.cli.director import show
from pylvs.daemon.table import growth
from pylvs.dataplane import load
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.reader import table_use
from pylvs.dataplane.state import State
from pylvs.dataplane.upgrade import upgrade
from pylvs.dataplane.upgrade.restore import ConnectionCopy
from pylvs.model.errors import Busy, InvalidOperation, NoSpace, PylvsError
from pylvs.model.service import Destination, DestinationKey, Method, ServiceKey, VirtualService
from tests.packet.frames import CLIENT4, CLIENT6, tcp
from tests.packet.host import DROPPED, VIP4, VIP6, Host, new_host, on_cpu, server4

CAPACITY = 1024


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(connections=CAPACITY, expires=False) as made, on_cpu(min(os.sched_getaffinity(0))):
        yield made


def connect(host: Host, service: ServiceKey, first: int, count: int, flags: str = "SA") -> None:
    client = CLIENT4 if service.address.version == 4 else CLIENT6
    for sport in range(first, first + count):
        for flag in flags:
            host.run(tcp(flag, source=client, target=str(service.address), sport=sport, dport=service.port), "tc")


def test_a_table_that_is_nearly_full_doubles_with_its_connections(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1)
    connect(host, service, 2000, 800)
    assert host.director.grow() is None, "less than four fifths are in use"
    connect(host, service, 3000, 30)
    assert host.director.grow() == (CAPACITY, 2 * CAPACITY)
    host.close_programs()
    assert host.counts(service) == {server4(1): (830, 0)}
    assert host.director.grow() is None
    connect(host, service, 4000, 830)
    assert host.director.grow() == (2 * CAPACITY, 4 * CAPACITY)
    assert host.counts(service) == {server4(1): (1660, 0)}


def test_a_capacity_that_an_operator_set_stays_until_it_is_0(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1)
    host.director.change_setting("conn_max", CAPACITY)
    connect(host, service, 2000, CAPACITY)
    assert host.director.grow() is None
    with mock.patch.object(kernel, "connection_limit", return_value=512):  # less: it does not shrink
        host.director.change_setting("conn_max", 0)
    assert host.director.settings()["conn_max"] == CAPACITY
    assert host.director.grow() == (CAPACITY, 2 * CAPACITY)
    with mock.patch.object(kernel, "connection_limit", return_value=8192):
        host.director.change_setting("conn_max", 0)
    assert host.director.settings()["conn_max"] == 8192
    with pytest.raises(InvalidOperation, match="must be 0, or from 1024"):
        host.director.change_setting("conn_max", 1023)


def test_it_does_not_grow_beyond_an_eighth_of_memory_or_half_of_what_is_available(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1)
    connect(host, service, 2000, 900)
    needed = load.table_bytes(2 * CAPACITY)
    with (
        mock.patch.object(kernel, "memory_limit", return_value=1 << 20),
        pytest.raises(NoSpace, match=r"a capacity of 2048 needs \d+ MB; an eighth of memory is \d+ MB"),
    ):
        host.director.grow()
    with (
        mock.patch.object(kernel, "memory_available", return_value=2 * needed - 1),
        pytest.raises(NoSpace, match=r"of the \d+ MB that are available, half may be used"),
    ):
        host.director.grow()
    assert host.director.settings()["conn_max"] == CAPACITY
    assert host.director.grow() == (CAPACITY, 2 * CAPACITY)


def test_edits_during_its_copy_take_effect(host: Host) -> None:
    first, second = host.new_key(), host.new_key()
    host.serve(first, 1)
    connect(host, first, 2000, 900)
    run, peer = ConnectionCopy.run, BpfDirector(State.open())
    edited: list[bool] = []

    def copy(self: ConnectionCopy, *arguments: Any, **options: Any) -> int:
        if not edited:
            edited.append(True)
            peer.add_service(VirtualService(second))
            peer.add_destination(second, Destination(DestinationKey(ip_address(server4(2)), 80), upper=1, lower=1))
            connect(host, second, 3000, 1)
            peer.delete_service(first)
        return run(self, *arguments, **options)

    with mock.patch.object(ConnectionCopy, "run", copy):
        assert host.director.grow() == (CAPACITY, 2 * CAPACITY)
    host.close_programs()
    assert {row.service.key for row in host.director.services()} == {second}
    assert host.counts(second) == {server4(2): (1, 0)}
    assert len(list(host.director.connections())) == 901
    connect(host, second, 3001, 1)
    assert host.counts(second) == {server4(2): (1, 0)}, "its threshold is reached"
    assert not host.director.state.leftovers()[1]


@pytest.mark.parametrize(("hold_s", "half_open"), [(60, [0, 40, 40]), (0, [0, 0, 40])])
def test_connections_made_between_copy_and_switch_wait_for_no_flood(
    host: Host, hold_s: int, half_open: list[int]
) -> None:
    """Established ones are copied first. Packets of others wait for half-open ones for a limited time only."""
    service = host.new_key()
    passes: list[tuple[int, int]] = []
    host.serve(service, 1, Method.MASQ)
    connect(host, service, 2000, 850)
    run = ConnectionCopy.run

    def copy(self: ConnectionCopy, *arguments: Any, **options: Any) -> int:
        if len(passes) == 2:  # the last one before the switch
            connect(host, service, 4000, 40, "S")
            connect(host, service, 5000, 30)
        done = run(self, *arguments, **options)
        found = [each for each in BpfDirector(State.open()).connections() if each.client_port >= 4000]
        passes.append((len(found), sum(each.state == "SYN_RECV" for each in found)))
        return done

    with mock.patch.object(ConnectionCopy, "run", copy), mock.patch.object(upgrade, "_HOLD_S", hold_s):
        assert host.director.grow() == (CAPACITY, 2 * CAPACITY)
    assert passes[2:] == [(30 + number, number) for number in half_open]
    assert host.counts(service) == {server4(1): (850 + 30 + 40, 0)}


def test_the_daemon_lets_it_grow_in_another_process(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1)
    connect(host, service, 2000, 900)
    assert host.director.larger_capacity() == 2 * CAPACITY
    asyncio.run(growth.grow(""))
    assert host.director.settings()["conn_max"] == 2 * CAPACITY
    assert host.counts(service) == {server4(1): (900, 0)}
    assert host.director.larger_capacity() == 0
    asyncio.run(growth.grow(""))  # does nothing
    assert host.director.settings()["conn_max"] == 2 * CAPACITY
    connect(host, service, 4000, 800)
    with (
        mock.patch(
            "pylvs.daemon.table.growth.command",
            return_value=[sys.executable, "-c", "import sys; sys.exit('no memory')"],
        ),
        pytest.raises(PylvsError, match=r"^no memory$"),
    ):
        asyncio.run(growth.grow(""))


def test_a_kill_during_its_copy_leaves_nothing(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1)
    connect(host, service, 2000, 900)
    child = os.fork()
    if not child:
        with mock.patch.object(ConnectionCopy, "run", side_effect=lambda: os.kill(os.getpid(), signal.SIGKILL)):
            BpfDirector(State.open()).grow()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert host.director.state.leftovers()[1], "the draft"
    with host.director.batch():
        pass
    assert not host.director.state.leftovers()[1]
    assert host.counts(service) == {server4(1): (900, 0)}
    assert host.director.grow() == (CAPACITY, 2 * CAPACITY)


def test_another_change_of_its_size_during_its_copy_wins(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1)
    connect(host, service, 2000, 900)
    run, peer = ConnectionCopy.run, BpfDirector(State.open())
    changed: list[bool] = []

    def copy(self: ConnectionCopy, *arguments: Any, **options: Any) -> int:
        if not changed:
            changed.append(True)
            peer.change_setting("conn_max", 8192)
        return run(self, *arguments, **options)

    with (
        mock.patch.object(ConnectionCopy, "run", copy),
        pytest.raises(Busy, match="another process loaded programs during the copy"),
    ):
        host.director.grow()
    assert host.director.settings()["conn_max"] == 8192
    assert host.counts(service) == {server4(1): (900, 0)}
    with host.director.batch():
        pass
    assert not host.director.state.leftovers()[1]


def test_the_first_change_of_its_size_makes_no_larger_table_before() -> None:
    with new_host() as host:
        load.take_down(host.director.state)
        director = BpfDirector(State.open())
        with (
            mock.patch.object(kernel, "connection_limit", return_value=1 << 26),
            mock.patch.object(load, "_sizes", side_effect=load._sizes) as sizes,
        ):
            director.change_setting("conn_max", 2048)
        assert {each.args[0] for each in sizes.mock_calls} == {2048}
        assert director.settings()["conn_max"] == 2048


@pytest.mark.parametrize("method", [Method.ROUTE, Method.MASQ], ids=lambda method: method.name)
@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_the_use_of_the_table_is_exact(host: Host, vip: str, method: Method) -> None:
    service = host.new_key(vip=vip)
    host.serve(service, 1, method)
    connect(host, service, 2000, 50)
    connect(host, service, 3000, 70, "S")
    connect(host, service, 4000, 30, "SAF")
    use = table_use(host.director.tables)
    assert (use.capacity, use.used, use.half_open) == (CAPACITY, 150, 70)
    host.director.change_setting("conn_max", 4096)
    use = table_use(host.director.tables)
    assert (use.capacity, use.used, use.half_open) == (4096, 150, 70)


def test_show_has_the_use_of_the_table_and_refusals_by_reason(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1, Method.MASQ)
    connect(host, service, 2000, CAPACITY)
    frame = tcp(source=CLIENT4, target=VIP4, sport=9000, dport=service.port)
    for _ in range(3):
        done = host.run(frame, "tc")
        assert done.verdict == DROPPED["tc"], host.reasons()
    found = json.loads(CliRunner().invoke(show, ["--json"]).output)
    assert (found["fill"], found["half_open"], found["half_open_share"]) == (1.0, 0, 0.0)
    assert found["refused"] == {"table full": 3}
    printed = CliRunner().invoke(show).output
    assert f"connections {CAPACITY} of {CAPACITY} (100.0%), half-open 0 (0.0% of them)" in printed
    assert "3  refused table full" in printed


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_a_full_index_is_a_reason_of_its_own(vip: str) -> None:
    with mock.patch.object(load, "buckets", return_value=8), new_host(connections=4096, expires=False) as host:
        service = host.new_key(vip=vip)
        host.serve(service, 1)
        connect(host, service, 2000, 500, "S")
        assert host.reason("REFUSED_INDEX_FULL") > 0
        assert host.reason("REFUSED_TABLE_FULL") == 0


@pytest.mark.parametrize("vip", [VIP4, VIP6])
def test_each_family_can_fill_the_table(host: Host, vip: str) -> None:
    service = host.new_key(vip=vip)
    host.serve(service, 1)
    connect(host, service, 2000, CAPACITY)
    assert len(list(host.director.connections())) == CAPACITY
    assert host.reason("REFUSED_INDEX_FULL") == 0
