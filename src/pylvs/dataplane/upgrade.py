"""Replace the programs of a state under live connections: by those of this pylvs, or by a copy with other maps.

Maps do not grow. So another `conn_max` needs another connection table and another copy of the programs.
"""

from __future__ import annotations

from pylvs.dataplane import load
from pylvs.dataplane.connections import ConnectionReader
from pylvs.dataplane.devices import attachments
from pylvs.dataplane.state import REPLACING
from pylvs.dataplane.tables import Tables
from pylvs.model.errors import Busy


def renew_programs(tables: Tables) -> None:
    """Replace programs of an older pylvs, or finish a replacement that a killed process began."""
    swap_programs(tables, int(tables.state.note(REPLACING) or 0))


def swap_programs(tables: Tables, connections: int = 0) -> None:
    """Load the object again, with `connections` over another connection table, and replace the running programs.

    Devices switch one by one, without a gap: the old programs keep their tail calls until the last device has switched.
    If this process is killed, the next edit continues (`renew_programs`).
    """
    load.reload(tables.state, connections)
    fresh = Tables(tables.state)
    if connections:
        _forget_counts(fresh)
    attachments.reconcile(fresh, attachments.Concerns(shrunk=True))
    if connections:
        _forget_counts(fresh, 1 << 31)  # decrements by the old program after the first reset wrapped around


def resize(tables: Tables, connections: int, drop: bool) -> None:
    """Change the size of the connection table. Raises Busy while there are connections, unless `drop` is set.

    The caller holds the lock. Packets use the old table until the new program runs on their device.
    """
    if connections == tables.pool.get(0, "capacity"):
        return
    living = sum(1 for _ in ConnectionReader(tables).connections())
    if living and not drop:
        raise Busy(
            f"net.ipv4.vs.conn_max={connections}: {living} connections live; wait until they end, or --drop them"
        )
    swap_programs(tables, connections)


def _forget_counts(tables: Tables, least: int = 0) -> None:
    """Set the connection counts of destinations to 0 if they are `least` or more."""
    destinations = tables.destinations
    for slot in range(tables.book.get(0, "destination_top")):
        for name in "active", "inactive", "persistent":
            if destinations.get(slot, name) >= least:
                destinations.set(slot, name, 0)
        if not least:
            destinations.set(slot, "overloaded", 0)
