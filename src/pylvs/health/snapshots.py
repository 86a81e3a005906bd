"""The state of services, servers and checks as immutable values, for the API, the metrics and the dump."""

from __future__ import annotations

from pylvs.health.events import Override
from pylvs.health.probes import NEVER
from pylvs.health.state import CheckState, ServerState, ServiceState
from pylvs.model.checks import Check
from pylvs.model.dataclass import dataclass
from pylvs.model.service import Destination, DestinationKey, ServiceKey


@dataclass(frozen=True, slots=True)
class CheckSnapshot:
    """One check of one server. Times are Unix times."""

    check: Check
    good: bool | None  # None until its first outcome counts
    failures: int  # in a row
    weight: int | None  # that it sets
    reason: str  # of the last outcome, "" before
    inconclusive: bool  # the last outcome
    checked_at: float | None
    took_s: float | None  # the duration of the last probe
    next_in_s: float | None  # None: running now, or suspended
    running: bool
    shared_by: int  # servers that have this check
    probes: int  # since the start
    failed_probes: int


@dataclass(frozen=True, slots=True)
class ServerSnapshot:
    """One server of one service; `since` is a Unix time."""

    service: str
    server: DestinationKey
    up: bool
    checked: bool  # False: a check had no outcome since the start, and `up` is presumed
    since: float  # of `up`
    reason: str  # of `up`
    weight: int  # effective, if the server is up
    configured_weight: int
    override: Override
    in_table: bool
    checks: tuple[CheckSnapshot, ...]


@dataclass(frozen=True, slots=True)
class ServiceSnapshot:
    """One service with its servers, in the order of the configuration."""

    name: str
    keys: tuple[ServiceKey, ...]
    has_quorum: bool
    since: float  # of `has_quorum`, Unix time
    quorum: int
    hysteresis: int
    weight_up: int
    sorry_server: Destination | None
    sorry_server_in: bool
    suspended: bool
    servers: tuple[ServerSnapshot, ...]


def check_snapshot(state: CheckState, now: float) -> CheckSnapshot:
    """Make the snapshot of a check; `now` is the scheduler's time."""
    scheduled = state.scheduled
    return CheckSnapshot(
        check=state.check,
        good=state.good,
        failures=state.failures,
        weight=state.weight,
        reason=state.reason,
        inconclusive=state.inconclusive,
        checked_at=state.checked_at,
        took_s=scheduled.took_s,
        next_in_s=None if scheduled.due == NEVER else max(scheduled.due - now, 0.0),
        running=scheduled.task is not None,
        shared_by=len(state.servers),
        probes=state.probes,
        failed_probes=state.failed_probes,
    )


def server_snapshot(server: ServerState, sorry: bool, now: float) -> ServerSnapshot:
    """Make the snapshot of a server; `sorry`: the sorry server gets the connections."""
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
    """Make the snapshot of a service with all its servers."""
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
