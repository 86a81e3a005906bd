"""Events of the health engine, and the operator's overrides that some of them report.

`Event.at` is a Unix time. Everything that measures time uses the monotonic clock.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

from pylvs.model.dataclass import dataclass
from pylvs.model.service import DestinationKey, ServiceKey

ServerName = tuple[str, DestinationKey]  # the name of a service, and a server of it


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


NO_OVERRIDE = Override()


@dataclass(frozen=True, slots=True)
class ServiceIdentity:
    """What finds a service and its servers in another configuration, under another name and with other ports."""

    keys: tuple[ServiceKey, ...]
    servers: frozenset[DestinationKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """An event in one service, by its configured name, with its reason."""

    name: ClassVar[str]  # in the API and in logs: `server_up`, `quorum_lost` ...
    at: float
    service: str
    reason: str

    def __init_subclass__(cls) -> None:
        cls.name = "".join("_" + letter.lower() if letter.isupper() else letter for letter in cls.__name__)[1:]


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
    while it was up (`removed`), or pylvs stops and the service has omega.
    """

    initial: bool = False
    ending: bool = False
    removed: bool = False


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

    `ending`: a reload removed the service (`removed`), or pylvs stops and it has omega, with or without a quorum.
    `silent`: it starts without quorum and without a sorry server; keepalived reports that to no script.
    """

    weight: int
    quorum: int
    hysteresis: int
    initial: bool = False
    ending: bool = False
    removed: bool = False
    silent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SorryServerIn(ServerEvent):
    """The sorry server gets the connections."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SorryServerOut(ServerEvent):
    """The real servers get the connections again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakesLow(ServerEvent):
    """The server is up, but completes far fewer handshakes of clients than the others. Runs no script."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakesLowEnded(ServerEvent):
    """The server completes enough of them again, or gets no new connections any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceHandshakesLow(Event):
    """All servers of the service complete few handshakes of clients alike. Runs no script."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceHandshakesLowEnded(Event):
    """The service completes enough of them again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksSuspended(Event):
    """Checks stop while this host does not have the service's address (ha_suspend); states stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksResumed(Event):
    """This host has the service's address again: checks run."""
