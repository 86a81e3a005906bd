"""The state machine of RFC 9568, section 6.4, and keepalived's additions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.addresses import Address
from pylvs.model.vrrp import OWNER, VrrpInstance
from pylvs.vrrp.protocol.adverts import Advertisement
from pylvs.vrrp.protocol.machine import (
    Action,
    Advertise,
    Become,
    History,
    Machine,
    Reannounce,
    State,
    TransitionReason,
)

OWN, LESS, GREATER = (ip_address(f"192.0.2.{number}") for number in (5, 4, 6))
VIP = ip_address("192.0.2.100")


def advert(priority: int, interval_s: float = 1.0, version: int = 2) -> Advertisement:
    """An advertisement of another router."""
    return Advertisement(version, 51, priority, interval_s, (VIP,))


def instance(**settings: Any) -> VrrpInstance:
    return VrrpInstance(name="VI_1", vrid=51, **settings)


def backup(priority: int = 100, **settings: float | bool) -> Machine:
    """A machine that started at 0."""
    machine, actions = Machine(instance(priority=priority, **settings), OWN, priority=priority).start(0.0)
    assert actions == [Become(State.BACKUP, State.FAULT, TransitionReason.START)]
    return machine


def master(priority: int = 100, **settings: float | bool) -> Machine:
    """A machine that took over at the first timer."""
    machine = backup(priority, **settings)
    assert machine.due is not None
    changed, actions = machine.wake(machine.due)
    assert actions[0] == Advertise(priority)
    assert changed.state is State.MASTER
    return changed


def kinds(actions: list[Action]) -> list[type[Action]]:
    return [type(action) for action in actions]


def test_a_backup_waits_three_adverts_and_its_skew() -> None:
    assert backup(100).due == pytest.approx(3 + 156 / 256)
    assert backup(254).due == pytest.approx(3 + 2 / 256)
    assert backup(100, version=3, advert_interval_s=0.01).due == pytest.approx(0.03 + 0.01 * 156 / 256)
    assert backup(100, down_after_adverts=5).due == pytest.approx(5 + 156 / 256)


def test_an_owner_starts_as_master_unless_its_state_is_backup() -> None:
    owner = instance(priority=255, starts_as_master=True)
    machine, actions = Machine(owner, OWN, priority=255).start(7.0)
    assert actions == [Advertise(255), Become(State.MASTER, State.FAULT, TransitionReason.OWNER)]
    assert (machine.state, machine.due) == (State.MASTER, 8.0)
    machine, actions = Machine(instance(priority=255), OWN, priority=255).start(7.0)
    assert actions == [Become(State.BACKUP, State.FAULT, TransitionReason.START)]
    assert machine.due == pytest.approx(7.0 + 3 + 1 / 256)


def test_after_a_fault_a_former_master_is_no_reason_to_take_over() -> None:
    for priority in (50, 0):  # of its last advertisement
        outranked, _ = backup().receive(1.0, advert(priority), GREATER)
        failed, _ = outranked.fail(1.5)
        again, _ = failed.start(60.0, TransitionReason.RECOVERED)
        assert again.due is not None
        _, actions = again.wake(again.due)
        (become,) = [each for each in actions if isinstance(each, Become)]
        assert become.why is TransitionReason.TIMER


def test_a_flood_of_worse_advertisements_is_answered_twice_in_an_interval() -> None:
    for priority in (50, 0):
        machine, sent = master(), 0
        begin = now = 100.0
        while now < begin + 10:
            machine, actions = machine.receive(now, advert(priority), LESS)
            assert machine.due is not None
            assert machine.due - now <= 1
            sent += actions.count(Advertise(100))
            if machine.due <= now:
                machine, actions = machine.wake(now)
                sent += actions.count(Advertise(100))
            now += 1 / 1024
        assert sent <= 2 * 10 + 1
        quiet = begin + 20
        assert machine.receive(quiet, advert(priority), LESS)[1][0] == Advertise(100), "alone it is answered at once"


def test_wake_before_due_has_no_effect() -> None:
    machine = backup()
    assert machine.due is not None
    assert machine.wake(machine.due - 0.001) == (machine, [])


def test_a_take_over_sends_an_advertisement() -> None:
    machine = backup()
    changed, actions = machine.wake(4.0)
    assert actions[0] == Advertise(100)
    assert isinstance(actions[1], Become)
    assert actions[1].why is TransitionReason.TIMER
    assert changed.due == 5.0
    assert changed.wake(5.0) == (replace(changed, due=6.0), [Advertise(100)])


@pytest.mark.parametrize(
    ("priority", "preempt", "kept"), [(100, True, True), (150, True, True), (50, False, True), (50, True, False)]
)
def test_a_backup_follows_a_master_of_at_least_its_priority(priority: int, preempt: bool, kept: bool) -> None:
    machine = backup(preempt=preempt)
    changed, actions = machine.receive(3.0, advert(priority), GREATER)
    assert actions == []
    assert changed.due == (pytest.approx(3.0 + 3 + 156 / 256) if kept else machine.due)


def test_priority_0_leads_to_a_take_over_after_the_skew_time() -> None:
    changed, actions = backup().receive(2.0, advert(0), GREATER)
    assert actions == []
    assert changed.due == pytest.approx(2.0 + 156 / 256)


def test_version_3_adopts_the_master_s_interval() -> None:
    changed, _ = backup(version=3, advert_interval_s=1.0).receive(0.0, advert(150, 0.5, 3), GREATER)
    assert changed.due == pytest.approx(1.5 + 0.5 * 156 / 256)


@pytest.mark.parametrize("settings", [{}, {"preempt": False}, {"priority": 170, "preempt_delay_s": 9.0}], ids=str)
def test_the_last_advertisement_of_a_former_master_does_not_shorten_the_wait_for_the_present_one(
    settings: dict[str, Any],
) -> None:
    """It stepped down before the present master, and has a shorter interval."""
    follower = backup(version=3, **settings)
    follower, _ = follower.receive(1.0, advert(200, 1.0, 3), GREATER)
    waits = follower.due
    follower, _ = follower.receive(1.1, advert(150, 0.1, 3), LESS)
    assert follower.due == waits
    follower, _ = follower.receive(1.2, advert(0, 1.0, 3), GREATER)
    follower, _ = follower.receive(1.3, advert(150, 0.1, 3), LESS)
    assert follower.due == pytest.approx(1.6 + follower.skew_s), "the better one has left"


@pytest.mark.parametrize(
    ("priority", "source", "why"),
    [
        (101, LESS, TransitionReason.HIGHER),
        (255, LESS, TransitionReason.HIGHER),
        (100, GREATER, TransitionReason.GREATER_ADDRESS),
    ],
)
def test_a_master_becomes_backup_of_a_better_one(priority: int, source: Address, why: TransitionReason) -> None:
    changed, (last, become) = master().receive(10.0, advert(priority), source)
    assert last == Advertise(100), "its last one, so that the better one announces the addresses again"
    assert isinstance(become, Become)
    assert (become.state, become.why) == (State.BACKUP, why)
    assert str(source) in become.detail
    assert changed.due == pytest.approx(10.0 + 3 + 156 / 256)
    silent = replace(master(), instance=instance(higher_priority_answered=False))
    assert kinds(silent.receive(10.0, advert(priority), source)[1]) == [Become]


@pytest.mark.parametrize(("priority", "source"), [(99, GREATER), (1, GREATER), (100, LESS)])
def test_a_master_answers_a_worse_one_and_announces_again(priority: int, source: Address) -> None:
    changed, actions = master().receive(10.0, advert(priority), source)
    assert kinds(actions) == [Advertise, Reannounce]
    assert (changed.state, changed.due) == (State.MASTER, 11.0)
    quiet = replace(master(), instance=instance(lower_priority_unanswered=True))
    assert kinds(quiet.receive(10.0, advert(priority), source)[1]) == [Reannounce]


def test_a_master_answers_priority_0() -> None:
    changed, actions = master().receive(10.0, advert(0), GREATER)
    assert actions == [Advertise(100), Reannounce(released=True)]
    assert changed.due == 11.0


def test_preempt_delay_postpones_the_take_over() -> None:
    machine = backup(preempt_delay_s=10.0)
    for second in range(10):
        machine, actions = machine.receive(float(second), advert(50), LESS)
        assert actions == []
        assert machine.wake(second + 0.99)[0].state is State.BACKUP
    changed, _ = machine.receive(10.0, advert(50), LESS)
    assert changed.due is not None
    assert changed.wake(changed.due)[0].state is State.MASTER


def test_a_worse_master_that_gives_up_does_not_restart_preempt_delay() -> None:
    """As in keepalived: the delay is of this router, not of one master."""
    machine = backup(preempt_delay_s=10.0)
    for at, priority in (0.0, 50), (4.0, 0), (4.1, 60), (10.0, 60):
        machine, _ = machine.receive(at, advert(priority), LESS)
    assert machine.due == pytest.approx(4.1 + 3 + 156 / 256)
    assert machine.wake(10.0)[0].state is State.MASTER


def test_a_master_that_stops_or_fails_advertises_priority_0() -> None:
    stopped, actions = master().fail(9.0, why=TransitionReason.STOP)
    assert actions == [Advertise(0), Become(State.FAULT, State.MASTER, TransitionReason.STOP)]
    assert stopped.due is None
    failed, actions = backup().fail(9.0, "eth0 is down")
    assert actions == [Become(State.FAULT, State.BACKUP, TransitionReason.FAULT, "eth0 is down")]
    assert failed.receive(9.5, advert(50), LESS) == (failed, [])
    again, actions = failed.start(12.0, TransitionReason.RECOVERED)
    assert actions == [Become(State.BACKUP, State.FAULT, TransitionReason.RECOVERED)]
    assert again.due == pytest.approx(12.0 + 3 + 156 / 256)


def test_an_owner_that_was_in_fault_keeps_its_yield() -> None:
    machine, _ = master(OWNER).yield_until(10.0, 60.0)
    machine, _ = machine.fail(20.0)
    machine, _ = machine.start(30.0, TransitionReason.RECOVERED)
    assert machine.state is State.BACKUP
    while machine.due is not None and machine.due < 60.0:
        machine, actions = machine.wake(machine.due)
        assert (machine.state, actions) == (State.BACKUP, [])
    assert machine.due == 60.0
    assert machine.wake(60.0)[0].state is State.MASTER


def test_yield_makes_a_master_backup_for_a_time() -> None:
    machine, actions = master(150).yield_until(10.0, 60.0)
    assert actions == [Advertise(0), Become(State.BACKUP, State.MASTER, TransitionReason.YIELD)]
    now = 10.0
    while now < 60.0:
        assert machine.due is not None
        now = machine.due
        if now < 60.0:
            machine, actions = machine.wake(now)
            assert (machine.state, actions) == (State.BACKUP, [])
    assert machine.wake(now)[0].state is State.MASTER


def test_the_history_has_the_end_of_initialize_and_the_reason_of_the_last_take_over() -> None:
    history = History()
    assert (history.initialized_at, history.master_why) == (None, None)
    for at, (state, before, why) in enumerate(
        (
            (State.BACKUP, State.FAULT, TransitionReason.START),
            (State.MASTER, State.BACKUP, TransitionReason.BETTER),
            (State.BACKUP, State.MASTER, TransitionReason.HIGHER),
        )
    ):
        history.record(10.0 + at, Become(state, before, why), 100)
    assert (history.initialized_at, history.master_why) == (10.0, TransitionReason.BETTER)
    history.record(20.0, Become(State.FAULT, State.BACKUP, TransitionReason.FAULT), 100)
    assert (history.initialized_at, history.master_why) == (None, TransitionReason.BETTER)


events = st.one_of(
    st.tuples(st.just("wait"), st.floats(0.0, 5.0)),
    st.tuples(st.just("receive"), st.tuples(st.integers(0, 255), st.sampled_from((LESS, GREATER)))),
    st.tuples(st.just("fail"), st.none()),
    st.tuples(st.just("recover"), st.none()),
    st.tuples(st.just("priority"), st.integers(0, 255)),
    st.tuples(st.just("yield"), st.floats(0.0, 9.0)),
    st.tuples(st.just("follow"), st.sampled_from(State)),
)


@given(st.lists(events, max_size=40), st.booleans(), st.sampled_from((0.0, 3.0)), st.sampled_from((2, 3)))
def test_actions_match_the_states(
    history: list[tuple[str, object]], preempt: bool, delay_s: float, version: int
) -> None:
    now = 0.0
    machine, actions = Machine(instance(preempt=preempt, preempt_delay_s=delay_s, version=version), OWN).start(now)
    for what, given_ in history:
        before, actions = machine.state, []
        match what, given_:
            case "wait", float(seconds):
                now += seconds
                machine, actions = machine.wake(now)
            case "receive", (int(priority), IPv4Address() as source):
                machine, actions = machine.receive(now, advert(priority, 1.0, version), source)
            case "fail", _:
                machine, actions = machine.fail(now)
            case "recover", _ if machine.state is State.FAULT:
                machine, actions = machine.start(now, TransitionReason.RECOVERED)
            case "priority", int(priority):
                machine = replace(machine, priority=max(1, min(254, priority)))
            case "yield", float(seconds):
                machine, actions = machine.yield_until(now, now + seconds)
            case "follow", State() as state:
                machine, actions = machine.follow(now, state)
        transitions = [action for action in actions if isinstance(action, Become)]
        assert [(transition.before, transition.state) for transition in transitions] == (
            [(before, machine.state)] if before is not machine.state else []
        )
        assert (machine.due is None) == (machine.state is State.FAULT)
        if (
            before is State.MASTER
            and machine.state is not State.MASTER
            and transitions[0].why not in (TransitionReason.HIGHER, TransitionReason.GREATER_ADDRESS)
        ):
            assert actions[0] == Advertise(0), "a master that leaves by itself advertises priority 0"
        if machine.state is State.MASTER and before is not State.MASTER:
            assert isinstance(actions[0], Advertise)
            assert actions[0].priority


@pytest.mark.parametrize("received", [None, 0, 50, 200])
def test_no_event_shortens_the_delay_of_the_start(received: int | None) -> None:
    """A backup receives advertisements during vrrp_startup_delay, but its timer begins at the end of it."""
    machine, _ = replace(Machine(instance(), OWN), delayed_until=60.0).start(0.0)
    assert machine.due == 60 + machine.down_s
    if received is not None:
        machine, _ = machine.receive(10.0, advert(received), LESS)
    assert machine.due == 60 + (machine.skew_s if received == 0 else machine.down_s)
    machine, _ = machine.fail(20.0)
    machine, _ = machine.start(30.0, TransitionReason.RECOVERED)
    machine, _ = machine.change_interval(40.0)
    assert machine.due == 60 + machine.down_s
    assert machine.start(100.0)[0].due == 100 + machine.down_s


LONGEST_S = 40.95  # of version 3


def long(priority: int = 200) -> Advertisement:
    return Advertisement(3, 51, priority, LONGEST_S, ())


@pytest.mark.parametrize("limit_s", [0.0, 4.0])
@pytest.mark.parametrize("begun", [backup, master])
def test_one_advertisement_makes_no_router_wait_for_minutes(begun: Callable[..., Machine], limit_s: float) -> None:
    """Ten times the own interval count at most, or what the configuration says."""
    before, adopted_s = begun(version=3, max_interval_s=limit_s), limit_s or 10.0
    received, _ = before.receive(50.0, long(), GREATER)
    assert (received.state, received.interval_s) == (State.BACKUP, adopted_s)
    assert received.due == pytest.approx(50.0 + 3 * adopted_s + adopted_s * 156 / 256)
    at_once, _ = received.receive(51.0, long(), GREATER)
    assert at_once.interval_s == adopted_s, "a burst is no repetition"


def test_what_a_router_repeats_at_its_interval_is_adopted() -> None:
    machine, _ = backup(version=3).receive(50.0, long(), GREATER)
    other, _ = machine.receive(60.0, replace(long(), interval_s=39.0), LESS)
    assert other.over_limit == (LESS, 39.0, 60.0)
    machine, _ = machine.receive(50.0 + LONGEST_S, long(), GREATER)
    assert machine.interval_s == LONGEST_S
    machine, _ = machine.receive(51.0 + LONGEST_S, long(0), GREATER)
    assert machine.due == pytest.approx(51.0 + LONGEST_S + LONGEST_S * 156 / 256)


def test_a_router_with_a_long_interval_of_its_own_adopts_each() -> None:
    machine, _ = backup(version=3, advert_interval_s=4.1).receive(50.0, long(), GREATER)
    assert machine.interval_s == LONGEST_S
    machine, _ = backup(version=3, advert_interval_s=30.0, max_interval_s=5.0).receive(50.0, long(), GREATER)
    assert machine.interval_s == 30.0
