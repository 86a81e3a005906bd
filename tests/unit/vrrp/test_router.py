"""Virtual routers on an imagined switch: who holds the address, when, and why."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylvs.model.vrrp import Announcements, Track, VrrpGroup, VrrpInstance
from pylvs.vrrp.protocol.machine import State, TransitionReason
from pylvs.vrrp.protocol.packet import Datagram
from pylvs.vrrp.sync_group import SyncGroup
from pylvs.vrrp.tracking import TrackedObject
from tests.unit.vrrp.fake_network import VIP, FakeHost, Switch, held, instance, states, watch


def machines(*told: VrrpInstance) -> tuple[Switch, list[FakeHost]]:
    """One machine for each instance, all of them started."""
    switch = Switch()
    made = []
    for number, each in enumerate(told, 1):
        machine = FakeHost(switch, ip_address(f"10.0.0.{number}"), name=f"m{number}")
        made.append(machine)
        machine.add(each)
    for machine in made:
        machine.routers[0].start()
    return switch, made


@pytest.mark.parametrize("version", [2, 3])
def test_the_better_one_is_master_and_announces_its_address_twice(version: int) -> None:
    switch, (one, two) = machines(instance(100, version=version), instance(90, version=version))
    switch.run(3.5)
    assert switch.masters() == []
    switch.run(0.2)
    assert switch.masters() == ["m1"]
    switch.run(10)
    assert (switch.masters(), states([one, two])) == (["m1"], [State.MASTER, State.BACKUP])
    assert [address for _, address in one.announced] == [VIP] * 10
    assert one.announced[9][0] - one.announced[0][0] == pytest.approx(5.0, abs=0.1)


def test_one_that_is_stopped_says_so() -> None:
    switch, (one, two) = machines(instance(100), instance(90))
    switch.run(5)
    one.routers[0].stop()
    assert switch.masters() == []
    switch.run(0.7)
    assert switch.masters() == ["m2"]
    last = two.routers[0].history.last
    assert last is not None
    assert (last.why, last.detail) == (TransitionReason.RELEASED, "10.0.0.1")
    assert ("INSTANCE", "VI_1", "STOP") in one.notified


def test_one_that_is_killed_is_missed_after_three_adverts() -> None:
    switch, (one, two) = machines(instance(100), instance(90))
    switch.run(5)
    one.kill()
    switch.run(2.6)
    assert switch.masters() == []
    switch.run(1.1)
    assert switch.masters() == ["m2"]
    assert two.routers[0].history.transitions[-1].why is TransitionReason.TIMER


def test_a_split_heals_and_the_winner_announces_again() -> None:
    switch, (one, two) = machines(instance(100), instance(90))
    switch.run(15)
    two.hear = lambda datagram: None  # type: ignore[method-assign]
    switch.run(5)
    assert switch.masters() == ["m1", "m2"]
    before = len(one.announced)
    del two.hear
    switch.run(3)
    assert switch.masters() == ["m1"]
    assert len(one.announced) > before
    assert any("holds the addresses as well" in line for line in one.lines)


def test_a_split_that_lasts_is_named_as_long_and_told_once_a_minute() -> None:
    switch, (one, two) = machines(instance(100), instance(90))
    switch.run(15)
    two.hear = lambda datagram: None  # type: ignore[method-assign]
    switch.run(90)
    words = "10.0.0.2 with priority 90 holds the addresses as well"
    assert (one.routers[0].rival, two.routers[0].rival) == (words, "")
    first, second = [line for line in one.lines if "as well" in line]
    assert first == f"VI_1: {words}; its addresses are announced again"
    assert second.startswith(f"VI_1: {words} (5")
    assert len({round(at) for at, _ in one.announced if at > 20}) > 80  # while the former is said again and again
    del two.hear
    switch.run(10)
    assert [machine.routers[0].rival for machine in (one, two)] == ["", ""]


def test_who_never_answers_lower_priorities_still_tells_of_them() -> None:
    silent = Announcements(lower_priority_repeat=0)
    switch, (one, two) = machines(instance(100, announcements=silent), instance(90))
    switch.run(15)
    count = len(one.announced)
    two.hear = lambda datagram: None  # type: ignore[method-assign]
    switch.run(10)
    assert len(one.announced) == count
    assert "VI_1: 10.0.0.2 with priority 90 holds the addresses as well" in one.lines


def test_a_claim_is_answered_by_who_is_master_alone() -> None:
    switch, (one, two) = machines(instance(100), instance(90))
    switch.run(15)
    before = len(one.announced), len(two.announced)
    for machine in (one, two):
        machine.routers[0].answer_conflict("somebody says so")
    switch.run(0)
    assert (len(one.announced) - before[0], len(two.announced) - before[1]) == (5, 0)


def test_a_group_moves_as_one() -> None:
    switch = Switch()
    made = []
    for number, priority in ((1, 100), (2, 90)):
        machine = FakeHost(switch, ip_address(f"10.0.0.{number}"), name=f"m{number}")
        outer = machine.add(instance(priority))
        inner = machine.add(
            instance(priority, name="VI_2", vrid=52, addresses=(held(ip_address("10.0.0.200")),), interface="eth1")
        )
        group = SyncGroup(VrrpGroup(name="VG", members=("VI_1", "VI_2")), [outer, inner])
        outer.group = inner.group = group
        made.append(machine)
    for machine in made:
        for router in machine.routers:
            router.start()
    switch.run(5)
    assert [[router.state for router in machine.routers] for machine in made] == [
        [State.MASTER, State.MASTER],
        [State.BACKUP, State.BACKUP],
    ]
    watch(made[0].routers[1], TrackedObject("script", Track("chk"), False))
    assert [router.state for router in made[0].routers] == [State.FAULT, State.FAULT]
    switch.run(1)
    assert [router.state for router in made[1].routers] == [State.MASTER, State.MASTER]
    watch(made[0].routers[1], TrackedObject("script", Track("chk"), True))
    switch.run(5)
    assert [router.state for router in made[0].routers] == [State.MASTER, State.MASTER]
    assert [router.state for router in made[1].routers] == [State.BACKUP, State.BACKUP]
    assert [each for each in made[0].notified if each[0] == "GROUP"] == [
        ("GROUP", "VG", state) for state in ("BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER")
    ]


def test_a_script_lowers_the_priority_and_the_other_takes_over() -> None:
    switch, (one, _) = machines(instance(100), instance(90))
    watch(one.routers[0], TrackedObject("script", Track("chk", -20), True))
    switch.run(5)
    watch(one.routers[0], TrackedObject("script", Track("chk", -20), False, None, "exit status 3"))
    assert ("PRIORITY", "VI_1", "80") in one.notified
    assert one.lines[-1] == "VI_1: priority 100 is 80 now: script chk is ill (exit status 3)"
    switch.run(5)
    assert switch.masters() == ["m2"]
    last = one.routers[0].history.transitions[-1]
    assert (last.why, last.detail) == (
        TransitionReason.HIGHER,
        "10.0.0.2 with priority 90; its own is 80: script chk is ill (exit status 3)",
    )
    watch(one.routers[0], TrackedObject("script", Track("chk", -20), True))
    switch.run(5)
    assert switch.masters() == ["m1"]


def test_one_that_is_better_says_than_whom() -> None:
    switch, (one, _) = machines(instance(100), instance(90))
    switch.run(5)
    one.routers[0].stop()
    switch.run(5)
    one.routers[0].start()
    switch.run(5)
    last = one.routers[0].history.last
    assert last is not None
    assert (last.why, last.detail) == (TransitionReason.BETTER, "10.0.0.2 with priority 90")


def test_yielding_lasts_as_long_as_was_said() -> None:
    switch, (one, _) = machines(instance(100), instance(90))
    switch.run(5)
    one.routers[0].yield_until(switch.now + 60)
    switch.run(2)
    assert switch.masters() == ["m2"]
    switch.run(50)
    assert switch.masters() == ["m2"]
    switch.run(15)
    assert switch.masters() == ["m1"]


def test_yielding_to_nobody_ends_when_nobody_is_there() -> None:
    switch, (one, two) = machines(instance(100), instance(90))
    switch.run(5)
    one.routers[0].yield_until(switch.now + 30)
    switch.run(2)
    two.kill()
    switch.run(20)
    assert switch.masters() == []
    switch.run(15)
    assert switch.masters() == ["m1"]


def test_a_reload_changes_addresses_without_a_transition() -> None:
    switch, (one, two) = machines(instance(100), instance(90))
    switch.run(5)
    other = ip_address("10.0.0.101")
    count = len(one.routers[0].history.transitions)
    one.routers[0].reconfigure(instance(100, addresses=(held(VIP), held(other))))
    two.routers[0].reconfigure(instance(90, addresses=(held(VIP), held(other))))
    switch.run(5)
    assert one.addresses == {VIP, other}
    assert len(one.routers[0].history.transitions) == count
    assert states([one, two]) == [State.MASTER, State.BACKUP]


def test_a_shorter_interval_is_kept_at_once() -> None:
    told = [instance(priority, version=3, advert_interval_s=10.0) for priority in (100, 90)]
    switch, (one, two) = machines(*told)
    switch.run(45)
    assert switch.masters() == ["m1"]
    for machine, each in ((one, told[0]), (two, told[1])):
        machine.routers[0].reconfigure(replace(each, advert_interval_s=0.1))
    before = one.routers[0].sent
    switch.run(0.25)
    assert one.routers[0].sent == before + 3
    switch.run(10)
    assert (states([one, two]), len(two.routers[0].history.transitions)) == ([State.MASTER, State.BACKUP], 1)


def test_another_mtu_changes_what_is_said() -> None:
    many = tuple(held(ip_address(f"10.0.1.{number}")) for number in range(100))
    _, (one,) = machines(instance(100, addresses=many))
    assert one.routers[0].machine.state is State.BACKUP
    one.mtu_of = lambda instance: 300  # type: ignore[method-assign]
    one.routers[0].evaluate()
    assert one.routers[0].validator is not None
    assert len(one.routers[0].validator._encoder.advertised) == (300 - 20 - 8 - 16 - 8) // 4


def test_a_fault_at_the_start_is_told_and_so_is_the_end() -> None:
    switch = Switch()
    machine = FakeHost(switch, ip_address("10.0.0.1"), cable=False)
    router = machine.add(instance(100))
    router.start()
    router.evaluate()
    assert machine.notified == [("INSTANCE", "VI_1", "FAULT")]
    router.stop(TransitionReason.REMOVED)
    assert machine.notified == [("INSTANCE", "VI_1", "FAULT"), ("INSTANCE", "VI_1", "DELETED")]


def test_one_that_waits_for_its_scripts_tells_no_fault_until_one_fails() -> None:
    switch = Switch()
    machine = FakeHost(switch, ip_address("10.0.0.1"))
    router = machine.add(instance(100))
    router.track({("script", "chk"): TrackedObject("script", Track("chk"))})
    router.start()
    switch.run(5)
    assert (machine.notified, router.state) == ([], State.FAULT)
    watch(router, TrackedObject("script", Track("chk"), False))
    watch(router, TrackedObject("script", Track("chk"), True))
    assert machine.notified == [("INSTANCE", "VI_1", "FAULT"), ("INSTANCE", "VI_1", "BACKUP")]


def test_a_second_start_changes_nothing() -> None:
    switch, (one,) = machines(instance(100))
    switch.run(5)
    one.routers[0].start()
    assert switch.masters() == ["m1"]


def test_a_group_preempts_although_its_members_time_is_up_at_different_times() -> None:
    switch = Switch()
    made = []
    for number, priority in ((1, 90), (2, 100)):
        machine = FakeHost(switch, ip_address(f"10.0.0.{number}"), name=f"m{number}")
        routers = [machine.add(instance(priority, name=f"VI_{vrid}", vrid=vrid)) for vrid in (51, 52)]
        group = SyncGroup(VrrpGroup(name="VG", members=("VI_51", "VI_52")), routers)
        for router in routers:
            router.group = group
        made.append(routers)
    for member, after in ((0, 0.5), (1, 10.0)):
        made[0][member].start()
        switch.run(after)
    assert [router.state for router in made[0]] == [State.MASTER] * 2
    for router in made[1]:
        router.start()
    for router, after in zip((*made[0], *made[1]), (0.7, 0.2, 3.6, 4.1), strict=True):  # each half a second apart
        router.machine = replace(router.machine, due=switch.now + after)
        router._set_timer()
    switch.run(10)
    assert [router.state for router in made[1]] == [State.MASTER] * 2
    assert [router.state for router in made[0]] == [State.BACKUP] * 2


def test_the_same_conflict_is_said_once_in_a_while() -> None:
    switch, (one, two) = machines(instance(100), instance(90))
    switch.run(15)
    two.hear = lambda datagram: None  # type: ignore[method-assign]
    switch.run(40)
    assert switch.masters() == ["m1", "m2"]
    assert len([line for line in one.lines if "holds the addresses as well" in line]) == 1


def test_a_router_that_changes_its_mind_about_addresses_fills_no_log() -> None:
    switch, (one, two) = machines(instance(100), instance(90))
    switch.run(5)
    both = instance(100), instance(100, addresses=(held(VIP), held(ip_address("10.0.0.101"))))
    for number in range(20):
        one.routers[0].reconfigure(both[number % 2])
        switch.run(1)
    assert len([line for line in two.lines if "other virtual addresses" in line]) == 1


def test_a_backup_that_was_stalled_reads_its_socket_before_it_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    switch, (_, two) = machines(instance(100), instance(90))
    switch.run(10)
    router = two.routers[0]
    unread: list[Datagram] = []
    monkeypatch.setattr(two, "hear", unread.append)
    switch.run(1)
    assert router.machine.due is not None
    switch.now = router.machine.due + 5.0  # nothing of this process ran for so long
    router._wake()
    assert router.state is State.BACKUP
    router.receive(unread[0])
    switch.run(0.5)
    assert router.state is State.BACKUP


def test_a_backup_that_was_stalled_takes_over_if_nothing_waits_in_its_socket() -> None:
    switch, (one, two) = machines(instance(100), instance(90))
    switch.run(10)
    one.kill()
    router = two.routers[0]
    assert router.machine.due is not None
    switch.now = router.machine.due + 5.0
    router._wake()
    switch.now += 1.0  # a flood delays it once, and not again
    router._wake()
    assert router.state is State.MASTER


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 254), min_size=2, max_size=5, unique=True),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["stop", "start", "kill", "pull", "plug"]), st.floats(0, 9))),
    st.sampled_from([(2, 1.0), (3, 0.1), (3, 0.01)]),
)
def test_whatever_happens_the_best_of_those_that_live_ends_as_the_only_master(
    priorities: list[int], happenings: list[tuple[int, str, float]], pace: tuple[int, float]
) -> None:
    version, interval_s = pace
    told = [instance(priority, version=version, advert_interval_s=interval_s) for priority in priorities]
    switch, made = machines(*told)
    stopped: set[str] = set()
    for number, what, after in happenings:
        machine = made[number % len(made)]
        router = machine.routers[0]
        if machine.dead:
            continue
        if what == "stop" and machine.name not in stopped:
            router.stop()
            stopped.add(machine.name)
        elif what == "start" and machine.name in stopped:
            router.start()
            stopped.discard(machine.name)
        elif what == "kill":
            machine.kill()
        elif what in ("pull", "plug"):
            machine.cable = what == "plug"
            router.evaluate()
        switch.run(after * interval_s)
    for machine in made:
        if not machine.dead:
            machine.cable = True
            machine.routers[0].evaluate()
    switch.run(12 * interval_s)
    living = [machine for machine in made if not machine.dead and machine.name not in stopped]
    best = max(living, key=lambda machine: machine.routers[0].instance.priority, default=None)
    assert switch.masters() == ([best.name] if best else [])
