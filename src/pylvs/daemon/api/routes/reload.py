"""POST /v1/reload: read the configuration again, and run it or say what would change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web

from pylvs.daemon.api.desk import Desk
from pylvs.daemon.api.operations import Field, Operation, answer
from pylvs.daemon.loading import Refused
from pylvs.daemon.table.keeper import Settled

_TAKES = {
    "dry_run": Field(bool, "say what would change, and change nothing"),
    "allow_empty": Field(bool, "take a file that says nothing, and empty the table"),
    "force": Field(bool, "take a file with errors, without what is wrong in it"),
}


def operations(desk: Desk) -> Iterable[Operation]:
    """The group."""

    async def reload(_: web.Request, given: Mapping[str, Any]) -> web.Response:
        try:
            done = await desk.reload(**given)
        except Refused as refused:
            content = {"error": str(refused), "findings": [each.encoded() for each in refused.findings]}
            return answer(content, HTTPStatus.CONFLICT)
        return answer(
            {
                "findings": [each.encoded() for each in done.findings],
                "differences": list(done.differences),
                "table": _settled(done.settled) if done.settled else None,
                "virtual_routers": {"warnings": list(done.routers.warnings), "trouble": done.routers.trouble},
            }
        )

    help_ = "Read the file again and run it, as a whole or not at all."
    return [Operation("POST", "/v1/reload", help_, reload, _TAKES)]


def _settled(settled: Settled) -> dict[str, Any]:
    """How the table followed: edits made, edits refused, and why none could be made."""
    return {"edits": settled.edits, "refused": list(settled.refused), "trouble": settled.trouble}
