"""Virtual routers on a fake network: who is master, when, and why."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylvs.model.addresses import Address
from pylvs.model.vrrp import Announcements, Peer, Track, VrrpGroup, VrrpInstance
from pylvs.vrrp.protocol.adverts import Advertisement, Datagram
from pylvs.vrrp.protocol.machine import PRIORITY_STOP, State, TransitionReason
from pylvs.vrrp.router import MAX_DEFERRALS, Router, SyncGroup
from pylvs.vrrp.tracking import TrackedObject
from tests.unit.vrrp.fake_network import VIP, FakeHost, Switch, held, instance, set_tracked, states


def start_hosts(*instances: VrrpInstance) -> tuple[Switch, list[FakeHost]]:
    """Start one host for each instance."""
    switch = Switch()
    hosts = []
    for number, configured in enumerate(instances, 1):
        host = FakeHost(switch, ip_address(f"10.0.0.{number}"), name=f"m{number}")
        hosts.append(host)
        host.add(configured)
    for host in hosts:
        host.routers[0].start()
    return switch, hosts


@pytest.mark.parametrize("version", [2, 3])
def test_the_higher_priority_becomes_master_and_announces_in_two_rounds(version: int) -> None:
    switch, (one, two) = start_hosts(instance(100, version=version), instance(90, version=version))
    switch.run(3.5)
    assert switch.masters() == []
    switch.run(0.2)
    assert switch.masters() == ["m1"]
    switch.run(10)
    assert (switch.masters(), states([one, two])) == (["m1"], [State.MASTER, State.BACKUP])
    assert [address for _, address in one.announced] == [VIP] * 10
    assert one.announced[9][0] - one.announced[0][0] == pytest.approx(5.0, abs=0.1)


def test_a_stopped_master_advertises_priority_0() -> None:
    switch, (one, two) = start_hosts(instance(100), instance(90))
    switch.run(5)
    one.routers[0].stop()
    assert switch.masters() == []
    switch.run(0.7)
    assert switch.masters() == ["m2"]
    last = two.routers[0].history.last
    assert last is not None
    assert (last.become.why, last.become.detail) == (TransitionReason.RELEASED, "10.0.0.1")
    assert ("INSTANCE", "VI_1", "STOP") in one.notified


def test_a_killed_master_is_replaced_after_three_intervals() -> None:
    switch, (one, two) = start_hosts(instance(100), instance(90))
    switch.run(5)
    one.kill()
    switch.run(2.6)
    assert switch.masters() == []
    switch.run(1.1)
    assert switch.masters() == ["m2"]
    assert two.routers[0].history.transitions[-1].become.why is TransitionReason.TIMER


def test_a_split_heals_and_the_winner_announces_again() -> None:
    switch, (one, two) = start_hosts(instance(100), instance(90))
    switch.run(15)
    two.receive = lambda datagram: None  # type: ignore[method-assign]
    switch.run(5)
    assert switch.masters() == ["m1", "m2"]
    before = len(one.announced)
    del two.receive
    switch.run(3)
    assert switch.masters() == ["m1"]
    assert len(one.announced) > before
    assert any("holds the addresses as well" in line for line in one.lines)


def test_the_winner_announces_again_although_the_loser_received_it_first() -> None:
    switch, (one, two) = start_hosts(instance(100), instance(90))
    switch.run(15)
    one.receive = two.receive = lambda datagram: None  # type: ignore[method-assign]
    switch.run(5)
    assert switch.masters() == ["m1", "m2"]
    before = len(one.announced)
    assert two.routers[0].machine.due is not None
    switch.run(two.routers[0].machine.due - switch.now + 0.001)  # so the next advertisement is that of the winner
    assert (one.routers[0].machine.due or 0) < (two.routers[0].machine.due or 0)
    del one.receive, two.receive
    while switch.masters() != ["m1"]:
        switch.run(0.01)
    switch.run(0.5)
    assert len(one.announced) >= before + 5


def test_a_preempted_master_s_last_advertisement_is_no_conflict() -> None:
    switch = Switch()
    two = FakeHost(switch, ip_address("10.0.0.2"), name="m2")
    two.add(instance(90)).start()
    switch.run(10)
    one = FakeHost(switch, ip_address("10.0.0.1"), name="m1")
    one.add(instance(100)).start()
    switch.run(10)
    assert switch.masters() == ["m1"]
    assert not any("as well" in line for line in one.lines)
    assert [kind for kind, *_ in one.notified] == ["INSTANCE", "INSTANCE"], "not that a lower priority was received"


def test_a_lasting_split_is_logged_once_a_minute() -> None:
    switch, (one, two) = start_hosts(instance(100), instance(90))
    switch.run(15)
    two.receive = lambda datagram: None  # type: ignore[method-assign]
    switch.run(90)
    text = "10.0.0.2 with priority 90 holds the addresses as well"
    assert (one.routers[0].rival, two.routers[0].rival) == (text, "")
    first, second = [line for line in one.lines if "as well" in line]
    assert first == f"VI_1: {text}; its addresses are announced again"
    assert second.startswith(f"VI_1: {text} (5")
    assert len({round(at) for at, _ in one.announced if at > 20}) > 80  # every advertisement is answered
    del two.receive
    switch.run(10)
    assert [host.routers[0].rival for host in (one, two)] == ["", ""]


def test_lower_priorities_are_logged_even_if_they_are_not_answered() -> None:
    silent = Announcements(lower_priority_repeat=0)
    switch, (one, two) = start_hosts(instance(100, announcements=silent), instance(90))
    switch.run(15)
    count = len(one.announced)
    two.receive = lambda datagram: None  # type: ignore[method-assign]
    switch.run(10)
    assert len(one.announced) == count
    assert "VI_1: 10.0.0.2 with priority 90 holds the addresses as well" in one.lines


def test_only_a_master_defends_an_address() -> None:
    switch, (one, two) = start_hosts(instance(100), instance(90))
    switch.run(15)
    before = len(one.announced), len(two.announced)
    for host in (one, two):
        host.routers[0].defend(VIP)
    switch.run(0)
    assert (len(one.announced) - before[0], len(two.announced) - before[1]) == (5, 0)


def test_the_members_of_a_group_change_state_together() -> None:
    switch = Switch()
    hosts = []
    for number, priority in ((1, 100), (2, 90)):
        host = FakeHost(switch, ip_address(f"10.0.0.{number}"), name=f"m{number}")
        outer = host.add(instance(priority))
        inner = host.add(
            instance(priority, name="VI_2", vrid=52, addresses=(held(ip_address("10.0.0.200")),), interface="eth1")
        )
        group = SyncGroup(VrrpGroup(name="VG", members=("VI_1", "VI_2")), [outer, inner])
        outer.group = inner.group = group
        hosts.append(host)
    for host in hosts:
        for router in host.routers:
            router.start()
    switch.run(5)
    assert [[router.state for router in host.routers] for host in hosts] == [
        [State.MASTER, State.MASTER],
        [State.BACKUP, State.BACKUP],
    ]
    set_tracked(hosts[0].routers[1], TrackedObject("script", Track("chk"), False))
    assert [router.state for router in hosts[0].routers] == [State.FAULT, State.FAULT]
    switch.run(1)
    assert [router.state for router in hosts[1].routers] == [State.MASTER, State.MASTER]
    set_tracked(hosts[0].routers[1], TrackedObject("script", Track("chk"), True))
    switch.run(5)
    assert [router.state for router in hosts[0].routers] == [State.MASTER, State.MASTER]
    assert [router.state for router in hosts[1].routers] == [State.BACKUP, State.BACKUP]
    assert [each for each in hosts[0].notified if each[0] == "GROUP"] == [
        ("GROUP", "VG", state) for state in ("BACKUP", "MASTER", "FAULT", "BACKUP", "MASTER")
    ]


def test_a_script_lowers_the_priority_and_the_other_takes_over() -> None:
    switch, (one, _) = start_hosts(instance(100), instance(90))
    set_tracked(one.routers[0], TrackedObject("script", Track("chk", -20), True))
    switch.run(5)
    set_tracked(one.routers[0], TrackedObject("script", Track("chk", -20), False, None, "exit status 3"))
    assert ("PRIORITY", "VI_1", "80") in one.notified
    assert one.lines[-1] == "VI_1: priority 100 is 80 now: script chk is down (exit status 3)"
    switch.run(5)
    assert switch.masters() == ["m2"]
    last = one.routers[0].history.transitions[-1]
    assert (last.become.why, last.become.detail) == (
        TransitionReason.HIGHER,
        "10.0.0.2 with priority 90; its own is 80: script chk is down (exit status 3)",
    )
    set_tracked(one.routers[0], TrackedObject("script", Track("chk", -20), True))
    switch.run(5)
    assert switch.masters() == ["m1"]


def test_preemption_names_the_former_master() -> None:
    switch, (one, _) = start_hosts(instance(100), instance(90))
    switch.run(5)
    one.routers[0].stop()
    switch.run(5)
    one.routers[0].start()
    switch.run(5)
    last = one.routers[0].history.last
    assert last is not None
    assert (last.become.why, last.become.detail) == (TransitionReason.BETTER, "10.0.0.2 with priority 90")


def test_a_yield_lasts_as_long_as_requested() -> None:
    switch, (one, _) = start_hosts(instance(100), instance(90))
    switch.run(5)
    one.routers[0].yield_until(switch.now + 60)
    switch.run(2)
    assert switch.masters() == ["m2"]
    switch.run(50)
    assert switch.masters() == ["m2"]
    switch.run(15)
    assert switch.masters() == ["m1"]


def test_a_yield_ends_even_without_another_router() -> None:
    switch, (one, two) = start_hosts(instance(100), instance(90))
    switch.run(5)
    one.routers[0].yield_until(switch.now + 30)
    switch.run(2)
    two.kill()
    switch.run(20)
    assert switch.masters() == []
    switch.run(15)
    assert switch.masters() == ["m1"]


def test_a_reload_changes_addresses_without_a_transition() -> None:
    switch, (one, two) = start_hosts(instance(100), instance(90))
    switch.run(5)
    other = ip_address("10.0.0.101")
    count = len(one.routers[0].history.transitions)
    one.routers[0].reconfigure(instance(100, addresses=(held(VIP), held(other))))
    two.routers[0].reconfigure(instance(90, addresses=(held(VIP), held(other))))
    switch.run(5)
    assert one.addresses == {VIP, other}
    assert len(one.routers[0].history.transitions) == count
    assert states([one, two]) == [State.MASTER, State.BACKUP]


def test_a_reload_that_sets_garp_master_refresh_applies_it_at_once() -> None:
    once = Announcements(repeat=1, delay_s=0)
    switch, (one,) = start_hosts(instance(100, announcements=once))
    switch.run(5)
    assert states([one]) == [State.MASTER]
    one.routers[0].reconfigure(instance(100, announcements=replace(once, refresh_s=10)))
    start = switch.now
    switch.run(35)
    assert [at - start for at, _ in one.announced if at > start] == [10, 20, 30]


def test_a_master_with_a_much_longer_interval_is_followed() -> None:
    """It answers the only take-over in between, so two routers are master for no longer than a packet takes."""
    switch, (_, two) = start_hosts(
        instance(100, version=3, advert_interval_s=40.95), instance(90, version=3, advert_interval_s=1)
    )
    switch.run(155)
    assert switch.masters() == ["m1"]
    text = "VI_1: 10.0.0.1 advertises an interval of 40.95 s, longer than max_advert_int: 10 s counts until it repeats"
    assert any(line.startswith(text) for line in two.lines), two.lines
    together = 0
    for _ in range(10_000):
        switch.run(0.1)
        together += len(switch.masters()) > 1
    assert (switch.masters(), together) == (["m1"], 0)
    assert two.routers[0].history.entered[State.MASTER] == 2


def test_a_shorter_interval_applies_immediately() -> None:
    instances = [instance(priority, version=3, advert_interval_s=10.0) for priority in (100, 90)]
    switch, (one, two) = start_hosts(*instances)
    switch.run(45)
    assert switch.masters() == ["m1"]
    for host, each in ((one, instances[0]), (two, instances[1])):
        host.routers[0].reconfigure(replace(each, advert_interval_s=0.1))
    before = one.routers[0].sent
    switch.run(0.25)
    assert one.routers[0].sent == before + 3
    switch.run(10)
    assert (states([one, two]), len(two.routers[0].history.transitions)) == ([State.MASTER, State.BACKUP], 1)


def test_another_mtu_changes_the_number_of_advertised_addresses() -> None:
    many = tuple(held(ip_address(f"10.0.1.{number}")) for number in range(100))
    _, (one,) = start_hosts(instance(100, addresses=many))
    assert one.routers[0].machine.state is State.BACKUP
    one.mtu_of = lambda instance: 300  # type: ignore[method-assign]
    one.routers[0].evaluate()
    assert one.routers[0].validator is not None
    assert len(one.routers[0].validator._encoder.advertised) == (300 - 20 - 8 - 16 - 8) // 4


def test_a_fault_at_the_start_and_the_end_are_notified() -> None:
    switch = Switch()
    host = FakeHost(switch, ip_address("10.0.0.1"), cable=False)
    router = host.add(instance(100))
    router.start()
    router.evaluate()
    assert host.notified == [("INSTANCE", "VI_1", "FAULT")]
    router.stop(TransitionReason.REMOVED)
    assert host.notified == [("INSTANCE", "VI_1", "FAULT"), ("INSTANCE", "VI_1", "DELETED")]


def test_missing_script_results_are_no_fault() -> None:
    switch = Switch()
    host = FakeHost(switch, ip_address("10.0.0.1"))
    router = host.add(instance(100))
    router.track({("script", "chk"): TrackedObject("script", Track("chk"))})
    router.start()
    switch.run(5)
    assert (host.notified, router.state) == ([], State.FAULT)
    set_tracked(router, TrackedObject("script", Track("chk"), False))
    set_tracked(router, TrackedObject("script", Track("chk"), True))
    assert host.notified == [("INSTANCE", "VI_1", "FAULT"), ("INSTANCE", "VI_1", "BACKUP")]


SOURCE = ip_address("10.0.0.1")


@pytest.mark.parametrize(
    ("more", "announced"),
    [
        ({"peers": (Peer(ip_address("10.0.0.2")),)}, [("eth0", SOURCE)]),
        ({"peers": (Peer(ip_address("10.0.0.2")),), "interface": ""}, []),
        ({}, []),
    ],
    ids=["unicast", "unicast without an interface", "multicast"],
)
def test_a_unicast_router_announces_the_address_it_sends_from_after_a_fault(
    more: dict[str, Any], announced: list[tuple[str, Address]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its peers may have lost the neighbour entry. A start without faults announces nothing."""
    switch = Switch()
    host, waiting = (FakeHost(switch, address) for address in (SOURCE, ip_address("10.0.0.9")))
    sent: list[tuple[str, Address]] = []
    monkeypatch.setattr(host, "send_garp", lambda instance, device, address: sent.append((device, address)))
    router = host.add(instance(100, **more))
    router.start()
    assert sent == []
    host.cable = False
    for _ in range(2):
        router.evaluate()
    assert (router.state, sent) == (State.FAULT, [])
    host.cable = True
    for _ in range(2):
        router.evaluate()
    assert (router.state, sent) == (State.BACKUP, announced)
    late = waiting.add(instance(100, **more))
    late.track({("script", "chk"): TrackedObject("script", Track("chk"))})
    late.start()
    set_tracked(late, TrackedObject("script", Track("chk"), True))
    assert [address for _, address in waiting.announced] == [waiting.address] * len(announced)


