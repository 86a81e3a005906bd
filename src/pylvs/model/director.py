"""The Director: the one object that holds and edits the tables; the connections that it lists.

Implementations: `pylvs.dataplane.director.BpfDirector` (pinned BPF maps), and the `MemoryDirector` of the tests, which
shares `InMemory` and `Trash` with the reference model.
Every editing method is atomic: it happens as a whole or raises a `PylvsError` and changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Generic, NamedTuple, TypeVar
from typing import Protocol as Interface

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import NoSpace
from pylvs.model.marks import MOST_RULES, MarkRule
from pylvs.model.marks import checked as checked_rule
from pylvs.model.rows import DeviceProblem, ServiceRow
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceKey, Timeouts, VirtualService
from pylvs.model.settings import SETTINGS, checked, known_setting

TABLE_SIZE = 4096
TRASH_PERIOD_S = 60.0  # between runs while the trash is not empty
TRASH_GRACE_S = 120.0  # without references between two runs, before a destination is removed

T = TypeVar("T")

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
STATES = tuple(dict.fromkeys((*TCP_STATES, "UDP", *SCTP_STATES, "ASSURED")))  # ASSURED: of a template


class Connection(NamedTuple):
    """One entry of the connection table (IPVS-SEMANTICS 4.2): a tuple, because there may be millions.

    `state` is the state's name in a listing; `expires_s` is in whole seconds. A template has client port 0, and that of
    a mark protocol 0.
    """

    protocol: Protocol | int
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


class Director(Interface):
    """The interface of an object that holds the tables."""

    def add_service(self, service: VirtualService) -> None:
        """Raises ServiceExists, NoSuchScheduler, InvalidOperation, NoSpace."""

    def edit_service(self, service: VirtualService) -> None:
        """Replace scheduler, flags, timeout and mask. Raises NoSuchService, NoSuchScheduler, InvalidOperation."""

    def delete_service(self, key: ServiceKey) -> None:
        """Raises NoSuchService."""

    def flush(self) -> None:
        """Delete all services; connections stay until they expire."""

    def zero(self, key: ServiceKey | None = None) -> None:
        """Set the counters of one service and its destinations, or all, to 0. Raises NoSuchService."""

    def add_destination(self, key: ServiceKey, destination: Destination) -> None:
        """Raises NoSuchService, DestinationExists, OutOfRange, InvalidOperation, NoSpace."""

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
        """Replace the rules atomically by the result of `change`; return it. Raises NoSpace, InvalidOperation.

        If `change` raises an exception, the rules stay.
        """

    def timeouts(self) -> Timeouts:
        """Return the timeouts in force."""

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set the timeouts that are not 0, and leave the others; connections get them at their next packet."""

    def settings(self) -> Mapping[str, int]:
        """Return the `net.ipv4.vs.*` settings, by their short names."""

    def change_setting(self, name: str, value: int) -> None:
        """Raises NoSuchSetting, InvalidOperation, Busy."""

    def device_problems(self) -> Sequence[DeviceProblem]:
        """Return the devices that the last edit, which is in force, could not attach; the next edit retries."""

    def table_size(self) -> int:
        """Return the `size=` of listings: the connection table's buckets, 4096 as in IPVS."""

    def batch(self) -> AbstractContextManager[None]:
        """Group edits: each is still atomic, but locks, scans and attachments happen once."""


class InMemory:
    """The part of `Director` that is the same for all Directors in memory: settings, timeouts, mark rules."""

    def __init__(self) -> None:
        self._settings = {name: setting.default for name, setting in SETTINGS.items()}
        self._timeouts = Timeouts()
        self._mark_rules: tuple[MarkRule, ...] = ()

    def mark_rules(self) -> list[MarkRule]:
        """Return the rules in the order of evaluation."""
        return list(self._mark_rules)

    def change_mark_rules(self, change: Callable[[list[MarkRule]], list[MarkRule]]) -> list[MarkRule]:
        """Replace the rules. Raises NoSpace, InvalidOperation."""
        fresh = [checked_rule(rule) for rule in change(self.mark_rules())]
        if len(fresh) > MOST_RULES:
            raise NoSpace(f"{len(fresh)} mark rules; the table holds {MOST_RULES}", "mark rules", MOST_RULES)
        self._mark_rules = tuple(fresh)
        return fresh

    def timeouts(self) -> Timeouts:
        return self._timeouts

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set the timeouts that are not 0 (IPVS-SEMANTICS 4.4); connections get them at their next packet."""
        self._timeouts = timeouts.over(self._timeouts)

    def settings(self) -> Mapping[str, int]:
        """Return the settings by their short names."""
        return dict(self._settings)

    def change_setting(self, name: str, value: int) -> None:
        """Raises NoSuchSetting, InvalidOperation."""
        setting = known_setting(name)
        self._settings[setting.name] = checked(setting, value)

    def table_size(self) -> int:
        """Return what listings show as `size=`."""
        return TABLE_SIZE

    def batch(self) -> AbstractContextManager[None]:
        """Return a context without effect: edits in memory gain nothing from a batch."""
        return contextlib.nullcontext()


@dataclass(slots=True)
class Deleted(Generic[T]):
    """A deleted destination; `owner` distinguishes its service from a later one with the same key."""

    destination: T
    owner: object
    idle_since_s: float | None = None  # the first run that found no reference


class Trash(Generic[T]):
    """Deleted destinations, which keep their counts if they are added again soon (IPVS-SEMANTICS 1.8).

    `is_referred` returns whether connections or templates refer to one. Times are seconds of the caller's clock.
    """

    def __init__(self, is_referred: Callable[[T], bool]) -> None:
        self._is_referred = is_referred
        self._deleted: dict[tuple[ServiceKey, DestinationKey], Deleted[T]] = {}
        self._next_run_s = 0.0

    def put(self, service: ServiceKey, key: DestinationKey, deleted: Deleted[T], now_s: float) -> None:
        """Add a destination that was deleted."""
        self.advance(now_s)
        if not self._deleted:
            self._next_run_s = now_s + TRASH_PERIOD_S
        self._deleted[service, key] = deleted

    def take(self, service: ServiceKey, key: DestinationKey) -> Deleted[T] | None:
        """Remove and return the destination of this key; None if there is none."""
        return self._deleted.pop((service, key), None)

    def advance(self, now_s: float) -> None:
        """Run once a minute: remove what nothing has referred to for two minutes."""
        while self._deleted and self._next_run_s <= now_s:
            for key, deleted in list(self._deleted.items()):
                if self._is_referred(deleted.destination):
                    deleted.idle_since_s = None
                elif deleted.idle_since_s is None:
                    deleted.idle_since_s = self._next_run_s
                elif self._next_run_s - deleted.idle_since_s >= TRASH_GRACE_S:
                    del self._deleted[key]
            self._next_run_s += TRASH_PERIOD_S
