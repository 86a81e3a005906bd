"""The operations of the API: status, metrics and events; servers (drain, weight ...); virtual routers; reload.

Requests are validated against an `Operation` and the OpenAPI document is generated from it, so the two cannot differ.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from pylvs import __version__
from pylvs.daemon.api import replies
from pylvs.daemon.api.counters import CountersReply, counters_encoded
from pylvs.daemon.api.metrics import CONTENT_TYPE, MetricsInput, exposition
from pylvs.daemon.api.schema import VERSION, AnyEvent, EventsReply, Schemas
from pylvs.daemon.drains import Drain, Stage
from pylvs.daemon.history import json_line
from pylvs.daemon.liveness import TABLE_THREAD
from pylvs.daemon.loading import Refused, errors
from pylvs.daemon.notifications import encode_event
from pylvs.daemon.problems import Problem, Severity, router_problems, service_problems
from pylvs.health.engine import Engine
from pylvs.health.events import ServerName, Standing
from pylvs.health.state import CheckSnapshot, ServerSnapshot, ServiceSnapshot
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field, replace
from pylvs.model.errors import InvalidOperation, OutOfRange
from pylvs.model.rows import DestinationRow, PacketCounts, ServiceRow, unattached
from pylvs.model.service import SERVER_PATTERN, DestinationKey, ServiceKey, server_named

if TYPE_CHECKING:
    from pylvs.daemon.supervisor import Supervisor

Read = TypeVar("Read")
TABLES_TIMEOUT_S = 10.0  # for reading the tables
Given = Mapping[str, Any]  # the parameters of a request
Handler = Callable[["Supervisor", web.Request, Given], Awaitable[web.StreamResponse]]
_TYPE_NAMES = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
_SCHEMAS = {str: "string", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True, slots=True)
class Field:
    """A parameter; `pattern` is a regular expression of JSON Schema, for the document only."""

    kind: type
    help: str
    required: bool = False
    nullable: bool = False
    pattern: str = ""

    def checked(self, name: str, value: Any) -> Any:
        """Return the value. Raises InvalidOperation if it has another type."""
        if value is None and self.nullable:
            return None
        kinds = (int, float) if self.kind is float else self.kind
        fits = isinstance(value, kinds) and (self.kind is bool or not isinstance(value, bool))
        if not fits or (isinstance(value, float) and not math.isfinite(value)):
            raise InvalidOperation(f"{name}: must be {_TYPE_NAMES[self.kind]}{' or null' if self.nullable else ''}")
        return value

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema without a description."""
        name = _SCHEMAS[self.kind]
        pattern = {"pattern": self.pattern} if self.pattern else {}
        return {"type": [name, "null"] if self.nullable else name, **pattern}


@dataclass(frozen=True, slots=True)
class Operation:
    """A method and a path with their handler; `takes` are fields of a POST's body or of a GET's query."""

    method: str
    path: str
    help: str
    handler: Handler
    replies: Any  # the type of a reply, or of each of its lines; str without a schema
    takes: Mapping[str, Field] = field(default_factory=dict)
    answers: str = "application/json"

    def route(self, daemon: Supervisor) -> web.RouteDef:
        async def handle(request: web.Request) -> web.StreamResponse:
            given = await _body(request) if self.method == "POST" else self._query(request)
            return await self.handler(daemon, request, self._checked(given))

        return web.route(self.method, self.path, handle)

    def _query(self, request: web.Request) -> dict[str, Any]:
        """Return the query, with booleans converted."""
        booleans = {"true": True, "false": False}
        flags = {name for name, each in self.takes.items() if each.kind is bool}
        return {name: booleans.get(text, text) if name in flags else text for name, text in request.query.items()}

    def _checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        for name in given:
            if name not in self.takes:
                known = ", ".join(self.takes) or "nothing"
                raise InvalidOperation(f"{name}: {self.method} {self.path} does not take it; it takes {known}")
        for name, each in self.takes.items():
            if each.required and name not in given:
                raise InvalidOperation(f"{name}: is missing: {each.help}")
        return {name: self.takes[name].checked(name, value) for name, value in given.items()}

    def described(self, schemas: Schemas) -> dict[str, Any]:
        """Return the OpenAPI operation; add the schemas that it refers to."""
        content: dict[str, Any] = {} if self.replies is str else {"schema": schemas.of(self.replies)}
        made: dict[str, Any] = {
            "summary": self.help,
            "responses": {
                "200": {"description": "done", "content": {self.answers: content}},
                "default": {
                    "description": "what is wrong and what to do",
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                },
            },
        }
        if self.takes and self.method == "POST":
            required = [name for name, each in self.takes.items() if each.required]
            schema: dict[str, Any] = {
                "type": "object",
                "properties": {name: each.schema() | {"description": each.help} for name, each in self.takes.items()},
                "additionalProperties": False,
            }
            if required:
                schema["required"] = required
            made["requestBody"] = {"required": bool(required), "content": {"application/json": {"schema": schema}}}
        elif self.takes:
            made["parameters"] = [
                {
                    "name": name,
                    "in": "query",
                    "required": each.required,
                    "description": each.help,
                    "schema": each.schema() | {"type": _SCHEMAS[each.kind]},  # a query cannot have null
                }
                for name, each in self.takes.items()
            ]
        return made


