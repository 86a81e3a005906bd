"""GET /metrics: the numbers for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pylvs import __version__
from pylvs.daemon.metrics import CONTENT_TYPE, Facts, exposition
from pylvs.daemon.operations import Operation

if TYPE_CHECKING:
    from pylvs.daemon.supervisor import Supervisor


async def page_of(supervisor: Supervisor) -> str:
    """The page; written in a thread, because that of a large table takes long."""
    return await asyncio.to_thread(exposition, await facts_of(supervisor))


async def facts_of(supervisor: Supervisor) -> Facts:
    """Everything that is counted, now."""
    table = supervisor.keeper.table
    rows = await supervisor.editor.do(table.rows)
    packets = await supervisor.editor.do(table.director.packet_counts)
    return Facts(
        __version__,
        rows,
        packets.reasons,
        sum(each.active + each.inactive for row in rows for each in row.destinations),
        packets.connections_limit,
        supervisor.engine.snapshot(),
        dict(supervisor.reloads),
        supervisor.loaded_at or None,
        dict(supervisor.keeper.counts),
    )


def operations(supervisor: Supervisor) -> Iterable[Operation]:
    """The group."""

    async def metrics(_: web.Request, _given: Mapping[str, Any]) -> web.Response:
        page = await page_of(supervisor)
        return web.Response(body=page.encode(), headers={"Content-Type": CONTENT_TYPE})

    return [Operation("GET", "/metrics", "The numbers, in Prometheus's text format.", metrics, answers=CONTENT_TYPE)]
