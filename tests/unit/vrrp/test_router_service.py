"""All virtual routers of one process on a fake host: what a reload changes, and what it keeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from pylvs.model.addresses import Address
from pylvs.model.bfd import BfdSession, Result
from pylvs.model.checks import Script
from pylvs.model.errors import NoSuchRouter, PylvsError
from pylvs.model.vrrp import (
    OWNER,
    Announcements,
    Notify,
    Peer,
    PolledLink,
    SendingLimit,
    Track,
    TrackFile,
    TrackProcess,
    Tracks,
    VrrpConfiguration,
    VrrpGroup,
    VrrpInstance,
    VrrpScript,
    VrrpSettings,
)
from pylvs.system import syscalls
from pylvs.vrrp import router_service
from pylvs.vrrp.control import requests
from pylvs.vrrp.control.server import service_status
from pylvs.vrrp.helper.link import NO_SCRIPTS, LogLine, StateChanged
from pylvs.vrrp.ipc import answer_of
from pylvs.vrrp.log_damper import MOST
from pylvs.vrrp.loop import Loop, RealtimeStatus
from pylvs.vrrp.protocol.adverts import PROTOCOL, AdvertEncoder, AdvertError, Datagram
from pylvs.vrrp.protocol.machine import State, TransitionReason
from pylvs.vrrp.router_service import HELPER_SILENT, RouterService
from pylvs.vrrp.tracking import RESULT_LEASE_S, TrackedObject
from tests.unit.vrrp.fake_network import VIP, FakeHost, Switch, held, instance

OTHER = ip_address("10.0.0.101")
FIRST = instance(name="VI_1")
SECOND = instance(name="VI_2", vrid=52, addresses=(held(ip_address("10.0.0.200")),))


class Roles:
    """Records the published roles."""

    def __init__(self) -> None:
        self.standby: list[Address] = []
        self.active: list[Address] = []

    def set_standby(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
        self.standby, self.active = sorted(addresses, key=int), sorted(held, key=int)


class FailingRoles(Roles):
    """Raises an error while `fails`."""

    fails = True

    def set_standby(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
        if self.fails:
            raise PylvsError("not now")
        super().set_standby(addresses, held)


class FakeVipManager(FakeHost):
    """A fake host with the methods that the service calls."""

    def configure(self, configuration: VrrpConfiguration) -> list[str]:
        return []

    def receive_device_of(self, instance: VrrpInstance) -> str:
        return instance.interface

    def devices_tracked_by(self, instance: VrrpInstance) -> tuple[str, ...]:
        return (instance.interface,)

    def is_up(self, device: str) -> bool:
        return self.cable

    def set_link_beat(self, device: str, up: bool) -> None:
        self.cable = up

    def reset(self) -> None:
        pass


class FakeHelper:
    """Records messages."""

    connected = True
    lost = 0
    scripts = NO_SCRIPTS

    def __init__(self, *_: Any) -> None:
        self.messages: list[Any] = []
        self.over = False

    def send(self, message: Any) -> None:
        self.messages.append(message)

    def finish(self, ended: Any) -> None:
        self.over = True


class FakeReceivers:
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
def service(monkeypatch: pytest.MonkeyPatch, roles: Roles) -> Iterator[RouterService]:
    switch = Switch()
    monkeypatch.setattr(router_service, "VipManager", lambda *_: FakeVipManager(switch, ip_address("10.0.0.1")))
    monkeypatch.setattr(router_service, "AdvertReceivers", FakeReceivers)
    monkeypatch.setattr(router_service, "HelperLink", FakeHelper)
    monkeypatch.setattr(router_service, "enable_realtime", lambda settings: RealtimeStatus(0, False))
    monkeypatch.setattr(router_service, "freeze_gc", lambda: None)
    monkeypatch.setattr(Loop, "now", property(lambda self: switch.now))
    monkeypatch.setattr(Loop, "at", lambda self, when, call: switch.at(when, call))
    service = RouterService("text", roles)
    yield service
    service._control.close()


def configure(service: RouterService, *instances: VrrpInstance, **more: Any) -> list[str]:
    answer = service._configure(requests.Configure(VrrpConfiguration(instances=instances, **more)))
    return list(answer["warnings"])


def run(service: RouterService, seconds: float) -> None:
    host: Any = service.host
    host.switch.run(seconds)


def states(service: RouterService) -> dict[str, State]:
    return {name: router.state for name, router in service.routers.items()}


def notified(service: RouterService, name: str) -> list[str]:
    helper: Any = service.helper
    return [each.state for each in helper.messages if getattr(each, "kind", "") == "INSTANCE" and each.name == name]


@pytest.mark.parametrize("up", [True, None])
def test_no_router_is_master_before_packets_are_forwarded_or_the_limit(service: RouterService, up: bool | None) -> None:
    service._configure(requests.Configure(VrrpConfiguration(instances=(FIRST,)), table_wait_s=30.0))
    run(service, 20)
    assert states(service) == {FIRST.name: State.BACKUP}
    service._set_data_plane(requests.DataPlane(up))
    run(service, 1)
    assert states(service) == {FIRST.name: State.MASTER if up else State.BACKUP}
    run(service, 10)
    assert states(service) == {FIRST.name: State.MASTER}


def test_routers_of_a_reload_do_not_wait_once_packets_are_forwarded(service: RouterService) -> None:
    service._configure(requests.Configure(VrrpConfiguration(), table_wait_s=30.0))
    service._set_data_plane(requests.DataPlane(True))
    configure(service, FIRST)
    run(service, 5)
    assert states(service) == {FIRST.name: State.MASTER}


def test_the_roles_of_addresses_that_a_reload_adds_are_published(service: RouterService, roles: Roles) -> None:
    configure(service, FIRST)
    assert (roles.standby, roles.active) == ([VIP], [])
    run(service, 5)
    assert (roles.standby, roles.active) == ([], [VIP])
    configure(service, replace(FIRST, addresses=(held(VIP), held(OTHER))))
    assert (roles.standby, roles.active) == ([], [VIP, OTHER])
    configure(service, replace(FIRST, addresses=(held(OTHER),)))
    assert (roles.standby, roles.active) == ([], [OTHER])
    configure(service)
    assert (roles.standby, roles.active) == ([], [])


def test_the_first_advertisement_does_not_wait_for_the_roles(service: RouterService) -> None:
    """The first roles open the tables, which takes milliseconds."""
    order: list[str] = []

    class Order(Roles):
        def set_standby(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
            order.append(f"standby {len(addresses)}, held {len(held)}")

    host: Any = service.host
    host.send_adverts = lambda instance, packets: order.append(f"advertisement of {instance.name}")
    host.add_resources = lambda instance: order.append(f"addresses of {instance.name}")
    service._roles._roles = Order()
    configure(service, replace(FIRST, priority=OWNER, starts_as_master=True), SECOND)
    assert order == ["advertisement of VI_1", "standby 1, held 1", "addresses of VI_1"]


def test_a_bug_in_one_virtual_router_is_reported_and_stops_no_other(
    service: RouterService, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(service, FIRST, SECOND)
    run(service, 5)
    monkeypatch.setattr(service.routers["VI_1"], "reconfigure", lambda instance: 1 / 0)
    errors = configure(service, replace(FIRST, priority=50), replace(SECOND, priority=50), replace(FIRST, name="VI_3"))
    assert [each.partition(":")[0] for each in errors] == ["VI_1"]
    assert service.routers["VI_2"].machine.priority == 50
    run(service, 5)
    assert set(states(service).values()) == {State.MASTER}
    monkeypatch.setattr(service.routers["VI_1"], "stop", lambda why=None: 1 / 0)
    service.stop()
    assert (states(service)["VI_2"], service.helper.over) == (State.FAULT, True)  # type: ignore[attr-defined]


def test_the_members_of_a_group_keep_their_state_when_one_is_removed(service: RouterService) -> None:
    group = VrrpGroup(name="VG", members=("VI_1", "VI_2"))
    configure(service, FIRST, SECOND, groups=(group,))
    run(service, 5)
    assert states(service) == {"VI_1": State.MASTER, "VI_2": State.MASTER}
    configure(service, FIRST, groups=(replace(group, members=("VI_1",)),))
    assert states(service) == {"VI_1": State.MASTER}
    assert notified(service, "VI_2")[-1] == "DELETED"


def test_a_member_added_to_masters_becomes_master_later(service: RouterService) -> None:
    group = VrrpGroup(name="VG", members=("VI_1",))
    configure(service, FIRST, groups=(group,))
    run(service, 5)
    configure(service, FIRST, SECOND, groups=(replace(group, members=("VI_1", "VI_2")),))
    assert states(service) == {"VI_1": State.MASTER, "VI_2": State.BACKUP}
    run(service, 5)
    assert states(service) == {"VI_1": State.MASTER, "VI_2": State.MASTER}
    assert notified(service, "VI_1") == ["BACKUP", "MASTER"]


def test_no_member_of_a_group_starts_while_another_has_a_fault(service: RouterService) -> None:
    lonely = replace(SECOND, fault_without_peers=True)
    configure(service, FIRST, lonely, groups=(VrrpGroup(name="VG", members=("VI_1", "VI_2")),))
    run(service, 5)
    assert (notified(service, "VI_1"), notified(service, "VI_2")) == (["FAULT"], ["FAULT"])


def test_a_reload_during_the_startup_delay_keeps_the_delay(service: RouterService) -> None:
    settings = VrrpSettings(startup_delay_s=10.0)
    configure(service, FIRST, settings=settings)
    run(service, 5)
    configure(service, replace(FIRST, version=3), SECOND, settings=settings)
    run(service, 4.9)
    assert set(states(service).values()) == {State.BACKUP}
    run(service, 5)
    assert set(states(service).values()) == {State.MASTER}


@pytest.mark.parametrize("wanted", [True, False])
def test_a_reload_reports_kept_states_of_groups_and_of_instances_that_are_not_master(
    service: RouterService, wanted: bool
) -> None:
    helper: Any = service.helper
    fault = replace(SECOND, name="VI_3", vrid=53, fault_without_peers=True)
    more: dict[str, Any] = {
        "groups": (VrrpGroup(name="VG", members=("VI_1", "VI_2")),),
        "settings": VrrpSettings(states_on_reload=wanted),
    }
    configure(service, FIRST, SECOND, fault, **more)
    run(service, 6)
    assert states(service) == {"VI_1": State.MASTER, "VI_2": State.MASTER, "VI_3": State.FAULT}
    assert not [each for each in helper.messages if getattr(each, "at_reload", False)]
    configure(service, FIRST, SECOND, fault, replace(FIRST, name="VI_4", vrid=54), **more)
    assert [each for each in helper.messages if getattr(each, "at_reload", False)] == (
        [
            StateChanged("GROUP", "VG", "MASTER", 0, at_reload=True),
            StateChanged("INSTANCE", "VI_3", "FAULT", fault.priority, at_reload=True),
        ]
        if wanted
        else []
    )


def test_a_reload_applies_limits_to_running_routers(service: RouterService) -> None:
    addresses = tuple(held(ip_address(f"10.0.1.{number}")) for number in range(4))
    many = replace(FIRST, addresses=addresses)
    configure(service, many)
    run(service, 20)
    host: Any = service.host
    host.announced.clear()
    configure(service, many, settings=VrrpSettings(limits=(SendingLimit(devices=(), arp_s=0.5),)))
    run(service, 1.1)
    assert len(host.announced) == 3


def test_roles_are_published_again_after_an_error(service: RouterService) -> None:
    service._roles._roles = failing = FailingRoles()
    configure(service, FIRST)
    run(service, 20)
    assert failing.active == []
    helper: Any = service.helper
    assert len([each for each in helper.messages if "not published" in getattr(each, "text", "")]) == 1
    failing.fails = False
    run(service, 1.1)
    assert failing.active == [VIP]


def test_the_members_of_a_group_name_the_reason(service: RouterService) -> None:
    configure(service, FIRST, SECOND, groups=(VrrpGroup(name="VG", members=("VI_1", "VI_2")),))
    run(service, 5)
    configure(
        service,
        FIRST,
        replace(SECOND, fault_without_peers=True),
        groups=(VrrpGroup(name="VG", members=("VI_1", "VI_2")),),
    )
    last = service.routers["VI_1"].history.last
    assert last is not None
    assert last.sentence() == "its group: VI_2 went before: something that is tracked failed: it has no peers"


TRACKING = instance(name="VI_1", track_data_plane=Track("data plane"))


def lines_of(service: RouterService) -> list[str]:
    helper: Any = service.helper
    return [each.text for each in helper.messages if isinstance(each, LogLine)]


def test_the_state_of_the_data_plane_is_unknown_once_its_lease_has_expired(service: RouterService) -> None:
    configure(service, TRACKING, settings=VrrpSettings(data_plane_lease_s=10))
    for _ in range(10):
        service._set_data_plane(requests.DataPlane(True, ""))
        run(service, 9)
    assert states(service) == {"VI_1": State.MASTER}
    run(service, 2)
    assert states(service) == {"VI_1": State.FAULT}
    (*_, last) = service.routers["VI_1"].history.transitions
    assert last.sentence().endswith("data plane is unknown (no report from pylvs run for 10 s)")
    run(service, 600)
    silence = "the state of the packet path is unknown: no report from pylvs run for 10 s"
    assert [each for each in lines_of(service) if "packet path" in each] == [silence], "one line"
    assert service.data_plane_expired == 1
    service._set_data_plane(requests.DataPlane(True, ""))
    assert "the packet path works" in lines_of(service)
    run(service, 5)
    assert states(service) == {"VI_1": State.MASTER}, "the next daemon's first report ends it"


def test_with_a_weight_an_unknown_data_plane_lowers_the_priority_and_without_the_keyword_nothing_changes(
    service: RouterService,
) -> None:
    weighed = replace(TRACKING, track_data_plane=Track("data plane", -30))
    configure(service, weighed, SECOND)
    run(service, 30)
    assert states(service) == {"VI_1": State.MASTER, "VI_2": State.MASTER}
    assert [each.machine.priority for each in service.routers.values()] == [70, 100]
    assert service.tracking.data_plane[0] is None
    service._set_data_plane(requests.DataPlane(True, ""))
    assert [each.machine.priority for each in service.routers.values()] == [100, 100]


def test_a_daemon_that_does_not_know_is_reported_as_unknown_at_once(service: RouterService) -> None:
    configure(service, TRACKING)
    run(service, 5)
    service._set_data_plane(requests.DataPlane(None, "the tables were not compared for 30 s"))
    assert states(service) == {"VI_1": State.FAULT}


@pytest.mark.parametrize("whole", [False, True], ids=["its thread is blocked", "no helper process"])
def test_a_polled_link_without_a_current_result_is_down(
    service: RouterService, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(service, FIRST, settings=VrrpSettings(polled_links=(PolledLink("eth0"),)))
    beat = TrackedObject("link", Track("eth0"), True)
    service._tracked(beat)
    run(service, 5)
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(service._control, "publish", events.append)
    if whole:
        service._helper_lost("the helper process has ended")
    else:
        service._results_late([("link", "eth0")])
    run(service, RESULT_LEASE_S - 1)
    assert states(service) == {"VI_1": State.MASTER}
    run(service, 2)
    assert states(service) == {"VI_1": State.FAULT}
    assert lines_of(service).count(f"link eth0 is unknown ({HELPER_SILENT})") == 1
    service._tracked(beat)
    service._track_all()
    assert [each.get("up", each.get("state")) for each in events if each["event"] == "track"] == ["unknown", True]
    run(service, 5)
    assert states(service) == {"VI_1": State.MASTER}


def test_a_script_without_a_current_result_is_unknown_in_status_events_and_log(
    service: RouterService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `pylvs vrrp status` prints it, and the daemon publishes it as `vrrp_track`."""
    script = VrrpScript(name="s", script=Script(("/bin/true",)), track=Track("s"))
    configure(service, replace(FIRST, tracks=Tracks(scripts=(Track("s"),))), scripts=(script,))
    service._tracked(TrackedObject("script", Track("s"), True))
    run(service, 5)
    events: list[dict[str, Any]] = []
    monkeypatch.setattr(service._control, "publish", events.append)
    service._results_late([("script", "s")])
    run(service, RESULT_LEASE_S + 1)
    assert lines_of(service).count(f"script s is unknown ({HELPER_SILENT})") == 1
    assert [(each["name"], each["state"]) for each in events if each["event"] == "track"] == [("s", "unknown")]
    (status,) = service_status(service)["instances"]
    assert [(each["name"], each["expired"]) for each in status["tracks"]] == [("s", True)]