async def _body(request: web.Request) -> dict[str, Any]:
    """Return the request's JSON object; an empty body is an empty object. Raises InvalidOperation."""
    raw = await request.read()
    try:
        found = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidOperation(f"the request's body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidOperation("the request's body must be a JSON object")
    return found


def json_response(content: Any, status: int = HTTPStatus.OK) -> web.Response:
    """Return a response of JSON with a newline at its end."""
    return web.Response(body=json_line(content), status=status, content_type="application/json", charset="utf-8")


STANDINGS: Mapping[Standing, replies.Standing] = {
    Standing.ENABLED: "enabled",
    Standing.DRAINED: "drained",
    Standing.DISABLED: "disabled",
}
Counts = Mapping[tuple[ServiceKey, DestinationKey], DestinationRow]
LINES = "application/x-ndjson"
CLIENT_POLL_S = 10.0  # without an event, for clients that have disconnected
MAX_DRAIN_S = 366 * 86400.0
_SERVER = Field(
    str,
    "ADDRESS or ADDRESS:PORT of the real server; without a port, each at this address",
    required=True,
    pattern=SERVER_PATTERN,
)
_ANY_SERVER = Field(str, "ADDRESS or ADDRESS:PORT of the real server; without it, every server", pattern=SERVER_PATTERN)
_SERVICE = Field(str, "the virtual server as status names it; without it, each that has the server")
_NAMED = {"server": _SERVER, "service": _SERVICE}
_DRAIN = {
    "deadline_s": Field(float, "seconds until it is given up, with weight 0; null waits for ever", nullable=True),
    "force": Field(bool, "at the deadline, delete it from the table with its connections"),
    "active_only": Field(bool, "do not wait for inactive connections"),
}
_WEIGHT = {"weight": Field(int, "0 to 2147483647; null clears the override", required=True, nullable=True)}
_NAME = Field(str, "of a virtual router; without it, all", nullable=True)
_SECONDS = Field(float, "seconds without a take-over, even if no other router advertises", required=True)
_YIELD = {"name": _NAME, "seconds": _SECONDS}
_STOP = {"keep": Field(bool, "leave services and virtual routers for the next daemon")}
_RELOAD = {
    "dry_run": Field(bool, "return what would change, and change nothing"),
    "allow_empty": Field(bool, "run an empty file, which empties the table"),
    "force": Field(bool, "run a file with errors, without what is wrong in it"),
}


async def _of_tables(daemon: Supervisor, read: Callable[[], Read], otherwise: Read) -> Read:
    """Return what a call reads in the table thread, or something else if that is silent: the rest is known."""
    if TABLE_THREAD in daemon.liveness.silent():
        return otherwise
    try:
        return await asyncio.wait_for(daemon.table_thread.run(read), TABLES_TIMEOUT_S)
    except TimeoutError:
        return otherwise


async def status(daemon: Supervisor, _: web.Request, _given: Given) -> web.Response:
    counts = counts_of(await _of_tables(daemon, daemon.reconciler.table.rows, ()))
    services = daemon.engine.snapshot()
    routers = await daemon.routers.status()
    files = daemon.loaded.files
    last = daemon.reconciler.last
    problems = [*service_problems(services), *daemon.problems(), *router_problems(routers)]
    reply: replies.StatusReply = {
        "version": __version__,
        "schema": VERSION,
        "pid": os.getpid(),
        "now": time.time(),
        "ready": daemon.started_at > 0,
        "started_at": daemon.started_at or None,
        "loaded_at": daemon.loaded_at or None,
        "files": list(files),
        "findings": len(daemon.loaded.findings),
        "errors": [str(each) for each in errors(daemon.loaded)],
        "reloads": dict(daemon.reloads),
        "problems": problems_encoded(problems),
        "table": {
            "trouble": last.error,
            "refused": list(last.refused),
            "unattached": unattached(daemon.reconciler.table.director),
            "edits": dict(daemon.reconciler.edit_counts),
        },
        "unknown": list(daemon.liveness.silent().values()),
        "differs": [*changed_files(files, daemon.loaded_at), *overridden(services, daemon.drains.all())],
        "virtual_routers": routers_encoded(routers),
        "services": [service_encoded(each, counts) for each in services],
    }
    return json_response(reply)


def problems_encoded(problems: Iterable[Problem]) -> list[replies.ProblemReply]:
    """Return problems, critical ones first."""
    return [
        {"kind": each.kind, "severity": each.severity.value, "object": each.object, "text": each.text}
        for each in sorted(problems, key=lambda each: each.severity is not Severity.CRITICAL)
    ]


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
            "well": each["well"],
            "words": each["words"],
            "trouble": each["trouble"],
        }
        for each in status["sessions"]
    ]
    data_plane = status.get("data_plane")
    return {"trouble": status["trouble"], "data_plane": data_plane, "instances": instances, "sessions": sessions}


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
        "servers": [server_encoded(each, service.keys, counts) for each in service.servers],
    }


