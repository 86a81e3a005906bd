"""The operator's words about servers: drain, enable, disable, weight, check-now; and their history."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

from pylvs.daemon.api.desk import Desk
from pylvs.daemon.api.news import encoded
from pylvs.daemon.api.operations import Field, Operation, answer
from pylvs.daemon.api.routes.status import server_encoded
from pylvs.health.history import ServerName
from pylvs.model.destination import SERVER_PATTERN, server_named
from pylvs.model.errors import OutOfRange

Given = Mapping[str, Any]

LONGEST_DRAIN_S = 366 * 86400.0
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
    "force": Field(bool, "at the deadline take it out of the table all the same"),
    "active_only": Field(bool, "wait for active connections alone"),
}
_WEIGHT = {"weight": Field(int, "0 to 2147483647; null gives the word back", required=True, nullable=True)}


def operations(desk: Desk) -> Iterable[Operation]:
    """The group."""
    engine, drains = desk.engine, desk.drains

    def word(
        name: str, help_: str, say: Callable[[Given], tuple[ServerName, ...]], takes: Mapping[str, Field] | None = None
    ) -> Operation:
        async def handle(_: web.Request, given: Given) -> web.Response:
            names = say(given)
            await desk.keeper.settle()
            return answer({"servers": [{"service": service, "server": str(server)} for service, server in names]})

        return Operation("POST", f"/v1/{name}", help_, handle, {**_NAMED, **(takes or {})})

    def enable(given: Given) -> tuple[ServerName, ...]:
        return engine.enable(server_named(given["server"]), given.get("service"))

    def disable(given: Given) -> tuple[ServerName, ...]:
        return engine.disable(server_named(given["server"]), given.get("service"))

    def weight(given: Given) -> tuple[ServerName, ...]:
        return engine.set_weight(server_named(given["server"]), given["weight"], given.get("service"))

    async def drain(_: web.Request, given: Given) -> web.Response:
        deadline_s = given.get("deadline_s")
        if deadline_s is not None and not 0 <= deadline_s <= LONGEST_DRAIN_S:
            raise OutOfRange(f"deadline_s: must be from 0 to {LONGEST_DRAIN_S:.0f}")
        server = server_named(given["server"])
        active_only = given.get("active_only", False)
        begun = drains.begin(server, given.get("service"), deadline_s, given.get("force", False), active_only)
        await desk.keeper.settle()
        return answer(begun.encoded())

    async def all_drains(_: web.Request, _given: Given) -> web.Response:
        return answer({"drains": [each.encoded() for each in drains.all()]})

    async def check_now(_: web.Request, given: Given) -> web.Response:
        server = server_named(given["server"]) if "server" in given else None
        found = await engine.check_now(server, given.get("service"))
        await desk.keeper.settle()
        return answer({"servers": [{"service": each.service, **server_encoded(each, (), {})} for each in found]})

    async def history(_: web.Request, given: Given) -> web.Response:
        events = engine.history(server_named(given["server"]), given.get("service"))
        return answer({"events": [encoded(each) for each in events]})

    anything = {"server": _ANY_SERVER, "service": _SERVICE}
    return [
        Operation("POST", "/v1/drain", "Weight 0, then out of the table when unused.", drain, {**_NAMED, **_DRAIN}),
        Operation("GET", "/v1/drains", "The drains under way, and the last that are over.", all_drains),
        word("enable", "Take drain and disable back.", enable),
        word("disable", "Out of the table until it is enabled; its checks go on.", disable),
        word("weight", "This weight, whatever checks and configuration say.", weight, _WEIGHT),
        Operation("POST", "/v1/check-now", "Check at once; how the servers stand after that.", check_now, anything),
        Operation("GET", "/v1/history", "What happened to a server, oldest first.", history, _NAMED),
    ]
