"""Sync groups: all members change their state together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pylvs.model.vrrp import VrrpGroup
from pylvs.vrrp.protocol.machine import State, TransitionReason
from pylvs.vrrp.router import SyncGroup


@dataclass(eq=False)
class FakeMember:
    """A member that reports its transitions to its group, as a virtual router does."""

    name: str
    state: State = State.BACKUP
    waiting: bool = False
    own_faults: list[str] = field(default_factory=list)
    evaluations: int = 0
    group: SyncGroup | None = None

    def follow(self, state: State, why: TransitionReason, detail: str) -> None:
        self.move(state, why)

    def move(self, state: State, why: TransitionReason) -> bool:
        before, self.state = self.state, state
        assert self.group is not None
        router: Any = self
        return self.group.moved(router, before, why)

    @property
    def failures(self) -> list[str]:
        return self.own_faults

    def evaluate_group(self) -> None:
        self.evaluations += 1


def group(count: int = 3) -> tuple[SyncGroup, list[Any]]:
    members: list[Any] = [FakeMember(f"VI_{number}") for number in range(count)]
    sync_group = SyncGroup(VrrpGroup(name="VG", members=tuple(each.name for each in members)), members)
    for member in members:
        member.group = sync_group
    sync_group.state = State.BACKUP
    return sync_group, members


def test_a_member_waits_for_the_others() -> None:
    sync_group, (one, two, three) = group()
    one.waiting = True
    assert not sync_group.may_be_master(one)
    two.waiting = True
    assert not sync_group.may_be_master(two)
    assert sync_group.may_be_master(three)


def test_all_follow_one_member_and_the_group_changes_once() -> None:
    sync_group, members = group()
    assert members[0].move(State.MASTER, TransitionReason.TIMER)
    assert {each.state for each in members} == {State.MASTER}
    assert sync_group.state is State.MASTER
    assert not members[1].move(State.MASTER, TransitionReason.GROUP)
    assert members[2].move(State.BACKUP, TransitionReason.HIGHER)
    assert {each.state for each in members} == {State.BACKUP}


def test_a_member_s_fault_is_reported_to_the_others() -> None:
    sync_group, (one, two, three) = group()
    two.own_faults = ["eth1 is down"]
    sync_group.faults_changed(two)
    assert (one.evaluations, two.evaluations, three.evaluations) == (1, 0, 1)
    assert sync_group.other_faults(one) == ["VI_1 of group VG: eth1 is down"]
    assert sync_group.other_faults(two) == []


def test_the_stop_is_reported_once_even_after_a_fault() -> None:
    _, (one, two, three) = group()
    assert one.move(State.FAULT, TransitionReason.FAULT)
    assert one.move(State.FAULT, TransitionReason.STOP)
    assert not two.move(State.FAULT, TransitionReason.STOP)
    assert not three.move(State.FAULT, TransitionReason.STOP)


def test_a_group_created_by_a_reload_has_the_state_of_its_members() -> None:
    members: list[Any] = [FakeMember("VI_1", State.MASTER), FakeMember("VI_2", State.MASTER)]
    sync_group = SyncGroup(VrrpGroup(name="VG", members=("VI_1", "VI_2")), members)
    for member in members:
        member.group = sync_group
    assert sync_group.state is State.MASTER
    assert members[0].move(State.FAULT, TransitionReason.FAULT)


def test_a_member_that_joins_masters_keeps_them_masters() -> None:
    members: list[Any] = [FakeMember("VI_1", State.MASTER), FakeMember("VI_2", State.FAULT)]
    sync_group = SyncGroup(VrrpGroup(name="VG", members=("VI_1", "VI_2")), members)
    for member in members:
        member.group = sync_group
    assert not members[1].move(State.BACKUP, TransitionReason.START)
    assert [each.state for each in members] == [State.MASTER, State.BACKUP]
    assert sync_group.demote(members[1])
    assert [each.state for each in members] == [State.BACKUP, State.BACKUP]
