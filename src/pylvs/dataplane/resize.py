"""`conn_max`: maps do not grow, so another size is another table of connections and another copy of the program."""

from __future__ import annotations

from pylvs.dataplane.connections import ConnectionReader
from pylvs.dataplane.devices import policy
from pylvs.dataplane.reader import Reader
from pylvs.dataplane.tables import Tables
from pylvs.model.errors import Busy


def resize(reader: Reader, connections: int, drop: bool) -> None:
    """Give the table another size. Raises Busy while connections live, unless they may be dropped.

    The caller holds the lock. Packets see the old table until the new program takes over on their device.
    """
    if connections == reader.tables.pool.get(0, "capacity"):
        return
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