def server_encoded(server: ServerSnapshot, keys: Iterable[ServiceKey], counts: Counts) -> replies.ServerReply:
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
        "standing": STANDINGS[server.override.standing],
        "operator_weight": server.override.weight,
        "in_table": server.in_table,
        "active": sum(each.active for each in found),
        "inactive": sum(each.inactive for each in found),
        "persistent": sum(each.persistent for each in found),
        "checks": [check_encoded(each) for each in server.checks],
    }


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


async def metrics_page(daemon: Supervisor) -> str:
    """Return the page. A thread writes it: a large table takes seconds."""
    table = daemon.reconciler.table
    given = MetricsInput(
        __version__,
        await _of_tables(daemon, table.rows, ()),
        await _of_tables(daemon, table.director.packet_counts, PacketCounts()),
        daemon.engine.snapshot(),
        dict(daemon.reloads),
        daemon.loaded_at or None,
        len(errors(daemon.loaded)),
        dict(daemon.reconciler.edit_counts),
        await daemon.routers.status(),
        daemon.liveness.states(),
        prober=daemon.prober_counts(),
        scripts=daemon.script_counts(),
    )
    problems = (*service_problems(given.services), *daemon.problems(), *router_problems(given.routers))
    given = replace(given, problems=problems)
    return await asyncio.to_thread(exposition, given)


async def metrics(daemon: Supervisor, *_: object) -> web.Response:
    page = await metrics_page(daemon)
    return web.Response(body=page.encode(), headers={"Content-Type": CONTENT_TYPE})


async def counters(daemon: Supervisor, _: web.Request, _given: Given) -> web.Response:
    rows: Sequence[ServiceRow] = await _of_tables(daemon, daemon.reconciler.table.rows, ())
    return json_response(counters_encoded(daemon.engine.snapshot(), rows))


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


async def drain(daemon: Supervisor, _: web.Request, given: Given) -> web.Response:
    deadline_s = given.get("deadline_s")
    if deadline_s is not None and not 0 <= deadline_s <= MAX_DRAIN_S:
        raise OutOfRange(f"deadline_s: must be from 0 to {MAX_DRAIN_S:.0f}")
    server = server_named(given["server"])
    force, active_only = given.get("force", False), given.get("active_only", False)
    begun = daemon.drains.begin(server, given.get("service"), deadline_s, force, active_only)
    await daemon.reconciler.reconcile()
    return json_response(begun.encoded() | {"not_kept": daemon.save_error})


async def all_drains(daemon: Supervisor, _: web.Request, _given: Given) -> web.Response:
    return json_response({"drains": [each.encoded() for each in daemon.drains.all()]})


async def check_now(daemon: Supervisor, _: web.Request, given: Given) -> web.Response:
    server = server_named(given["server"]) if "server" in given else None
    found = await daemon.engine.check_now(server, given.get("service"))
    await daemon.reconciler.reconcile()
    reply: replies.ServersReply = {
        "servers": [{"service": each.service, **server_encoded(each, (), {})} for each in found]
    }
    return json_response(reply)


async def history(daemon: Supervisor, _: web.Request, given: Given) -> web.Response:
    """Return the engine's events, and behind them in time those of former daemons."""
    server, service = server_named(given["server"]), given.get("service")
    found = [encode_event(each) for each in daemon.engine.history(server, service)]
    begin = min((each["at"] for each in found), default=math.inf)
    former = [
        each
        for each in daemon.events.recent()
        if each["at"] < min(begin, daemon.began_at) and _is_about(each, server, service)
    ]
    return json_response({"events": [*former, *found]})


def _is_about(event: Mapping[str, Any], server: DestinationKey | Address, service: str | None) -> bool:
    text = str(event.get("server", ""))
    if service is not None and event.get("service") != service:
        return False
    try:
        named = server_named(text)
    except InvalidOperation:
        return False
    return server in (named, named.address if isinstance(named, DestinationKey) else named)


