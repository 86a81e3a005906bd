"""All virtual routers of one process on an imagined machine: what another configuration changes, and what it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from pylvs.model.addresses import Address
from pylvs.model.errors import PylvsError
from pylvs.model.vrrp import SendingLimit, VrrpConfiguration, VrrpGroup, VrrpInstance, VrrpSettings
from pylvs.vrrp import realtime, router_service
from pylvs.vrrp.protocol.machine import State
from pylvs.vrrp.router_service import RouterService
from tests.unit.vrrp.fake_network import VIP, FakeHost, Switch, held, instance

OTHER = ip_address("10.0.0.101")
FIRST = instance(name="VI_1")
SECOND = instance(name="VI_2", vrid=52, addresses=(held(ip_address("10.0.0.200")),))


class Roles:
    """The packet path's word, written down."""

    def __init__(self) -> None:
        self.elsewhere: list[Address] = []
        self.here: list[Address] = []

    def stand_by(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
        self.elsewhere, self.here = sorted(addresses, key=int), sorted(held, key=int)


class Deaf(Roles):
    """Cannot be told at first."""

    deaf = True

    def stand_by(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
        if self.deaf:
            raise PylvsError("not now")
        super().stand_by(addresses, held)


class Place(FakeHost):
    """A machine with what a core asks besides."""

    def configure(self, configuration: VrrpConfiguration) -> list[str]:
        return []

    def receive_device_of(self, told: VrrpInstance) -> str:
        return told.interface

    def is_up(self, device: str) -> bool:
        return self.cable

    def reset(self) -> None:
        pass


class Helper:
    """Keeps what it is told."""

    connected = True

    def __init__(self, *_: Any) -> None:
        self.told: list[Any] = []
        self.over = False

    def send(self, message: Any) -> None:
        self.told.append(message)

    def finish(self, message: Any, ended: Any) -> None:
        self.over = True


class Receivers:
    def __init__(self, *_: Any) -> None:
        pass

    def configure(self, instances: Any) -> list[str]:
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def roles() -> Roles:
    return Roles()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, roles: Roles) -> Iterator[RouterService]:
    switch = Switch()
    monkeypatch.setattr(router_service, "VipManager", lambda *_: Place(switch, ip_address("10.0.0.1")))
    monkeypatch.setattr(router_service, "AdvertReceivers", Receivers)
    monkeypatch.setattr(router_service, "HelperLink", Helper)
    monkeypatch.setattr(realtime, "enable_realtime", lambda settings: realtime.RealtimeStatus(0, False))
    monkeypatch.setattr(realtime, "freeze_gc", lambda: None)
    monkeypatch.setattr(RouterService, "now", property(lambda self: switch.now))
    monkeypatch.setattr(RouterService, "at", lambda self, when, call: switch.at(when, call))
    service = RouterService("text", roles)
    monkeypatch.setattr(service.loop, "at", switch.at)
    yield service
    service._control.close()


def configure(made: RouterService, *instances: VrrpInstance, **more: Any) -> list[str]:
    answer = made._configure({"configuration": VrrpConfiguration(instances=instances, **more), "settings": None})
    return list(answer["warnings"])


def run(made: RouterService, seconds: float) -> None:
    place: Any = made.host
    place.switch.run(seconds)


def states(made: RouterService) -> dict[str, State]:
    return {name: router.state for name, router in made.routers.items()}


def moves(made: RouterService, name: str) -> list[str]:
    aide: Any = made.helper
    return [each.state for each in aide.told if getattr(each, "kind", "") == "INSTANCE" and each.name == name]


def test_the_packet_path_knows_the_addresses_that_a_reload_gave_to_a_master(made: RouterService, roles: Roles) -> None:
    configure(made, FIRST)
    assert (roles.elsewhere, roles.here) == ([VIP], [])
    run(made, 5)
    assert (roles.elsewhere, roles.here) == ([], [VIP])
    configure(made, replace(FIRST, addresses=(held(VIP), held(OTHER))))
    assert (roles.elsewhere, roles.here) == ([], [VIP, OTHER])
    configure(made, replace(FIRST, addresses=(held(OTHER),)))
    assert (roles.elsewhere, roles.here) == ([], [OTHER])
    configure(made)
    assert (roles.elsewhere, roles.here) == ([], [])


def test_what_goes_wrong_with_one_is_said_and_does_not_cost_the_others(
    made: RouterService, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(made, FIRST, SECOND)
    run(made, 5)
    monkeypatch.setattr(made.routers["VI_1"], "reconfigure", lambda instance: 1 / 0)
    troubles = configure(made, replace(FIRST, priority=50), replace(SECOND, priority=50), replace(FIRST, name="VI_3"))
    assert [each.partition(":")[0] for each in troubles] == ["VI_1"]
    assert made.routers["VI_2"].machine.priority == 50
    run(made, 5)
    assert set(states(made).values()) == {State.MASTER}
    monkeypatch.setattr(made.routers["VI_1"], "stop", lambda why=None: 1 / 0)
    made.stop()
    assert (states(made)["VI_2"], made.helper.over) == (State.FAULT, True)  # type: ignore[attr-defined]


def test_a_member_that_leaves_its_group_leaves_the_others_as_they_are(made: RouterService) -> None:
    group = VrrpGroup(name="VG", members=("VI_1", "VI_2"))
    configure(made, FIRST, SECOND, groups=(group,))
    run(made, 5)
    assert states(made) == {"VI_1": State.MASTER, "VI_2": State.MASTER}
    configure(made, FIRST, groups=(replace(group, members=("VI_1",)),))
    assert states(made) == {"VI_1": State.MASTER}
    assert moves(made, "VI_2")[-1] == "DELETED"


def test_a_member_that_comes_to_a_group_of_masters_joins_them_in_its_time(made: RouterService) -> None:
    group = VrrpGroup(name="VG", members=("VI_1",))
    configure(made, FIRST, groups=(group,))
    run(made, 5)
    configure(made, FIRST, SECOND, groups=(replace(group, members=("VI_1", "VI_2")),))
    assert states(made) == {"VI_1": State.MASTER, "VI_2": State.BACKUP}
    run(made, 5)
    assert states(made) == {"VI_1": State.MASTER, "VI_2": State.MASTER}
    assert moves(made, "VI_1") == ["BACKUP", "MASTER"]


def test_no_member_of_a_group_begins_while_another_has_a_fault(made: RouterService) -> None:
    lonely = replace(SECOND, fault_without_peers=True)
    configure(made, FIRST, lonely, groups=(VrrpGroup(name="VG", members=("VI_1", "VI_2")),))
    run(made, 5)
    assert (moves(made, "VI_1"), moves(made, "VI_2")) == (["FAULT"], ["FAULT"])


def test_a_reload_while_all_wait_for_their_start_starts_nobody_earlier_or_twice(made: RouterService) -> None:
    settings = VrrpSettings(startup_delay_s=10.0)
    configure(made, FIRST, settings=settings)
    run(made, 5)
    configure(made, replace(FIRST, version=3), SECOND, settings=settings)
    run(made, 4.9)
    assert set(states(made).values()) == {State.FAULT}
    run(made, 5)
    assert set(states(made).values()) == {State.MASTER}


def test_other_limits_are_kept_by_those_that_run_already(made: RouterService) -> None:
    addresses = tuple(held(ip_address(f"10.0.1.{number}")) for number in range(4))
    many = replace(FIRST, addresses=addresses)
    configure(made, many)
    run(made, 20)
    place: Any = made.host
    place.announced.clear()
    configure(made, many, settings=VrrpSettings(limits=(SendingLimit(devices=(), arp_s=0.5),)))
    run(made, 1.1)
    assert len(place.announced) == 3


def test_a_packet_path_that_could_not_be_told_is_told_again(made: RouterService) -> None:
    made._roles._roles = deaf = Deaf()
    configure(made, FIRST)
    run(made, 20)
    assert deaf.here == []
    aide: Any = made.helper
    assert len([each for each in aide.told if "packet path" in getattr(each, "text", "")]) == 1
    deaf.deaf = False
    run(made, 1.1)
    assert deaf.here == [VIP]


def test_the_others_of_a_group_know_what_decided(made: RouterService) -> None:
    configure(made, FIRST, SECOND, groups=(VrrpGroup(name="VG", members=("VI_1", "VI_2")),))
    run(made, 5)
    configure(
        made,
        FIRST,
        replace(SECOND, fault_without_peers=True),
        groups=(VrrpGroup(name="VG", members=("VI_1", "VI_2")),),
    )
    last = made.routers["VI_1"].history.last
    assert last is not None
    assert last.sentence() == "its group: VI_2 went before: something that is tracked failed: it has no peers"
