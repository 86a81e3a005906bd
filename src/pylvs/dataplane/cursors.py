"""Scheduler cursors that follow the edits of their list, as rr.h and wrr.h of bpf/lb/schedulers/ do for packets.

Before the list changes again, the cursor must have followed the change before: it never lies two versions behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from pylvs.dataplane import abi

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

_WRR_WEIGHT_BITS, _WRR_PLACE_BITS, _WRR_VERSION_BITS = 31, 20, 13  # as in bpf/lb/schedulers/wrr.h


def _rr(cursor: int, version: Mapping[str, Any]) -> int:
    target: int = version["list_version"] & 0xFFFF
    position = cursor & 0xFFFFFFFF
    if cursor >> 32 & 0xFFFF != target:
        edit = version["edit"]
        if edit == abi.constant("LIST_INIT"):
            position = 0
        elif edit == abi.constant("LIST_ADD") and position:
            position = position + 1 & 0xFFFFFFFF
        elif edit == abi.constant("LIST_DELETE") and position > version["edit_position"]:
            position -= 1
    return target << 32 | position


def _wrr(cursor: int, version: Mapping[str, Any]) -> int:
    target: int = version["list_version"] & ((1 << _WRR_VERSION_BITS) - 1)
    position = cursor >> _WRR_WEIGHT_BITS & ((1 << _WRR_PLACE_BITS) - 1)
    weight = cursor & ((1 << _WRR_WEIGHT_BITS) - 1)
    behind = cursor >> (_WRR_WEIGHT_BITS + _WRR_PLACE_BITS) != target
    if behind and version["edit"] != abi.constant("LIST_SAME"):
        position = 0
        most, gcd = version["max_weight"], version["gcd"]
        if version["edit"] == abi.constant("LIST_INIT") or weight > most or not weight:
            weight = most
        elif gcd > 1:
            weight = weight // gcd * gcd + 1
    return target << (_WRR_WEIGHT_BITS + _WRR_PLACE_BITS) | position << _WRR_WEIGHT_BITS | weight


@cache
def _followers() -> Mapping[int, Callable[[int, Mapping[str, Any]], int]]:
    return {abi.constant("SCHED_RR"): _rr, abi.constant("SCHED_WRR"): _wrr}


def followed(cursor: int, version: Mapping[str, Any]) -> int:
    """The cursor, brought up to the list of this version; schedulers without state have none."""
    follow = _followers().get(version["scheduler"])
    return follow(cursor, version) if follow else cursor


def outdated(version: Mapping[str, Any]) -> int:
    """A cursor that any list of this version finds behind, so that the edit it names (LIST_INIT) takes effect."""
    before: int = version["list_version"] - 1
    if version["scheduler"] == abi.constant("SCHED_WRR"):
        return (before & ((1 << _WRR_VERSION_BITS) - 1)) << (_WRR_WEIGHT_BITS + _WRR_PLACE_BITS)
    return (before & 0xFFFF) << 32