def test_a_second_start_has_no_effect() -> None:
    switch, (one,) = start_hosts(instance(100))
    switch.run(5)
    one.routers[0].start()
    assert switch.masters() == ["m1"]


def start_groups(*priorities: int, **more: Any) -> tuple[Switch, list[list[Router]]]:
    """Create a group of two virtual routers on one host for each priority."""
    switch = Switch()
    groups = []
    for number, priority in enumerate(priorities, 1):
        host = FakeHost(switch, ip_address(f"10.0.0.{number}"), name=f"m{number}")
        routers = [
            host.add(
                instance(
                    priority, name=f"VI_{vrid}", vrid=vrid, addresses=(held(ip_address(f"10.0.0.1{vrid}")),), **more
                )
            )
            for vrid in (51, 52)
        ]
        group = SyncGroup(VrrpGroup(name="VG", members=("VI_51", "VI_52")), routers)
        for router in routers:
            router.group = group
        groups.append(routers)
    return switch, groups


@pytest.mark.parametrize("first", [0, 1], ids=["the winner sends first", "the loser sends first"])
@pytest.mark.parametrize("member", [0, 1])
def test_after_a_split_the_winning_group_announces_the_addresses_of_all_members(first: int, member: int) -> None:
    """The first advertisement of one member ends the split of both: the other one receives priority 0 alone."""
    switch, groups = start_groups(100, 90, announcements=Announcements(repeat=1, delay_s=0, lower_priority_repeat=2))
    hosts = switch.hosts
    for router in itertools.chain(*groups):
        router.start()
    for host in hosts:
        host.cable = False
    switch.run(10)
    assert {router.state for router in itertools.chain(*groups)} == {State.MASTER}
    for host in hosts:
        host.cable = True
        host.announced.clear()
    for number, routers in enumerate(groups):
        for index, router in enumerate(routers):
            delay_s = 0.1 if (number, index) == (first, member) else 0.5
            router.machine = replace(router.machine, due=switch.now + delay_s)
            router._set_timer()
    switch.run(0.4)
    assert [[router.state for router in routers] for routers in groups] == [[State.MASTER] * 2, [State.BACKUP] * 2]
    announced = Counter(str(address) for _, address in hosts[0].announced)
    rounds = [1, 1]  # for the loser's last advertisement
    rounds[member] += first  # for its first one
    assert announced == {"10.0.0.151": 2 * rounds[0], "10.0.0.152": 2 * rounds[1]}
    assert hosts[1].announced == []


