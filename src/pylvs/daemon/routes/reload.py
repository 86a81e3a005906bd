"""POST /v1/reload: read the configuration again, and run it or say what would change."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pylvs.config.findings import Finding
from pylvs.daemon.control import answer, body_of
from pylvs.daemon.keeper import Settled
from pylvs.daemon.loading import Refused
from pylvs.model.errors import InvalidOperation

if TYPE_CHECKING:
    from pylvs.daemon.supervisor import Supervisor

FIELDS = ("dry_run", "allow_empty")


def routes(supervisor: Supervisor) -> Iterable[web.AbstractRouteDef]:
    """The group."""

    async def reload(request: web.Request) -> web.Response:
        given = await body_of(request)
        for name, value in given.items():
            if name not in FIELDS or not isinstance(value, bool):
                raise InvalidOperation(f"{name}: must be true or false, and one of {', '.join(FIELDS)}")
        try:
            done = await supervisor.reload(**given)
        except Refused as refused:
            content = {"error": str(refused), "findings": [_finding(each) for each in refused.findings]}
            return answer(content, HTTPStatus.CONFLICT)
        return answer(
            {
                "findings": [_finding(each) for each in done.findings],
                "differences": list(done.differences),
                "table": _settled(done.settled) if done.settled else None,
            }
        )

    return [web.post("/v1/reload", reload)]


def _finding(finding: Finding) -> dict[str, Any]:
    place = finding.place
    return {
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "width": place.width,
        "severity": finding.severity.value,
        "text": finding.text,
        "advice": finding.advice,
        "security": finding.security,
        "fatal": finding.fatal,
    }


def _settled(settled: Settled) -> dict[str, Any]:
    """How the table followed: edits made, edits refused, and why none could be made."""
    return {"edits": settled.edits, "refused": list(settled.refused), "trouble": settled.trouble}
