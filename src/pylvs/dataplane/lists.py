"""The lists of services: packed members in a chunk of their own, written beside and never changed in place."""

from __future__ import annotations

from functools import cache
from struct import Struct

from pylvs.bpf import abi
from pylvs.dataplane import cursors, encode
from pylvs.dataplane.tables import Tables
from pylvs.dataplane.transaction import Transaction
from pylvs.model.destination import Destination

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any


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
    import math  # late: most servers have one weight

    return math.gcd(*weights) or 1


def change_scheduler(edit: Transaction, slot: int, version: dict[str, Any], fields: dict[str, Any]) -> None:
    """The scheduler that these fields name begins with the list as it is (IPVS-SEMANTICS 1.4)."""
    from pylvs.dataplane import caches

    change_list(edit, slot, version, fields, "LIST_INIT")
    fields.update(caches.began(edit, fields))
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
    from pylvs.dataplane.maglev import MaglevTables  # late: most services use another scheduler

    maglev = MaglevTables(edit.tables)
    if maglev.uses(fields):
        maglev.write(slot, version, fields, entries, change, position)


def change_list(
    edit: Transaction, slot: int, version: dict[str, Any], fields: dict[str, Any], change: str, position: int = 0
) -> None:
    """Note what happened to the list, after the scheduler's cursor has followed what happened before."""
    states = edit.tables.service_states
    before = states.get(slot, "cursor")
    after = cursors.followed(before, version)
    if after != before:
        states.set(slot, "cursor", after)
    fields["list_version"] = version["list_version"] + 1 & 0xFFFFFFFF
    fields["edit"] = abi.constant(change)
    if change == "LIST_INIT":
        states.set(slot, "cursor", cursors.outdated(fields))
    fields["edit_position"] = position