def test_a_member_that_announces_no_conflict_stays_silent() -> None:
    switch, (routers, _) = start_groups(100, 90, announcements=Announcements(lower_priority_repeat=0))
    (host, _) = switch.hosts
    for router in routers:
        router.start()
    switch.run(20)
    host.announced.clear()
    for router in routers:
        last = Advertisement(2, router.instance.vrid, PRIORITY_STOP, 1.0, ())
        router._step(router.machine.receive(switch.now, last, ip_address("10.0.0.9")))
    assert host.announced == []


def test_a_group_preempts_although_its_members_timers_differ() -> None:
    switch, hosts = start_groups(90, 100)
    for member, after in ((0, 0.5), (1, 10.0)):
        hosts[0][member].start()
        switch.run(after)
    assert [router.state for router in hosts[0]] == [State.MASTER] * 2
    for router in hosts[1]:
        router.start()
    for router, after in zip((*hosts[0], *hosts[1]), (0.7, 0.2, 3.6, 4.1), strict=True):  # each half a second apart
        router.machine = replace(router.machine, due=switch.now + after)
        router._set_timer()
    switch.run(10)
    assert [router.state for router in hosts[1]] == [State.MASTER] * 2
    assert [router.state for router in hosts[0]] == [State.BACKUP] * 2


