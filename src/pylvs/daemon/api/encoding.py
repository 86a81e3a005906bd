"""Services, servers, checks, problems and virtual routers as the API replies them, and the overrides of operators."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pylvs.daemon.api import replies
from pylvs.daemon.problems import Problem, Severity
from pylvs.daemon.state.drains import Drain, Stage
from pylvs.health.events import Standing
from pylvs.health.state import CheckSnapshot, ServerSnapshot, ServiceSnapshot
from pylvs.model.routing import Announcement, Left
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import DestinationKey, ServiceKey

STANDINGS: Mapping[Standing, replies.Standing] = {
    Standing.ENABLED: "enabled",
    Standing.DRAINED: "drained",
    Standing.DISABLED: "disabled",
}
Counts = Mapping[tuple[ServiceKey, DestinationKey], DestinationRow]


def problems_encoded(problems: Iterable[Problem]) -> list[replies.ProblemReply]:
    """Return problems, critical ones first."""
    return [
        {"kind": each.kind, "severity": each.severity.value, "object": each.object, "text": each.text}
        for each in sorted(problems, key=lambda each: each.severity is not Severity.CRITICAL)
    ]


def announcements_encoded(found: Iterable[Announcement]) -> list[replies.AnnouncementReply]:
    """Return the states of announced addresses."""
    return [{"address": str(each.address), "state": each.state.value, "reason": each.reason} for each in found]


def leave_encoded(left: Left | None, withdrawn: bool) -> replies.Leave | None:
    """Return a planned leave of this director."""
    return {"since": left.since, "until": left.until, "withdrawn": withdrawn} if left else None


def routers_encoded(status: Mapping[str, Any]) -> replies.RoutersSummary:
    """Return the main fields of each virtual router and BFD session; GET /v1/vrrp has all."""
    instances: list[replies.RouterSummary] = [
        {
            "name": each["name"],
            "state": each["state"],
            "since": each["since"],
            "priority": each["priority"],
            "why": each["why"],
        }
        for each in status["instances"]
    ]
    sessions: list[replies.SessionSummary] = [
        {
            "name": each["name"],
            "neighbor": each["neighbor"],
            "state": each["state"],
            "since": each["since"],
            "up": each["up"],
            "reason": each["reason"],
            "error": each["error"],
        }
        for each in status["sessions"]
    ]
    data_plane = status.get("data_plane")
    return {"problem": status["problem"], "data_plane": data_plane, "instances": instances, "sessions": sessions}


def scripts_encoded(*reports: Mapping[str, Any]) -> replies.NotifyScriptsReply:
    """Return the notify scripts of several processes; an empty report is one of a process that has none."""
    found = [each for each in reports if each]
    return {
        "running": sum(each["running"] for each in found),
        "waiting": sum(each["waiting"] for each in found),
        "ended_early": sum(each["ended_early"] for each in found),
        "scripts": [script for each in found for script in each["scripts"]],
    }


def overridden(services: Iterable[ServiceSnapshot], drains: Iterable[Drain] = ()) -> list[str]:
    """Return a text for each server with an operator override. A drain that is over has disabled its servers."""
    over = {name for drain in drains if drain.stage in (Stage.REMOVED, Stage.FORCED) for name in drain.servers}
    found = []
    for service in services:
        for server in service.servers:
            override = server.override
            texts = [] if override.standing is Standing.ENABLED else [override.standing.value]
            if override.standing is Standing.DISABLED and (service.name, server.server) in over:
                texts = ["drained and out of the table, until pylvs enable"]
            if override.weight is not None:
                texts.append(f"weight {override.weight} instead of {server.configured_weight}")
            if texts:
                found.append(f"{server.server} of {service.name}: {', '.join(texts)} by the operator")
    return found


def counts_of(rows: Sequence[ServiceRow]) -> Counts:
    return {(row.service.key, each.destination.key): each for row in rows for each in row.destinations}


def service_encoded(service: ServiceSnapshot, counts: Counts) -> replies.ServiceReply:
    sorry = service.sorry_server
    return {
        "name": service.name,
        "keys": [str(key) for key in service.keys],
        "quorum": {
            "up": service.has_quorum,
            "since": service.since,
            "weight": service.quorum,
            "hysteresis": service.hysteresis,
            "weight_up": service.weight_up,
        },
        "sorry_server": {"server": str(sorry.key), "in": service.sorry_server_in} if sorry else None,
        "suspended": service.suspended,
        "handshakes_low": service.handshakes_low,
        "servers": [server_encoded(each, service.keys, counts) for each in service.servers],
    }


def server_encoded(server: ServerSnapshot, keys: Iterable[ServiceKey], counts: Counts) -> replies.ServerReply:
    """Return a server with its checks, and its connections summed over all keys of the service."""
    names = ((key, server.destination.listed_by(key).key) for key in keys)
    found = [counts[name] for name in names if name in counts]
    return {
        "server": str(server.server),
        "up": server.up,
        "checked": server.checked,
        "since": server.since,
        "reason": server.reason,
        "weight": server.weight,
        "configured_weight": server.configured_weight,
        "standing": STANDINGS[server.override.standing],
        "operator_weight": server.override.weight,
        "in_table": server.in_table,
        "active": sum(each.active for each in found),
        "inactive": sum(each.inactive for each in found),
        "persistent": sum(each.persistent for each in found),
        "checks": [check_encoded(each) for each in server.checks],
        "checks_left_out": [*server.checks_left_out],
        "handshakes": _handshakes_encoded(server),
    }


def _handshakes_encoded(server: ServerSnapshot) -> replies.HandshakesReply | None:
    found = server.handshakes
    if found is None:
        return None
    low = server.handshakes_low
    return {"begun": found.begun, "completed": found.completed, "low": low, "out": server.out_by_handshakes}


def check_encoded(check: CheckSnapshot) -> replies.CheckReply:
    return {
        "check": check.check.keyword,
        "good": check.good,
        "failures": check.failures,
        "weight": check.weight,
        "reason": check.reason,
        "inconclusive": check.inconclusive,
        "checked_at": check.checked_at,
        "took_s": check.took_s,
        "next_in_s": check.next_in_s,
        "running": check.running,
        "shared_by": check.shared_by,
        "probes": check.probes,
        "failed_probes": check.failed_probes,
        "inconclusive_probes": check.inconclusive_probes,
    }
