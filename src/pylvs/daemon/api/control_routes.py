"""The operations that change something: servers (drain, weight ...), virtual routers (yield, resume), reload.

The queries of drains, histories and virtual routers are with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from pylvs.daemon.api.operations import Field, Given, Operation, json_response
from pylvs.daemon.api.status_routes import server_encoded
from pylvs.daemon.event_bus import encode_event
from pylvs.daemon.loading import Refused
from pylvs.health.engine import Engine
from pylvs.health.events import ServerName
from pylvs.model.errors import OutOfRange
from pylvs.model.service import SERVER_PATTERN, server_named

if TYPE_CHECKING:
    from pylvs.daemon.supervisor import Supervisor


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
_RELOAD = {
    "dry_run": Field(bool, "return what would change, and change nothing"),
    "allow_empty": Field(bool, "run an empty file, which empties the table"),
    "force": Field(bool, "run a file with errors, without what is wrong in it"),
}


async def drain(daemon: Supervisor, _: web.Request, given: Given) -> web.Response:
    deadline_s = given.get("deadline_s")
    if deadline_s is not None and not 0 <= deadline_s <= MAX_DRAIN_S:
        raise OutOfRange(f"deadline_s: must be from 0 to {MAX_DRAIN_S:.0f}")
    server = server_named(given["server"])
    force, active_only = given.get("force", False), given.get("active_only", False)
    begun = daemon.drains.begin(server, given.get("service"), deadline_s, force, active_only)
    await daemon.reconciler.reconcile()
    return json_response(begun.encoded())


async def all_drains(daemon: Supervisor, _: web.Request, _given: Given) -> web.Response:
    return json_response({"drains": [each.encoded() for each in daemon.drains.all()]})


async def check_now(daemon: Supervisor, _: web.Request, given: Given) -> web.Response:
    server = server_named(given["server"]) if "server" in given else None
    found = await daemon.engine.check_now(server, given.get("service"))
    await daemon.reconciler.reconcile()
    return json_response({"servers": [{"service": each.service, **server_encoded(each, (), {})} for each in found]})


async def history(daemon: Supervisor, _: web.Request, given: Given) -> web.Response:
    events = daemon.engine.history(server_named(given["server"]), given.get("service"))
    return json_response({"events": [encode_event(each) for each in events]})


def _override(
    name: str, help_: str, apply: Callable[..., tuple[ServerName, ...]], takes: Mapping[str, Field] = {}
) -> Operation:
    """Return the operation that calls a method of the engine, with the fields that it takes."""

    async def handle(daemon: Supervisor, _: web.Request, given: Given) -> web.Response:
        values = {each: given[each] for each in takes}
        names = apply(daemon.engine, server_named(given["server"]), service=given.get("service"), **values)
        await daemon.reconciler.reconcile()
        return json_response({"servers": [{"service": service, "server": str(server)} for service, server in names]})

    return Operation("POST", f"/v1/{name}", help_, handle, {**_NAMED, **takes})


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


_ANYTHING = {"server": _ANY_SERVER, "service": _SERVICE}
CHANGES = (
    Operation("POST", "/v1/drain", "Weight 0, then out of the table when unused.", drain, {**_NAMED, **_DRAIN}),
    Operation("GET", "/v1/drains", "The drains that wait, and the last that are over.", all_drains),
    _override("enable", "Revert drain and disable.", Engine.enable),
    _override("disable", "Out of the table until it is enabled; its checks go on.", Engine.disable),
    _override("weight", "This weight, instead of that of checks and configuration.", Engine.set_weight, _WEIGHT),
    Operation("POST", "/v1/check-now", "Check at once; the servers' state after that.", check_now, _ANYTHING),
    Operation("GET", "/v1/history", "The last events of a server, oldest first.", history, _NAMED),
    Operation("GET", "/v1/vrrp", "The state of virtual routers.", vrrp_status),
    Operation("GET", "/v1/vrrp/why", "The reasons of their last transitions.", vrrp_why, {"name": _NAME}),
    Operation("POST", "/v1/vrrp/yield", "Give up mastership; another router takes over.", vrrp_yield, _YIELD),
    Operation("POST", "/v1/vrrp/resume", "Let them take over again.", vrrp_resume, {"name": _NAME}),
    Operation("POST", "/v1/reload", "Read the file again and run it, as a whole or not at all.", reload, _RELOAD),
)
