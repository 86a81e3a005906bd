"""Scheduler cursors that follow the edits of their list, as rr.h and wrr.h of bpf/lb/schedulers/ do for packets.

Before the list changes again, the cursor must have followed the change before: it never lies two versions behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from struct import Struct

from pylvs.bpf import abi
from pylvs.dataplane import encode
from pylvs.dataplane.tables import Tables
from pylvs.dataplane.transaction import Transaction
from pylvs.model.destination import Destination

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


# --- lists -----------------------------------------------------------------------------------------------------------
# The lists of services: packed members in a chunk of their own, written beside and never changed in place.


def packed(slot: int, destination: Destination, last_weight: int = 0) -> bytes:
    """A list's entry for the destination in a slot; `last_weight` is its latest weight that was not 0."""
    return _member_form().pack(
        slot,
        destination.weight,
        destination.upper,
        destination.lower,
        destination.method,
        encode.tunnel_word(destination.tunnel),
        destination.weight or last_weight,
    )


@cache
def _member_form() -> Struct:
    return abi.struct("member").view("destination", "weight", "upper", "lower", "method", "tunnel", "last_weight")


def last_weight(entry: bytes) -> int:
    """The latest weight above 0 that an entry's destination had."""
    (weight,) = abi.struct("member").view("last_weight").unpack(entry)
    return int(weight)


def members(tables: Tables, version: dict[str, Any]) -> bytes:
    """The entries of a service's list."""
    return bytes(tables.members.elements(version["list"], version["count"]))


def place(edit: Transaction, entries: bytes) -> int:
    """Put a list where none is: its first member. Raises NoRoom."""
    array = edit.tables.members
    count = len(entries) // array.stride
    start = edit.book.take_list(count)
    array.elements(start, count)[:] = entries
    return start


def write_list(
    edit: Transaction, slot: int, version: dict[str, Any], entries: bytes, change: str, position: int = 0
) -> None:
    """Put a new list beside the old one and point the service's next version to it."""
    stride = edit.tables.members.stride
    count = len(entries) // stride
    fields = version | {"list": place(edit, entries), "count": count}
    offset = abi.struct("member").offset("weight") // 4
    weights = [each for each in memoryview(entries).cast("i")[offset :: stride // 4] if each > 0] if count else []
    fields["gcd"] = _gcd(weights)
    fields["max_weight"] = max(weights, default=fields["gcd"] - 1) - (fields["gcd"] - 1)
    change_list(edit, slot, version, fields, change, position)
    fill_table(edit, slot, version, fields, entries, change, position)
    edit.write_version(slot, edit.generation, fields)


def _gcd(weights: list[int]) -> int:
    """The greatest common divisor, 1 of none."""
    if len(set(weights)) == 1:
        return weights[0]
    divisor = 0
    for weight in weights:  # not math.gcd: the module costs more than the few steps of a service's weights
        while weight:
            divisor, weight = weight, divisor % weight
    return divisor or 1


def change_scheduler(edit: Transaction, slot: int, version: dict[str, Any], fields: dict[str, Any]) -> None:
    """The scheduler that these fields name begins with the list as it is (IPVS-SEMANTICS 1.4)."""
    from pylvs.dataplane import scheduler_tables

    change_list(edit, slot, version, fields, "LIST_INIT")
    fields.update(scheduler_tables.began(edit, fields))
    fill_table(edit, slot, version, fields, members(edit.tables, version), "LIST_INIT")


def fill_table(
    edit: Transaction,
    slot: int,
    version: dict[str, Any],
    fields: dict[str, Any],
    entries: bytes,
    change: str,
    position: int = 0,
) -> None:
    """Put what mh looks choices up in beside what is in force."""
    if fields["scheduler"] != abi.constant("SCHED_MH"):
        return
    from pylvs.dataplane.scheduler_tables import MaglevTables  # late: most services use another scheduler

    maglev = MaglevTables(edit.tables)
    if maglev.uses(fields):
        maglev.write(slot, version, fields, entries, change, position)


def change_list(
    edit: Transaction, slot: int, version: dict[str, Any], fields: dict[str, Any], change: str, position: int = 0
) -> None:
    """Note what happened to the list, after the scheduler's cursor has followed what happened before."""
    states = edit.tables.service_states
    before = states.get(slot, "cursor")
    after = followed(before, version)
    if after != before:
        states.set(slot, "cursor", after)
    fields["list_version"] = version["list_version"] + 1 & 0xFFFFFFFF
    fields["edit"] = abi.constant(change)
    if change == "LIST_INIT":
        states.set(slot, "cursor", outdated(fields))
    fields["edit_position"] = position
