"""The lists of services, and the scheduler cursors that point into them.

An edit moves the cursor as rr.h and wrr.h of bpf/lb/schedulers/ do for packets. It applies the previous change of the
list before the next one: a cursor is never two versions behind.
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

_WRR_WEIGHT_BITS, _WRR_POSITION_BITS, _WRR_VERSION_BITS = 31, 20, 13  # as in bpf/lb/schedulers/wrr.h


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
    position = cursor >> _WRR_WEIGHT_BITS & ((1 << _WRR_POSITION_BITS) - 1)
    weight = cursor & ((1 << _WRR_WEIGHT_BITS) - 1)
    behind = cursor >> (_WRR_WEIGHT_BITS + _WRR_POSITION_BITS) != target
    if behind and version["edit"] != abi.constant("LIST_SAME"):
        position = 0
        most, gcd = version["max_weight"], version["gcd"]
        if version["edit"] == abi.constant("LIST_INIT") or weight > most or not weight:
            weight = most
        elif gcd > 1:
            weight = weight // gcd * gcd + 1
    return target << (_WRR_WEIGHT_BITS + _WRR_POSITION_BITS) | position << _WRR_WEIGHT_BITS | weight


@cache
def _followers() -> Mapping[int, Callable[[int, Mapping[str, Any]], int]]:
    return {abi.constant("SCHED_RR"): _rr, abi.constant("SCHED_WRR"): _wrr}


def followed(cursor: int, version: Mapping[str, Any]) -> int:
    """Return the cursor for the list of this version; unchanged for schedulers without a cursor."""
    follow = _followers().get(version["scheduler"])
    return follow(cursor, version) if follow else cursor


def outdated(version: Mapping[str, Any]) -> int:
    """Return a cursor of the version before, so that the edit of this one (LIST_INIT) takes effect."""
    before: int = version["list_version"] - 1
    if version["scheduler"] == abi.constant("SCHED_WRR"):
        return (before & ((1 << _WRR_VERSION_BITS) - 1)) << (_WRR_WEIGHT_BITS + _WRR_POSITION_BITS)
    return (before & 0xFFFF) << 32


# --- lists -----------------------------------------------------------------------------------------------------------
# A list is an array of packed members in a chunk of its own. An edit writes a new list and never changes one in place.


def packed(slot: int, destination: Destination, last_weight: int = 0) -> bytes:
    """Return the member for the destination in a slot; `last_weight` is its latest weight above 0."""
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
    """Return the latest weight above 0 of a member's destination."""
    (weight,) = abi.struct("member").view("last_weight").unpack(entry)
    return int(weight)


def members(tables: Tables, version: dict[str, Any]) -> bytes:
    """Return the packed members of a service's list."""
    return bytes(tables.members.elements(version["list"], version["count"]))


def put_list(edit: Transaction, entries: bytes) -> int:
    """Write a list to a free chunk, and return the index of its first member. Raises NoRoom."""
    array = edit.tables.members
    count = len(entries) // array.stride
    start = edit.book.take_list(count)
    array.elements(start, count)[:] = entries
    return start


def write_list(
    edit: Transaction, slot: int, version: dict[str, Any], entries: bytes, change: str, position: int = 0
) -> None:
    """Write a new list beside the old one, and point the service's next version to it."""
    stride = edit.tables.members.stride
    count = len(entries) // stride
    fields = version | {"list": put_list(edit, entries), "count": count}
    offset = abi.struct("member").offset("weight") // 4
    weights = [each for each in memoryview(entries).cast("i")[offset :: stride // 4] if each > 0] if count else []
    fields["gcd"] = _gcd(weights)
    fields["max_weight"] = max(weights, default=fields["gcd"] - 1) - (fields["gcd"] - 1)
    change_list(edit, slot, version, fields, change, position)
    fill_table(edit, slot, version, fields, entries, change, position)
    edit.write_version(slot, edit.generation, fields)


def _gcd(weights: list[int]) -> int:
    """Return the greatest common divisor, 1 of no weights."""
    if len(set(weights)) == 1:
        return weights[0]
    divisor = 0
    for weight in weights:  # not math.gcd: to import math costs more than these few steps
        while weight:
            divisor, weight = weight, divisor % weight
    return divisor or 1


def change_scheduler(edit: Transaction, slot: int, version: dict[str, Any], fields: dict[str, Any]) -> None:
    """Start the scheduler that these fields name, with the present list (IPVS-SEMANTICS 1.4)."""
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
    """For a service of mh: fill its Maglev table that is not in force."""
    if fields["scheduler"] != abi.constant("SCHED_MH"):
        return
    from pylvs.dataplane.scheduler_tables import MaglevTables  # late: most services use another scheduler

    maglev = MaglevTables(edit.tables)
    if maglev.uses(fields):
        maglev.write(slot, version, fields, entries, change, position)


def change_list(
    edit: Transaction, slot: int, version: dict[str, Any], fields: dict[str, Any], change: str, position: int = 0
) -> None:
    """Record a change of the list in the fields, after the cursor has followed the previous change."""
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
