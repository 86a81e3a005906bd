"""Sync groups: virtual routers that are master together or not at all.

As in keepalived, a member becomes master only when every member would. A member that becomes backup or enters FAULT
takes the others with it, and no member leaves FAULT while another has a fault.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pylvs.model.vrrp import VrrpGroup
from pylvs.vrrp.protocol.machine import State, TransitionReason

if TYPE_CHECKING:
    from pylvs.vrrp.router import Router


class SyncGroup:
    """The members of a vrrp_sync_group and their common state."""

    def __init__(self, group: VrrpGroup, members: Iterable[Router]) -> None:
        self.group = group
        self.members = list(members)
        states = {each.state for each in self.members}
        self.state = State.MASTER if State.MASTER in states else states.pop() if len(states) == 1 else State.FAULT
        self._leading = False
        self._stopped = False

    def other_faults(self, member: Router) -> list[str]:
        """Return the faults of the other members."""
        return [
            f"{other.name} of group {self.group.name}: {other.own_faults[0]}"
            for other in self.members
            if other is not member and other.own_faults
        ]

    def another_failed(self, member: Router) -> bool:
        """Return whether another member has a fault that is more than a missing result."""
        return any(other.failed for other in self.members if other is not member)

    def faults_changed(self, member: Router) -> None:
        """Let the other members evaluate whether they may run."""
        for other in self.members:
            if other is not member:
                other.evaluate_group()

    def may_be_master(self, member: Router) -> bool:
        """Return whether every other member is master, or waits to be."""
        return all(each is member or each.waiting or each.state is State.MASTER for each in self.members)

    def demote(self, member: Router) -> bool:
        """Make all masters backup, because a member that joined has another master; False if there were none."""
        if self._leading or self.state is not State.MASTER:
            return False
        self._lead(member, State.BACKUP, TransitionReason.GROUP, f"{member.name} has another master")
        self.state = State.BACKUP
        return True

    def moved(self, member: Router, before: State, why: TransitionReason, text: str = "") -> bool:
        """Take the other members along after a member's transition; return whether the group's state changed.

        A member that starts or recovers takes no others along: they evaluate themselves whether they may run.
        """
        if self._leading:
            return False
        starts = before is State.FAULT and member.state is State.BACKUP
        if not starts:
            detail = f"{member.name} went before{': ' if text else ''}{text}"
            reason = TransitionReason.STOP if why is TransitionReason.STOP else TransitionReason.GROUP
            self._lead(member, member.state, reason, detail)
        elif any(other.state is not State.BACKUP for other in self.members):
            return False
        was_stopped, self._stopped = self._stopped, why is TransitionReason.STOP
        changed = self.state is not member.state or self._stopped is not was_stopped
        self.state = member.state
        return changed

    def _lead(self, member: Router, state: State, why: TransitionReason, detail: str) -> None:
        self._leading = True
        try:
            for other in self.members:
                if other is not member and other.state is not state:
                    other.follow(state, why, detail)
        finally:
            self._leading = False