def test_the_same_conflict_is_logged_once_in_a_minute() -> None:
    switch, (one, two) = start_hosts(instance(100), instance(90))
    switch.run(15)
    two.receive = lambda datagram: None  # type: ignore[method-assign]
    switch.run(40)
    assert switch.masters() == ["m1", "m2"]
    assert len([line for line in one.lines if "holds the addresses as well" in line]) == 1


def test_a_sender_with_alternating_addresses_is_logged_once() -> None:
    switch, (one, two) = start_hosts(instance(100), instance(90))
    switch.run(5)
    both = instance(100), instance(100, addresses=(held(VIP), held(ip_address("10.0.0.101"))))
    for number in range(20):
        one.routers[0].reconfigure(both[number % 2])
        switch.run(1)
    assert len([line for line in two.lines if "other virtual addresses" in line]) == 1


@pytest.mark.parametrize("stalls", [1, 2, MAX_DEFERRALS])
def test_a_stalled_backup_reads_its_socket_before_it_takes_over(monkeypatch: pytest.MonkeyPatch, stalls: int) -> None:
    """Also if it is stalled again before it could read."""
    switch, (_, two) = start_hosts(instance(100), instance(90))
    switch.run(10)
    router = two.routers[0]
    unread: list[Datagram] = []
    monkeypatch.setattr(two, "receive", unread.append)
    switch.run(1)
    for _ in range(stalls):
        assert router.machine.due is not None
        switch.now = router.machine.due + 5.0  # the process was stalled
        router._wake()
        assert router.state is State.BACKUP
    router.receive(unread[0])
    switch.run(0.5)
    assert router.state is State.BACKUP


