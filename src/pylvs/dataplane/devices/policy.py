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
from pylvs.netlink import links

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


__all__ = [
    "is_local",
    "refresh_accept_local",
    "refresh_locals",
    "swap_programs",
    "take_down",
]
