"""Recover after a writer died: withdraw its uncommitted edit, finish its clean-up, rebuild the allocator."""

from __future__ import annotations

import struct

from pylvs.bpf import abi
from pylvs.dataplane import encode
from pylvs.dataplane.encode import write_bitmaps
from pylvs.dataplane.scheduler_tables import MaglevTables
from pylvs.dataplane.slot_allocator import Book, chunks, gaps, list_of, now_s
from pylvs.dataplane.tables import Tables, Versions

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any


def recover(tables: Tables) -> None:
    """Restore the tables to the generation in force. The caller holds the lock."""
    versions, book = Versions(tables), Book(tables)
    live = versions.live
    service_top, destination_top = tables.book.get(0, "service_top"), tables.book.get(0, "destination_top")
    present: dict[int, dict[str, Any]] = {}
    for slot in range(service_top):
        versions.withdraw_version(slot, live)
        version = versions.version(slot, live)
        if version["present"]:
            present[slot] = version
    _drop_stray_keys(tables, present)
    listed = {dest_slot for version in present.values() for dest_slot in list_of(tables, version)}
    for slot in range(destination_top):
        versions.withdraw_flags(slot, live)
    member_top = tables.book.get(0, "member_top")
    book.reset(service_top, destination_top, member_top)
    _free_services(book, service_top, present)
    for start, size in gaps([*chunks(present.values()), (member_top, 0)], abi.constant("LIST_CLASSES")):
        book.let_list_go(start, size)
    _settle_destinations(book, tables, destination_top, listed)
    _settle_members(tables, present)
    MaglevTables(tables).keep_only(present)
    write_bitmaps(tables, present.values())
    tables.book.set(0, "pending", 0)


def _drop_stray_keys(tables: Tables, present: dict[int, dict[str, Any]]) -> None:
    for version in 4, 6:
        keys = tables.service_keys(version)
        for key, value in list(keys.items()):
            fields = present.get(struct.unpack("<I", value)[0])
            if fields is None or encode.service_key(encode.key_of(fields)) != key:
                keys.remove(key)


def _free_services(book: Book, top: int, present: dict[int, dict[str, Any]]) -> None:
    for slot in range(top):
        if slot not in present:
            book.let_service_go(slot)


def _settle_destinations(book: Book, tables: Tables, top: int, listed: set[int]) -> None:
    destinations, deleted = tables.destinations, []
    for slot in range(top):
        if not destinations.get(slot, "used"):
            book.free_destination(slot)
        elif slot in listed:
            destinations.set(slot, "deleted_s", 0)
        else:
            if not destinations.get(slot, "deleted_s"):
                destinations.set(slot, "deleted_s", max(now_s(), 1))
            deleted.append(slot)
    book.set_deleted(deleted)


def _settle_members(tables: Tables, present: dict[int, dict[str, Any]]) -> None:
    """Set the fields of destinations that have no versions (thresholds, service) as the lists in force have them."""
    form = abi.struct("member").view("destination", "upper", "lower")
    destinations, array = tables.destinations, tables.members
    for slot, version in present.items():
        for dest_slot, upper, lower in form.iter_unpack(array.elements(version["list"], version["count"])):
            wanted = {"upper": upper, "lower": lower, "service": slot, "service_birth": version["birth"]}
            for name, value in wanted.items():
                if destinations.get(dest_slot, name) != value:
                    destinations.set(dest_slot, name, value)
