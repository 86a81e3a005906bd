"""GET /v1/status: how everything stands, and what differs from the file."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiohttp import web

from pylvs import __version__
from pylvs.daemon.api.metrics import CONTENT_TYPE, MetricsInput, exposition
from pylvs.daemon.api.operations import Field, Operation, json_response
from pylvs.daemon.event_bus import json_line
from pylvs.daemon.loading import errors
from pylvs.daemon.ports import ApiContext
from pylvs.health.events import Standing
from pylvs.health.snapshots import CheckSnapshot, ServerSnapshot, ServiceSnapshot
from pylvs.model.destination import DestinationKey
from pylvs.model.director import DestinationRow, ServiceRow, unattached
from pylvs.model.service import ServiceKey

Counts = Mapping[tuple[ServiceKey, DestinationKey], DestinationRow]


def status_operations(desk: ApiContext) -> Iterable[Operation]:
    """The group."""

    async def status(_: web.Request, _given: Mapping[str, Any]) -> web.Response:
        rows = await desk.editor.do(desk.keeper.table.rows)
        counts = counts_of(rows)
        services = desk.engine.snapshot()
        routers = await desk.routers.status()
        files = desk.loaded.files
        last = desk.keeper.last
        return json_response(
            {
                "version": __version__,
                "pid": os.getpid(),
                "now": time.time(),
                "ready": desk.started_at > 0,
                "started_at": desk.started_at or None,
                "loaded_at": desk.loaded_at or None,
                "files": list(files),
                "findings": len(desk.loaded.findings),
                "errors": [str(each) for each in errors(desk.loaded)],
                "reloads": dict(desk.reloads),
                "table": {
                    "trouble": last.trouble,
                    "refused": list(last.refused),
                    "unattached": unattached(desk.keeper.table.director),
                    "edits": dict(desk.keeper.counts),
                },
                "differs": [*changed_files(files, desk.loaded_at), *overridden(services)],
                "virtual_routers": routers_encoded(routers),
                "services": [service_encoded(each, counts) for each in services],
            }
        )

    help_ = "How services, servers, checks and virtual routers stand, and what differs from the file."
    return [Operation("GET", "/v1/status", help_, status)]


def routers_encoded(status: Mapping[str, Any]) -> dict[str, Any]:
    """What matters most of virtual routers, as JSON; GET /v1/vrrp says more."""
    wanted = ("name", "state", "since", "priority", "why")
    instances = [{name: each[name] for name in wanted} for each in status["instances"]]
    return {"trouble": status["trouble"], "instances": instances}


def changed_files(files: Iterable[str], loaded_at: float) -> list[str]:
    """Files that were written after they were read, in words."""
    found = []
    for name in files:
        try:
            if os.stat(name).st_mtime > loaded_at:
                found.append(f"{name} was written after it was read: pylvs reload")
        except OSError as error:
            found.append(f"{name} cannot be read any more: {error.strerror}")
    return found


def overridden(services: Iterable[ServiceSnapshot]) -> list[str]:
    """What the operator's word makes other than the file has it, in words."""
    found = []
    for service in services:
        for server in service.servers:
            said = server.override
            words = [] if said.standing is Standing.ENABLED else [said.standing.value]
            words += [] if said.weight is None else [f"weight {said.weight} instead of {server.configured_weight}"]
            if words:
                found.append(f"{server.server} of {service.name}: {', '.join(words)} by the operator")
    return found


def counts_of(rows: Sequence[ServiceRow]) -> Counts:
    """The counts of every destination in the table."""
    return {(row.service.key, each.destination.key): each for row in rows for each in row.destinations}


def service_encoded(service: ServiceSnapshot, counts: Counts) -> dict[str, Any]:
    """A service with its servers, as JSON."""
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
    """A server with its checks, and its connections over all keys of the service, as JSON."""
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
    """A check, as JSON."""
    return {
        "check": check.check.word,
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
    }


# --- metrics ---------------------------------------------------------------------------------------------------------
# GET /metrics: the numbers for Prometheus.


async def metrics_page(desk: ApiContext) -> str:
    """The page; written in a thread, because that of a large table takes long."""
    return await asyncio.to_thread(exposition, await metrics_input(desk))


async def metrics_input(desk: ApiContext) -> MetricsInput:
    """Everything that is counted, now."""
    table = desk.keeper.table
    rows = await desk.editor.do(table.rows)
    packets = await desk.editor.do(table.director.packet_counts)
    return MetricsInput(
        __version__,
        rows,
        packets.reasons,
        sum(each.active + each.inactive for row in rows for each in row.destinations),
        packets.connections_limit,
        desk.engine.snapshot(),
        dict(desk.reloads),
        desk.loaded_at or None,
        len(errors(desk.loaded)),
        dict(desk.keeper.counts),
        await desk.routers.status(),
        packets.expiry,
        packets.totals,
    )


def metrics_operations(desk: ApiContext) -> Iterable[Operation]:
    """The group."""

    async def metrics(_: web.Request, _given: Mapping[str, Any]) -> web.Response:
        page = await metrics_page(desk)
        return web.Response(body=page.encode(), headers={"Content-Type": CONTENT_TYPE})

    return [Operation("GET", "/metrics", "The numbers, in Prometheus's text format.", metrics, answers=CONTENT_TYPE)]


# --- events ----------------------------------------------------------------------------------------------------------
# GET /v1/events: what happened last, or what happens as long as the client stays; a JSON object a line.


LINES = "application/x-ndjson"
CLIENT_POLL_S = 10.0  # whether a client is still there to whom there is nothing to tell


def event_operations(desk: ApiContext) -> Iterable[Operation]:
    """The group."""

    async def events(request: web.Request, given: Mapping[str, Any]) -> web.StreamResponse:
        if not given.get("follow", False):
            return web.Response(body=b"".join(map(json_line, desk.news.last())), content_type=LINES)
        response = web.StreamResponse(headers={"Content-Type": LINES, "Cache-Control": "no-store"})
        with desk.news.following() as follower:
            await response.prepare(request)
            while True:
                try:
                    async with asyncio.timeout(CLIENT_POLL_S):
                        line = await follower.next()
                except TimeoutError:
                    if request.transport is None:  # the client has gone, and nothing happened since
                        return response
                    continue
                try:
                    await response.write(json_line(line))
                except ConnectionError:  # the client has gone
                    return response

    help_ = "What happened last; with follow, what happens until the client goes. A JSON object a line."
    takes = {"follow": Field(bool, "true: what happens from now on")}
    return [Operation("GET", "/v1/events", help_, events, takes, LINES)]


# --- openapi ---------------------------------------------------------------------------------------------------------
# GET /v1/openapi.json: the API described by what it is made of.


def document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The OpenAPI document of these operations."""
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = each.described()
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    return {
        "openapi": "3.1.0",
        "info": {"title": "pylvs run", "version": __version__},
        "paths": paths,
        "components": {"schemas": {"Error": error}},
    }


def openapi_operation(others: Iterable[Operation]) -> Operation:
    """The one that describes the others, and itself."""
    all_of_them = list(others)

    async def openapi(_: web.Request, _given: Mapping[str, Any]) -> web.Response:
        return json_response(document(all_of_them))

    all_of_them.append(Operation("GET", "/v1/openapi.json", "This document.", openapi))
    return all_of_them[-1]
