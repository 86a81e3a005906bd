"""Which virtual addresses stand by, because another director is MASTER for them: packets to them pass untouched.

The process of the virtual routers says so by itself, without the lock of edits: it writes it into the tables and keeps
it beside them (`roles`). While there are none that is all; whoever makes tables then, or edits some, puts into them
what is kept, before anything is attached. When that process is killed, the word stays.
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
        """Nothing is said before the first call. Raises Busy where another process does, NotPermitted, Unsupported."""
        abi.struct("root")  # now, and not at a take-over
        libbpf.library()
        self._keeper = role_notes.Keeper(netns_cookie())
        self._tables: Tables | None = None
        self._mark = 0  # of the tables that are open

    def stand_by(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
        """See the protocol. Raises NoRoom for too many, Unsupported for tables of another pylvs, NotPermitted."""
        most = abi.constant("STANDBY_ADDRESSES")
        if len(addresses | held) > most:
            raise NoRoom(f"{len(addresses | held)} virtual addresses: {most} can have roles")
        said = Said(addresses, held - addresses)
        try:
            self._tell(said)
        finally:
            self._keeper.keep(said)
        self._tell(said)  # whoever made tables meanwhile may have put in what was kept before

    def close(self) -> None:
        """The virtual routers end in good order: no address stands by any more, and nothing is left."""
        try:
            self.stand_by(frozenset())
        finally:
            self._keeper.close()

    def _tell(self, said: Said) -> None:
        tables = self._opened()
        if tables is None:
            return
        # Whoever holds the lock puts what is kept now into the tables, and looks once more after that.
        with contextlib.suppress(Busy, FileNotFoundError), Lock(self._keeper.path, _WAIT_S, "the roles"):
            if not _says(tables, said):
                write(tables, said)

    def _opened(self) -> Tables | None:
        """The tables as they are pinned now; None while there are none."""
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
    """Put what the process of the virtual routers says into the tables, if they say otherwise. Raises Busy."""
    cookie = tables.state.cookie
    said = role_notes.read(cookie)
    while said is not None and not _says(tables, said):
        with contextlib.suppress(FileNotFoundError), Lock(role_notes.directory(cookie), what="the roles"):
            said = role_notes.read(cookie)
            if said is not None:
                write(tables, said)
        said = role_notes.read(cookie)


def in_force(tables: Tables) -> Said:
    """What the tables say."""
    side = int(tables.root.get(0, "standby"))
    standby: set[Address] = set()
    held: set[Address] = set()
    for key, sets in tables.standby.items():
        address = _address_of(key)
        (standby if sets[0] & side else held).add(address)
    return Said(frozenset(standby), frozenset(held))


def _says(tables: Tables, said: Said) -> bool:
    """As `in_force(tables) == said`, and quicker."""
    side = int(tables.root.get(0, "standby"))
    wanted = dict.fromkeys(map(encode.address_bytes, said.held), False)
    wanted |= dict.fromkeys(map(encode.address_bytes, said.standby), True)
    return wanted == {key: bool(sets[0] & side) for key, sets in tables.standby.items()}


def write(tables: Tables, said: Said) -> None:
    """Let the tables say it, by one store; packets see the set before or this one. The caller alone writes.

    An address has a bit for each of two sets. The set in force keeps its own until the next time, for packets that are
    on their way.
    """
    before = int(tables.root.get(0, "standby"))
    side = 2 if before == 1 else 1
    standby = {encode.address_bytes(each) for each in said.standby}
    routers = standby | {encode.address_bytes(each) for each in said.held}
    there = {key: sets[0] for key, sets in tables.standby.items()}
    wanted = {key: there.get(key, 0) & before | (side if key in standby else 0) for key in routers | set(there)}
    fresh = {key: sets for key, sets in wanted.items() if there.get(key) != sets}
    if fresh:
        tables.standby.put_many(b"".join(fresh), bytes(fresh.values()), len(fresh))
    bits = [0] * abi.constant("BITMAP_WORDS")
    for address in said.standby:
        bit = address_bit(encode.address_bytes(address), address.version)
        bits[bit >> 6] |= 1 << (bit & 63)
    words = tables.root.array.words
    place = abi.struct("root").offset("standby_bits") >> 3
    for index, word in enumerate(bits):
        if word & ~words[place + index]:
            words[place + index] |= word
    tables.root.publish(0, "standby", side if standby else 0)
    for index, word in enumerate(bits):
        if words[place + index] != word:
            words[place + index] = word
    gone = set(there) - routers
    if gone:
        tables.standby.remove_many(b"".join(gone), len(gone))


def _address_of(key: bytes) -> Address:
    if any(key[4:]):
        return ipaddress.IPv6Address(key)
    return ipaddress.IPv4Address(struct.unpack("!I", key[:4])[0])


__all__ = ["Standby", "in_force", "settle", "write"]
