"""How things stand, as pure values: for `status`, the API and the metrics."""

from __future__ import annotations

from pylvs.health.events import Override
from pylvs.health.probe_scheduler import NEVER
from pylvs.health.servers import CheckState, ServerState
from pylvs.health.services import ServiceState
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


# --- views -----------------------------------------------------------------------------------------------------------
# Snapshots out of states.


def check_snapshot(state: CheckState, now: float) -> CheckSnapshot:
    """`now` by the timetable's clock."""
    return CheckSnapshot(
        check=state.check,
        good=state.good,
        failures=state.failures,
        weight=state.weight,
        reason=state.reason,
        inconclusive=state.inconclusive,
        checked_at=state.checked_at,
        took_s=state.slot.took_s,
        next_in_s=None if state.slot.due == NEVER else max(state.slot.due - now, 0.0),
        running=state.slot.task is not None,
        shared_by=len(state.servers),
        probes=state.probes,
        failed_probes=state.failed_probes,
    )


def server_snapshot(server: ServerState, sorry: bool, now: float) -> ServerSnapshot:
    """`sorry`: the service's sorry server serves."""
    return ServerSnapshot(
        service=server.service,
        server=server.key,
        up=server.up,
        checked=server.checked,
        since=server.since,
        reason=server.reason,
        weight=server.weight(),
        configured_weight=server.wanted.destination.weight,
        override=server.override,
        in_table=server.destination(sorry) is not None,
        checks=tuple(check_snapshot(link.state, now) for link in server.links),
    )


def service_snapshot(service: ServiceState, now: float) -> ServiceSnapshot:
    """A service with all its servers."""
    wanted = service.wanted
    return ServiceSnapshot(
        name=wanted.name,
        keys=wanted.keys,
        has_quorum=service.has_quorum,
        since=service.since,
        quorum=wanted.quorum,
        hysteresis=wanted.hysteresis,
        weight_up=service.weight_up,
        sorry_server=wanted.sorry_server,
        sorry_server_in=service.sorry,
        suspended=service.suspended,
        servers=tuple(server_snapshot(server, service.sorry, now) for server in service.servers.values()),
    )
