"""What of this host follows the table: the snapshots of what is local, another program, the end."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable

from pylvs.dataplane import encode, load, role_notes
from pylvs.dataplane.devices import attach, attachments
from pylvs.dataplane.encode import set_bit
from pylvs.dataplane.reader import Reader
from pylvs.dataplane.state import State
from pylvs.dataplane.tables import Tables
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address
from pylvs.model.errors import Busy
from pylvs.model.rows import Trouble
from pylvs.netlink import links

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping

# --- loopback --------------------------------------------------------------------------------------------------------
# Settings of lo that the packet path needs. What they were is noted beside the pins, and put back.
#
# `forwarding` of lo lets `bpf_fib_lookup` answer with ip_forward=0; it turns nothing else on. `accept_local` of lo lets
# answers of NAT servers reach clients on this host (`to_own_client` in bpf/ctx/scratch.h): their source is an address
# of this host. No packet from outside comes in by lo, so other devices go on refusing such sources.


_IPV4_CONF = "/proc/sys/net/{}/conf/lo/{}"
_FORWARDING, _ACCEPT_LOCAL = "forwarding-", "accept-local"
_FAMILIES = ("ipv4", "ipv6")


def _set(path: str, value: str) -> str:
    """Write a setting that has another value; the value before. Raises OSError."""
    with open(path, encoding="ascii") as file:
        before = file.read().strip()
    if before != value:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    return before


def forward(state: State) -> None:
    """Switch forwarding of lo on."""
    for family in _FAMILIES:
        with contextlib.suppress(FileNotFoundError):
            before = _set(_IPV4_CONF.format(family, "forwarding"), "1")
            if before != "1":
                state.set_note(_FORWARDING + family, before)


def accepts_local(notes: Mapping[str, str]) -> bool:
    """Whether `accept_local` switched the setting on."""
    return _ACCEPT_LOCAL in notes


def accept_local(state: State, notes: Mapping[str, str], wanted: bool) -> list[Trouble]:
    """Switch accept_local of lo on, or put back what it was; why that is not possible."""
    path = _IPV4_CONF.format("ipv4", "accept_local")
    if not wanted:
        _put_back(state, notes.get(_ACCEPT_LOCAL), _ACCEPT_LOCAL, path)
        return []
    try:
        before = _set(path, "1")
    except OSError as error:
        cause = f"net.ipv4.conf.lo.accept_local cannot be set to 1: {error.strerror}"
        return [Trouble("lo", f"{cause}; clients on this host do not reach NAT services of IPv4", False, attached=True)]
    if before != "1" and not accepts_local(notes):
        state.set_note(_ACCEPT_LOCAL, before)
    return []


def restore(state: State) -> None:
    """Put all settings back."""
    for family in _FAMILIES:
        note = _FORWARDING + family
        _put_back(state, state.note(note), note, _IPV4_CONF.format(family, "forwarding"))
    _put_back(state, state.note(_ACCEPT_LOCAL), _ACCEPT_LOCAL, _IPV4_CONF.format("ipv4", "accept_local"))


def _put_back(state: State, before: str | None, note: str, path: str) -> None:
    if before is not None:
        with contextlib.suppress(OSError):
            _set(path, before)
        state.set_note(note, None)


# --- policy ----------------------------------------------------------------------------------------------------------

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
        restore(state)
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


__all__ = [
    "accept_local",
    "accepts_local",
    "forward",
    "is_local",
    "refresh_accept_local",
    "refresh_locals",
    "restore",
    "swap_programs",
    "take_down",
]
