"""Checks through virtual addresses: marks, services of marks, and host settings."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pylvs.daemon import via_vip
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.via_vip import DEVICES_FILE, VipChecks
from pylvs.health.probes import CheckContext, Outcome, Probe, errno_text
from pylvs.health.state_builder import StateBuilder
from pylvs.model import checks
from pylvs.model.addresses import Address
from pylvs.model.checks import Check, Pace, SmtpCheck, Target, TcpCheck
from pylvs.model.errors import PylvsError
from pylvs.model.service import (
    FIRST_PROBE_MARK,
    PROBE_MARKS,
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Tunnel,
    TunnelKind,
    is_probe_mark,
)
from pylvs.model.wanted import Configuration, WantedServer, WantedService
from tests.shortages import SHORTAGES, failing
from tests.unit.daemon.daemons import FakeHost, run

VIP, VIP6, OWN = ip_address("192.0.2.1"), ip_address("2001:db8::1"), ip_address("10.0.0.1")


def server(number: int, via: bool = True, method: Method = Method.ROUTE, **more: object) -> WantedServer:
    address = ip_address(f"10.0.0.{number}")
    destination = Destination(DestinationKey(address, 80), method, **more)  # type: ignore[arg-type]
    return WantedServer(destination, (TcpCheck(target=Target(address, 80, via_vip=via)),))


def service(*servers: WantedServer, vip: Address = VIP, port: int = 80) -> WantedService:
    key = ServiceKey(Protocol.TCP, vip, port)
    return WantedService(str(key), (key,), servers=servers)


def configured(*services: WantedService) -> VipChecks:
    made = VipChecks()
    made.configure(Configuration(services))
    return made


def servers_of(made: VipChecks) -> dict[str, int]:
    """Return the mark of each server."""
    return {str(row.destinations[0].key.address): row.service.key.mark for row in made.rows}


def test_each_server_that_is_checked_so_has_a_service_of_its_own() -> None:
    made = configured(service(server(11), server(12, via=False), server(13, weight=0, upper=5)))
    assert set(servers_of(made)) == {"10.0.0.11", "10.0.0.13"}
    for row in made.rows:
        (destination,) = row.destinations
        assert is_probe_mark(row.service.key.mark)
        assert row.service.flags == ServiceFlag.ONE_PACKET
        assert (destination.weight, destination.upper, destination.key.port) == (1, 0, 0)
    assert len(set(servers_of(made).values())) == 2


def test_a_check_is_forwarded_by_the_method_of_clients_packets() -> None:
    gue = Tunnel(TunnelKind.GUE, 6080)
    made = configured(
        service(server(11, method=Method.TUNNEL, tunnel=gue)),
        service(server(11, method=Method.MASQ)),
        service(server(11, method=Method.TUNNEL, tunnel=gue), vip=VIP6),
    )
    (tunnel,), (nat,), (six,) = (row.destinations for row in made.rows)
    assert (tunnel.method, tunnel.tunnel) == (Method.TUNNEL, gue)
    assert (nat.method, nat.key.port) == (Method.MASQ, 80)
    assert [row.service.key.address.version for row in made.rows] == [4, 4, 6]
    assert six == tunnel


def test_one_mark_serves_all_services_of_a_server() -> None:
    assert len(configured(service(server(11)), service(server(11), port=443)).rows) == 1


def test_a_server_that_stays_keeps_its_mark_and_a_free_one_is_not_used_soon_again() -> None:
    made = configured(service(server(11), server(12), server(13)))
    before = servers_of(made)
    rows = made.rows
    made.configure(Configuration((service(server(11), server(12, weight=7), server(13)),)))
    assert made.rows is rows
    made.configure(Configuration((service(server(11), server(13), server(14)),)))
    after = servers_of(made)
    assert (after["10.0.0.11"], after["10.0.0.13"]) == (before["10.0.0.11"], before["10.0.0.13"])
    assert after["10.0.0.14"] not in before.values()


def test_a_path_that_only_the_last_configuration_lacked_has_its_former_mark() -> None:
    """After a refused reload, the probes of the old configuration continue with their marks."""
    both, one = service(server(11), server(12)), service(server(11))
    made = configured(both)
    before = servers_of(made)
    for each in (one, both):
        made.configure(Configuration((each,)))
    assert servers_of(made) == before


def test_a_former_mark_that_another_path_has_is_not_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(via_vip, "PROBE_MARKS", 2)
    made = configured(service(server(11), server(12)))
    first, second = servers_of(made).values()
    made.configure(Configuration((service(server(11), server(13)),)))
    assert servers_of(made) == {"10.0.0.11": first, "10.0.0.13": second}
    made.configure(Configuration((service(server(13), server(12)),)))
    assert servers_of(made) == {"10.0.0.13": second, "10.0.0.12": first}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """Return a host of a daemon with checks through a virtual address."""
    found = FakeHost(tmp_path / "state")
    monkeypatch.setattr(found, "configure", found.vip_checks.configure)
    found.write(service(server(11), server(12)))
    return found


def refuse(*_: object) -> NoReturn:
    raise PylvsError("not now")


def test_a_refused_reload_changes_no_mark(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with host.daemon() as daemon:
            marks, table = servers_of(host.vip_checks), host.table()
            assert len(table) == 3
            host.write(service(server(11)))
            with monkeypatch.context() as refused:
                refused.setattr(daemon.routers, "configure", refuse)
                with pytest.raises(PylvsError, match="not now"):
                    await daemon.reload()
            await daemon.reconciler.reconcile()
            assert (servers_of(host.vip_checks), host.table()) == (marks, table)

    run(scenario())


def test_a_refused_reload_restores_the_settings_of_the_host(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    adapted: list[set[str]] = []
    monkeypatch.setattr(host.vip_checks, "adapt_host", lambda state: adapted.append(set(servers_of(host.vip_checks))))

    async def scenario() -> None:
        async with host.daemon() as daemon:
            host.write(service(server(11)))
            with monkeypatch.context() as refused:
                refused.setattr(daemon.routers, "configure", refuse)
                with pytest.raises(PylvsError, match="not now"):
                    await daemon.reload()
            assert {"10.0.0.11"} in adapted
            assert adapted[-1] == {"10.0.0.11", "10.0.0.12"}

    run(scenario())


def test_marks_wrap_around_and_skip_those_in_use() -> None:
    made = configured(service(server(11)))
    (kept,) = servers_of(made).values()
    for _ in range(PROBE_MARKS - 2):
        next(made._next_marks)
    made.configure(Configuration((service(server(11), server(12), server(13)),)))
    assert servers_of(made) == {
        "10.0.0.11": kept,
        "10.0.0.12": FIRST_PROBE_MARK + PROBE_MARKS - 1,
        "10.0.0.13": FIRST_PROBE_MARK + 1,
    }


def test_without_a_virtual_address_the_check_fails_with_the_reason() -> None:
    marked = WantedService("fwmark 7", (ServiceKey.of_mark(7),), servers=(server(11),))
    made = configured(marked)
    assert made.rows == ()
    probe = made.probe_of(marked.servers[0].checks[0], marked, marked.servers[0], CheckContext())
    assert asyncio.run(_once(probe)) == Outcome(False, "fwmark 7 has no virtual address to check through")


async def _once(probe: Probe) -> Outcome:
    return await probe()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """Replace the checkers; return the checks that they would get."""
    made: list[Check] = []

    def probe_of(check: Check, context: CheckContext) -> Probe:
        made.append(check)

        async def ask() -> Outcome:
            return Outcome(True, "connected", 5)

        return ask

    monkeypatch.setattr(via_vip, "probe_of", probe_of)
    monkeypatch.setattr(via_vip, "source_towards", lambda server, version, avoiding: OWN)
    return made


def test_the_target_is_the_virtual_address_with_the_servers_mark(asked: list[Check]) -> None:
    wanted = service(replace(server(11), checks=(_check(device="eth0", mark=9, port=8080),)), server(12))
    made = configured(wanted)
    probe = made.probe_of(wanted.servers[0].checks[0], wanted, wanted.servers[0], CheckContext())
    for _ in range(3):
        assert asyncio.run(_once(probe)) == Outcome(True, f"through {VIP}: connected", 5)
    (check,) = asked  # made once, as long as its source is the same
    assert isinstance(check, TcpCheck)
    assert check.target == Target(VIP, 8080, source=OWN, mark=servers_of(made)["10.0.0.11"])


def _check(**more: object) -> TcpCheck:
    return TcpCheck(target=Target(ip_address("10.0.0.11"), via_vip=True, **more))  # type: ignore[arg-type]


def test_the_configured_source_and_each_address_of_a_group_are_used(asked: list[Check]) -> None:
    other, named = ip_address("192.0.2.2"), ip_address("10.0.0.9")
    check = SmtpCheck(targets=(Target(other, 25, source=named, via_vip=True),))
    wanted = replace(
        service(replace(server(11), checks=(check,))),
        keys=tuple(ServiceKey(Protocol.TCP, address, 25) for address in (VIP, other)),
    )
    made = configured(wanted)
    asyncio.run(_once(made.probe_of(check, wanted, wanted.servers[0], CheckContext())))
    (found,) = asked
    assert isinstance(found, SmtpCheck)
    assert found.targets == (Target(other, 25, source=named, mark=FIRST_PROBE_MARK),)


def test_without_a_source_address_the_check_is_inconclusive(
    asked: list[Check], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(server: Address, version: int, avoiding: object) -> Address:
        raise PylvsError("no address of its own")

    monkeypatch.setattr(via_vip, "source_towards", nothing)
    wanted = service(server(11))
    probe = configured(wanted).probe_of(wanted.servers[0].checks[0], wanted, wanted.servers[0], CheckContext())
    assert asyncio.run(_once(probe)) == Outcome(False, "no address of its own", inconclusive=True)


class WithoutBuffers(socket.socket):
    """A socket that cannot be connected, as the kernel has no memory for it."""

    def connect(self, _address: object) -> None:
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


@pytest.mark.parametrize(
    ("number", "made"), [*((each, failing(each)) for each in SHORTAGES), (errno.ENOBUFS, WithoutBuffers)]
)
def test_a_shortage_of_this_machine_is_inconclusive(number: int, made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = service(server(11))
    probe = configured(wanted).probe_of(wanted.servers[0].checks[0], wanted, wanted.servers[0], CheckContext())

    async def short() -> Outcome:
        with monkeypatch.context() as shortage:  # not for the event loop
            shortage.setattr("socket.socket", made)
            return await probe()

    assert asyncio.run(short()) == Outcome(False, errno_text(number), inconclusive=True)


def test_a_check_for_which_no_mark_is_left_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(via_vip, "PROBE_MARKS", 1)
    wanted = service(server(11), server(12))
    probe = configured(wanted).probe_of(wanted.servers[1].checks[0], wanted, wanted.servers[1], CheckContext())
    reason = "all 1 marks of checks through virtual addresses are in use"
    assert asyncio.run(_once(probe)) == Outcome(False, reason, inconclusive=True)


def test_checks_through_the_vip_are_never_shared_between_services() -> None:
    """They check the same server, each with another virtual address."""
    check = replace(_check(), pace=Pace(shared=True))
    first, second = (service(replace(server(11), checks=(check,)), vip=ip_address(f"192.0.2.{n}")) for n in (1, 2))
    asked: list[str] = []

    def probe_of(check: Check, service: WantedService, server: WantedServer) -> Probe:
        asked.append(service.name)
        return lambda: _once(probe_of(check, service, server))

    StateBuilder(probe_of, lambda state, outcome: 0.0).build({}, Configuration((first, second)), False, 0.0)
    assert asked == [first.name, second.name]
    assert checks.goes_via_vip(check)


class Machine:
    """Fake host settings."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, devices: dict[str, bool]) -> None:
        self.accept = dict(devices)
        self.towards = {"eth0"}
        self.versions: set[int] = set()
        self.fails = False
        changes: dict[str, Callable[..., object]] = {
            "route_marks": self._route,
            "devices_towards": lambda servers: set(self.towards) if list(servers) else set(),
            "accepts_own_sources": lambda device: self.accept[device],
            "accept_own_sources": self.accept.__setitem__,
        }
        for name, change in changes.items():
            monkeypatch.setattr(via_vip, name, change)

    def _route(self, versions: set[int]) -> None:
        if self.fails:
            raise PylvsError("not permitted")
        self.versions = set(versions)


