"""The requests to pylvs-vrrp, by verb, and what it sends by itself. Another message ends the connection."""

from __future__ import annotations

from pylvs.model.dataclass import dataclass, field
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.model.wanted import GlobalSettings

TYPE_CHECKING = False  # typing is imported late
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


@dataclass(frozen=True, slots=True)
class Empty:
    """A request without fields."""


@dataclass(frozen=True, slots=True)
class Configure:
    """Run these virtual routers from now on.

    `table_wait_s` counts in the first one: no router is master before DataPlane reports that packets are forwarded, or
    before so many seconds.
    """

    configuration: VrrpConfiguration
    settings: GlobalSettings = field(default_factory=GlobalSettings)
    table_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Why:
    """The last transitions of one virtual router, or of all."""

    name: str | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """Virtual routers; without names all of them."""

    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Yield:
    """Give up mastership for this time; without names that of all virtual routers."""

    seconds: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Announce:
    """Announce the addresses of a virtual router once."""

    name: str


@dataclass(frozen=True, slots=True)
class DataPlane:
    """Whether services are forwarded here, None if `pylvs run` does not know; and why not."""

    up: bool | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Copied:
    """What is here of the connections of the other director, as `text` for status.

    All that it had at the time `current_at` (CLOCK_MONOTONIC) is here; None: something is missing now.
    """

    current_at: float | None = None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Stop:
    """`removed`: a reload needs this process no more, and this host stays in service."""

    removed: bool = False


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Send events from now on; with `states` also what scripts and traps report."""

    states: bool = False


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """The event of a BFD session whose result has changed."""

    event: str
    session: str
    up: bool | None
    reason: str
    instance: str = ""
    time: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StateReport:
    """A transition of an instance or a group as scripts and traps report it, or a dropped advertisement."""

    kind: str
    instance: str
    state: str = ""
    interface: str = ""
    vrid: int = 0
    family: int = 0
    reports_deleted: bool = False
    source: str = ""
    master_why: str = ""
    device: str = ""
    flaw: str = ""


REQUESTS: Mapping[str, type[Any]] = {
    "configure": Configure,
    "status": Empty,
    "why": Why,
    "yield": Yield,
    "unyield": Named,
    "garp": Announce,
    "data_plane": DataPlane,
    "copied": Copied,
    "ping": Empty,
    "sessions": Empty,
    "stop": Stop,
    "subscribe": Subscribe,
}
