"""Tables that outlive the pylvs that made them: whether this one can read them, and should run its own program.

A state notes of which build it is. Where all that is shared is the same, a newer program takes over under live
connections at the next edit; where it differs, every command but `pylvs down` refuses.
"""

from __future__ import annotations

import pylvs
from pylvs.bpf import abi
from pylvs.dataplane.devices import policy
from pylvs.dataplane.reader import Reader
from pylvs.dataplane.state import State
from pylvs.dataplane.tables import Tables
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy, Unsupported

OBJECT = "director"
_NOTE = "object"


@dataclass(frozen=True, slots=True)
class Build:
    """A build of the data plane: digests of its tables' layout and of its object, and the version of its pylvs."""

    tables: str
    digest: str
    version: str

    def __str__(self) -> str:
        return f"pylvs {self.version} (object {self.digest}, tables {self.tables})"


def ours() -> Build:
    """The build that this pylvs brings."""
    return Build(abi.shipped().tables(OBJECT), abi.shipped().digest(OBJECT), pylvs.__version__)


def running(state: State) -> Build | None:
    """The build that a state runs; None where it does not tell."""
    words = (state.note(_NOTE) or "").split()
    return Build(*words) if len(words) == 3 else None


def note(state: State) -> None:
    """The state runs this build from now on."""
    build = ours()
    state.set_note(_NOTE, f"{build.tables} {build.digest} {build.version}")


def check(state: State) -> None:
    """Raises Unsupported where the tables are laid out otherwise than this build reads them."""
    theirs = running(state)
    if theirs is None or theirs.tables != ours().tables:
        raise Unsupported(
            f"the tables of this network namespace are those of {theirs or 'another pylvs'}, this is {ours()};"
            " save them with that one, then: pylvs down, and restore them"
        )


def is_due(state: State) -> bool:
    """Whether this build's program should replace the running one: it is another, and of no older version."""
    theirs = running(state)
    return theirs is not None and theirs.digest != ours().digest and _order(theirs.version) <= _order(pylvs.__version__)


def _order(version: str) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in version.split(".")]


# --- resize ----------------------------------------------------------------------------------------------------------
# `conn_max`: maps do not grow, so another size is another table of connections and another copy of the program.


def resize(reader: Reader, connections: int, drop: bool) -> None:
    """Give the table another size. Raises Busy while connections live, unless they may be dropped.

    The caller holds the lock. Packets see the old table until the new program takes over on their device.
    """
    if connections == reader.tables.pool.get(0, "capacity"):
        return
    from pylvs.dataplane.connections import ConnectionReader  # late: it imports much

    living = sum(1 for _ in ConnectionReader(reader.tables).connections())
    if living and not drop:
        raise Busy(
            f"net.ipv4.vs.conn_max={connections}: {living} connections live; wait until they end, or --drop them"
        )
    go_on(reader, connections)


def go_on(reader: Reader, connections: int) -> None:
    """Put a table of this size in place of what is there, or of what a killed process left half done."""
    fresh = policy.swap_programs(reader.tables, connections, prepare=_forget_counts)
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


__all__ = ["OBJECT", "Build", "check", "is_due", "note", "ours", "running"]
