"""The tables of one network namespace as they are pinned now, opened anew where somebody put others in their place."""

from __future__ import annotations

import struct

from pylvs.dataplane import encode, upgrade
from pylvs.dataplane.reader import Reader
from pylvs.dataplane.state import State
from pylvs.dataplane.tables import Tables
from pylvs.model.errors import NoSuchService
from pylvs.model.service import ServiceKey

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any


class Opened:
    """A state, its tables, and the reading side of them."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.tables = Tables(state)
        self.settled = False  # the lock is held and the tables are those that are pinned
        self.mark = 0  # of the tables that were checked
        self._reader: Reader | None = None

    @property
    def reader(self) -> Reader:
        """The reading side; the state must exist."""
        self.renew()
        if self._reader is None:
            self._reader = Reader(self.tables)
        return self._reader

    def renew(self) -> None:
        """Open the tables anew where a peer has put others in their place: of another size, or down and up again.

        While the lock is held nobody does: within a batch of many edits nobody needs to look.
        """
        if self.settled:
            return
        mark = self.tables.mark()
        if mark != self.mark:
            if mark:
                upgrade.check(self.state)
            self.mark, self.tables, self._reader = mark, Tables(self.state), None

    def again(self) -> None:
        """Look for the state itself, which may be there by now."""
        self.state = State.open()
        self.tables, self._reader, self.mark = Tables(self.state), None, 0

    def forget_reader(self) -> None:
        """What it read may be of other programs than those that run now."""
        self._reader = None

    def slot(self, key: ServiceKey) -> int | None:
        """The slot of a service in force."""
        if not self.settled and not self.state.exists:
            return None
        self.renew()
        raw = self.tables.service_keys(key.address.version).get(encode.service_key(key))
        if raw is None:
            return None
        slot: int = struct.unpack("<I", raw)[0]
        return slot if self.reader.versions.version(slot)["present"] else None

    def known(self, key: ServiceKey) -> tuple[int, dict[str, Any]]:
        """Slot and version of a service. Raises NoSuchService."""
        slot = self.slot(key)
        if slot is None:
            raise NoSuchService(f"{key}: no such virtual service")
        return slot, self.reader.versions.version(slot)
