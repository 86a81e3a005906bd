"""GET /metrics: the numbers for Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from pylvs import __version__
from pylvs.daemon.api.desk import Desk
from pylvs.daemon.api.metrics import CONTENT_TYPE, Facts, exposition
from pylvs.daemon.api.operations import Operation
from pylvs.daemon.loading import errors


async def page_of(desk: Desk) -> str:
    """The page; written in a thread, because that of a large table takes long."""
    return await asyncio.to_thread(exposition, await facts_of(desk))


async def facts_of(desk: Desk) -> Facts:
    """Everything that is counted, now."""
    table = desk.keeper.table
    rows = await desk.editor.do(table.rows)
    packets = await desk.editor.do(table.director.packet_counts)
    return Facts(
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


def operations(desk: Desk) -> Iterable[Operation]:
    """The group."""

    async def metrics(_: web.Request, _given: Mapping[str, Any]) -> web.Response:
        page = await page_of(desk)
        return web.Response(body=page.encode(), headers={"Content-Type": CONTENT_TYPE})

    return [Operation("GET", "/metrics", "The numbers, in Prometheus's text format.", metrics, answers=CONTENT_TYPE)]
