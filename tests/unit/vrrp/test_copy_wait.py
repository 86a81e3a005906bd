"""A router of higher priority does not take over before the connections of the present master are here (peer_wait)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.vrrp import VrrpGroup, VrrpInstance
from pylvs.vrrp.protocol.machine import LEAST_SILENCE_S, Machine, State, TransitionReason
from pylvs.vrrp.router import Router, SyncGroup
from tests.unit.vrrp.fake_network import FakeHost, Switch, instance
from tests.unit.vrrp.test_machine import LESS, OWN, advert
from tests.unit.vrrp.test_machine import instance as plain

WAIT_S = 60.0
TAKE_OVER_S = 5.0  # more than three intervals and a skew


def returned(
    wait_s: float = WAIT_S, mine: VrrpInstance | None = None, other: int = 90
) -> tuple[Switch, FakeHost, Router, FakeHost]:
    """Return a switch with a master, and a router of higher priority that starts now."""
    switch = Switch()
    two = FakeHost(switch, ip_address("10.0.0.2"), name="m2")
    two.add(instance(other)).start()
    switch.run(10)
    one = FakeHost(switch, ip_address("10.0.0.1"), name="m1")
    router = one.add(mine or instance(100))
    router.wait_for_copies(wait_s)
    router.start()
    return switch, one, router, two


def test_it_waits_until_the_connections_are_here() -> None:
    switch, one, router, _ = returned()
    switch.run(30)
    assert (switch.masters(), router.awaits_copy) == (["m2"], True)
    router.set_copied(switch.now - 1)
    switch.run(TAKE_OVER_S)
    assert switch.masters() == ["m1"]
    assert router.history.transitions[-1].become.why is TransitionReason.BETTER
    assert any("waits until connections of the other director are here" in line for line in one.lines)
    assert not any("peer_wait is over" in line for line in one.lines)


def test_without_the_setting_it_takes_over_at_once() -> None:
    switch, _, router, _ = returned(wait_s=0.0)
    switch.run(TAKE_OVER_S)
    assert (switch.masters(), router.awaits_copy) == (["m1"], False)


def test_the_wait_has_a_limit() -> None:
    switch, one, router, _ = returned()
    switch.run(WAIT_S - 1)
    assert switch.masters() == ["m2"]
    switch.run(1 + 1 + TAKE_OVER_S)
    assert switch.masters() == ["m1"]
    assert any("peer_wait is over: it takes over without all" in line for line in one.lines)
    assert not router.awaits_copy


def test_a_copy_from_before_it_became_backup_is_not_enough() -> None:
    switch, _, router, _ = returned()
    before = switch.now
    switch.run(20)
    router.set_copied(before - 0.5)
    switch.run(TAKE_OVER_S)
    assert switch.masters() == ["m2"]


def test_a_copy_that_is_no_longer_current_is_not_enough() -> None:
    switch, _, router, _ = returned()
    switch.run(10)
    router.set_copied(switch.now)
    router.set_copied(None)
    switch.run(TAKE_OVER_S)
    assert switch.masters() == ["m2"]


@pytest.mark.parametrize("dies", [True, False], ids=["killed", "stopped"])
def test_it_takes_over_at_once_from_a_master_that_ends(dies: bool) -> None:
    switch, _, _, two = returned()
    switch.run(10)
    if dies:
        two.kill()
    else:
        two.routers[0].stop()
    switch.run(TAKE_OVER_S)
    assert switch.masters() == ["m1"]


@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
def test_without_copies_a_late_advertisement_is_no_dead_master(is_known: bool) -> None:
    configured = plain(priority=100, version=3, advert_interval_s=0.01)
    machine, _ = Machine(configured, OWN, priority=100, copy_wait_s=WAIT_S).start(0.0)
    if is_known:
        machine, _ = machine.receive(0.0, advert(90, 0.01, version=3), LESS)
    machine, _ = machine.wake(LEAST_SILENCE_S / 2)
    assert machine.state is State.BACKUP, "a busy machine is silent for so long"
    machine, _ = machine.receive(LEAST_SILENCE_S / 2, advert(90, 0.01, version=3), LESS)
    machine, _ = machine.wake(LEAST_SILENCE_S)
    assert machine.state is State.BACKUP
    machine, _ = machine.wake(2 * LEAST_SILENCE_S)
    assert machine.state is State.MASTER, "this one is dead"


def test_an_owner_listens_first_and_waits() -> None:
    owner = replace(instance(255), starts_as_master=True)
    switch, _, router, _ = returned(mine=owner)
    assert switch.masters() == ["m2"]
    switch.run(TAKE_OVER_S)
    assert switch.masters() == ["m2"]
    router.set_copied(switch.now)
    switch.run(TAKE_OVER_S)
    assert switch.masters() == ["m1"]


def test_the_delay_of_preemption_and_the_wait_run_at_once() -> None:
    delayed = instance(100, preempt_delay_s=30.0)
    switch, _, router, _ = returned(mine=delayed)
    switch.run(10)
    router.set_copied(switch.now)
    switch.run(10)
    assert switch.masters() == ["m2"], "the delay lasts"
    switch.run(10 + TAKE_OVER_S)
    assert switch.masters() == ["m1"]


def test_it_waits_again_after_it_was_backup_of_a_higher_priority() -> None:
    switch, one, router, _ = returned()
    switch.run(10)
    router.set_copied(switch.now)
    switch.run(TAKE_OVER_S)
    assert switch.masters() == ["m1"]
    three = FakeHost(switch, ip_address("10.0.0.3"), name="m3")
    three.add(instance(200)).start()
    switch.run(10)
    assert switch.masters() == ["m3"]
    three.kill()
    switch.run(TAKE_OVER_S)
    assert switch.masters() == ["m1"], "no master is left, so it does not wait"
    assert one.routers[0].state is State.MASTER


def test_a_group_waits_for_the_copy_of_its_members() -> None:
    switch, one, router, _ = returned()
    second = one.add(replace(instance(100), name="VI_2", vrid=52))
    SyncGroup(VrrpGroup(name="G", members=("VI_1", "VI_2")), [router, second])
    second.wait_for_copies(WAIT_S)
    second.start()
    switch.run(10)
    assert switch.masters() == ["m2"]
    for each in (router, second):
        each.set_copied(switch.now)
    switch.run(2 * TAKE_OVER_S)
    assert {router.state, second.state} == {State.MASTER}


@given(
    wait_s=st.floats(0.5, 100),
    copied_at=st.floats(0.0, 120) | st.none(),
    interval_s=st.sampled_from([0.01, 0.1, 1.0]),
)
def test_it_is_master_no_sooner_than_copied_or_the_limit_and_soon_after(
    wait_s: float, copied_at: float | None, interval_s: float
) -> None:
    """Step by step, with advertisements of a worse master in each interval."""
    configured = plain(priority=100, version=3, advert_interval_s=interval_s)
    machine, _ = Machine(configured, OWN, priority=100, copy_wait_s=wait_s).start(0.0)
    now, first, end = 0.0, interval_s / 2, wait_s + 10 * interval_s + 1
    for number in range(100_000):
        now = first + number * interval_s
        if machine.due is not None and machine.due <= now:
            machine, _ = machine.wake(machine.due)
            if machine.state is State.MASTER:
                break
        if copied_at is not None and now >= copied_at:
            machine = replace(machine, copied=True)
        machine, _ = machine.receive(now, advert(90, interval_s, version=3), LESS)
        if now > end:
            break
    limit = first + wait_s
    ready = min(limit, copied_at) if copied_at is not None else limit
    assert machine.state is State.MASTER
    assert ready <= now <= ready + 6 * interval_s