def test_a_stalled_backup_takes_over_if_its_socket_is_empty() -> None:
    switch, (one, two) = start_hosts(instance(100), instance(90))
    switch.run(10)
    one.kill()
    router = two.routers[0]
    for _ in range(MAX_DEFERRALS + 1):  # every timer of a busy host is late
        assert router.machine.due is not None
        assert router.state is State.BACKUP
        switch.now = router.machine.due + 5.0
        router._wake()
    assert router.state is State.MASTER


def test_a_bug_in_one_action_does_not_end_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    switch, (one, _) = start_hosts(instance(100), instance(90))
    switch.run(10)
    with monkeypatch.context() as bug:
        bug.setattr(one, "send_adverts", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            switch.run(1.5)
    sent = one.routers[0].sent
    switch.run(5)
    assert one.routers[0].sent >= sent + 4
    assert switch.masters() == ["m1"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 254), min_size=2, max_size=5, unique=True),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["stop", "start", "kill", "pull", "plug"]), st.floats(0, 9))),
    st.sampled_from([(2, 1.0), (3, 0.1), (3, 0.01)]),
)
def test_after_any_events_the_highest_live_priority_is_the_only_master(
    priorities: list[int], events: list[tuple[int, str, float]], version_and_interval: tuple[int, float]
) -> None:
    version, interval_s = version_and_interval
    instances = [instance(priority, version=version, advert_interval_s=interval_s) for priority in priorities]
    switch, hosts = start_hosts(*instances)
    stopped: set[str] = set()
    for number, what, after in events:
        host = hosts[number % len(hosts)]
        router = host.routers[0]
        if host.dead:
            continue
        if what == "stop" and host.name not in stopped:
            router.stop()
            stopped.add(host.name)
        elif what == "start" and host.name in stopped:
            router.start()
            stopped.discard(host.name)
        elif what == "kill":
            host.kill()
        elif what in ("pull", "plug"):
            host.cable = what == "plug"
            router.evaluate()
        switch.run(after * interval_s)
    for host in hosts:
        if not host.dead:
            host.cable = True
            host.routers[0].evaluate()
    switch.run(12 * interval_s)
    living = [host for host in hosts if not host.dead and host.name not in stopped]
    best = max(living, key=lambda host: host.routers[0].instance.priority, default=None)
    assert switch.masters() == ([best.name] if best else [])
