"""The type of each event of the daemon and its virtual routers; those of health checks are in `pylvs.health.events`.

Their JSON Schemas are made of these types, as those of replies are.
"""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired, TypedDict

from pylvs.daemon.api.replies import NamedServer, SessionState, State, UnixTime


class DaemonEvent(TypedDict):
    """What all events have."""

    event: Annotated[str, "its name"]
    at: UnixTime


class Missed(DaemonEvent):
    """A subscriber did not read fast enough."""

    count: Annotated[int, "events that it missed"]


class Reloaded(DaemonEvent):
    """A reload is done."""

    edits: Annotated[int, "of the table"]
    differences: NotRequired[Annotated[list[str], "absent in the file of events if they are long"]]


class ReloadRefused(DaemonEvent):
    """A reload was refused; nothing changed."""

    reason: str


class DrainEvent(DaemonEvent):
    """A drain began or ended."""

    number: int
    servers: list[NamedServer]
    began_at: UnixTime
    deadline_at: UnixTime | None
    force: bool
    active_only: bool
    stage: str
    active: int
    inactive: int
    persistent: int
    most: int


class Operated(DaemonEvent):
    """A user of the web page has changed something."""

    who: Annotated[str, "the name of the token"]
    client: Annotated[str, "the address of the browser, and what a proxy claims"]
    operation: str
    text: Annotated[str, "its fields"]


class ClientRulesEvent(DaemonEvent):
    """The operator's client rules of a service changed."""

    service: str
    rules: Annotated[int, "how many it has now"]
    reason: Annotated[str, "the change; of many rules the first ones"]


class Restored(DaemonEvent):
    """A change of the table by another program was undone."""

    service: str
    server: NotRequired[Annotated[str, "absent if the service itself was changed"]]
    reason: Annotated[str, "the change"]


class TableGrown(DaemonEvent):
    """The connection table was enlarged."""

    capacity: Annotated[int, "connections"]


class TableNotGrown(DaemonEvent):
    """The connection table could not be enlarged."""

    reason: str


class ProblemEvent(DaemonEvent):
    """A problem of the daemon or its host began or ended."""

    problem: Annotated[str, "its kind"]
    severity: Literal["warning", "critical"]
    object: str
    reason: str


class VrrpEvent(DaemonEvent):
    """An event of pylvs-vrrp."""

    instance: NotRequired[Annotated[str, "the virtual router"]]
    reason: NotRequired[str]


class VrrpTransition(VrrpEvent):
    """A virtual router changed its state."""

    before: State
    state: State
    priority: NotRequired[int]


class VrrpPriority(VrrpEvent):
    """The effective priority of a virtual router changed."""

    before: int
    priority: int


class VrrpTrack(VrrpEvent):
    """A tracked object changed."""

    kind: str
    name: str
    up: NotRequired[bool]
    state: NotRequired[Annotated[str, "unknown: the helper process has no current result"]]
    number: NotRequired[int]


class VrrpDataPlane(VrrpEvent):
    """pylvs-vrrp learned whether packets are forwarded."""

    up: NotRequired[bool]
    state: Literal["up", "down", "unknown"]


class VrrpDropped(VrrpEvent):
    """An invalid advertisement was dropped."""

    flaw: str
    source: str


class VrrpRestored(VrrpEvent):
    """Addresses or routes that another program removed were added again."""

    things: list[str]


class VrrpAddressConflict(VrrpEvent):
    """Another host claims an address (RFC 5227)."""

    address: str


class BfdEvent(DaemonEvent):
    """A BFD session is up, or is up no more."""

    session: str
    neighbor: Annotated[str, "its address"]
    before: SessionState
    state: SessionState
    reason: str


class BfdUnknown(DaemonEvent):
    """The process of the BFD sessions does not answer: their states are unknown."""

    reason: str


class PartEvent(DaemonEvent):
    """A part of the daemon makes no progress, or makes progress again."""

    part: str
    reason: NotRequired[str]


class AnnouncementEvent(DaemonEvent):
    """The routing daemon of this host announces an address, lowers its preference, or withdraws it."""

    address: str
    state: Literal["announced", "leaving", "withdrawn"]
    reason: Annotated[str, '"": none']


EVENTS: dict[str, type] = {
    "announcement": AnnouncementEvent,
    "part_silent": PartEvent,
    "part_works": PartEvent,
    "vrrp_helper": VrrpEvent,
    "missed": Missed,
    "operated": Operated,
    "reloaded": Reloaded,
    "reload_refused": ReloadRefused,
    "client_rules": ClientRulesEvent,
    "drain_began": DrainEvent,
    "drain_ended": DrainEvent,
    "restored": Restored,
    "table_grown": TableGrown,
    "table_not_grown": TableNotGrown,
    "problem_began": ProblemEvent,
    "problem_ended": ProblemEvent,
    "vrrp_problem": VrrpEvent,
    "vrrp_transition": VrrpTransition,
    "vrrp_priority": VrrpPriority,
    "vrrp_mismatch": VrrpEvent,
    "vrrp_conflict": VrrpEvent,
    "vrrp_track": VrrpTrack,
    "vrrp_data_plane": VrrpDataPlane,
    "vrrp_dropped": VrrpDropped,
    "vrrp_restored": VrrpRestored,
    "vrrp_address_conflict": VrrpAddressConflict,
    "bfd": BfdEvent,
    "bfd_unknown": BfdUnknown,
    "bfd_known": DaemonEvent,
}