def _override(
    name: str, help_: str, apply: Callable[..., tuple[ServerName, ...]], takes: Mapping[str, Field] = {}
) -> Operation:
    """Return the operation that calls a method of the engine, with the fields that it takes."""

    async def handle(daemon: Supervisor, _: web.Request, given: Given) -> web.Response:
        values = {each: given[each] for each in takes}
        names = apply(daemon.engine, server_named(given["server"]), service=given.get("service"), **values)
        await daemon.reconciler.reconcile()
        reply: replies.OverrideReply = {
            "servers": [{"service": service, "server": str(server)} for service, server in names],
            "not_kept": daemon.save_error,
        }
        return json_response(reply)

    return Operation("POST", f"/v1/{name}", help_, handle, replies.OverrideReply, {**_NAMED, **takes})


async def vrrp_status(daemon: Supervisor, _: web.Request, _given: Given) -> web.Response:
    return json_response(await daemon.routers.status())


async def vrrp_why(daemon: Supervisor, _: web.Request, given: Given) -> web.Response:
    return json_response(await daemon.routers.request("why", name=given.get("name")))


async def vrrp_yield(daemon: Supervisor, _: web.Request, given: Given) -> web.Response:
    seconds = float(given["seconds"])
    return json_response(await daemon.routers.request("yield", names=_names(given), seconds=seconds))


async def vrrp_resume(daemon: Supervisor, _: web.Request, given: Given) -> web.Response:
    return json_response(await daemon.routers.request("unyield", names=_names(given)))


def _names(given: Given) -> list[str]:
    name = given.get("name")
    return [] if name is None else [name]


async def reload(daemon: Supervisor, _: web.Request, given: Given) -> web.Response:
    try:
        done = await daemon.reload(**given)
    except Refused as refused:
        content = {"error": str(refused), "findings": [each.encoded() for each in refused.findings]}
        return json_response(content, HTTPStatus.CONFLICT)
    table = done.table
    return json_response(
        {
            "findings": [each.encoded() for each in done.findings],
            "differences": list(done.differences),
            "table": {"edits": table.edits, "refused": list(table.refused), "trouble": table.error} if table else None,
            "virtual_routers": {"warnings": list(done.routers.warnings), "trouble": done.routers.error},
        }
    )


async def stop(daemon: Supervisor, _: web.Request, given: Given) -> web.Response:
    """Reply before the end: the client waits for the process."""
    daemon.stop(keep=given.get("keep", False))
    reply: replies.StopReply = {"pid": os.getpid()}
    return json_response(reply)


_STATUS_HELP = "The state of services, servers, checks and virtual routers, and what differs from the file."
_EVENTS_HELP = "The last events; with follow, new events until the client disconnects. A JSON object a line."
_ANYTHING = {"server": _ANY_SERVER, "service": _SERVICE}
ROUTES = (
    Operation("GET", "/v1/status", _STATUS_HELP, status, replies.StatusReply),
    Operation("GET", "/v1/events", _EVENTS_HELP, events, AnyEvent, {"follow": Field(bool, "true: new events")}, LINES),
    Operation("GET", "/v1/counters", "Connections, packets and bytes of the services.", counters, CountersReply),
    Operation("GET", "/metrics", "The numbers, in Prometheus's text format.", metrics, str, answers=CONTENT_TYPE),
    Operation(
        "POST",
        "/v1/drain",
        "Weight 0, then out of the table when unused.",
        drain,
        replies.DrainReply,
        {**_NAMED, **_DRAIN},
    ),
    Operation(
        "GET", "/v1/drains", "The drains that wait, and the last that are over.", all_drains, replies.DrainsReply
    ),
    _override("enable", "Revert drain and disable.", Engine.enable),
    _override("disable", "Out of the table until it is enabled; its checks go on.", Engine.disable),
    _override("weight", "This weight, instead of that of checks and configuration.", Engine.set_weight, _WEIGHT),
    Operation(
        "POST",
        "/v1/check-now",
        "Check at once; the servers' state after that.",
        check_now,
        replies.ServersReply,
        _ANYTHING,
    ),
    Operation("GET", "/v1/history", "The last events of a server, oldest first.", history, EventsReply, _NAMED),
    Operation("GET", "/v1/vrrp", "The state of virtual routers.", vrrp_status, replies.VrrpReply),
    Operation(
        "GET", "/v1/vrrp/why", "The reasons of their last transitions.", vrrp_why, replies.WhyReply, {"name": _NAME}
    ),
    Operation(
        "POST",
        "/v1/vrrp/yield",
        "Give up mastership; another router takes over.",
        vrrp_yield,
        replies.NamesReply,
        _YIELD,
    ),
    Operation("POST", "/v1/vrrp/resume", "Let them take over again.", vrrp_resume, replies.NamesReply, {"name": _NAME}),
    Operation("POST", "/v1/stop", "End the daemon in good order.", stop, replies.StopReply, _STOP),
    Operation(
        "POST",
        "/v1/reload",
        "Read the file again and run it, as a whole or not at all.",
        reload,
        replies.ReloadReply,
        _RELOAD,
    ),
)
