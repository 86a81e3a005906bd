"""What happened to a service, a server or a check, as values: for logs, scripts, mail, history and the API.

`at` is the wall clock, in seconds since 1970; everything that measures time uses the monotonic clock elsewhere.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Container, Iterable
from enum import Enum
from typing import Any

from pylvs.model.dataclass import dataclass
from pylvs.model.destination import DestinationKey

# --- overrides -------------------------------------------------------------------------------------------------------
# The operator's word about a server, which stands above checks and configuration until it is taken back.


class Standing(Enum):
    """Whether the operator lets a server have connections."""

    ENABLED = "enabled"
    DRAINED = "drained"  # in the table with weight 0: what is connected stays, nothing new comes
    DISABLED = "disabled"  # not in the table


@dataclass(frozen=True, slots=True)
class Override:
    """What the operator said of one server of one service."""

    standing: Standing = Standing.ENABLED
    weight: int | None = None  # instead of the configured one and of what checks make of it

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return self != NO_OVERRIDE


NO_OVERRIDE = Override()


# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened in one service, by its configured name, and why in a few words."""

    at: float
    service: str
    reason: str

    @property
    def name(self) -> str:
        """What happened, as the API and the logs call it: `server_up`, `quorum_lost`..."""
        return "".join("_" + letter.lower() if letter.isupper() else letter for letter in type(self).__name__)[1:]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent(Event):
    """Something that happened to one server of the service."""

    server: DestinationKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAdded(ServerEvent):
    """A reload brought the server into the service; `up`: it serves before its first check. Runs no script."""

    weight: int
    up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerUp(ServerEvent):
    """All checks of the server are good; `weight` is what it has now. Runs notify_up."""

    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerDown(ServerEvent):
    """A check counts the server as down. Runs notify_down.

    `initial`: it was taken for down from its start (alpha), and the first check says the same. `ending`: its time is
    over while it was up: a reload took it away, or pylvs stops and the service has omega.
    """

    initial: bool = False
    ending: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightChanged(ServerEvent):
    """The effective weight of a server moved: by a check, by the operator or by a reload."""

    before: int
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckFailed(ServerEvent):
    """A check that counted as good failed.

    `attempt` 1 is the first failure in a row, and with `counted` the check now counts as failed. `log_all` is the
    check's log_all_failures: without it only the counted one is worth a line in a log.
    """

    check: str
    attempt: int
    attempts: int
    counted: bool
    log_all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckInconclusive(ServerEvent):
    """This machine cannot make the check; nothing follows for the server. Told once, until it can again."""

    check: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRecovered(ServerEvent):
    """A check that counted as failed is good again; others may still be failed."""

    check: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Overridden(ServerEvent):
    """The operator's word about a server changed; `override` is what holds now."""

    override: Override


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumGained(Event):
    """The weights up reach the quorum; `initial` at the service's start. Runs quorum_up."""

    weight: int
    quorum: int
    hysteresis: int
    initial: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumLost(Event):
    """The weights up are no longer enough. Runs quorum_down, unless `silent`.

    `ending`: the service's time is over. `silent`: it starts so and has no sorry server, of which keepalived tells
    nobody.
    """

    weight: int
    quorum: int
    hysteresis: int
    initial: bool = False
    ending: bool = False
    silent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SorryServerIn(ServerEvent):
    """The sorry server serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SorryServerOut(ServerEvent):
    """The sorry server's work is done: the real servers are back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksSuspended(Event):
    """No checks run while the service's address is not here (ha_suspend); states stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksResumed(Event):
    """The service's address is here (again): checks run."""


# --- history ---------------------------------------------------------------------------------------------------------
# The last things that happened to each server, with their reasons.


ServerName = tuple[str, DestinationKey]  # a service's name and a server of it


class History:
    """The last `length` events of each server."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._servers: dict[ServerName, deque[Event]] = {}

    def add(self, event: Event) -> None:
        """Remember it where it is a server's; the oldest goes."""
        if isinstance(event, ServerEvent):
            self._servers.setdefault((event.service, event.server), deque(maxlen=self._length)).append(event)

    def of_server(self, name: ServerName) -> tuple[Event, ...]:
        """Oldest first."""
        return tuple(self._servers.get(name, ()))

    def keep(self, servers: Container[ServerName]) -> None:
        """Forget all others."""
        self._servers = {name: events for name, events in self._servers.items() if name in servers}


# --- bulletin --------------------------------------------------------------------------------------------------------
# Who is told what: events to those who listen and to the history, and that the table changed to those who keep it.


log = logging.getLogger(__name__)


class EventDispatcher:
    """Listeners; the fault of one is its own."""

    def __init__(self, length: int) -> None:
        self.history = History(length)
        self.changed = False  # the table, since it was last told
        self._event_listeners: list[Callable[[Event], None]] = []
        self._change_listeners: list[Callable[[], None]] = []

    def on_event(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call it with every event from now on; what is returned ends that."""
        self._event_listeners.append(listener)
        return lambda: self._event_listeners.remove(listener)

    def on_change(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call it after each change of the table; what is returned ends that."""
        self._change_listeners.append(listener)
        return lambda: self._change_listeners.remove(listener)

    def tell(self, events: Iterable[Event]) -> None:
        """Of these events, and then of the table if it changed."""
        for event in events:
            self.history.add(event)
            for heard in tuple(self._event_listeners):
                _call(heard, event.name, event)
        if self.changed:
            self.changed = False
            for changed in tuple(self._change_listeners):
                _call(changed, "changes of the table")


def _call(listener: Callable[..., None], of_what: str, *arguments: Any) -> None:
    try:
        listener(*arguments)
    except Exception:
        log.exception("a listener to %s failed", of_what)
