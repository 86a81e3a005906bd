"""How the virtual routers stand, in plain dictionaries for those who ask."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any, Protocol

from pylvs.model.errors import InvalidOperation
from pylvs.vrrp.aide.link import AideLink
from pylvs.vrrp.groups import Group
from pylvs.vrrp.loop import Loop
from pylvs.vrrp.machine import State
from pylvs.vrrp.packet import Flaw
from pylvs.vrrp.process import Punctuality
from pylvs.vrrp.router import Router


class Reported(Protocol):
    """The process, as far as it is reported."""

    routers: dict[str, Router]
    groups: list[Group]
    punctuality: Punctuality
    unknown: Counter[tuple[str, int]]
    loop: Loop
    aide: AideLink

    @property
    def data_plane(self) -> tuple[bool, str]:
        """Whether the packet path is well, and in words."""

    @property
    def now(self) -> float:
        """Seconds."""


def status(core: Reported) -> dict[str, Any]:
    """Everything."""
    well, words = core.data_plane
    return {
        "instances": [_instance(core, router) for router in core.routers.values()],
        "groups": [
            {"name": each.group.name, "state": each.state.value, "members": [member.name for member in each.members]}
            for each in core.groups
        ],
        "process": {
            "pid": os.getpid(),
            "realtime": core.punctuality.realtime,
            "locked": core.punctuality.locked,
            "longest_gap_ms": round(core.loop.latest_s * 1000, 3),
            "aide": core.aide.lives,
        },
        "data_plane": {"well": well, "words": words},
        "unknown_vrids": [{"device": at, "vrid": vrid, "count": count} for (at, vrid), count in core.unknown.items()],
    }


def why(core: Reported, name: str | None) -> dict[str, Any]:
    """The last transitions of one virtual router, or of all. Raises InvalidOperation."""
    if name is not None and name not in core.routers:
        there = ", ".join(sorted(core.routers)) or "none"
        raise InvalidOperation(f"{name}: no such virtual router; there are: {there}")
    routers = [core.routers[name]] if name is not None else list(core.routers.values())
    return {router.name: [each.told() for each in router.history.transitions] for router in routers}


def _dropped(router: Router) -> Counter[Flaw]:
    return router.screen.counters if router.screen else Counter()


def _instance(core: Reported, router: Router) -> dict[str, Any]:
    instance, machine, last = router.instance, router.machine, router.history.last
    held_until = None
    if machine.held_until is not None and machine.held_until > core.now:
        held_until = time.time() + machine.held_until - core.now
    preempts_at = None
    if machine.preempt_at is not None and machine.preempt_at > core.now:
        preempts_at = time.time() + machine.preempt_at - core.now
    master = str(machine.address) if machine.state is State.MASTER else str(router.heard_from or "")
    return {
        "name": instance.name,
        "interface": instance.interface,
        "vrid": instance.vrid,
        "version": instance.version,
        "family": instance.family,
        "state": machine.state.value,
        "since": last.at if last else None,
        "priority": machine.priority,
        "base_priority": instance.priority,
        "addresses": [str(each) for each in (*instance.addresses, *instance.excluded)],
        "master": master,
        "why": last.sentence() if last else "",
        "advert_interval_s": machine.interval_s,
        "master_down_s": round(machine.down_s, 6),
        "preempt": instance.preempt,
        "rival": router.rival,
        "preempts_at": preempts_at,
        "mismatches": [str(each) for each in router.screen.mismatches.values()] if router.screen else [],
        "tracks": [
            {
                "kind": each.kind,
                "name": each.track.name,
                "well": each.well,
                "number": each.number,
                "weight": each.track.weight,
                "words": each.words,
            }
            for each in router.watched.values()
        ],
        "faults": list(router.own_faults),
        "counters": {
            "sent": router.sent,
            "received": router.heard,
            "dropped": {flaw.value: count for flaw, count in _dropped(router).items()},
            "became_master": router.history.entered[State.MASTER],
            "became_backup": router.history.entered[State.BACKUP],
            "became_fault": router.history.entered[State.FAULT],
        },
        "group": router.group.group.name if router.group else None,
        "held_until": held_until,
    }
