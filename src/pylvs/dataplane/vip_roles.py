"""The roles of virtual addresses: standby while another director is MASTER. Packets to them then pass unmodified.

pylvs-vrrp writes the roles into the tables without the lock of edits, and stores them (`role_notes`). A process that
makes or edits tables copies the stored roles into them before it attaches programs. If pylvs-vrrp is killed, the tables
keep its last roles.
"""

from __future__ import annotations

import contextlib
import ipaddress
import struct

from pylvs.bpf import abi, libbpf
from pylvs.dataplane import encode, role_notes, upgrade
from pylvs.dataplane.encode import address_bit
from pylvs.dataplane.role_notes import Said
from pylvs.dataplane.state import State, netns_cookie
from pylvs.dataplane.tables import Tables
from pylvs.model.addresses import Address
from pylvs.model.errors import Busy, NoRoom
from pylvs.system.lock import Lock

_WAIT_S = 0.001


class Standby:
    """The roles of this network namespace's virtual routers (`pylvs.model.vrrp.Roles`); for one process at a time."""

    def __init__(self) -> None:
        """Become the writer of the roles. Raises Busy while another process is, NotPermitted, Unsupported."""
        abi.struct("root")  # load now what would delay a take-over
        libbpf.library()
        self._keeper = role_notes.Keeper(netns_cookie())
        self._tables: Tables | None = None
        self._mark = 0  # of the tables that are open

    def stand_by(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
        """Publish the roles: `addresses` are standby, the other `held` ones active.

        Raises NoRoom for too many addresses, Unsupported for tables of another pylvs, NotPermitted.
        """
        most = abi.constant("STANDBY_ADDRESSES")
        if len(addresses | held) > most:
            raise NoRoom(f"{len(addresses | held)} virtual addresses: {most} can have roles")
        roles = Said(addresses, held - addresses)
        try:
            self._write_roles(roles)
        finally:
            self._keeper.keep(roles)
        self._write_roles(roles)  # a process that made tables in between may have copied the former roles

    def close(self) -> None:
        """Make all addresses active and remove the stored roles: the virtual routers end in good order."""
        try:
            self.stand_by(frozenset())
        finally:
            self._keeper.close()

    def _write_roles(self, roles: Said) -> None:
        tables = self._opened()
        if tables is None:
            return
        # A process that holds the lock copies the stored roles into the tables, and compares them again after that.
        with contextlib.suppress(Busy, FileNotFoundError), Lock(self._keeper.path, _WAIT_S, "the roles"):
            if not _hold(tables, roles):
                write(tables, roles)

    def _opened(self) -> Tables | None:
        """Return the tables that are pinned now; None while there are none."""
        if self._tables is None:
            state = State.open()
            if not state.exists:
                return None
            self._tables, self._mark = Tables(state), 0
        mark = self._tables.mark()
        if not mark:  # they were taken down
            self._tables = None
            return None
        if mark != self._mark:
            upgrade.check(self._tables.state)
            self._tables, self._mark = Tables(self._tables.state), mark
        return self._tables


def settle(tables: Tables) -> None:
    """Copy the stored roles into the tables if they differ. Raises Busy."""
    cookie = tables.state.cookie
    roles = role_notes.read(cookie)
    while roles is not None and not _hold(tables, roles):
        with contextlib.suppress(FileNotFoundError), Lock(role_notes.directory(cookie), what="the roles"):
            roles = role_notes.read(cookie)
            if roles is not None:
                write(tables, roles)
        roles = role_notes.read(cookie)


def in_force(tables: Tables) -> Said:
    """Return the roles in the tables."""
    side = int(tables.root.get(0, "standby"))
    standby: set[Address] = set()
    held: set[Address] = set()
    for key, sets in tables.standby.items():
        address = _address_of(key)
        (standby if sets[0] & side else held).add(address)
    return Said(frozenset(standby), frozenset(held))


def _hold(tables: Tables, roles: Said) -> bool:
    """Return `in_force(tables) == roles`, but faster."""
    side = int(tables.root.get(0, "standby"))
    wanted = dict.fromkeys(map(encode.address_bytes, roles.held), False)
    wanted |= dict.fromkeys(map(encode.address_bytes, roles.standby), True)
    return wanted == {key: bool(sets[0] & side) for key, sets in tables.standby.items()}


def write(tables: Tables, roles: Said) -> None:
    """Put the roles in force by one store: packets see the former set or this one. The caller is the only writer.

    An address has a bit for each of two sets. The bits of the former set stay until the next call, for packets that
    are being processed.
    """
    before = int(tables.root.get(0, "standby"))
    side = 2 if before == 1 else 1
    standby = {encode.address_bytes(each) for each in roles.standby}
    routers = standby | {encode.address_bytes(each) for each in roles.held}
    there = {key: sets[0] for key, sets in tables.standby.items()}
    wanted = {key: there.get(key, 0) & before | (side if key in standby else 0) for key in routers | set(there)}
    fresh = {key: sets for key, sets in wanted.items() if there.get(key) != sets}
    if fresh:
        tables.standby.put_many(b"".join(fresh), bytes(fresh.values()), len(fresh))
    bits = [0] * abi.constant("BITMAP_WORDS")
    for address in roles.standby:
        bit = address_bit(encode.address_bytes(address), address.version)
        bits[bit >> 6] |= 1 << (bit & 63)
    words = tables.root.array.words
    at = abi.struct("root").offset("standby_bits") >> 3
    for index, word in enumerate(bits):
        if word & ~words[at + index]:
            words[at + index] |= word
    tables.root.publish(0, "standby", side if standby else 0)
    for index, word in enumerate(bits):
        if words[at + index] != word:
            words[at + index] = word
    gone = set(there) - routers
    if gone:
        tables.standby.remove_many(b"".join(gone), len(gone))


def _address_of(key: bytes) -> Address:
    if any(key[4:]):
        return ipaddress.IPv6Address(key)
    return ipaddress.IPv4Address(struct.unpack("!I", key[:4])[0])


__all__ = ["Standby", "in_force", "settle", "write"]
