"""The Director: the one object that holds and edits the tables; the connections that it lists.

Two implementations: `pylvs.dataplane.director.BpfDirector` (pinned BPF maps) and `pylvs.testing.MemoryDirector`.
Every editing method is atomic: it happens as a whole or raises a `PylvsError` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from pylvs.model.addresses import Address
from pylvs.model.rows import DestinationRow, ServiceRow, Trouble, unattached, warnings
from pylvs.model.service import Destination, DestinationKey, ServiceKey, VirtualService

if TYPE_CHECKING:
    from pylvs.model.marks import MarkRule
    from pylvs.model.service import Timeouts

__all__ = [
    "SCTP_STATES",
    "TCP_STATES",
    "Connection",
    "DestinationRow",
    "Director",
    "ServiceRow",
    "Trouble",
    "unattached",
    "warnings",
]

# The names in listings, in the order of IPVS's numbers (IPVS-SEMANTICS 4.5, 4.6).
TCP_STATES = (
    "NONE",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "SYNACK",
)
SCTP_STATES = (
    "NONE",
    "INIT1",
    "INIT",
    "C-SENT",
    "C-REPLIED",
    "C-WAIT",
    "COOKIE",
    "C-ECHOED",
    "ESTABLISHED",
    "S-SENT",
    "S-RECEIVED",
    "S-ACK-SENT",
    "REJECTED",
    "CLOSED",
)


class Connection(NamedTuple):
    """One entry of the connection table (IPVS-SEMANTICS 4.2): a tuple, because there may be millions.

    `state` is the state's name in a listing; `expires_s` is in whole seconds. A template has client port 0.
    """

    protocol: int
    state: str
    expires_s: int
    client: Address
    client_port: int
    virtual: Address
    virtual_port: int
    destination: Address
    destination_port: int
    engine: str = ""
    engine_data: str = ""


class Director(Protocol):
    """The interface of an object that holds the tables."""

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
        """Return all services, in no particular order."""

    def service(self, key: ServiceKey) -> ServiceRow:
        """Raises NoSuchService."""

    def connections(self) -> Iterator[Connection]:
        """Yield the connections, in no particular order."""

    def mark_rules(self) -> list[MarkRule]:
        """Return the classifier's rules in their order of evaluation."""

    def change_mark_rules(self, change: Callable[[list[MarkRule]], list[MarkRule]]) -> list[MarkRule]:
        """Replace the rules atomically by the result of `change`; return it. Raises NoRoom, InvalidOperation.

        If `change` raises an exception, the rules stay.
        """

    def timeouts(self) -> Timeouts:
        """Return the timeouts in force."""

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set all three timeouts; existing connections get them at their next packet."""

    def settings(self) -> Mapping[str, int]:
        """Return the `net.ipv4.vs.*` settings, by their short names."""

    def change_setting(self, name: str, value: int) -> None:
        """Raises NoSuchSetting, InvalidOperation, Busy."""

    def troubles(self) -> Sequence[Trouble]:
        """Return the devices that the last edit, which is in force, could not attach; the next edit retries."""

    def table_size(self) -> int:
        """Return the `size=` of listings: the connection table's buckets, 4096 as in IPVS."""

    def batch(self) -> AbstractContextManager[None]:
        """Group edits: each is still atomic, but locks, scans and attachments happen once."""
