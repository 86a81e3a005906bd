"""The operations that change something: servers (drain, weight ...), virtual routers (yield, resume), reload.

Each `..._operations` also has the queries of its subject.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pylvs.daemon.api.operations import Field, Operation, json_response
from pylvs.daemon.api.status_routes import server_encoded
from pylvs.daemon.event_bus import encode_event
from pylvs.daemon.loading import Refused
from pylvs.daemon.table.reconciler import ReconcileResult
from pylvs.health.events import ServerName
from pylvs.model.destination import SERVER_PATTERN, server_named
from pylvs.model.errors import OutOfRange

if TYPE_CHECKING:
    from pylvs.daemon.supervisor import Supervisor

Given = Mapping[str, Any]


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


def server_operations(daemon: Supervisor) -> Iterable[Operation]:
    engine, drains = daemon.engine, daemon.drains

    def override(
        name: str, help_: str, apply: Callable[[Given], tuple[ServerName, ...]], takes: Mapping[str, Field] = {}
    ) -> Operation:
        async def handle(_: web.Request, given: Given) -> web.Response:
            names = apply(given)
            await daemon.reconciler.reconcile()
            return json_response(
                {"servers": [{"service": service, "server": str(server)} for service, server in names]}
            )

        return Operation("POST", f"/v1/{name}", help_, handle, {**_NAMED, **takes})

    def enable(given: Given) -> tuple[ServerName, ...]:
        return engine.enable(server_named(given["server"]), given.get("service"))

    def disable(given: Given) -> tuple[ServerName, ...]:
        return engine.disable(server_named(given["server"]), given.get("service"))

    def weight(given: Given) -> tuple[ServerName, ...]:
        return engine.set_weight(server_named(given["server"]), given["weight"], given.get("service"))

    async def drain(_: web.Request, given: Given) -> web.Response:
        deadline_s = given.get("deadline_s")
        if deadline_s is not None and not 0 <= deadline_s <= MAX_DRAIN_S:
            raise OutOfRange(f"deadline_s: must be from 0 to {MAX_DRAIN_S:.0f}")
        server = server_named(given["server"])
        active_only = given.get("active_only", False)
        begun = drains.begin(server, given.get("service"), deadline_s, given.get("force", False), active_only)
        await daemon.reconciler.reconcile()
        return json_response(begun.encoded())

    async def all_drains(_: web.Request, _given: Given) -> web.Response:
        return json_response({"drains": [each.encoded() for each in drains.all()]})

    async def check_now(_: web.Request, given: Given) -> web.Response:
        server = server_named(given["server"]) if "server" in given else None
        found = await engine.check_now(server, given.get("service"))
        await daemon.reconciler.reconcile()
        return json_response({"servers": [{"service": each.service, **server_encoded(each, (), {})} for each in found]})

    async def history(_: web.Request, given: Given) -> web.Response:
        events = engine.history(server_named(given["server"]), given.get("service"))
        return json_response({"events": [encode_event(each) for each in events]})

    anything = {"server": _ANY_SERVER, "service": _SERVICE}
    return [
        Operation("POST", "/v1/drain", "Weight 0, then out of the table when unused.", drain, {**_NAMED, **_DRAIN}),
        Operation("GET", "/v1/drains", "The drains that wait, and the last that are over.", all_drains),
        override("enable", "Revert drain and disable.", enable),
        override("disable", "Out of the table until it is enabled; its checks go on.", disable),
        override("weight", "This weight, instead of that of checks and configuration.", weight, _WEIGHT),
        Operation("POST", "/v1/check-now", "Check at once; the servers' state after that.", check_now, anything),
        Operation("GET", "/v1/history", "The last events of a server, oldest first.", history, _NAMED),
    ]


_NAME = Field(str, "of a virtual router; without it, all", nullable=True)
_SECONDS = Field(float, "seconds without a take-over, even if no other router advertises", required=True)


def vrrp_operations(daemon: Supervisor) -> Iterable[Operation]:
    async def status(_: web.Request, _given: Given) -> web.Response:
        return json_response(await daemon.routers.status())

    async def why(_: web.Request, given: Given) -> web.Response:
        return json_response(await daemon.routers.request("why", name=given.get("name")))

    async def yield_(_: web.Request, given: Given) -> web.Response:
        seconds = float(given["seconds"])
        return json_response(await daemon.routers.request("yield", names=_names(given), seconds=seconds))

    async def resume(_: web.Request, given: Given) -> web.Response:
        return json_response(await daemon.routers.request("unyield", names=_names(given)))

    yielding = {"name": _NAME, "seconds": _SECONDS}
    return [
        Operation("GET", "/v1/vrrp", "The state of virtual routers.", status),
        Operation("GET", "/v1/vrrp/why", "The reasons of their last transitions.", why, {"name": _NAME}),
        Operation("POST", "/v1/vrrp/yield", "Give up mastership; another router takes over.", yield_, yielding),
        Operation("POST", "/v1/vrrp/resume", "Let them take over again.", resume, {"name": _NAME}),
    ]


def _names(given: Given) -> list[str]:
    name = given.get("name")
    return [] if name is None else [name]


_RELOAD = {
    "dry_run": Field(bool, "return what would change, and change nothing"),
    "allow_empty": Field(bool, "run an empty file, which empties the table"),
    "force": Field(bool, "run a file with errors, without what is wrong in it"),
}


def reload_operations(daemon: Supervisor) -> Iterable[Operation]:
    async def reload(_: web.Request, given: Given) -> web.Response:
        try:
            done = await daemon.reload(**given)
        except Refused as refused:
            content = {"error": str(refused), "findings": [each.encoded() for each in refused.findings]}
            return json_response(content, HTTPStatus.CONFLICT)
        return json_response(
            {
                "findings": [each.encoded() for each in done.findings],
                "differences": list(done.differences),
                "table": _table_encoded(done.table) if done.table else None,
                "virtual_routers": {"warnings": list(done.routers.warnings), "trouble": done.routers.error},
            }
        )

    help_ = "Read the file again and run it, as a whole or not at all."
    return [Operation("POST", "/v1/reload", help_, reload, _RELOAD)]


def _table_encoded(result: ReconcileResult) -> dict[str, Any]:
    return {"edits": result.edits, "refused": list(result.refused), "trouble": result.error}