def test_the_host_stays_prepared_while_such_checks_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine, state = Machine(monkeypatch, {"eth0": False, "eth1": True}), StateDirectory(tmp_path)
    made = configured(service(server(11, via=False)))
    made.adapt_host(state)
    assert (machine.accept, machine.versions) == ({"eth0": False, "eth1": True}, set())
    made.configure(Configuration((service(server(11)), service(server(12), vip=VIP6))))
    for _ in range(2):
        made.adapt_host(state)
        assert (machine.accept, machine.versions) == ({"eth0": True, "eth1": True}, {4, 6})
    machine.towards = {"eth1"}  # routes changed
    made.adapt_host(state)
    assert machine.accept == {"eth0": False, "eth1": True}
    made.restore(state)
    assert (machine.accept, machine.versions) == ({"eth0": False, "eth1": True}, set())
    assert state.read(DEVICES_FILE) is None
    assert made.rows == ()


def test_a_host_that_stays_the_same_needs_no_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A disk that blocks must not keep the thread that edits the tables."""
    machine, state = Machine(monkeypatch, {"eth0": False}), StateDirectory(tmp_path)
    made = configured(service(server(11)))
    made.adapt_host(state)
    with monkeypatch.context() as blocked:
        blocked.setattr(state, "write", failing(errno.EIO))
        made.adapt_host(state)
    assert (made.error, machine.accept) == ("", {"eth0": True})
    made.restore(state)
    assert machine.accept == {"eth0": False}


def test_ipv6_alone_changes_no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch, {"eth0": False})
    configured(service(server(11), vip=VIP6)).adapt_host(StateDirectory(tmp_path))
    assert (machine.accept, machine.versions) == ({"eth0": False}, {6})


def test_the_next_daemon_restores_the_changes_of_a_killed_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine, state = Machine(monkeypatch, {"eth0": False}), StateDirectory(tmp_path)
    configured(service(server(11))).adapt_host(state)
    assert machine.accept == {"eth0": True}
    configured(service(server(11, via=False))).adapt_host(state)
    assert (machine.accept, machine.versions) == ({"eth0": False}, set())
    assert state.read(DEVICES_FILE) is None


def test_a_host_that_refuses_does_not_stop_the_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine, state = Machine(monkeypatch, {"eth0": False}), StateDirectory(tmp_path)
    machine.fails = True
    made = configured(service(server(11)))
    made.adapt_host(state)
    assert machine.accept == {"eth0": False}
    machine.fails = False
    made.adapt_host(state)
    assert machine.accept == {"eth0": True}
    made.restore(state)
    assert machine.accept == {"eth0": False}
