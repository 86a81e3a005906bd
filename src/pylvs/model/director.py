"""The Director: the one object that holds and edits the tables.

Two implementations: `pylvs.dataplane.director.BpfDirector` (pinned BPF maps) and `pylvs.testing.MemoryDirector`.
Every editing method is atomic: it happens as a whole or raises a `PylvsError` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.rows import DestinationRow, ServiceRow, Trouble, unattached, warnings
from pylvs.model.service import ServiceKey, VirtualService

if TYPE_CHECKING:
    from pylvs.model.connection import Connection
    from pylvs.model.marks import MarkRule
    from pylvs.model.service import Timeouts

__all__ = ["DestinationRow", "Director", "ServiceRow", "Trouble", "unattached", "warnings"]


class Director(Protocol):
    """What every holder of the tables can do."""

    def add_service(self, service: VirtualService) -> None:
        """Raises ServiceExists, NoSuchScheduler, InvalidOperation, NoRoom."""

    def edit_service(self, service: VirtualService) -> None:
        """Replace scheduler, flags, timeout and mask. Raises NoSuchService, NoSuchScheduler, InvalidOperation."""

    def delete_service(self, key: ServiceKey) -> None:
        """Raises NoSuchService."""

    def flush(self) -> None:
        """Delete all services; connections stay until they expire."""

    def zero(self, key: ServiceKey | None = None) -> None:
        """Set the counters of one service and its destinations, or all, to 0. Raises NoSuchService."""

    def add_destination(self, key: ServiceKey, destination: Destination) -> None:
        """Raises NoSuchService, DestinationExists, OutOfRange, InvalidOperation, NoRoom."""

    def edit_destination(self, key: ServiceKey, destination: Destination) -> None:
        """Raises NoSuchService, NoSuchDestination, OutOfRange, InvalidOperation."""

    def delete_destination(self, key: ServiceKey, destination: DestinationKey) -> None:
        """Raises NoSuchService, NoSuchDestination."""

    def services(self) -> list[ServiceRow]:
        """All services, in no particular order."""

    def service(self, key: ServiceKey) -> ServiceRow:
        """Raises NoSuchService."""

    def connections(self) -> Iterator[Connection]:
        """The connection table, entry by entry, in no particular order."""

    def mark_rules(self) -> list[MarkRule]:
        """The classifier's rules in the order in which they are asked."""

    def change_mark_rules(self, change: Callable[[list[MarkRule]], list[MarkRule]]) -> list[MarkRule]:
        """Put what `change` makes of the rules in their place, at once; the new rules. Raises NoRoom, InvalidOperation.

        What `change` raises leaves the rules as they were.
        """

    def timeouts(self) -> Timeouts:
        """The timeouts in force."""

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set all three; existing connections get them at their next packet."""

    def settings(self) -> Mapping[str, int]:
        """The `net.ipv4.vs.*` settings, by their short names."""

    def change_setting(self, name: str, value: int) -> None:
        """Raises NoSuchSetting, InvalidOperation, Busy."""

    def troubles(self) -> Sequence[Trouble]:
        """The devices that the last edit could not attach. The edit is in force; each later one tries them again."""

    def table_size(self) -> int:
        """What listings show as `size=`: the connection table's buckets, 4096 as in IPVS."""

    def batch(self) -> AbstractContextManager[None]:
        """Edits within are still atomic one by one, but locks, scans and attachments are done once."""
