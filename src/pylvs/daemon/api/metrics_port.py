"""`/metrics` over TCP, where the configuration gives an address for it; nothing else is answered there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from aiohttp import web

from pylvs.daemon.api.desk import Desk
from pylvs.daemon.api.metrics import CONTENT_TYPE
from pylvs.daemon.api.routes.metrics import page_of
from pylvs.model.addresses import Address, endpoint
from pylvs.system.logs import get_logger

At = tuple[Address, int]


def of_desk(desk: Desk) -> MetricsPort:
    """The port of a daemon."""
    return MetricsPort(partial(page_of, desk))


class MetricsPort:
    """The port, if there is one now."""

    def __init__(self, page: Callable[[], Awaitable[str]]) -> None:
        self._page = page
        self._runner: web.AppRunner | None = None
        self._at: At | None = None
        self._log = get_logger()

    async def follow(self, at: At | None) -> None:
        """Answer there from now on, and nowhere with None. What does not work is logged: nothing else depends on it."""
        if at == self._at:
            return
        await self.close()
        if at is None:
            return
        application = web.Application()
        application.add_routes([web.get("/metrics", self._answer)])
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, str(at[0]), at[1]).start()
        except OSError as error:
            self._log.error(f"metrics_address {endpoint(*at)}: {error.strerror}")
            await runner.cleanup()
            return
        self._runner, self._at = runner, at

    async def close(self) -> None:
        """Nobody is answered any more."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = self._at = None

    async def _answer(self, _: web.Request) -> web.Response:
        page = await self._page()
        return web.Response(body=page.encode(), headers={"Content-Type": CONTENT_TYPE})
