"""The tables of this network namespace, for sync daemons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pylvs.dataplane import load
from pylvs.dataplane.director import BpfDirector, open_director
from pylvs.dataplane.sync.feed import SyncFeed
from pylvs.dataplane.sync.store import SyncStore
from pylvs.model.sync.connection import SyncedConnection
from pylvs.sync.tables import Feed, Store

LEASE_S = 5.0  # of a backup daemon; it renews it every second


class DirectorTables:
    """Opens the tables, and makes them if there are none: a daemon may start before the first service."""

    def __init__(self) -> None:
        self._director: BpfDirector = open_director()
        self._director.make()

    def settings(self) -> Mapping[str, int]:
        """Return the sysctls."""
        return self._director.settings()

    def feed(self) -> Feed:
        """Return the feed. Raises PylvsError."""
        return SyncFeed(self._director.tables)

    def store(self) -> Store:
        """Return the store. Raises PylvsError."""
        return _Store(self._director)


class _Store:
    """The store of these tables, and the lease of the backup daemon."""

    def __init__(self, director: BpfDirector) -> None:
        self._director = director
        self._store = SyncStore(director.tables)

    def store(self, connections: Sequence[SyncedConnection]) -> Mapping[str, int]:
        """Store them. Raises PylvsError."""
        return self._store.store(connections)._asdict()

    def renew(self) -> None:
        """Let packets pass for LEASE_S more, if backup_only is set. Raises PylvsError without tables."""
        tables, state = self._director.tables, self._director.state
        until = load.clock(state) + round(LEASE_S * load.ticks_per_second()) & 0xFFFFFFFF
        tables.root.publish(0, "backup", until)

    def close(self) -> None:
        """End the lease."""
        self._director.tables.root.publish(0, "backup", 0)
        self._store.close()
