"""What of this host follows the table: the snapshots of what is local, another program, the end."""

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

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    pass

_CONF = "/proc/sys/net/ipv4/conf"


# --- addresses ---


def is_local(address: Address) -> bool:
    """Whether a device of this host has the address."""
    return address in links.local_addresses()


def refresh_locals(tables: Tables) -> None:
    """Bring the snapshot of local addresses up to date."""
    wanted = {encode.address_bytes(each) for each in links.local_addresses()}
    there = {key for key, _ in tables.locals.items()}
    for key in wanted - there:
        set_bit(tables, "reply_bits", key, 6 if any(key[4:]) else 4)
        tables.locals.put(key, b"\1")
    for key in there - wanted:
        tables.locals.remove(key)


def refresh_accept_local(tables: Tables) -> None:
    """Note the devices where the kernel takes packets from outside whose source is an address of this host."""
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
    """Bring up to date what the rules of marks, and services of marks, take from this host: devices, policy routing."""
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


# --- another program, the end ---


def swap_programs(
    tables: Tables, connections: int | None = None, prepare: Callable[[Tables], None] | None = None
) -> Reader:
    """Load the object anew (with `connections`: over another table of connections) and put it where the old one runs.

    Device by device, without a gap: the old one keeps its stages until the last device has the new one. `prepare` is
    called with the tables just before the first. Killed at any point, the next edit goes on (`load.interrupted`).
    """
    state = tables.state
    load.reload(state, connections)
    fresh = Reader(Tables(state))
    if prepare:
        prepare(fresh.tables)
    attachments.reconcile(fresh, attachments.Concerns(shrunk=True))
    return fresh


def take_down(state: State) -> list[str]:
    """`pylvs down`: detach everything, restore what was changed, remove the tables. The names of the devices."""
    if not state.exists:
        return []
    with state.lock():
        gone = [each.device for each in attach.detach_all(state)]
        loopback.restore(state)
    state.remove()
    role_notes.forget(state.cookie)
    return gone


# --- resize ----------------------------------------------------------------------------------------------------------
# `conn_max`: maps do not grow, so another size is another table of connections and another copy of the program.


def resize(reader: Reader, connections: int, drop: bool) -> None:
    """Give the table another size. Raises Busy while connections live, unless they may be dropped.

    The caller holds the lock. Packets see the old table until the new program takes over on their device.
    """
    if connections == reader.tables.pool.get(0, "capacity"):
        return
    from pylvs.dataplane.connections import ConnectionReader  # late: no other edit lists connections

    living = sum(1 for _ in ConnectionReader(reader.tables).connections())
    if living and not drop:
        raise Busy(
            f"net.ipv4.vs.conn_max={connections}: {living} connections live; wait until they end, or --drop them"
        )
    go_on(reader, connections)


def go_on(reader: Reader, connections: int) -> None:
    """Put a table of this size in place of what is there, or of what a killed process left half done."""
    fresh = swap_programs(reader.tables, connections, prepare=_forget_counts)
    _forget_counts(fresh.tables, 1 << 31)  # what the old program took away meanwhile wrapped around


def _forget_counts(tables: Tables, least: int = 0) -> None:
    """Set counts of destinations to 0 that are no less than this."""
    destinations = tables.destinations
    for slot in range(tables.book.get(0, "destination_top")):
        for name in "active", "inactive", "persistent":
            if destinations.get(slot, name) >= least:
                destinations.set(slot, name, 0)
        if not least:
            destinations.set(slot, "overloaded", 0)
