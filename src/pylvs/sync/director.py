"""The tables of this network namespace, for sync daemons."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from pylvs.dataplane import load
from pylvs.dataplane.director import BpfDirector, open_director
from pylvs.dataplane.sync import missing
from pylvs.dataplane.sync.feed import SyncFeed
from pylvs.dataplane.sync.store import SyncStore
from pylvs.model.sync.connection import SyncedConnection
from pylvs.sync.tables import Feed, Store

LOOK_S = 1.0  # between two looks whether the tables are elsewhere now; one costs milliseconds
LEASE_S = 5.0  # of a backup daemon; it renews it every second


class DirectorTables:
    """Opens the tables. With `make` it makes them if there are none: a daemon may start before the first service."""

    def __init__(self, make: bool) -> None:
        self._director: BpfDirector = open_director()
        self._looked_s = float("-inf")
        if make or self._director.state.exists:  # those of another build are migrated
            self._director.make()

    def settings(self) -> Mapping[str, int]:
        """Return the sysctls, without tables their defaults. Raises PylvsError."""
        with missing.reported(self._director.state):
            return self._director.settings()

    def feed(self) -> Feed:
        """Return the feed. Raises PylvsError."""
        return SyncFeed(self._found().tables)

    def store(self) -> Store:
        """Return the store. Raises PylvsError."""
        return _Store(self._found())

    def _found(self) -> BpfDirector:
        """Look for tables that another process has made since. Raises PylvsError without tables."""
        if not self._director.state.exists and time.monotonic() - self._looked_s >= LOOK_S:
            self._looked_s = time.monotonic()
            self._director.open_again()
        missing.require(self._director.state)
        return self._director


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
        state = self._director.state
        missing.require(state)
        with missing.reported(state):
            until = load.clock(state) + round(LEASE_S * load.ticks_per_second()) & 0xFFFFFFFF
            self._director.tables.root.publish(0, "backup", until)

    def close(self) -> None:
        """Unload the program; the lease ends by itself."""
        self._store.close()

    def end(self) -> None:
        """End the lease. Raises PylvsError without tables."""
        state = self._director.state
        missing.require(state)
        with missing.reported(state):
            self._director.tables.root.publish(0, "backup", 0)
