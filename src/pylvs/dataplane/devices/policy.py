"""Keep host and tables in step: snapshots of local addresses and marks, replacement of programs, take-down."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable

from pylvs.dataplane import encode, load, role_notes
from pylvs.dataplane.devices import attach, attachments, loopback
from pylvs.dataplane.encode import set_bit
from pylvs.dataplane.reader import Reader
from pylvs.dataplane.state import State
from pylvs.dataplane.tables import Tables
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.errors import Busy
from pylvs.netlink import links

_CONF = "/proc/sys/net/ipv4/conf"


# --- addresses ---


def is_local(address: Address) -> bool:
    """Return whether a device of this host has the address."""
    return address in links.local_addresses()


def refresh_locals(tables: Tables) -> None:
    """Update the snapshot of local addresses."""
    wanted = {encode.address_bytes(each) for each in links.local_addresses()}
    there = {key for key, _ in tables.locals.items()}
    for key in wanted - there:
        set_bit(tables, "reply_bits", key, 6 if any(key[4:]) else 4)
        tables.locals.put(key, b"\1")
    for key in there - wanted:
        tables.locals.remove(key)


def refresh_accept_local(tables: Tables) -> None:
    """Update the snapshot of the devices on which the kernel accepts packets with a local saddr."""
    wanted = set()
    for each in os.listdir(_CONF):
        with contextlib.suppress(OSError), open(f"{_CONF}/{each}/accept_local", "rb") as file:
            if file.read().strip() != b"0":
                wanted.add(struct.pack("<I", 0 if each == "all" else socket.if_nametoindex(each)))
    there = set(tables.accept_locals.keys())
    for key in wanted - there:
        tables.accept_locals.put(key, b"\1")
    for key in there - wanted:
        tables.accept_locals.remove(key)


def refresh_marks(reader: Reader) -> None:
    """Update what firewall marks take from this host: device indices of the rules, policy routing of the marks."""
    facts = reader.versions.facts()
    if not (facts.get("mark_rules")[0] or facts.get("marks")[0] or len(reader.tables.routed_marks)):
        return
    from pylvs.dataplane import marks  # late: most tables have none

    marks.refresh_devices(reader.tables, facts)
    if facts.get("marks")[0] or len(reader.tables.routed_marks):
        services = reader.service_slots(reader.versions.live)
        marks.refresh_routed(
            reader.tables, {(version["mark"], version["family"]) for _, version in services if version["mark"]}
        )


# --- replacement of programs, take-down ---


def swap_programs(
    tables: Tables, connections: int | None = None, prepare: Callable[[Tables], None] | None = None
) -> Reader:
    """Load the object again, with `connections` over another connection table, and replace the running programs.

    Devices switch one by one, without a gap: the old programs keep their tail calls until the last device has switched.
    `prepare` is called with the new tables before the first switch. If this process is killed, the next edit continues
    (`load.interrupted`).
    """
    state = tables.state
    load.reload(state, connections)
    fresh = Reader(Tables(state))
    if prepare:
        prepare(fresh.tables)
    attachments.reconcile(fresh, attachments.Concerns(shrunk=True))
    return fresh


def take_down(state: State) -> list[str]:
    """Detach everything, restore settings, remove the tables, for `pylvs down`; return the names of the devices."""
    if not state.exists:
        return []
    with state.lock():
        gone = [each.device for each in attach.detach_all(state)]
        loopback.restore(state)
    state.remove()
    role_notes.forget(state.cookie)
    return gone


# --- resize ----------------------------------------------------------------------------------------------------------
# Maps do not grow. So another `conn_max` needs another connection table and another copy of the programs.


def resize(reader: Reader, connections: int, drop: bool) -> None:
    """Change the size of the connection table. Raises Busy while there are connections, unless `drop` is set.

    The caller holds the lock. Packets use the old table until the new program runs on their device.
    """
    if connections == reader.tables.pool.get(0, "capacity"):
        return
    from pylvs.dataplane.connections import ConnectionReader  # late: no other edit reads connections

    living = sum(1 for _ in ConnectionReader(reader.tables).connections())
    if living and not drop:
        raise Busy(
            f"net.ipv4.vs.conn_max={connections}: {living} connections live; wait until they end, or --drop them"
        )
    go_on(reader, connections)


def go_on(reader: Reader, connections: int) -> None:
    """Replace the connection table by one of this size, or finish a replacement that a killed process began."""
    fresh = swap_programs(reader.tables, connections, prepare=_forget_counts)
    _forget_counts(fresh.tables, 1 << 31)  # decrements by the old program after the first reset wrapped around


def _forget_counts(tables: Tables, least: int = 0) -> None:
    """Set the connection counts of destinations to 0 if they are `least` or more."""
    destinations = tables.destinations
    for slot in range(tables.book.get(0, "destination_top")):
        for name in "active", "inactive", "persistent":
            if destinations.get(slot, name) >= least:
                destinations.set(slot, name, 0)
        if not least:
            destinations.set(slot, "overloaded", 0)
