"""Sync groups: virtual routers that are master together or not at all.

As in keepalived: a member becomes master only when every member would; one that has to give way, or is at fault, takes
the others with it; and none leaves its fault while another has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from pylvs.model.vrrp import VrrpGroup
from pylvs.vrrp.machine import State, Why


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

    def follow(self, state: State, why: Why, detail: str) -> None:
        """Go where the group goes."""

    def examine_group(self) -> None:
        """Another member's fault came or went."""


class Group:
    """One of them."""

    def __init__(self, group: VrrpGroup, members: Iterable[Member]) -> None:
        self.group = group
        self.members = list(members)
        self.state = State.FAULT
        self._moving = False

    def faults_beside(self, member: Member) -> list[str]:
        """Why a member must not live although it is well itself."""
        return [
            f"{other.name} of group {self.group.name}: {other.own_faults[0]}"
            for other in self.members
            if other is not member and other.own_faults
        ]

    def examine(self, member: Member) -> None:
        """A member's faults came or went: the others look again whether they may live."""
        for other in self.members:
            if other is not member:
                other.examine_group()

    def may_be_master(self, member: Member) -> bool:
        """Whether every other member is master, or waits to be."""
        return all(each is member or each.wanting or each.state is State.MASTER for each in self.members)

    def moved(self, member: Member, why: Why) -> bool:
        """A member changed its state: the others go with it. Whether the group's own state changed thereby."""
        if self._moving:
            return False
        self._moving = True
        try:
            for other in self.members:
                if other is not member and other.state is not member.state:
                    other.follow(member.state, Why.STOP if why is Why.STOP else Why.GROUP, f"{member.name} went before")
        finally:
            self._moving = False
        changed = self.state is not member.state
        self.state = member.state
        return changed
