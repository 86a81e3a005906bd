"""The operations that only read: status, metrics, events (as JSON lines)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pylvs import __version__
from pylvs.daemon.api.metrics import CONTENT_TYPE, MetricsInput, exposition
from pylvs.daemon.api.operations import Field, Given, Operation, json_response
from pylvs.daemon.event_bus import json_line
from pylvs.daemon.loading import errors
from pylvs.health.events import Standing
from pylvs.health.snapshots import CheckSnapshot, ServerSnapshot, ServiceSnapshot
from pylvs.model.rows import DestinationRow, ServiceRow, unattached
from pylvs.model.service import DestinationKey, ServiceKey

if TYPE_CHECKING:
    from pylvs.daemon.supervisor import Supervisor

Counts = Mapping[tuple[ServiceKey, DestinationKey], DestinationRow]
LINES = "application/x-ndjson"
CLIENT_POLL_S = 10.0  # without an event, for clients that have disconnected


async def status(daemon: Supervisor, _: web.Request, _given: Given) -> web.Response:
    rows = await daemon.table_thread.run(daemon.reconciler.table.rows)
    counts = counts_of(rows)
    services = daemon.engine.snapshot()
    routers = await daemon.routers.status()
    files = daemon.loaded.files
    last = daemon.reconciler.last
    return json_response(
        {
            "version": __version__,
            "pid": os.getpid(),
            "now": time.time(),
            "ready": daemon.started_at > 0,
            "started_at": daemon.started_at or None,
            "loaded_at": daemon.loaded_at or None,
            "files": list(files),
            "findings": len(daemon.loaded.findings),
            "errors": [str(each) for each in errors(daemon.loaded)],
            "reloads": dict(daemon.reloads),
            "table": {
                "trouble": last.error,
                "refused": list(last.refused),
                "unattached": unattached(daemon.reconciler.table.director),
                "edits": dict(daemon.reconciler.edit_counts),
            },
            "differs": [*changed_files(files, daemon.loaded_at), *overridden(services)],
            "virtual_routers": routers_encoded(routers),
            "services": [service_encoded(each, counts) for each in services],
        }
    )


def routers_encoded(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the main fields of each virtual router; GET /v1/vrrp has all."""
    wanted = ("name", "state", "since", "priority", "why")
    instances = [{name: each[name] for name in wanted} for each in status["instances"]]
    return {"trouble": status["trouble"], "instances": instances}


def changed_files(files: Iterable[str], loaded_at: float) -> list[str]:
    """Return a text for each file that was written after it was read, or that cannot be read any more."""
    found = []
    for name in files:
        try:
            if os.stat(name).st_mtime > loaded_at:
                found.append(f"{name} was written after it was read: pylvs reload")
        except OSError as error:
            found.append(f"{name} cannot be read any more: {error.strerror}")
    return found


def overridden(services: Iterable[ServiceSnapshot]) -> list[str]:
    """Return a text for each server with an operator override."""
    found = []
    for service in services:
        for server in service.servers:
            override = server.override
            texts = [] if override.standing is Standing.ENABLED else [override.standing.value]
            if override.weight is not None:
                texts.append(f"weight {override.weight} instead of {server.configured_weight}")
            if texts:
                found.append(f"{server.server} of {service.name}: {', '.join(texts)} by the operator")
    return found


def counts_of(rows: Sequence[ServiceRow]) -> Counts:
    return {(row.service.key, each.destination.key): each for row in rows for each in row.destinations}


def service_encoded(service: ServiceSnapshot, counts: Counts) -> dict[str, Any]:
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
        "servers": [server_encoded(each, service.keys, counts) for each in service.servers],
    }


def server_encoded(server: ServerSnapshot, keys: Iterable[ServiceKey], counts: Counts) -> dict[str, Any]:
    """Return a server with its checks, and its connections summed over all keys of the service."""
    found = [counts[key, server.server] for key in keys if (key, server.server) in counts]
    return {
        "server": str(server.server),
        "up": server.up,
        "checked": server.checked,
        "since": server.since,
        "reason": server.reason,
        "weight": server.weight,
        "configured_weight": server.configured_weight,
        "standing": server.override.standing.value,
        "operator_weight": server.override.weight,
        "in_table": server.in_table,
        "active": sum(each.active for each in found),
        "inactive": sum(each.inactive for each in found),
        "persistent": sum(each.persistent for each in found),
        "checks": [check_encoded(each) for each in server.checks],
    }


def check_encoded(check: CheckSnapshot) -> dict[str, Any]:
    return {field.name: getattr(check, field.name) for field in fields(check)} | {"check": check.check.word}


async def metrics_page(daemon: Supervisor) -> str:
    """Return the page. A thread writes it: a large table takes seconds."""
    return await asyncio.to_thread(exposition, await metrics_input(daemon))


async def metrics_input(daemon: Supervisor) -> MetricsInput:
    table = daemon.reconciler.table
    rows = await daemon.table_thread.run(table.rows)
    packets = await daemon.table_thread.run(table.director.packet_counts)
    return MetricsInput(
        __version__,
        rows,
        packets.reasons,
        sum(each.active + each.inactive for row in rows for each in row.destinations),
        packets.connections_limit,
        daemon.engine.snapshot(),
        dict(daemon.reloads),
        daemon.loaded_at or None,
        len(errors(daemon.loaded)),
        dict(daemon.reconciler.edit_counts),
        await daemon.routers.status(),
        packets.expiry,
        packets.totals,
    )


async def metrics(daemon: Supervisor, _: web.Request, _given: Given) -> web.Response:
    page = await metrics_page(daemon)
    return web.Response(body=page.encode(), headers={"Content-Type": CONTENT_TYPE})


async def events(daemon: Supervisor, request: web.Request, given: Given) -> web.StreamResponse:
    if not given.get("follow", False):
        return web.Response(body=b"".join(map(json_line, daemon.events.recent())), content_type=LINES)
    response = web.StreamResponse(headers={"Content-Type": LINES, "Cache-Control": "no-store"})
    with daemon.events.subscribe() as subscriber:
        await response.prepare(request)
        while True:
            try:
                async with asyncio.timeout(CLIENT_POLL_S):
                    event = await subscriber.next()
            except TimeoutError:
                if request.transport is None:  # the client has disconnected
                    return response
                continue
            try:
                await response.write(json_line(event))
            except ConnectionError:  # the same
                return response


_STATUS_HELP = "The state of services, servers, checks and virtual routers, and what differs from the file."
_EVENTS_HELP = "The last events; with follow, new events until the client disconnects. A JSON object a line."
QUERIES = (
    Operation("GET", "/v1/status", _STATUS_HELP, status),
    Operation("GET", "/v1/events", _EVENTS_HELP, events, {"follow": Field(bool, "true: new events")}, LINES),
    Operation("GET", "/metrics", "The numbers, in Prometheus's text format.", metrics, answers=CONTENT_TYPE),
)
