"""GET /v1/vrrp and its like: how virtual routers stand, why, and giving up mastership."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from pylvs.daemon.api.desk import Desk
from pylvs.daemon.api.operations import Field, Operation, answer

_NAME = Field(str, "of a virtual router; without it all are meant", nullable=True)
_SECONDS = Field(float, "how long it does not take over, even if no other router speaks", required=True)


def operations(desk: Desk) -> Iterable[Operation]:
    """The group."""

    async def status(_: web.Request, _given: Mapping[str, Any]) -> web.Response:
        return answer(await desk.routers.status())

    async def why(_: web.Request, given: Mapping[str, Any]) -> web.Response:
        return answer(await desk.routers.ask("why", name=given.get("name")))

    async def yield_(_: web.Request, given: Mapping[str, Any]) -> web.Response:
        return answer(await desk.routers.ask("yield", names=_names(given), seconds=float(given["seconds"])))

    async def resume(_: web.Request, given: Mapping[str, Any]) -> web.Response:
        return answer(await desk.routers.ask("unyield", names=_names(given)))

    return [
        Operation("GET", "/v1/vrrp", "How virtual routers stand.", status),
        Operation("GET", "/v1/vrrp/why", "What decided their last transitions.", why, {"name": _NAME}),
        Operation(
            "POST",
            "/v1/vrrp/yield",
            "Give up mastership; another router takes over.",
            yield_,
            {"name": _NAME, "seconds": _SECONDS},
        ),
        Operation("POST", "/v1/vrrp/resume", "Let them take over again.", resume, {"name": _NAME}),
    ]


def _names(given: Mapping[str, Any]) -> list[str]:
    name = given.get("name")
    return [] if name is None else [name]
