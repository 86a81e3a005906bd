"""Sync groups: members move together."""

from __future__ import annotations

from dataclasses import dataclass, field

from pylvs.model.vrrp import VrrpGroup
from pylvs.vrrp.protocol.machine import State, TransitionReason
from pylvs.vrrp.sync_group import SyncGroup


@dataclass(eq=False)
class FakeMember:
    """A member whose moves are told to its group, as a virtual router tells them."""

    name: str
    state: State = State.BACKUP
    waiting: bool = False
    own_faults: list[str] = field(default_factory=list)
    looked: int = 0
    group: SyncGroup | None = None

    def follow(self, state: State, why: TransitionReason, detail: str) -> None:
        self.move(state, why)

    def move(self, state: State, why: TransitionReason) -> bool:
        before, self.state = self.state, state
        assert self.group is not None
        return self.group.moved(self, before, why)

    @property
    def failed(self) -> bool:
        return bool(self.own_faults)

    def evaluate_group(self) -> None:
        self.looked += 1


def group(count: int = 3) -> tuple[SyncGroup, list[FakeMember]]:
    members = [FakeMember(f"VI_{number}") for number in range(count)]
    made = SyncGroup(VrrpGroup(name="VG", members=tuple(each.name for each in members)), members)
    for member in members:
        member.group = made
    made.state = State.BACKUP
    return made, members


def test_a_member_waits_for_the_others() -> None:
    made, (one, two, three) = group()
    one.waiting = True
    assert not made.may_be_master(one)
    two.waiting = True
    assert not made.may_be_master(two)
    assert made.may_be_master(three)


def test_all_go_where_one_goes_and_the_group_says_so_once() -> None:
    made, members = group()
    assert members[0].move(State.MASTER, TransitionReason.TIMER)
    assert {each.state for each in members} == {State.MASTER}
    assert made.state is State.MASTER
    assert not members[1].move(State.MASTER, TransitionReason.GROUP)
    assert members[2].move(State.BACKUP, TransitionReason.HIGHER)
    assert {each.state for each in members} == {State.BACKUP}


def test_a_fault_of_one_is_named_to_the_others() -> None:
    made, (one, two, three) = group()
    two.own_faults = ["eth1 is down"]
    made.faults_changed(two)
    assert (one.looked, two.looked, three.looked) == (1, 0, 1)
    assert made.other_faults(one) == ["VI_1 of group VG: eth1 is down"]
    assert made.other_faults(two) == []


def test_the_end_is_said_once_even_after_a_fault() -> None:
    _, (one, two, three) = group()
    assert one.move(State.FAULT, TransitionReason.FAULT)
    assert one.move(State.FAULT, TransitionReason.STOP)
    assert not two.move(State.FAULT, TransitionReason.STOP)
    assert not three.move(State.FAULT, TransitionReason.STOP)


def test_a_group_that_is_made_anew_knows_where_its_members_are() -> None:
    members = [FakeMember("VI_1", State.MASTER), FakeMember("VI_2", State.MASTER)]
    made = SyncGroup(VrrpGroup(name="VG", members=("VI_1", "VI_2")), members)
    for member in members:
        member.group = made
    assert made.state is State.MASTER
    assert members[0].move(State.FAULT, TransitionReason.FAULT)


def test_whoever_comes_to_a_group_of_masters_takes_none_of_them_down() -> None:
    members = [FakeMember("VI_1", State.MASTER), FakeMember("VI_2", State.FAULT)]
    made = SyncGroup(VrrpGroup(name="VG", members=("VI_1", "VI_2")), members)
    for member in members:
        member.group = made
    assert not members[1].move(State.BACKUP, TransitionReason.START)
    assert [each.state for each in members] == [State.MASTER, State.BACKUP]
    assert made.demote(members[1])
    assert [each.state for each in members] == [State.BACKUP, State.BACKUP]
