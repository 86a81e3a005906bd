"""Sync groups: virtual routers that are master together or not at all.

As in keepalived: a member becomes master only when every member would; one that has to give way, or is at fault, takes
the others with it; and none leaves its fault while another has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pylvs.model.vrrp import VrrpGroup
from pylvs.vrrp.protocol.machine import State, TransitionReason


class Member(Protocol):
    """A virtual router, as its group sees it."""

    @property
    def name(self) -> str:
        """Its instance's."""

    @property
    def state(self) -> State:
        """Where it is."""

    @property
    def wanting(self) -> bool:
        """Whether its time has come to be master, and it waits for the others."""

    @property
    def own_faults(self) -> list[str]:
        """What is wrong with it alone."""

    @property
    def ill(self) -> bool:
        """Whether one of them is more than not known yet."""

    def follow(self, state: State, why: TransitionReason, detail: str) -> None:
        """Go where the group goes."""

    def examine_group(self) -> None:
        """Another member's fault came or went."""


class SyncGroup:
    """One of them."""

    def __init__(self, group: VrrpGroup, members: Iterable[Member]) -> None:
        self.group = group
        self.members = list(members)
        states = {each.state for each in self.members}
        self.state = State.MASTER if State.MASTER in states else states.pop() if len(states) == 1 else State.FAULT
        self._moving = False
        self._over = False  # and told so

    def faults_beside(self, member: Member) -> list[str]:
        """Why a member must not live although it is well itself."""
        return [
            f"{other.name} of group {self.group.name}: {other.own_faults[0]}"
            for other in self.members
            if other is not member and other.own_faults
        ]

    def ill_beside(self, member: Member) -> bool:
        """Whether another member has a fault that is more than not known yet."""
        return any(other.ill for other in self.members if other is not member)

    def examine(self, member: Member) -> None:
        """A member's faults came or went: the others look again whether they may live."""
        for other in self.members:
            if other is not member:
                other.examine_group()

    def may_be_master(self, member: Member) -> bool:
        """Whether every other member is master, or waits to be."""
        return all(each is member or each.wanting or each.state is State.MASTER for each in self.members)

    def held_back(self, member: Member) -> bool:
        """A member that came to a group of masters has another master: they give way, too. Whether they were any."""
        if self._moving or self.state is not State.MASTER:
            return False
        self._lead(member, State.BACKUP, TransitionReason.GROUP, f"{member.name} has another master")
        self.state = State.BACKUP
        return True

    def moved(self, member: Member, before: State, why: TransitionReason, words: str = "") -> bool:
        """A member changed its state, for a reason in words: the others go with it. Whether the group changed thereby.

        Whoever begins, or is well again, takes nobody with it: the others look themselves whether they may live.
        """
        if self._moving:
            return False
        begins = before is State.FAULT and member.state is State.BACKUP
        if not begins:
            detail = f"{member.name} went before{': ' if words else ''}{words}"
            self._lead(
                member,
                member.state,
                TransitionReason.STOP if why is TransitionReason.STOP else TransitionReason.GROUP,
                detail,
            )
        elif any(other.state is not State.BACKUP for other in self.members):
            return False
        over, self._over = self._over, why is TransitionReason.STOP
        changed = self.state is not member.state or self._over is not over
        self.state = member.state
        return changed

    def _lead(self, member: Member, state: State, why: TransitionReason, detail: str) -> None:
        self._moving = True
        try:
            for other in self.members:
                if other is not member and other.state is not state:
                    other.follow(state, why, detail)
        finally:
            self._moving = False
