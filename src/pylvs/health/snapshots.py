"""How things stand, as pure values: for `status`, the API and the metrics."""

from __future__ import annotations

from pylvs.health.overrides import Override
from pylvs.model.checks import Check
from pylvs.model.dataclass import dataclass
from pylvs.model.destination import Destination, DestinationKey
from pylvs.model.service import ServiceKey


@dataclass(frozen=True, slots=True)
class CheckSnapshot:
    """One check of one server; `good` is None until its first outcome counts. Times: wall clock, seconds."""

    check: Check
    good: bool | None
    failures: int  # in a row
    weight: int | None  # that it sets
    reason: str  # of the last outcome, "" before
    checked_at: float | None
    took_s: float | None  # how long the last probe took
    next_in_s: float | None  # None: running now, or suspended
    running: bool
    shared_by: int  # servers that one probe answers for
    probes: int  # made since the start, and how many of them failed
    failed_probes: int
    inconclusive: bool = False  # the last outcome says nothing of the server


@dataclass(frozen=True, slots=True)
class ServerSnapshot:
    """One server of one service; `since` (wall clock) it is up or down, and why."""

    service: str
    server: DestinationKey
    up: bool
    checked: bool  # False: not all checks had an outcome since the start; what `up` says is taken for granted
    since: float
    reason: str
    weight: int  # effective: what it has in the table when it is up and nothing stands against it
    configured_weight: int
    override: Override
    in_table: bool
    checks: tuple[CheckSnapshot, ...]


@dataclass(frozen=True, slots=True)
class ServiceSnapshot:
    """One service with its servers in the order of the configuration."""

    name: str
    keys: tuple[ServiceKey, ...]
    has_quorum: bool
    since: float  # of the quorum's last change, wall clock
    quorum: int
    hysteresis: int
    weight_up: int
    sorry_server: Destination | None
    sorry_server_in: bool
    suspended: bool
    servers: tuple[ServerSnapshot, ...]
