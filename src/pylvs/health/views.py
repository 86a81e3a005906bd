"""Snapshots out of states."""

from __future__ import annotations

from pylvs.health.check_state import CheckState
from pylvs.health.servers import ServerState
from pylvs.health.services import ServiceState
from pylvs.health.snapshots import CheckSnapshot, ServerSnapshot, ServiceSnapshot
from pylvs.health.timetable import NEVER


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
