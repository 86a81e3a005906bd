"""Events of the health engine, their listeners, and the last events of each server.

`Event.at` is a Unix time. Everything that measures time uses the monotonic clock.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Container, Iterable
from enum import Enum
from typing import Any

from pylvs.model.dataclass import dataclass
from pylvs.model.destination import DestinationKey

log = logging.getLogger(__name__)

ServerName = tuple[str, DestinationKey]  # the name of a service, and a server of it

# --- operator overrides ---


class Standing(Enum):
    """Whether the operator lets a server have connections."""

    ENABLED = "enabled"
    DRAINED = "drained"  # in the table with weight 0: no new connections
    DISABLED = "disabled"  # not in the table


@dataclass(frozen=True, slots=True)
class Override:
    """The operator's setting for one server of one service. It counts before checks and configuration."""

    standing: Standing = Standing.ENABLED
    weight: int | None = None  # None: by checks and configuration

    def __bool__(self) -> bool:
        """Return whether it overrides anything."""
        return self != NO_OVERRIDE


NO_OVERRIDE = Override()

# --- events ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event in one service, by its configured name, with its reason."""

    at: float
    service: str
    reason: str

    @property
    def name(self) -> str:
        """The name in the API and in logs: `server_up`, `quorum_lost` ..."""
        return "".join("_" + letter.lower() if letter.isupper() else letter for letter in type(self).__name__)[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent(Event):
    """An event of one server of the service."""

    server: DestinationKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAdded(ServerEvent):
    """A reload added the server; `up`: it gets connections before its first check. Runs no script."""

    weight: int
    up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUp(ServerEvent):
    """All checks of the server are good; `weight` is its weight now. Runs notify_up."""

    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerDown(ServerEvent):
    """A check of the server failed for good. Runs notify_down.

    `initial`: it was down from the start (alpha), and its first check failed. `ending`: a reload removed the server
    while it was up, or pylvs stops and the service has omega.
    """

    initial: bool = False
    ending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightChanged(ServerEvent):
    """A check, the operator or a reload changed the effective weight of a server."""

    before: int
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFailed(ServerEvent):
    """A check that counted as good failed.

    `attempt` is the number of failures in a row; with `counted` the check now counts as failed. `log_all` is
    log_all_failures: without it only the counted failure is logged.
    """

    check: str
    attempt: int
    attempts: int
    counted: bool
    log_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckInconclusive(ServerEvent):
    """This host could not make the check, so the server keeps its state. Published once, until a check succeeds."""

    check: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRecovered(ServerEvent):
    """A check that counted as failed is good again; other checks may still be failed."""

    check: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overridden(ServerEvent):
    """The operator changed the override of a server."""

    override: Override


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumGained(Event):
    """The weight that is up reaches the quorum; `initial` at the service's start. Runs quorum_up."""

    weight: int
    quorum: int
    hysteresis: int
    initial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumLost(Event):
    """The weight that is up is below the quorum. Runs quorum_down, unless `silent`.

    `ending`: a reload removed the service, or pylvs stops and it has omega. `silent`: it starts without quorum and
    without a sorry server; keepalived reports that to no script.
    """

    weight: int
    quorum: int
    hysteresis: int
    initial: bool = False
    ending: bool = False
    silent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SorryServerIn(ServerEvent):
    """The sorry server gets the connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SorryServerOut(ServerEvent):
    """The real servers get the connections again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksSuspended(Event):
    """Checks stop while this host does not have the service's address (ha_suspend); states stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksResumed(Event):
    """This host has the service's address again: checks run."""


# --- listeners ---


class History:
    """The last `length` events of each server."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._servers: dict[ServerName, deque[Event]] = {}

    def add(self, event: Event) -> None:
        """Remember an event of a server; other events are ignored."""
        if isinstance(event, ServerEvent):
            self._servers.setdefault((event.service, event.server), deque(maxlen=self._length)).append(event)

    def of_server(self, name: ServerName) -> tuple[Event, ...]:
        """Return the events of a server, oldest first."""
        return tuple(self._servers.get(name, ()))

    def keep(self, servers: Container[ServerName]) -> None:
        """Forget all other servers."""
        self._servers = {name: events for name, events in self._servers.items() if name in servers}


class EventDispatcher:
    """Calls listeners. It logs an exception of one, and calls the others."""

    def __init__(self, length: int) -> None:
        self.history = History(length)
        self.table_changed = False  # since the last `dispatch`
        self._event_listeners: list[Callable[[Event], None]] = []
        self._change_listeners: list[Callable[[], None]] = []

    def on_event(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call the listener with every event. Return a function that ends this."""
        self._event_listeners.append(listener)
        return lambda: self._event_listeners.remove(listener)

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call the listener after changes of the desired table. Return a function that ends this."""
        self._change_listeners.append(listener)
        return lambda: self._change_listeners.remove(listener)

    def dispatch(self, events: Iterable[Event]) -> None:
        """Pass events to their listeners, then call the listeners of the table if it changed."""
        for event in events:
            self.history.add(event)
            for on_event in tuple(self._event_listeners):
                _call(on_event, event.name, event)
        if self.table_changed:
            self.table_changed = False
            for on_change in tuple(self._change_listeners):
                _call(on_change, "changes of the table")


def _call(listener: Callable[..., None], of_what: str, *arguments: Any) -> None:
    try:
        listener(*arguments)
    except Exception:
        log.exception("a listener to %s failed", of_what)
