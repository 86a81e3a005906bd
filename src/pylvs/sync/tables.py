"""What a sync daemon needs of the tables: the feed of what changes, and the store of what another director sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from pylvs.model.sync.connection import SyncedConnection


class Feed(Protocol):
    """The connections that are due to be sent. They come only while its lease is renewed."""

    @property
    def replaced(self) -> int:
        """How often other tables have replaced these: an upgrade may have lost what was due."""
        ...

    @property
    def lost(self) -> int:
        """How many were lost so far: they came faster than they were read."""
        ...

    def read(self) -> Sequence[SyncedConnection]:
        """Return those since the last call, and renew the lease. Raises PylvsError if the tables are gone."""
        ...

    def announce_all(self) -> Iterator[SyncedConnection]:
        """Yield all that are in the table now."""
        ...

    def close(self) -> None:
        """End the lease."""
        ...


class Store(Protocol):
    """Puts connections into the tables. Its lease shows that a backup daemon runs."""

    def store(self, connections: Sequence[SyncedConnection]) -> Mapping[str, int]:
        """Store them; return what became of them, by name. Raises PylvsError if the tables are gone."""
        ...

    def renew(self) -> None:
        """Renew the lease, for backup_only. Raises PylvsError if the tables are gone."""
        ...

    def end(self) -> None:
        """End the lease at once. Raises PylvsError if the tables are gone."""
        ...

    def close(self) -> None:
        """Free what it holds; the lease ends when it is not renewed. It works without tables, too."""
        ...


class Tables(Protocol):
    """The tables of this network namespace, which may be removed and made again."""

    def settings(self) -> Mapping[str, int]:
        """Return the sysctls."""
        ...

    def feed(self) -> Feed:
        """Raises PylvsError."""
        ...

    def store(self) -> Store:
        """Raises PylvsError."""
        ...
