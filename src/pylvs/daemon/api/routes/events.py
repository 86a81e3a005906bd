"""GET /v1/events: what happened last, or what happens as long as the client stays; a JSON object a line."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from pylvs.daemon.api.desk import Desk
from pylvs.daemon.api.news import json_line
from pylvs.daemon.api.operations import Field, Operation

LINES = "application/x-ndjson"
LOOK_EVERY_S = 10.0  # whether a client is still there to whom there is nothing to tell


def operations(desk: Desk) -> Iterable[Operation]:
    """The group."""

    async def events(request: web.Request, given: Mapping[str, Any]) -> web.StreamResponse:
        if not given.get("follow", False):
            return web.Response(body=b"".join(map(json_line, desk.news.last())), content_type=LINES)
        response = web.StreamResponse(headers={"Content-Type": LINES, "Cache-Control": "no-store"})
        with desk.news.following() as follower:
            await response.prepare(request)
            while True:
                try:
                    async with asyncio.timeout(LOOK_EVERY_S):
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