NEW = Track("new")
SCRIPTS = VrrpScript(name="new", script=Script(("/bin/true",)), track=NEW)
PROCESS = TrackProcess(name="new", command=("sshd",), track=NEW)
OBJECTS: dict[str, tuple[Tracks, dict[str, Any]]] = {
    "script": (Tracks(scripts=(NEW,)), {"scripts": (SCRIPTS,)}),
    "file": (Tracks(files=(NEW,)), {"files": (TrackFile(name="new", path="/new", track=NEW),)}),
    "process": (Tracks(processes=(NEW,)), {"processes": (PROCESS,)}),
    "bfd": (Tracks(sessions=(NEW,)), {}),
}


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("kind", OBJECTS)
def test_a_reload_that_adds_a_tracked_object_costs_no_mastership(
    service: RouterService, kind: str, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running router keeps its state until there is a result, also as a member of a group. A new one waits for it."""
    results: dict[str, Result] = {}
    monkeypatch.setattr(service.sessions, "result", lambda name: results.get(name, Result(None, "no answer yet")))
    service.tracking._session = service.sessions.result
    names = ("VI_1", "VI_2") if grouped else ("VI_1",)
    groups = (VrrpGroup(name="VG", members=names),) if grouped else ()
    others = (SECOND,) if grouped else ()
    tracks, objects = OBJECTS[kind]
    configure(service, FIRST, *others, groups=groups)
    run(service, 5)
    before = notified(service, "VI_1")
    new = instance(name="VI_3", vrid=53, addresses=(), tracks=tracks)
    configure(service, replace(FIRST, tracks=tracks), *others, new, groups=groups, **objects)
    run(service, 5)
    assert states(service) == dict.fromkeys(names, State.MASTER) | {"VI_3": State.FAULT}
    assert notified(service, "VI_1") == before
    (status, *_) = service_status(service)["instances"]
    assert status["faults"] == []

    def find(up: bool) -> None:
        results["new"] = Result(up, "")
        if kind == "bfd":
            service.session_changed("new")
        else:
            service._tracked(TrackedObject(kind, NEW, up, int(not up) if kind == "file" else None))

    find(True)
    run(service, 5)
    assert set(states(service).values()) == {State.MASTER}
    find(False)
    assert set(states(service).values()) == {State.FAULT}


def test_a_reload_that_adds_a_member_without_results_costs_no_mastership(service: RouterService) -> None:
    configure(service, FIRST, groups=(VrrpGroup(name="VG", members=("VI_1",)),))
    run(service, 5)
    tracks, objects = OBJECTS["script"]
    group = VrrpGroup(name="VG", members=("VI_1", "VI_2"))
    configure(service, FIRST, replace(SECOND, tracks=tracks), groups=(group,), **objects)
    run(service, 5)
    assert states(service) == {"VI_1": State.MASTER, "VI_2": State.FAULT}
    service._tracked(TrackedObject("script", NEW, True))
    run(service, 10)
    assert set(states(service).values()) == {State.MASTER}


def test_an_object_whose_first_result_never_comes_expires(service: RouterService) -> None:
    """Otherwise a master whose helper process hangs would track nothing for ever."""
    configure(service, FIRST)
    run(service, 5)
    tracks, objects = OBJECTS["script"]
    configure(service, replace(FIRST, tracks=tracks), **objects)
    run(service, RESULT_LEASE_S + 5)
    assert states(service) == {"VI_1": State.MASTER}, "a script may take its time"
    service._results_late([("script", "new")])
    run(service, RESULT_LEASE_S + 5)
    assert states(service) == {"VI_1": State.FAULT}


def test_a_session_that_flaps_does_not_fill_the_log(service: RouterService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty times a second, for five minutes. The log ends with the last state of the router that tracks it."""
    results = {"new": Result(True, "")}
    monkeypatch.setattr(service.sessions, "result", results.__getitem__)
    service.tracking._session = service.sessions.result
    tracks, _ = OBJECTS["bfd"]
    configure(service, replace(FIRST, tracks=tracks))
    run(service, 5)
    for number in range(6000):
        results["new"] = Result(number % 2 == 1, "flaps")
        service.session_changed("new")
        run(service, 0.05)
    results["new"] = Result(False, "the end")
    service.session_changed("new")
    run(service, 120)
    changes = [line for line in lines_of(service) if line.startswith("VI_1: ")]
    assert MOST <= len(changes) <= MOST + 7
    assert "bfd new is down (the end)" in changes[-1]
    assert "; not logged before it: " in changes[-2]


def test_changes_that_are_not_logged_yet_are_logged_at_the_end(service: RouterService) -> None:
    configure(service, FIRST)
    run(service, 5)
    for number in range(MOST):
        service.log("info", f"{number}", about="VI_1")
    service.stop()
    assert lines_of(service)[-1] == "VI_1: MASTER to STOP: the end; not logged before it: 2 changes"


def test_the_status_has_the_wait_that_holds(service: RouterService) -> None:
    """A master that stepped down had a longer interval than the one that advertises now."""
    third = replace(FIRST, version=3, priority=90)
    configure(service, third)
    run(service, 2)
    host: Any = service.host

    def received(priority: int, interval_s: float) -> dict[str, Any]:
        sender = replace(third, advert_interval_s=interval_s)
        for packet in AdvertEncoder(sender, OTHER).packets(priority):
            service._receive(third.interface, third.vrid, packet)
        return dict(service_status(service)["instances"][0])

    usual_s = 3 + 166 / 256
    status = received(200, 1)
    assert status["master_down_s"] == pytest.approx(usual_s)
    assert status["takes_over_at"] is not None
    assert received(201, 5)["master_down_s"] == pytest.approx(5 * usual_s)
    run(service, 1)
    assert received(200, 1)["master_down_s"] == pytest.approx(5 * usual_s)
    assert host.switch.now < 4
    assert received(0, 1)["master_down_s"] == pytest.approx(166 / 256)


def test_time_in_which_the_process_was_stopped_does_not_end_the_lease(service: RouterService) -> None:
    configure(service, TRACKING)
    run(service, 5)
    service._set_data_plane(requests.DataPlane(True, ""))
    host: Any = service.host
    host.switch.now += 3600
    run(service, 8)
    assert service.tracking.data_plane == (True, "")


def test_steps_of_the_wall_clock_change_nothing(service: RouterService, monkeypatch: pytest.MonkeyPatch) -> None:
    offset = [0.0]
    unix_time = time.time
    monkeypatch.setattr(time, "time", lambda: unix_time() + offset[0])
    configure(service, TRACKING)
    host: Any = service.host
    begin = host.switch.now
    for offset[0] in (0.0, -86400.0 * 365, 86400.0 * 365, 0.0):
        run(service, 7)
        service._set_data_plane(requests.DataPlane(True, ""))
    (router,) = service.routers.values()
    assert [each.become.state for each in router.history.transitions] == [State.BACKUP, State.MASTER]
    assert router.sent == pytest.approx(host.switch.now - begin - 3.6, abs=1)


def test_a_script_with_init_fail_is_down_before_its_first_result(service: RouterService) -> None:
    script = VrrpScript(name="s", script=Script(("/bin/true",)), track=Track("s"), down_at_start=True)
    weighted = replace(FIRST, tracks=Tracks(scripts=(Track("s", -20),)))
    needed = replace(SECOND, tracks=Tracks(scripts=(Track("s"),)))
    configure(service, weighted, needed, scripts=(script,))
    assert service.routers["VI_1"].machine.priority == 80
    assert notified(service, "VI_2") == ["FAULT"]
    service._tracked(TrackedObject("script", Track("s"), True))
    run(service, 5)
    configure(service, weighted, replace(needed, priority=90), scripts=(script,))
    assert service.routers["VI_1"].machine.priority == 100
    assert states(service)["VI_2"] is State.MASTER


def group_notifications(service: RouterService) -> list[str]:
    helper: Any = service.helper
    messages = [each for each in helper.messages if getattr(each, "kind", "") == "GROUP"]
    return [each.state for each in messages if not each.at_reload]


def test_a_reload_notifies_of_a_group_only_if_its_state_is_another_one(service: RouterService) -> None:
    group = VrrpGroup(name="VG", members=("VI_1", "VI_2"))
    patient = replace(SECOND, priority=90, preempt=False)
    configure(service, FIRST, patient)
    configure(service, FIRST, patient, groups=(group,))
    assert group_notifications(service) == ["BACKUP"], "the group is new"
    configure(service, replace(FIRST, priority=110), patient, groups=(group,))
    assert group_notifications(service) == ["BACKUP"], "the reload changed no state"
    run(service, 5)
    assert group_notifications(service) == ["BACKUP", "MASTER"]
    configure(service, replace(FIRST, priority=120), patient, groups=(group,))
    lonely = replace(SECOND, name="VI_3", vrid=53, fault_without_peers=True)
    configure(service, FIRST, patient, lonely, groups=(replace(group, members=("VI_1", "VI_2", "VI_3")),))
    assert group_notifications(service) == ["BACKUP", "MASTER", "FAULT"]
    assert set(states(service).values()) == {State.FAULT}


def test_a_group_that_cannot_start_is_in_fault(service: RouterService) -> None:
    lonely = replace(SECOND, fault_without_peers=True)
    configure(service, FIRST, lonely, groups=(VrrpGroup(name="VG", members=("VI_1", "VI_2")),))
    run(service, 5)
    assert group_notifications(service) == ["FAULT"]


def set_result(service: RouterService, up: bool | None, detail: str = "") -> None:
    """Let every BFD session have this result, as after a change of its state."""
    service.tracking._session = lambda name: Result(up, detail)
    service.session_changed("b")


def test_a_session_without_a_weight_is_a_fault_unless_it_is_up(service: RouterService) -> None:
    configure(service, replace(FIRST, tracks=Tracks(sessions=(Track("b"),))))
    run(service, 5)
    assert states(service) == {"VI_1": State.FAULT}
    assert notified(service, "VI_1") == []  # nothing is known yet
    set_result(service, False, "the neighbor does not answer")
    assert notified(service, "VI_1") == ["FAULT"]
    set_result(service, True)
    run(service, 5)
    assert states(service) == {"VI_1": State.MASTER}
    set_result(service, False, "Control Detection Time Expired")
    assert states(service) == {"VI_1": State.FAULT}
    assert service.routers["VI_1"].own_faults == ["bfd b is down (Control Detection Time Expired)"]


def test_a_session_with_reverse_is_a_fault_while_it_is_up(service: RouterService) -> None:
    configure(service, replace(FIRST, tracks=Tracks(sessions=(Track("b", reverse=True),))))
    set_result(service, False)
    run(service, 5)
    assert states(service) == {"VI_1": State.MASTER}
    set_result(service, True)
    assert states(service) == {"VI_1": State.FAULT}


@pytest.mark.parametrize(
    ("track", "up", "down"),
    [
        (Track("b", 30), 130, 100),
        (Track("b", -30), 100, 70),
        (Track("b", 30, reverse=True), 70, 100),
        (Track("b", -30, reverse=True), 100, 130),
    ],
)
def test_a_session_with_a_weight_changes_the_priority(service: RouterService, track: Track, up: int, down: int) -> None:
    group = VrrpGroup(name="VG", members=("VI_1", "VI_2"), tracks=Tracks(sessions=(track,)))
    configure(service, FIRST, SECOND, groups=(group,))
    set_result(service, True)
    assert {router.machine.priority for router in service.routers.values()} == {up}
    set_result(service, False)
    assert {router.machine.priority for router in service.routers.values()} == {down}


def test_the_status_and_the_results_have_each_session(service: RouterService) -> None:
    sessions = (BfdSession(name="b", neighbor=ip_address("192.0.2.7"), passive=True),)
    configure(service, sessions=sessions)
    (status,) = service_status(service)["sessions"]
    assert (status["name"], status["state"], status["up"]) == ("b", "Down", None)
    assert service.sessions.results() == {"b": (None, "no answer yet")}
    configure(service)
    assert service_status(service)["sessions"] == []


@pytest.mark.parametrize("starts_as_master", [True, False])
@pytest.mark.parametrize("priority", [100, OWNER])
def test_the_startup_delay_postpones_the_take_over_alone(
    service: RouterService, priority: int, starts_as_master: bool
) -> None:
    """What a former process left is removed, and the state is notified, at once."""
    host: Any = service.host
    host.addresses.add(VIP)
    mine = replace(FIRST, priority=priority, starts_as_master=starts_as_master)
    configure(service, mine, settings=VrrpSettings(startup_delay_s=60))
    owns = priority == OWNER and starts_as_master
    router = service.routers["VI_1"]
    assert (host.addresses, notified(service, "VI_1")) == (set(), ["BACKUP"])
    run(service, 60 - 0.1 if owns else 60 + router.machine.down_s - 0.1)
    assert (host.addresses, notified(service, "VI_1")) == (set(), ["BACKUP"])
    run(service, 0.2)
    assert (host.addresses, notified(service, "VI_1")) == ({VIP}, ["BACKUP", "MASTER"])
    assert router.history.master_why is (TransitionReason.OWNER if owns else TransitionReason.TIMER)
    service.stop()
    assert host.addresses == set()


def test_the_process_has_the_configured_name(service: RouterService, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[bytes] = []
    monkeypatch.setattr(syscalls, "prctl", lambda option, name: names.append(name))
    configure(service, FIRST)
    configure(service, FIRST, settings=VrrpSettings(process_name="keepalived_vrrp_one"))
    configure(service, FIRST, settings=VrrpSettings(process_name="keepalived_vrrp_one", nice=1))
    configure(service, FIRST)
    assert names == [b"keepalived_vrrp", b"pylvs-vrrp"]


def test_a_dropped_advertisement_is_in_the_status_and_sent_to_those_who_want_states(
    service: RouterService, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(service, FIRST)
    run(service, 10)
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(service._control, "publish_state", sent.append)
    service._receive(FIRST.interface, FIRST.vrid, Datagram(OTHER, FIRST.multicast, 7, PROTOCOL, b"", b""))
    flaw = {"flaw": AdvertError.TTL.value, "source": str(OTHER)}
    assert sent == [{"kind": "DROPPED", "instance": "VI_1", "device": FIRST.interface, **flaw}]
    (status,) = service_status(service)["instances"]
    assert status["last_error"] == AdvertError.TTL.value
    assert (status["source"], status["master_why"]) == ("10.0.0.1", TransitionReason.TIMER.value)
    assert status["initialized_at"] is not None


@pytest.mark.parametrize("device", ["", "eth0"])
def test_the_socket_of_another_router_counts_no_unicast_as_unknown(service: RouterService, device: str) -> None:
    """A socket without a device receives what comes by any device, too."""
    first = replace(FIRST, interface="eth0", peers=(Peer(PEERS[0]),))
    second = replace(SECOND, interface="", peers=(Peer(PEERS[0]),))
    configure(service, first, second)
    for vrid in first.vrid, second.vrid, 99:
        service._receive(device, vrid, Datagram(PEERS[0], ip_address("10.0.0.1"), 255, PROTOCOL, b"", b""))
    assert dict(service.unknown) == {(device, 99): 1}


def test_a_published_state_has_the_identity_that_a_reload_removes(
    service: RouterService, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[dict[str, Any]] = []
    monkeypatch.setattr(service._control, "publish_state", published.append)
    configure(service, FIRST, SECOND)
    published.clear()
    moved = replace(SECOND, vrid=53)
    configure(service, replace(FIRST, notify=Notify(say_deleted=True)), moved)
    configure(service, moved)
    found = [(each["instance"], each["vrid"], each["state"], each["reports_deleted"]) for each in published]
    assert found == [
        ("VI_2", 52, "STOP", False),
        ("VI_2", 53, "BACKUP", False),
        ("VI_1", 51, "DELETED", True),
    ]
    assert {(each["kind"], each["interface"], each["family"]) for each in published} == {("INSTANCE", "eth0", 4)}


def test_a_published_master_has_its_address_and_the_reason_of_the_member_that_led(
    service: RouterService, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[dict[str, Any]] = []
    monkeypatch.setattr(service._control, "publish_state", published.append)
    configure(service, FIRST, SECOND, groups=(VrrpGroup(name="G", members=("VI_1", "VI_2")),))
    run(service, 10)
    masters = [each for each in published if (each["kind"], each["state"]) == ("INSTANCE", "MASTER")]
    assert {service.routers[name].history.master_why for name in ("VI_1", "VI_2")} == {
        TransitionReason.TIMER,
        TransitionReason.GROUP,
    }
    found = {each["instance"]: (each["source"], each["master_why"]) for each in masters}
    assert found == dict.fromkeys(("VI_1", "VI_2"), ("10.0.0.1", TransitionReason.TIMER.value))
    assert all("source" not in each for each in published if each not in masters)
    for state in State.MASTER, State.BACKUP:
        assert set(states(service).values()) == {state}
        reasons = {each["name"]: each["master_why"] for each in service_status(service)["instances"]}
        assert reasons == dict.fromkeys(("VI_1", "VI_2"), TransitionReason.TIMER.value), "the reason of the last time"
        service.routers["VI_1"].yield_until(service.now + 100)


def test_a_request_announces_the_addresses_of_a_master_alone(service: RouterService) -> None:
    configure(service, replace(FIRST, announcements=Announcements(repeat=1, delay_s=0)))
    host: Any = service.host
    service._send_garp(requests.Announce("VI_1"))
    assert host.announced == []
    run(service, 10)
    assert states(service) == {"VI_1": State.MASTER}
    host.announced.clear()
    service._send_garp(requests.Announce("VI_1"))
    run(service, 10)
    assert len(host.announced) == 1
    with pytest.raises(NoSuchRouter, match="VI_9: no such virtual router") as caught:
        service._send_garp(requests.Announce("VI_9"))
    with pytest.raises(NoSuchRouter):  # as its client receives it
        answer_of({"id": 1, "error": str(caught.value), "errno": caught.value.errno})


@pytest.mark.parametrize("length_s", [-1, 1e300, float("nan"), float("inf"), 10**30, 366 * 86400 + 1])
def test_a_yield_beyond_the_limits_changes_nothing(service: RouterService, length_s: float) -> None:
    configure(service, FIRST)
    run(service, 10)
    with pytest.raises(PylvsError, match=r"^seconds: must be from 0 to 31622400$"):
        service._control._verbs["yield"](requests.Yield(length_s))
    assert states(service) == {"VI_1": State.MASTER}


BESIDE = replace(SECOND, vrid=FIRST.vrid)  # the VRID of FIRST, on the same device
PEERS = ip_address("10.0.0.2"), ip_address("10.0.0.3")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (FIRST, replace(BESIDE, multicast=ip_address("224.0.0.19"))),
        (replace(FIRST, peers=(Peer(PEERS[0]),)), replace(BESIDE, peers=(Peer(PEERS[1]),))),
        (replace(FIRST, peers=(Peer(PEERS[0]),)), BESIDE),
    ],
    ids=["two groups", "two peers", "a peer and a group"],
)
def test_of_two_routers_with_one_vrid_each_receives_the_advertisements_of_its_group_or_peer(
    service: RouterService, first: VrrpInstance, second: VrrpInstance
) -> None:
    configure(service, first, second)
    here = ip_address("10.0.0.1")
    for _ in range(5):
        for mine, sender in zip((first, second), PEERS, strict=True):
            theirs = replace(mine, peers=(Peer(here),) if mine.peers else ())
            (datagram,) = AdvertEncoder(theirs, sender).packets(200)
            service._receive("eth0", first.vrid, datagram)
        run(service, 1)
    assert states(service) == {"VI_1": State.BACKUP, "VI_2": State.BACKUP}
    for router in service.routers.values():
        assert (router.received, router.validator and not router.validator.counters.total()) == (5, True)
